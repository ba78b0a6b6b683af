"""Networks that the authors' PyTorch code has trained: its state dicts as ours.

Its files hold one network each, named `latest_net_G_A.pth` and the like; its G_A is our generator
"AtoB" and G_B is "BtoA", its D_A judges images of B, and its D_B those of A. Both codes have the
same layers in the same order, so that only names differ.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ganzoo.config import make
from ganzoo.errors import UserError
from ganzoo.models.weights import (
    Format,
    Imported,
    Options,
    State,
    imported,
    in_order,
    is_state,
    place,
)

PACKAGE = "ganzoo.models.cyclegan"
ONLY = (
    "only ResNets, U-Nets, PatchGANs and discriminators of pixels without antialiasing can be "
    "imported."
)

NAMES = r"(model|net)\.(model\.)?\d"  # names of layers start like this
# Its names of networks, and what of ours they are.
GENERATORS = {"G_A": "AtoB", "G_B": "BtoA", "G": "AtoB"}
DISCRIMINATORS = {"D_A": "B", "D_B": "A"}


class Network(NamedTuple):
    """What a state dict is of: our class and its arguments, and the weights under our names."""

    config: Options
    inputs: int
    outputs: int
    state: dict[str, Tensor]


def is_authors_cyclegan(given: Any) -> bool:
    """Whether this is a state dict of the authors' code, or several of them by the file's name."""
    if is_state(given):
        return is_state(given, NAMES)
    return isinstance(given, Mapping) and any(
        role(name) and is_state(state, NAMES) for name, state in given.items()
    )


def authors_model(given: Mapping[str, Any]) -> Imported:
    """The model of state dicts by the names of their files: `latest_net_G_A`, `..._D_B` and so on.

    A generator alone translates in one direction: BtoA if it is called G_B, and else AtoB. A file
    of another name is recognized by its layers. Discriminators alone give a model that has logits,
    which a training can start from.

    Raises:
        UserError: two generators or two discriminators that differ, or layers that ours do not
            have.
    """
    if is_state(given):
        given = {"G" if _generates(given) else "D_A": given}
    states = {part: given[name] for name in given if (part := role(name))}
    if "G" in states and len(states) > 1:
        del states["G"]
    generators = {ours: generator(states[r]) for r, ours in GENERATORS.items() if r in states}
    discriminators = {
        ours: discriminator(states[r]) for r, ours in DISCRIMINATORS.items() if r in states
    }
    for networks in (generators, discriminators):
        if len({str(network.config) for network in networks.values()}) > 1:
            raise UserError(
                f"these networks differ in their layers ({' and '.join(networks)}): import one of "
                f"them alone."
            )
    channels = {domain: found.inputs for domain, found in discriminators.items()}
    for direction, found in generators.items():
        channels |= {direction[0]: found.inputs, direction[-1]: found.outputs}
    any_channels = next(iter(channels.values()))
    model = {
        "_target_": f"{PACKAGE}.CycleGAN",
        "generator": next((g.config for g in generators.values()), None),
        "discriminator": next((d.config for d in discriminators.values()), None),
        "directions": list(generators),
        "judged": list(discriminators),
        "channels_a": channels.get("A", any_channels),
        "channels_b": channels.get("B", any_channels),
        "lambda_identity": 0.0,
        "pool": 0,
    }
    weights = {f"generator.{name}": network.state for name, network in generators.items()}
    weights |= {f"discriminator.{name}": found.state for name, found in discriminators.items()}
    return imported(model, weights, 256, channels.get("A", any_channels))


def _generates(state: State) -> bool:
    """Whether a network is a generator: these have a layer that doubles, or 7x7 kernels."""
    first, *_, last = _convolutions(_clean(state)).values()
    return first.shape[-1] == 7 or len(last) != 1


def generator(state: State) -> Network:
    """A ResNet of any number of blocks, or a U-Net of any number of halvings."""
    state = _clean(state)
    convolutions = _convolutions(state)
    first, last = (list(convolutions.values())[i] for i in (0, -1))
    options: Options = {"ngf": len(first), "norm": _norm(state)}
    if first.shape[-1] == 7:
        blocks = {name.split(".")[1] for name in convolutions if "conv_block" in name}
        options["_target_"] = f"{PACKAGE}.ResNetGenerator"
        options["blocks"] = len(blocks)
        options["halvings"] = (len(convolutions) - 2 * len(blocks) - 2) // 2
        # A layer without weights between the two of a block moves the second one on.
        options["dropout"] = 0.5 if any(".conv_block.6.weight" in k for k in convolutions) else 0.0
        return _network(options, state, {"inputs": first.shape[1], "outputs": len(last)})
    options["_target_"] = f"{PACKAGE}.UNetGenerator"
    options["halvings"] = len(convolutions) // 2
    return _network(options, state, {"inputs": first.shape[1], "outputs": last.shape[1]})


def discriminator(state: State) -> Network:
    """A PatchGAN of any number of layers, or the discriminator of pixels."""
    state = _clean(state)
    convolutions = _convolutions(state)
    first = next(iter(convolutions.values()))
    options: Options = {"ndf": len(first), "norm": _norm(state)}
    if first.shape[-1] == 1:
        options["_target_"] = f"{PACKAGE}.PixelDiscriminator"
    else:
        options["_target_"] = f"{PACKAGE}.PatchDiscriminator"
        options["layers"] = len(convolutions) - 2
    return _network(options, state, {"inputs": first.shape[1]})


def role(name: str) -> str | None:
    """G_A, G_B, D_A, D_B or G, from a file's name such as `latest_net_G_A`."""
    found = re.search(r"(?:^|_)(G_A|G_B|D_A|D_B|G)$", name)
    return found and found[1]


def _clean(state: State) -> State:
    """Without the statistics of instances that old versions of torch kept and no one reads."""
    if _norm(state) == "batch":
        return state
    tracked = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in state.items() if not name.endswith(tracked)}


def _norm(state: State) -> str:
    """Only BatchNorm has weights in one dimension."""
    flat = any(name.endswith("weight") and value.dim() == 1 for name, value in state.items())
    return "batch" if flat else "instance"


def _convolutions(state: State) -> dict[str, Tensor]:
    found = {k: v for k, v in state.items() if k.endswith("weight") and v.dim() == 4}
    return {name: found[name] for name in sorted(found, key=place)}


def _network(options: Options, state: State, channels: dict[str, int]) -> Network:
    """What a state dict is of, given the options of ours."""
    network: nn.Module = make(options | channels)
    weights = in_order(network, state, ONLY)
    return Network(
        options | {"_partial_": True}, channels["inputs"], channels.get("outputs", 1), weights
    )


FORMATS = [
    Format(
        "networks of CycleGAN's authors (latest_net_G_A.pth, latest_net_D_A.pth, or their folder)",
        is_authors_cyclegan,
        authors_model,
    )
]
