"""Networks that other projects trained, as ours.

ajbrock/BigGAN-PyTorch, the authors' code: the files `G.pth`, `G_ema.pth` and `D.pth` of its
`weights` folder. PyTorch-StudioGAN: its BigGAN (backbone `big_resnet`). The package
pytorch-pretrained-biggan: `pytorch_model.bin`, the generators of TF-Hub's BigGAN-deep with
statistics of BatchNorm for 51 truncations.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ganzoo.errors import UserError
from ganzoo.models.biggan.networks import halved
from ganzoo.models.weights import (
    NO_DISCRIMINATOR,
    Imported,
    Options,
    Rules,
    State,
    divided,
    imported,
    numbers,
    place,
    renamed,
    states_in,
)

NAMES = {"G": "generator", "G_ema": "average", "D": "discriminator"}  # networks of files, and ours


def under_our_names(state: State, entry: str, rules: Rules) -> dict[str, Tensor]:
    """A state dict after renaming.

    Args:
        state: theirs.
        entry: pattern of how the names in a block, or in an attention layer between blocks, start.
            They become `blocks.N.`, and `attentions.N.` for attention after block N.
        rules: replacements for everything else.
    """
    starts = {match[0] for name in state if (match := re.match(entry, name))}
    ours, blocks = {"": ""}, -1
    for start in sorted(starts, key=place):
        attends = bool({f"{start}gamma", f"{start}sigma"} & state.keys())
        blocks += not attends
        ours[start] = f"{'attentions' if attends else 'blocks'}.{blocks}."
    found = {}
    for name, value in state.items():
        start = match[0] if (match := re.match(entry, name)) else ""
        name = renamed(ours[start] + name.removeprefix(start), rules)
        found[name] = value.reshape(()) if name.endswith(".gamma") else value
    return found


# -- ajbrock/BigGAN-PyTorch -----------------------------------------------------------------------

AJBROCK: Rules = [
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
    pattern = re.compile(r"(G_ema|G|D)((?:_(?!optim|ema)\w+)?)\.pth")
    chosen = pattern.fullmatch(source.name)
    if not source.is_dir() and (chosen is None or chosen[1] == "D"):
        return {}
    found: dict[str, dict[str, Path]] = {}
    for path in sorted((source if source.is_dir() else source.parent).glob("*.pth")):
        if match := pattern.fullmatch(path.name):
            found.setdefault(match[2], {})[match[1]] = path
    found = {end: files for end, files in found.items() if {"G", "G_ema"} & files.keys()}
    if not source.is_dir():
        return found.get(chosen[2] if chosen else "", {})
    if len(found) > 1 and "" not in found:
        raise UserError(
            f"{source} contains several states ({', '.join(sorted(found))}): name the file of one "
            f"generator, such as {source / f'G{min(found)}.pth'}."
        )
    return found.get(min(found, default=""), {})


def ajbrock_model(given: Mapping[str, Any]) -> Imported:
    """The model of such state dicts.

    What the files do not contain is taken from the project's script for ImageNet: an eps of 1e-5 in
    BatchNorm and of 1e-6 in spectral normalization.
    """
    states = states_in(given, "G")
    depth = len([n for n in states.get("D", {}) if re.fullmatch(r"blocks\.0\.\d+\.conv1\.bias", n)])
    return _model({name: _of_ajbrock(state) for name, state in states.items()}, 1e-5, depth)


def _of_ajbrock(state: State) -> dict[str, Tensor]:
    """A state dict of BigGAN-PyTorch under our names, with u vectors in our shape."""
    kept = {}
    for name, value in state.items():
        if name.endswith((".sv0", ".accumulation_counter", ".num_batches_tracked")):
            continue
        counter = state.get(f"{name.rpartition('.')[0]}.accumulation_counter")
        if "stored_" in name and counter is not None and counter > 0:
            value = value / counter  # sums over the batches of standing statistics
        kept[name] = value.flatten() if name.endswith(".u0") else value
    shortcut = ".more." if "blocks.0.0.conv4.weight" in state else ".shortcut."
    return under_our_names(kept, r"blocks\.\d+\.\d+\.", [*AJBROCK, (r"\.conv_sc\.", shortcut)])


# -- PyTorch-StudioGAN -----------------------------------------------------------------------------

STUDIO: Rules = [
    (r"^linear[01]\.", "linear."),
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


def studio_model(given: Mapping[str, Any]) -> Imported:
    """The model of such state dicts: of a generator, or of all networks by the names of files.

    Our weights are theirs divided by their largest singular values, so ours has no spectral norms.
    """
    lone = "D" if "linear1.weight_orig" in given else "G"
    states = {
        name.removeprefix("model="): under_our_names(divided(state), r"blocks\.\d+\.0\.", STUDIO)
        for name, state in states_in(given, lone).items()
    }
    return _model(states, 1e-4, shortcut_relu=True)


# -- huggingface/pytorch-pretrained-BigGAN --------------------------------------------------------

PRETRAINED: Rules = [
    (r"^embeddings\.", "shared."),
    (r"^gen_z\.", "linear."),
    (r"^conv_to_rgb\.", "image."),
    (r"\.snconv1x1_(theta|phi|g|o)(_conv)?\.", r".\1."),
    # It counts from 0, we count from 1.
    (r"\.bn_(\d)\.", lambda m: f".norm{int(m[1]) + 1}."),
    (r"\.conv_(\d)\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.scale\.", ".gain."),
    (r"\.offset\.", ".bias."),
    (r"^bn\.", "norm."),
    (r"norm(\d?)\.running_means$", r"norm\1.norm.means"),
    (r"norm(\d?)\.running_vars$", r"norm\1.norm.variances"),
    (r"^norm\.(weight|bias)$", r"norm.norm.\1"),
]


def pretrained_model(given: State) -> Imported:
    """The model of such a state dict, with the package's truncation and without spectral norms."""
    theirs = {name.removeprefix("generator."): value for name, value in divided(given).items()}
    ours = under_our_names(theirs, r"layers\.\d+\.", PRETRAINED)
    shared = ours["shared.weight"]
    bottom = math.isqrt(len(ours["linear.bias"]) // ours["blocks.0.conv1.weight"].shape[1])
    for name, value in list(ours.items()):
        if name.endswith(("gain.weight", "bias.weight")) or name == "linear.weight":
            value = value.roll(len(shared), 1)  # theirs is z, then the class
        if name.startswith("linear."):  # theirs are [height, width, maps]
            value = value.unflatten(0, (bottom, bottom, -1)).movedim(2, 0).flatten(0, 2)
        ours[name] = value
        if name.endswith((".means", ".variances")):
            # The running statistics are those of a truncation of 1, the last set.
            kind = "running_mean" if name.endswith(".means") else "running_var"
            ours[f"{name.rpartition('.')[0]}.{kind}"] = value[-1]
    ours["shared.weight"] = shared.T
    generator = {
        **_generator_options(ours),
        "channels": 3,
        "image_maps": len(ours["image.weight"]),
        "statistics": len(ours["norm.norm.means"]),
        "bn_eps": 1e-4,
    }
    return _biggan({"generator": ours}, generator, None, "truncated_normal")


# -- all of them ----------------------------------------------------------------------------------


def _model(
    states: dict[str, dict[str, Tensor]], bn_eps: float, depth: int = 1, **options: Any
) -> Imported:
    """The model of weights under our names, by "G", "G_ema" and "D".

    `depth` is the number of blocks in a stage of D, and `options` are more of its arguments. Raises
    `UserError` for D alone.
    """
    if "G" not in states and "G_ema" in states:
        states["G"] = states.pop("G_ema")
    if "G" not in states:
        raise UserError("this discriminator needs its generator: give the folder of both.")
    generator = {**_generator_options(states["G"]), "bn_eps": bn_eps}
    discriminator = None
    if "D" in states:
        discriminator = {**_discriminator_options(states["D"], depth, generator), **options}
    return _biggan({NAMES[name]: s for name, s in states.items()}, generator, discriminator)


def _generator_options(state: State) -> Options:
    """The options of a generator of ours with weights of these shapes."""
    is_deep = "blocks.0.conv4.weight" in state
    blocks, per_stage = numbers(state, "blocks"), 1 + is_deep
    if blocks % per_stage:
        raise UserError(f"{blocks} blocks are not pairs: only G_depth 2 can be imported.")
    ends = range(per_stage - 1, blocks, per_stage)
    maps = [len(state[f"blocks.{i}.{'conv4' if is_deep else 'conv1'}.weight"]) for i in ends]
    maps = [state["blocks.0.conv1.weight"].shape[1], *maps]
    units, inputs = state["linear.weight"].shape
    bottom = math.isqrt(units // maps[0])
    gain = state["blocks.0.norm1.gain.weight"]
    options: Options = {
        "_target_": f"ganzoo.models.biggan.{'DeepGenerator' if is_deep else 'Generator'}",
        "image_size": bottom * 2 ** (blocks // per_stage),
        "channels": len(state["image.weight"]),
        "ch": 1,
        "widths": maps,
        "bottom_width": bottom,
        "attention": [bottom * 2 ** (i // per_stage + 1) for i in _attended(state)],
        "spectral_norm": "linear.u" in state,
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
    last = "conv4" if is_deep else "conv2"
    maps = [
        len(state[f"blocks.{i}.{last}.weight"]) for i in range(0, numbers(state, "blocks"), depth)
    ]
    if is_deep:
        maps = [len(state["stem.weight"]), *maps]
    size, bottom = generator["image_size"], generator["bottom_width"]
    halvings = halved(size, bottom)[-1]
    options: Options = {
        "_target_": f"ganzoo.models.biggan.{'DeepDiscriminator' if is_deep else 'Discriminator'}",
        "image_size": size,
        "channels": generator["channels"],
        "classes": len(state["embedding.weight"]),
        "ch": 1,
        "widths": maps,
        "bottom_width": bottom,
        "attention": [size // 2 ** min(i // depth + 1, halvings) for i in _attended(state)],
        "spectral_norm": "linear.u" in state,
    }
    if is_deep:
        return options | {"depth": depth}
    return options | {"wide": len(state["blocks.0.conv1.weight"]) == maps[0]}


def _attended(state: State) -> list[int]:
    """Numbers of the blocks after which there is attention."""
    return sorted(int(n.split(".")[1]) for n in state if n.endswith(".gamma"))


def _biggan(
    weights: Mapping[str, State],
    generator: Options,
    discriminator: Options | None,
    truncate: str = "resample",
) -> Imported:
    """A model of networks with these options, filled with weights by the names of networks."""
    classes = generator["classes"]
    model = {
        "_target_": "ganzoo.models.biggan.BigGAN",
        "classes": classes,
        "generator": generator,
        "discriminator": discriminator or {"_target_": NO_DISCRIMINATOR, "classes": classes},
        "truncate": truncate,
        "ema_beta": 0.9999 if "average" in weights else None,
        "ema_buffers": True,
    }
    gan, config = imported(model, weights, generator["image_size"], generator["channels"])
    if classes == 1000:  # the order of ImageNet's classes is that of their WordNet numbers
        from torchvision.models import ResNet18_Weights  # takes a second

        gan.class_names = list(ResNet18_Weights.DEFAULT.meta["categories"])
    return gan, config
