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
from ganzoo.models.weights import Imported, Options, State, imported

PACKAGE = "ganzoo.models.cyclegan"
ONLY = (
    "only ResNets, U-Nets, PatchGANs and discriminators of pixels without antialiasing can be "
    "imported."
)

# Its names, and what of ours they are.
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
    if not isinstance(given, Mapping) or not given:
        return False
    if all(isinstance(value, Mapping) for value in given.values()):
        return any(_role(name) and _is_network(state) for name, state in given.items())
    return _is_network(given)


def _is_network(state: Mapping[str, Any]) -> bool:
    return all(
        isinstance(value, Tensor) and re.match(r"(module\.)?model\.(model\.)?\d", key)
        for key, value in state.items()
    )


def authors_model(given: Mapping[str, Any]) -> Imported:
    """The model of one generator's state dict, or of `latest_net_G_A`, `..._G_B`, `..._D_A` and
    `..._D_B` by their names.

    One generator alone gives a model that translates in one direction, called AtoB. Discriminators
    are taken over where both are there.

    Raises:
        UserError: no generator, two that differ, or layers that ours do not have.
    """
    if not all(isinstance(value, Mapping) for value in given.values()):
        given = {"G": given}
    states = {role: given[name] for name in given if (role := _role(name))}
    if "G" in states and len(states) > 1:
        del states["G"]
    generators = {ours: generator(states[r]) for r, ours in GENERATORS.items() if r in states}
    if not generators:
        raise UserError(
            "there is no generator among these files: one is named as in latest_net_G_A.pth."
        )
    discriminators = {
        ours: discriminator(states[r]) for r, ours in DISCRIMINATORS.items() if r in states
    }
    if len(discriminators) < 2 or len(generators) < 2:
        discriminators = {}
    for networks in (generators, discriminators):
        if len({str(network.config) for network in networks.values()}) > 1:
            raise UserError(
                f"these networks differ in their layers ({' and '.join(networks)}): import one of "
                f"them alone."
            )
    first = generators.get("AtoB") or generators["BtoA"]
    a, b = first.inputs, first.outputs
    if "AtoB" not in generators:
        a, b = b, a
    model = {
        "_target_": f"{PACKAGE}.CycleGAN",
        "generator": first.config,
        "discriminator": next((d.config for d in discriminators.values()), None),
        "directions": list(generators),
        "channels_a": a,
        "channels_b": b,
        "lambda_identity": 0.0,
        "pool": 0,
    }
    weights = {f"generator.{name}": network.state for name, network in generators.items()}
    weights |= {f"discriminator.{name}": found.state for name, found in discriminators.items()}
    return imported(model, weights, 256, a)


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


def _role(name: str) -> str | None:
    """G_A, G_B, D_A, D_B or G, from a file's name such as `latest_net_G_A`."""
    found = re.search(r"(?:^|_)(G_A|G_B|D_A|D_B|G)$", name)
    return found and found[1]


def _clean(state: State) -> State:
    """In the order of layers, without what a wrapper or another version of torch adds."""

    def place(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]

    plain = {name.removeprefix("module."): value for name, value in state.items()}
    ordered = {name: plain[name] for name in sorted(plain, key=place)}
    if _norm(ordered) == "batch":
        return ordered
    # Old versions kept statistics of instances that no one reads.
    tracked = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in ordered.items() if not name.endswith(tracked)}


def _norm(state: State) -> str:
    """Only BatchNorm has weights in one dimension."""
    flat = any(name.endswith("weight") and value.dim() == 1 for name, value in state.items())
    return "batch" if flat else "instance"


def _convolutions(state: State) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k.endswith("weight") and v.dim() == 4}


def _network(options: Options, state: State, channels: dict[str, int]) -> Network:
    """With the weights under our names: each kind (weight, bias, ...) in the order of layers."""
    network: nn.Module = make(options | channels)
    renamed = dict(network.state_dict())  # in old files num_batches_tracked is missing
    left = list(state)
    for ours, value in network.state_dict().items():
        kind = ours.rpartition(".")[2]
        theirs = next((name for name in left if name.endswith(f".{kind}")), None)
        if theirs is None and kind == "num_batches_tracked":
            continue
        if theirs is None or state[theirs].shape != value.shape:
            raise UserError(f"this network has no {ours} of shape {list(value.shape)}: {ONLY}")
        renamed[ours] = state[theirs]
        left.remove(theirs)
    if left:
        raise UserError(f"this network has a layer {left[0]} that ours has not: {ONLY}")
    return Network(
        options | {"_partial_": True}, channels["inputs"], channels.get("outputs", 1), renamed
    )
