"""Networks that other projects trained.

ajbrock/BigGAN-PyTorch, the authors' code: the files `G.pth`, `G_ema.pth` and `D.pth` of its
`weights` folder. The package pytorch-pretrained-biggan: `pytorch_model.bin`, the generators of
TF-Hub's BigGAN-deep with BatchNorm statistics for 51 truncations.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganzoo.errors import UserError
from ganzoo.models.biggan import networks
from ganzoo.models.weights import (
    NO_DISCRIMINATOR,
    Format,
    Imported,
    Options,
    Rules,
    State,
    divided,
    imported,
    is_state,
    numbers,
    renamed,
)

# -- ajbrock/BigGAN-PyTorch -----------------------------------------------------------------------

NAMES = {"G": "generator", "G_ema": "average", "D": "discriminator"}  # its networks, and ours

AJBROCK_NAMES: Rules = [
    (r"\.bn(\d)\.(gain|bias)\.", r".norm\1.\2."),
    (r"\.bn(\d)\.(bn\.)?(stored|running)_", r".norm\1.norm.running_"),
    (r"^output_layer\.0\.gain$", "norm.norm.weight"),
    (r"^output_layer\.0\.bias$", "norm.norm.bias"),
    (r"^output_layer\.0\.(bn\.)?(stored|running)_", "norm.norm.running_"),
    (r"^output_layer\.2\.", "image."),
    (r"^input_conv\.", "stem."),
    (r"^embed\.", "embedding."),
    (r"\.u0$", ".u"),
]


def ajbrock_files(source: Path) -> dict[str, Path]:
    """The files of one saved state of BigGAN-PyTorch by network: "G", "G_ema", "D".

    `source` is their folder, or the file of G or G_ema, whose suffix (`_best0`) the others share.
    Returns {} if there are no such files.

    Raises:
        UserError: the folder contains several states, all with a suffix.
    """
    folder, suffix = source, None
    if not source.is_dir():
        folder = source.parent
        match = re.fullmatch(r"G(?:_ema)?((?:_(?!optim|ema)\w+)?)\.pth", source.name)
        if match is None:
            return {}
        suffix = match[1]
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.pth")):
        if match := re.fullmatch(r"(G_ema|G|D)((?:_(?!optim|ema)\w+)?)\.pth", path.name):
            found.setdefault(match[2], {})[match[1]] = path
    found = {end: files for end, files in found.items() if {"G", "G_ema"} & files.keys()}
    if suffix is None:
        suffix = "" if "" in found else min(found, default="")
        if suffix and len(found) > 1:
            raise UserError(
                f"{source} contains several states ({', '.join(sorted(found))}): name the file of "
                f"one generator, such as {source / f'G{suffix}.pth'}."
            )
    return found.get(suffix, {})


def is_ajbrock(given: Any) -> bool:
    """Whether these are state dicts of BigGAN-PyTorch by network, or one of its generators'."""
    if not isinstance(given, Mapping):
        return False
    networks = given.values() if given.keys() <= NAMES.keys() else [given]
    return any(isinstance(n, Mapping) and "output_layer.2.weight" in n for n in networks)


def ajbrock_model(given: Mapping[str, Any]) -> Imported:
    """The model of such state dicts.

    What the files do not contain is taken from the project's script for ImageNet: an eps of 1e-5 in
    BatchNorm and of 1e-6 in spectral normalization.
    """
    states = {"G": given} if "output_layer.2.weight" in given else dict(given)
    if "G" not in states:
        states["G"] = states.pop("G_ema")
    depth = _depth(states.get("D", {}))
    weights = {NAMES[name]: _ours(state) for name, state in states.items()}
    generator = _generator_options(weights["generator"])
    discriminator = None
    if "D" in states:
        discriminator = _discriminator_options(weights["discriminator"], depth, generator)
    return _biggan(weights, generator, discriminator)


def _ours(state: State) -> dict[str, Tensor]:
    """A state dict of BigGAN-PyTorch under our names, with u vectors in our shape."""
    depth = _depth(state)
    shortcut = ".more." if "blocks.0.0.conv4.weight" in state else ".shortcut."
    ours = {}
    for name, value in state.items():
        if name.endswith((".sv0", ".accumulation_counter", ".num_batches_tracked")):
            continue
        counter = state.get(f"{name.rpartition('.')[0]}.accumulation_counter")
        if "stored_" in name and counter is not None and counter > 0:
            value = value / counter  # sums over the batches of standing statistics
        if match := re.match(r"blocks\.(\d+)\.(\d+)\.", name):
            block = int(match[1]) * depth + min(int(match[2]), depth - 1)
            kind = "attentions" if int(match[2]) == depth else "blocks"
            name = f"{kind}.{block}.{name[match.end() :]}"
        name = renamed(name, AJBROCK_NAMES).replace(".conv_sc.", shortcut)
        ours[name] = value.flatten() if name.endswith(".u") else value
    return ours


def _depth(state: State) -> int:
    """The number of blocks in a stage, which is one entry of its list of blocks."""
    return len([n for n in state if re.fullmatch(r"blocks\.0\.\d+\.conv1\.weight", n)])


def _generator_options(state: State) -> Options:
    """The options of a generator of ours with weights of these shapes."""
    is_deep = "blocks.0.conv4.weight" in state
    blocks = numbers(state, "blocks")
    per_stage = 2 if is_deep else 1
    if blocks % per_stage:
        raise UserError(f"{blocks} blocks are not pairs: only G_depth 2 can be imported.")
    last = "conv4" if is_deep else "conv1"
    maps = [state["blocks.0.conv1.weight"].shape[1]]
    maps += [
        len(state[f"blocks.{i}.{last}.weight"]) for i in range(per_stage - 1, blocks, per_stage)
    ]
    units, inputs = state["linear.weight"].shape
    bottom = math.isqrt(units // maps[0])
    gain = state["blocks.0.norm1.gain.weight"]
    options: Options = {
        "_target_": f"ganzoo.models.biggan.{'DeepGenerator' if is_deep else 'Generator'}",
        "image_size": bottom * 2 ** (blocks // per_stage),
        "channels": len(state["image.weight"]),
        **_widths(maps, networks.GENERATOR[len(maps) - 1], first=False),
        "bottom_width": bottom,
        "attention": [
            bottom * 2 ** (i // per_stage + 1) for i in range(blocks) if _attends(state, i)
        ],
        "spectral_norm": "linear.u" in state,
        "bn_eps": 1e-5,
    }
    if "shared.weight" not in state:
        return options | {"classes": len(gain), "shared": 0, "hierarchical": False, "nz": inputs}
    classes, shared = state["shared.weight"].shape
    options |= {"classes": classes, "shared": shared}
    piece = gain.shape[1] - shared
    if is_deep:
        return options | {"nz": piece}
    if not piece:
        return options | {"hierarchical": False, "nz": inputs}
    return options | {"hierarchical": True, "nz": piece * (blocks + 1)}


def _discriminator_options(state: State, depth: int, generator: Options) -> Options:
    """The options of a discriminator of ours with weights of these shapes."""
    is_deep = "blocks.0.conv4.weight" in state
    blocks = numbers(state, "blocks")
    last = "conv4" if is_deep else "conv2"
    maps = [len(state[f"blocks.{i}.{last}.weight"]) for i in range(0, blocks, depth)]
    if is_deep:
        maps = [len(state["stem.weight"]), *maps]
    doublings = int(math.log2(generator["image_size"] / generator["bottom_width"]))
    halvings = doublings if doublings > 3 else doublings - 1
    size = generator["image_size"]
    kind = "DeepDiscriminator" if is_deep else "Discriminator"
    options: Options = {
        "_target_": f"ganzoo.models.biggan.{kind}",
        "image_size": size,
        "channels": generator["channels"],
        "classes": len(state["embedding.weight"]),
        **_widths(maps, networks.DISCRIMINATOR[doublings], first=True),
        "bottom_width": generator["bottom_width"],
        "attention": [
            size // 2 ** min(i // depth + 1, halvings) for i in range(blocks) if _attends(state, i)
        ],
        "spectral_norm": "linear.u" in state,
    }
    if is_deep:
        return options | {"depth": depth}
    return options | {"wide": len(state["blocks.0.conv1.weight"]) == maps[0]}


# -- huggingface/pytorch-pretrained-BigGAN --------------------------------------------------------


def is_pretrained(given: Any) -> bool:
    """Whether this is a state dict of pytorch-pretrained-biggan."""
    return isinstance(given, Mapping) and "generator.gen_z.weight_orig" in given


def pretrained_model(given: State) -> Imported:
    """The model of such a state dict, with the package's truncation.

    Our weights are theirs divided by their largest singular values, which follow from the vectors u
    and v in the file, so our model has no spectral normalization.
    """
    theirs = {n.removeprefix("generator."): v for n, v in divided(given).items()}
    nz, classes = theirs["embeddings.weight"].shape
    layers = sorted({int(n.split(".")[1]) for n in theirs if n.startswith("layers.")})
    attended = [i for i in layers if f"layers.{i}.gamma" in theirs]
    plain = [i for i in layers if i not in attended]
    maps = [theirs[f"layers.{plain[0]}.conv_0.weight"].shape[1]]
    maps += [len(theirs[f"layers.{i}.conv_3.weight"]) for i in plain[1::2]]
    bottom = math.isqrt(len(theirs["gen_z.weight"]) // maps[0])
    ours = _pretrained_state(theirs, attended, plain, bottom)
    generator: Options = {
        "_target_": "ganzoo.models.biggan.DeepGenerator",
        "image_size": bottom * 2 ** (len(plain) // 2),
        "channels": 3,
        "classes": classes,
        "nz": nz,
        "shared": nz,
        **_widths(maps, networks.GENERATOR[len(maps) - 1], first=False),
        "bottom_width": bottom,
        "attention": [bottom * 2 ** (sum(i < at for i in plain) // 2) for at in attended],
        "image_maps": len(ours["image.weight"]),
        "statistics": len(ours["norm.norm.means"]),
        "spectral_norm": False,
        "bn_eps": 1e-4,
    }
    return _biggan({"generator": ours}, generator, None, "truncated_normal")


def _pretrained_state(
    theirs: State, attended: Sequence[int], plain: Sequence[int], bottom: int
) -> dict[str, Tensor]:
    """The weights under our names and in our layout.

    `attended` and `plain` are the numbers of the layers that are attention and blocks.
    """
    nz = len(theirs["embeddings.weight"])

    def condition_first(weight: Tensor) -> Tensor:
        return torch.cat([weight[:, nz:], weight[:, :nz]], 1)  # theirs is z, then the class

    def grid(units: Tensor) -> Tensor:  # theirs are [height, width, maps]
        return units.unflatten(0, (bottom, bottom, -1)).movedim(2, 0).flatten(0, 2)

    ours = {
        "shared.weight": theirs["embeddings.weight"].T,
        "linear.weight": grid(condition_first(theirs["gen_z.weight"])),
        "linear.bias": grid(theirs["gen_z.bias"]),
    }
    done = ("embeddings.weight", "gen_z.weight", "gen_z.bias")
    for name, value in theirs.items():
        if name in done:
            continue
        if match := re.match(r"layers\.(\d+)\.", name):
            layer = int(match[1])
            block = sum(i < layer for i in plain)
            here = f"attentions.{block - 1}." if layer in attended else f"blocks.{block}."
            name = here + name[match.end() :]
        name = renamed(name, PRETRAINED_NAMES)
        if name.endswith(("gain.weight", "bias.weight")):
            value = condition_first(value)
        ours[name] = value.reshape(()) if name.endswith(".gamma") else value
    for name in [name for name in ours if name.endswith(".means")]:
        # The running statistics are those of a truncation of 1, the last set.
        ours[name.replace("means", "running_mean")] = ours[name][-1]
        variances = ours[name.replace("means", "variances")]
        ours[name.replace("means", "running_var")] = variances[-1]
    return ours


# Names within a layer of the package, and ours; it counts from 0, we count from 1.
PRETRAINED_NAMES: Rules = [
    (r"\.snconv1x1_(theta|phi|g|o)(_conv)?\.", r".\1."),
    (r"\.bn_(\d)\.running_means$", lambda m: f".norm{int(m[1]) + 1}.norm.means"),
    (r"\.bn_(\d)\.running_vars$", lambda m: f".norm{int(m[1]) + 1}.norm.variances"),
    (r"\.bn_(\d)\.scale\.", lambda m: f".norm{int(m[1]) + 1}.gain."),
    (r"\.bn_(\d)\.offset\.", lambda m: f".norm{int(m[1]) + 1}.bias."),
    (r"\.conv_(\d)\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"^bn\.running_means$", "norm.norm.means"),
    (r"^bn\.running_vars$", "norm.norm.variances"),
    (r"^bn\.", "norm.norm."),
    (r"^conv_to_rgb\.", "image."),
]


# -- PyTorch-StudioGAN -----------------------------------------------------------------------------

STUDIO_NAMES: Rules = [
    (r"^linear0\.", "linear."),
    (r"^conv2d5\.", "image."),
    (r"^bn4\.", "norm.norm."),
    (r"\.bn(\d)\.bn\.", r".norm\1.norm."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.conv2d0\.", ".shortcut."),
    (r"\.conv2d([12])\.", r".conv\1."),
    (r"\.conv1x1_attn\.", ".o."),
    (r"\.conv1x1_", "."),
    (r"\.sigma$", ".gamma"),
]


def is_studio(given: Any) -> bool:
    """Whether this is a generator of StudioGAN's BigGAN (its `big_resnet` backbone)."""
    names = {"linear0.weight_orig", "conv2d5.weight_orig", "shared.weight"}
    return is_state(given) and names <= given.keys() and "blocks.0.0.conv2d0.weight_orig" in given


def studio_model(given: State) -> Imported:
    """The model of such a state dict. Attention is an entry of its own in its list of blocks."""
    theirs, ours = divided(given), {}
    entries = sorted({int(n.split(".")[1]) for n in theirs if n.startswith("blocks.")})
    plain = [i for i in entries if f"blocks.{i}.0.sigma" not in theirs]
    for name, value in theirs.items():
        if match := re.match(r"blocks\.(\d+)\.0\.", name):
            entry = int(match[1])
            block = sum(i < entry for i in plain)
            kind = f"blocks.{block}" if entry in plain else f"attentions.{block - 1}"
            name = f"{kind}.{name[match.end() :]}"
        name = renamed(name, STUDIO_NAMES)
        ours[name] = value.reshape(()) if name.endswith(".gamma") else value
    options = {**_generator_options(ours), "bn_eps": 1e-4}
    return _biggan({"generator": ours}, options, None)


# -- both -----------------------------------------------------------------------------------------


def _biggan(
    weights: Mapping[str, State],
    generator: Options,
    discriminator: Options | None,
    truncate: str = "resample",
) -> Imported:
    """A model of networks with these options, filled with weights by the names of networks."""
    classes = generator["classes"]
    without = {"_target_": NO_DISCRIMINATOR, "classes": classes}
    model = {
        "_target_": "ganzoo.models.biggan.BigGAN",
        "classes": classes,
        "generator": generator,
        "discriminator": discriminator or without,
        "truncate": truncate,
        "ema_beta": 0.9999 if "average" in weights else None,
        "ema_buffers": True,
    }
    gan, config = imported(model, weights, generator["image_size"], generator["channels"])
    if classes == 1000:  # the order of ImageNet's classes is that of their WordNet numbers
        from torchvision.models import ResNet18_Weights  # takes a second

        gan.class_names = list(ResNet18_Weights.DEFAULT.meta["categories"])
    return gan, config


def _attends(state: State, index: int) -> bool:
    return f"attentions.{index}.gamma" in state


def _widths(maps: Sequence[int], known: Sequence[int], first: bool) -> Options:
    """`ch` and `widths` for these feature maps; widths is None for the paper's."""
    ch, rest = divmod(maps[0 if first else -1], known[0 if first else -1])
    if not rest and list(maps) == [ch * width for width in known]:
        return {"ch": ch, "widths": None}
    return {"ch": 1, "widths": list(maps)}


FORMATS = [
    Format("weights of ajbrock/BigGAN-PyTorch (G.pth, or its folder)", is_ajbrock, ajbrock_model),
    Format("pytorch-pretrained-biggan (pytorch_model.bin)", is_pretrained, pretrained_model),
    Format("a generator of StudioGAN's BigGAN (model=G-....pth)", is_studio, studio_model),
]
