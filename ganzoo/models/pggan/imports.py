"""Networks from what other code has trained: names and layouts, for tensors and plain arrays."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ganzoo.config import make
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.models.pggan.networks import Discriminator, Generator, feature_maps

Network = TypeVar("Network", Generator, Discriminator)
State = Mapping[str, Tensor]


# -- facebookresearch/pytorch_GAN_zoo -------------------------------------------------------------


def from_gan_zoo(checkpoint: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The networks of a PGAN checkpoint of facebookresearch/pytorch_GAN_zoo.

    They have that code's differences from the official one (`gan_zoo=True`) and give its images and
    scores. Latents are [N, nz]; where it has categories, their one-hot vectors are the last of nz.
    Its alpha is the weight of the old level, so that alpha of the newest level is our lod.

    Args:
        checkpoint: its `netG`, `netD` and, maybe, `avgG`, each a state dict; what else there is
            does not count.

    Returns:
        "generator", "discriminator" and, where there is one, "average".

    Raises:
        UserError: a network is missing, has layers that are not known, or widths that do not follow
            from fmap_base and fmap_max.
    """
    missing = {"netG", "netD"} - checkpoint.keys()
    if missing:
        raise UserError(
            f"this is no PGAN checkpoint of pytorch_GAN_zoo, for it has no "
            f"{' and '.join(sorted(missing))}: give one that its training saved."
        )
    networks: dict[str, nn.Module] = {"generator": _zoo_generator(checkpoint["netG"])}
    if "avgG" in checkpoint:
        networks["average"] = _zoo_generator(checkpoint["avgG"])
    networks["discriminator"] = _zoo_discriminator(checkpoint["netD"])
    return networks


def is_gan_zoo(given: Any) -> bool:
    """Whether this is what pytorch_GAN_zoo saves of a progressive GAN."""
    return isinstance(given, Mapping) and {"netG", "netD"} <= given.keys()


def gan_zoo_model(given: Mapping[str, Any]) -> tuple[GAN, dict[str, Any]]:
    """The model of such a checkpoint, fully grown, and the config that it is rebuilt from.

    Raises:
        UserError: one with classes; and see `from_gan_zoo`.
    """
    networks: Any = from_gan_zoo(given)
    generator, discriminator = networks["generator"], networks["discriminator"]
    if discriminator.classes:
        raise UserError(
            "this checkpoint has classes, whose vectors its latents hold: use `from_gan_zoo` from "
            "Python and give them there."
        )

    def options(network: Any) -> dict[str, Any]:
        base, most = _fmaps(network.widths)
        return {"fmap_base": base, "fmap_max": most, "gan_zoo": True}

    return _grown(
        networks,
        options(generator) | {"nz": generator.nz},
        options(discriminator) | {"fused_scale": False, "group_size": discriminator.group_size},
    )


def _grown(
    networks: Mapping[str, nn.Module], generator: dict[str, Any], discriminator: dict[str, Any]
) -> tuple[GAN, dict[str, Any]]:
    """A fully grown model of networks with these options, and the config it is rebuilt from."""
    given: Any = networks["generator"]
    size = 4 * 2**given.levels
    shared = {"image_size": size, "channels": given.channels, "classes": given.classes}
    target = "ganzoo.models.pggan"
    model = {
        "_target_": f"{target}.PGGAN",
        "generator": {"_target_": f"{target}.Generator", **shared, **generator},
        "discriminator": {"_target_": f"{target}.Discriminator", **shared, **discriminator},
        "growth": {
            "_target_": "ganzoo.schedules.growth.Growth",
            "image_size": size,
            "train_kimg": 0,
            "fade_kimg": 0,
        },
        "optimizers": {},
        "total_kimg": 0,
        "ema_kimg": 0,
        "ema_beta": 0.999 if "average" in networks else None,
    }
    gan: GAN = make(model)
    for name, network in networks.items():
        gan.get_submodule(name).load_state_dict(network.state_dict())
    return gan, {"model": model, "image_size": size, "channels": given.channels}


def _zoo_generator(state: State) -> Generator:
    state = _without_wrappers(state)
    levels = _levels(state, "scaleLayers")
    names = {"formatLayer": "blocks.0.0", "groupScale0.0": "blocks.0.3"}
    for i in range(levels + 1):
        names[f"toRGBLayers.{i}"] = f"to_rgb.{i}"
    for i in range(levels):
        names[f"scaleLayers.{i}.0"] = f"blocks.{i + 1}.0"
        names[f"scaleLayers.{i}.1"] = f"blocks.{i + 1}.3"
    _check(state, names)
    base, most = _fmaps([len(state[f"toRGBLayers.{i}.weight"][0]) for i in range(levels + 1)])
    network = Generator(
        4 * 2**levels,
        channels=len(state[f"toRGBLayers.{levels}.weight"]),
        nz=state["formatLayer.weight"].shape[1],
        fmap_base=base,
        fmap_max=most,
        gan_zoo=True,
    )
    return _loaded(network, state, names)


def _zoo_discriminator(state: State) -> Discriminator:
    state = _without_wrappers(state)
    levels = _levels(state, "scaleLayers")
    names = {
        "groupScaleZero.0": "blocks.0.1",
        "groupScaleZero.1": "blocks.0.4",
        "decisionLayer": "blocks.0.6",
    }
    for i in range(levels + 1):
        names[f"fromRGBLayers.{i}"] = f"from_rgb.{i}.0"
    for i in range(levels):
        names[f"scaleLayers.{i}.0"] = f"blocks.{i + 1}.0"
        names[f"scaleLayers.{i}.1"] = f"blocks.{i + 1}.2"
    _check(state, names)
    outputs, inputs = state["groupScaleZero.0.weight"].shape[:2]
    base, most = _fmaps([len(state[f"fromRGBLayers.{i}.weight"]) for i in range(levels + 1)])
    network = Discriminator(
        4 * 2**levels,
        channels=state["fromRGBLayers.0.weight"].shape[1],
        classes=len(state["decisionLayer.weight"]) - 1,
        fmap_base=base,
        fmap_max=most,
        fused_scale=False,
        group_size=4 if inputs > outputs else 0,
        gan_zoo=True,
    )
    return _loaded(network, state, names)


def _without_wrappers(state: State) -> State:
    """Layers are wrapped in another module, but not in older files."""
    return {name.replace(".module.", "."): value for name, value in state.items()}


def _levels(state: State, prefix: str) -> int:
    return len({name.split(".")[1] for name in state if name.startswith(f"{prefix}.")})


def _check(state: State, names: Mapping[str, str]) -> None:
    known = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    if different := sorted(known ^ state.keys()):
        raise UserError(
            f"this is no PGAN network of pytorch_GAN_zoo, for its layers differ in {different[0]}: "
            f"give a checkpoint that its ProgressiveGAN saved."
        )


def _fmaps(widths: list[int]) -> tuple[int, int]:
    """The fmap_base and fmap_max that give these feature maps, from level 0 on."""
    base, most = widths[-1] * 2 ** len(widths), max(widths)
    expected = [feature_maps(i + 1, base, 1, most) for i in range(len(widths))]
    if widths != expected:
        raise UserError(
            f"feature maps of {widths} do not follow from an fmap_base and an fmap_max: only "
            f"networks whose levels halve them, below a largest number, can be imported."
        )
    return base, most


def _loaded(network: Network, state: State, names: Mapping[str, str]) -> Network:
    own = network.state_dict()
    renamed = {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for theirs, ours in names.items()
        for kind in ("weight", "bias")
    }
    # Only the first layer's bias has another shape: [units] for our [channels, height, width].
    network.load_state_dict({k: v.reshape(own[k].shape) for k, v in renamed.items()})
    return network


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
    table: dict[str, Variable] = {}

    def add(theirs: str, ours: str, axes: tuple[int, ...], flip: bool = False) -> None:
        table[f"{theirs}/weight"] = Variable(f"{ours}.weight", axes, flip)
        table[f"{theirs}/bias"] = Variable(f"{ours}.bias", (0,))

    conv, dense = (3, 2, 0, 1), (1, 0)
    fused = network.fused_scale
    for level in range(network.levels + 1):
        side, lod, block = 4 * 2**level, network.levels - level, f"blocks.{level}"
        if isinstance(network, Generator):
            add(f"ToRGB_lod{lod}", f"to_rgb.{level}", conv)
            if not level:
                add("4x4/Dense", "blocks.0.0", dense)
                add("4x4/Conv", "blocks.0.3", conv)
                continue
            if fused:
                add(f"{side}x{side}/Conv0_up", f"{block}.0", (2, 3, 0, 1), flip=True)
            else:
                add(f"{side}x{side}/Conv0", f"{block}.0", conv)
            add(f"{side}x{side}/Conv1", f"{block}.3", conv)
        else:
            add(f"FromRGB_lod{lod}", f"from_rgb.{level}.0", conv)
            if not level:
                add("4x4/Conv", "blocks.0.1", conv)
                add("4x4/Dense0", "blocks.0.4", dense)
                add("4x4/Dense1", "blocks.0.6", dense)
                continue
            add(f"{side}x{side}/Conv0", f"{block}.0", conv)
            add(f"{side}x{side}/Conv1{'_down' if fused else ''}", f"{block}.2", conv)
    return table


# Our names of the options that are kept beside the variables; all of them have our defaults, but
# for the channels.
OPTIONS = {
    "resolution": "image_size",
    "num_channels": "channels",
    "label_size": "classes",
    "fmap_base": "fmap_base",
    "fmap_decay": "fmap_decay",
    "fmap_max": "fmap_max",
    "latent_size": "nz",
    "normalize_latents": "normalize_latents",
    "use_wscale": "wscale",
    "use_pixelnorm": "pixelnorm",
    "pixelnorm_epsilon": "pixelnorm_eps",
    "use_leakyrelu": "leaky",
    "fused_scale": "fused_scale",
    "mbstd_group_size": "group_size",
}


def is_official(given: Any) -> bool:
    """Whether this is what the official code pickles: generator, discriminator, average."""
    return (
        isinstance(given, tuple)
        and len(given) == 3
        and all(isinstance(getattr(network, "state", None), Mapping) for network in given)
    )


def official_model(given: Any) -> tuple[GAN, dict[str, Any]]:
    """The model of a `network-*.pkl` of the official code, and the config it is rebuilt from.

    Raises:
        UserError: networks of the older Theano code, or that had not grown to the end; and see
            `load_tf`.
    """
    networks: dict[str, nn.Module] = {}
    options: dict[str, dict[str, Any]] = {}
    for name, held in zip(("generator", "discriminator", "average"), given, strict=True):
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
        options[name] = {ours: _plain(kept[k]) for k, ours in OPTIONS.items() if k in kept}
        if name == "discriminator":
            networks[name] = load_tf(Discriminator(**options[name]), arrays)
        else:
            networks[name] = load_tf(Generator(**options[name]), arrays)
    return _grown(networks, options["generator"], options["discriminator"])


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    return value.item() if hasattr(value, "item") else value


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
        if flip:
            value = value.flip(-2, -1)
        own[ours] = value.reshape(expected)
    network.load_state_dict(own)
    return network
