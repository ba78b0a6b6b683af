"""Networks from what other code has trained: names and layouts, for tensors and plain arrays."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from ganzoo.errors import UserError
from ganzoo.models.pggan.networks import Discriminator, Generator, feature_maps
from ganzoo.models.weights import (
    Imported,
    Options,
    Rules,
    State,
    fill,
    imported,
    numbers,
    renamed,
)

Network = TypeVar("Network", Generator, Discriminator)
PARTS: Any = {"generator": Generator, "discriminator": Discriminator, "average": Generator}


# -- facebookresearch/pytorch_GAN_zoo -------------------------------------------------------------

ZOO = {"generator": "netG", "average": "avgG", "discriminator": "netD"}
ZOO_GENERATOR: Rules = [
    (r"\.module\.", "."),  # layers are wrapped in another module, but not in older files
    (r"^formatLayer\.", "blocks.0.0."),
    (r"^groupScale0\.0\.", "blocks.0.3."),
    (r"^toRGBLayers\.", "to_rgb."),
    (r"^scaleLayers\.(\d+)\.([01])\.", lambda m: f"blocks.{int(m[1]) + 1}.{3 * int(m[2])}."),
]
ZOO_DISCRIMINATOR: Rules = [
    (r"\.module\.", "."),
    (r"^groupScaleZero\.0\.", "blocks.0.1."),
    (r"^groupScaleZero\.1\.", "blocks.0.4."),
    (r"^decisionLayer\.", "blocks.0.6."),
    (r"^fromRGBLayers\.(\d+)\.", r"from_rgb.\1.0."),
    (r"^scaleLayers\.(\d+)\.([01])\.", lambda m: f"blocks.{int(m[1]) + 1}.{2 * int(m[2])}."),
]


def from_gan_zoo(checkpoint: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The networks of a PGAN checkpoint: "generator", "discriminator" and maybe "average".

    They have that code's differences from the official one (`gan_zoo=True`) and give its images and
    scores. Where it has categories, their one-hot vectors are the last of the latents. Its alpha is
    the weight of the old level, so that alpha of the newest level is our lod.

    Raises:
        UserError: a network is missing, has layers that are not known, or widths that do not follow
            from fmap_base and fmap_max.
    """
    parts = _zoo_parts(checkpoint)
    return {name: fill(PARTS[name](**parts[name][0]), parts[name][1], name) for name in parts}


def gan_zoo_model(given: Mapping[str, Any]) -> Imported:
    """The fully grown model of such a checkpoint; UserError for one with classes."""
    parts = _zoo_parts(given)
    if parts["discriminator"][0]["classes"]:
        raise UserError(
            "this checkpoint has classes, whose vectors its latents hold: use `from_gan_zoo` from "
            "Python and give them there."
        )
    options = {name: options for name, (options, _) in parts.items()}
    return _grown(options, {name: state for name, (_, state) in parts.items()}, "grown")


def _zoo_parts(checkpoint: Mapping[str, Any]) -> dict[str, tuple[Options, State]]:
    """For each network, the options of ours and the weights under our names."""
    if missing := {"netG", "netD"} - checkpoint.keys():
        raise UserError(
            f"this is no PGAN checkpoint of pytorch_GAN_zoo, for it has no "
            f"{' and '.join(sorted(missing))}: give one that its training saved."
        )
    return {
        ours: _zoo_discriminator(checkpoint["netD"]) if theirs == "netD"
        else _zoo_generator(checkpoint[theirs])
        for ours, theirs in ZOO.items() if theirs in checkpoint
    }  # fmt: skip


def _zoo_generator(given: State) -> tuple[Options, State]:
    state = {renamed(name, ZOO_GENERATOR): value for name, value in given.items()}
    maps = [state[f"to_rgb.{i}.weight"].shape[1] for i in range(numbers(state, "to_rgb"))]
    state["blocks.0.0.bias"] = state["blocks.0.0.bias"].reshape(-1, 4, 4)  # one for each unit
    nz, channels = state["blocks.0.0.weight"].shape[1], len(state["to_rgb.0.weight"])
    return {**_zoo_options(maps), "channels": channels, "nz": nz}, state


def _zoo_discriminator(given: State) -> tuple[Options, State]:
    state = {renamed(name, ZOO_DISCRIMINATOR): value for name, value in given.items()}
    maps = [len(state[f"from_rgb.{i}.0.weight"]) for i in range(numbers(state, "from_rgb"))]
    outputs, inputs = state["blocks.0.1.weight"].shape[:2]
    options = {
        "channels": state["from_rgb.0.0.weight"].shape[1],
        "classes": len(state["blocks.0.6.weight"]) - 1,
        "fused_scale": False,
        "group_size": 4 if inputs > outputs else 0,
    }
    return _zoo_options(maps) | options, state


def _zoo_options(widths: list[int]) -> Options:
    """The options that give these feature maps, from level 0 on."""
    base, most = widths[-1] * 2 ** len(widths), max(widths)
    if widths != [feature_maps(i + 1, base, 1, most) for i in range(len(widths))]:
        raise UserError(
            f"feature maps of {widths} do not follow from an fmap_base and an fmap_max: only "
            f"networks whose levels halve them, below a largest number, can be imported."
        )
    size = 4 * 2 ** (len(widths) - 1)
    return {"image_size": size, "fmap_base": base, "fmap_max": most, "gan_zoo": True}


GROWN = {"_target_": "ganzoo.schedules.growth.Growth", "train_kimg": 0, "fade_kimg": 0}


def _grown(
    options: Mapping[str, Options], weights: Mapping[str, State], penalty_size: str = "full"
) -> Imported:
    """A fully grown model of networks with these options and weights, by name."""
    generator, target = options["generator"], "ganzoo.models.pggan"
    size = generator["image_size"]
    model = {
        "_target_": f"{target}.PGGAN",
        "generator": {"_target_": f"{target}.Generator", **generator},
        "discriminator": {"_target_": f"{target}.Discriminator", **options["discriminator"]},
        "growth": {**GROWN, "image_size": size},
        "penalty_size": penalty_size,
        "ema_beta": 0.999 if "average" in weights else None,
    }
    return imported(model, weights, size, generator["channels"])


# -- the official TensorFlow code -----------------------------------------------------------------


class Variable(NamedTuple):
    """Where an array of the official code belongs and how to lay it out.

    ours = theirs.transpose(axes), then, if `flip`, reversed along its last two axes, then reshaped.
    """

    name: str
    axes: tuple[int, ...]
    flip: bool = False


def tf_names(network: Generator | Discriminator) -> dict[str, Variable]:
    """The official code's variables, by their names within its network, and our parameters.

    Its convolutions are [height, width, inputs, outputs] for our [outputs, inputs, height, width];
    the one fused with upsampling is [height, width, outputs, inputs] and turned by 180 degrees, as
    it is the kernel of a transposed convolution; dense layers are [inputs, outputs].
    """
    fused, top = network.fused_scale, network.levels
    if isinstance(network, Generator):
        layers = {"4x4/Dense": "blocks.0.0", "4x4/Conv": "blocks.0.3"}
        layers |= {f"ToRGB_lod{top - i}": f"to_rgb.{i}" for i in range(top + 1)}
        convs = {"Conv0_up" if fused else "Conv0": 0, "Conv1": 3}
    else:
        layers = {"4x4/Conv": "blocks.0.1", "4x4/Dense0": "blocks.0.4", "4x4/Dense1": "blocks.0.6"}
        layers |= {f"FromRGB_lod{top - i}": f"from_rgb.{i}.0" for i in range(top + 1)}
        convs = {"Conv0": 0, "Conv1_down" if fused else "Conv1": 2}
    for i in range(1, top + 1):
        layers |= {f"{4 * 2**i}x{4 * 2**i}/{conv}": f"blocks.{i}.{convs[conv]}" for conv in convs}
    table: dict[str, Variable] = {}
    for theirs, ours in layers.items():
        up = theirs.endswith("_up")
        axes = (1, 0) if "Dense" in theirs else (2, 3, 0, 1) if up else (3, 2, 0, 1)
        table[f"{theirs}/weight"] = Variable(f"{ours}.weight", axes, up)
        table[f"{theirs}/bias"] = Variable(f"{ours}.bias", (0,))
    return table


# Our names of the options that are kept beside the variables; all of them have our defaults, but
# for the channels.
OPTIONS = {
    "resolution": "image_size", "num_channels": "channels", "label_size": "classes",
    "fmap_base": "fmap_base", "fmap_decay": "fmap_decay", "fmap_max": "fmap_max",
    "latent_size": "nz", "normalize_latents": "normalize_latents", "use_wscale": "wscale",
    "use_pixelnorm": "pixelnorm", "pixelnorm_epsilon": "pixelnorm_eps", "use_leakyrelu": "leaky",
    "fused_scale": "fused_scale", "mbstd_group_size": "group_size",
}  # fmt: skip


def is_official(given: Any) -> bool:
    """Whether this is what the official code pickles: generator, discriminator, average."""
    return (
        isinstance(given, tuple)
        and len(given) == 3
        and all(isinstance(getattr(network, "state", None), Mapping) for network in given)
    )


def official_model(given: Any) -> Imported:
    """The model of a `network-*.pkl` of the official code.

    Raises:
        UserError: networks of the older Theano code, or that had not grown to the end; and see
            `load_tf`.
    """
    weights: dict[str, State] = {}
    options: dict[str, Options] = {}
    for name, held in zip(PARTS, given, strict=True):
        if not {"static_kwargs", "variables"} <= held.state.keys():
            raise UserError(
                "these are networks of the official code in Theano: let its TensorFlow code load "
                "and save them first."
            )
        arrays = dict(held.state["variables"])
        if lod := float(arrays.get("lod", 0)):
            raise UserError(
                f"these networks had not grown to the end (lod {lod:g}): give a later snapshot."
            )
        kept = {"resolution": 32, "num_channels": 1, **held.state["static_kwargs"]}
        options[name] = {
            ours: kept[k].item() if hasattr(kept[k], "item") else kept[k]  # a number of numpy
            for k, ours in OPTIONS.items() if k in kept
        }  # fmt: skip
        weights[name] = load_tf(PARTS[name](**options[name]), arrays).state_dict()
    return _grown(options, weights)


def load_tf(network: Network, arrays: Mapping[str, Any]) -> Network:
    """Fill a network with the arrays of the official code, named as in `tf_names`; returns it.

    Args:
        network: of the same options.
        arrays: numpy arrays or nested lists of numbers, never pickled objects. The variable `lod`
            does not count.

    Raises UserError where names or shapes differ.
    """
    table, own = tf_names(network), network.state_dict()
    if different := sorted((arrays.keys() ^ table.keys()) - {"lod"}):
        raise UserError(
            f"these variables are not those of this network, for they differ in {different[0]}: "
            f"give it the image_size, fused_scale and other options that it was trained with."
        )
    for theirs, (ours, axes, flip) in table.items():
        expected = own[ours].shape
        try:
            value = torch.as_tensor(arrays[theirs]).permute(axes)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{theirs} is no array of {len(axes)} dimensions: give plain numbers as the "
                f"official code saves them."
            ) from error
        if [n for n in value.shape if n > 1] != [n for n in expected if n > 1]:
            raise UserError(
                f"{theirs} gives weights of shape {list(value.shape)}, but this network has "
                f"{list(expected)}: give it the fmap_base, nz, channels and classes that it was "
                f"trained with."
            )
        own[ours] = (value.flip(-2, -1) if flip else value).reshape(expected)
    network.load_state_dict(own)
    return network
