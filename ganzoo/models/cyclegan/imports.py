"""Networks that the authors' PyTorch code has trained: its state dicts as ours.

Its files hold one network each, named `latest_net_G_A.pth` and the like; its G_A is our generator
"AtoB" and G_B is "BtoA", its D_A judges images of B, and its D_B those of A. Both codes have the
same layers in the same order, so that only names differ.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ganzoo.config import make
from ganzoo.errors import UserError
from ganzoo.models.weights import (
    Imported,
    Options,
    State,
    convolutions,
    imported,
    in_order,
    is_state,
    states_in,
)

PACKAGE = "ganzoo.models.cyclegan"
ONLY = (
    "only ResNets, U-Nets, PatchGANs and discriminators of pixels without antialiasing can be "
    "imported."
)
# Its names of networks, and what of ours they are.
GENERATORS = {"G_A": "AtoB", "G_B": "BtoA", "G": "AtoB"}
DISCRIMINATORS = {"D_A": "B", "D_B": "A"}
ROLE = r"(?:.*_)?(G_A|G_B|D_A|D_B|G)"  # of a file's name, such as `latest_net_G_A`


class Network(NamedTuple):
    """What a state dict is of: our class and its arguments, and the weights under our names."""

    config: Options
    inputs: int
    outputs: int
    state: dict[str, Tensor]


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
    named = [(re.fullmatch(ROLE, name), state) for name, state in states_in(given).items()]
    states = {match[1]: state for match, state in named if match}
    if len(states) > 1:
        states.pop("G", None)
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
    some = next(iter(channels.values()))
    model = {
        "_target_": f"{PACKAGE}.CycleGAN",
        "generator": next((g.config for g in generators.values()), None),
        "discriminator": next((d.config for d in discriminators.values()), None),
        "directions": list(generators),
        "judged": list(discriminators),
        "channels_a": channels.get("A", some),
        "channels_b": channels.get("B", some),
        "lambda_identity": 0.0,
        "pool": 0,
    }
    weights = {f"generator.{name}": network.state for name, network in generators.items()}
    weights |= {f"discriminator.{name}": found.state for name, found in discriminators.items()}
    return imported(model, weights, 256, channels.get("A", some))


def _generates(state: State) -> bool:
    """Whether a network is a generator: these have a layer that doubles, or 7x7 kernels."""
    first, *_, last = convolutions(state).values()
    return first.shape[-1] == 7 or len(last) != 1


def generator(state: State) -> Network:
    """A ResNet of any number of blocks, or a U-Net of any number of halvings."""
    layers = convolutions(state)
    first, *_, last = layers.values()
    if first.shape[-1] != 7:
        options: Options = {"halvings": len(layers) // 2}
        return _network("UNetGenerator", state, options, outputs=last.shape[1], ngf=len(first))
    blocks = len({name.split(".")[1] for name in layers if "conv_block" in name})
    # A layer without weights between the two of a block moves the second one on.
    dropout = 0.5 if any(".conv_block.6.weight" in name for name in layers) else 0.0
    options = {"blocks": blocks, "halvings": len(layers) // 2 - blocks - 1, "dropout": dropout}
    return _network("ResNetGenerator", state, options, outputs=len(last), ngf=len(first))


def discriminator(state: State) -> Network:
    """A PatchGAN of any number of layers, or the discriminator of pixels."""
    layers = convolutions(state)
    first = next(iter(layers.values()))
    if first.shape[-1] == 1:
        return _network("PixelDiscriminator", state, {}, ndf=len(first))
    return _network("PatchDiscriminator", state, {"layers": len(layers) - 2}, ndf=len(first))


def _network(
    name: str, given: State, options: Options, outputs: int | None = None, **width: int
) -> Network:
    """What a state dict is of, given the class of ours and its options."""
    # Only BatchNorm has weights in one dimension.
    flat = any(name.endswith("weight") and value.dim() == 1 for name, value in given.items())
    # Statistics of instances that old versions of torch kept and no one reads.
    unread = () if flat else ("running_mean", "running_var", "num_batches_tracked")
    state = {name: value for name, value in given.items() if not name.endswith(unread)}
    norm = "batch" if flat else "instance"
    config = {"_target_": f"{PACKAGE}.{name}", **width, "norm": norm, **options}
    inputs = next(iter(convolutions(state).values())).shape[1]
    channels = {"inputs": inputs} | ({"outputs": outputs} if outputs else {})
    weights = in_order(make(config | channels), state, ONLY)
    return Network(config | {"_partial_": True}, inputs, outputs or 1, weights)
