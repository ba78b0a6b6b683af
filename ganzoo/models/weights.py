"""What the imports of all models share: names, shapes, and the model made of both."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganzoo.config import make
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError

State = Mapping[str, Tensor]
Options = dict[str, Any]  # arguments of a network's class, with its `_target_`
Imported = tuple[GAN, Options]  # a model, and the config that it is rebuilt from
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
NO_DISCRIMINATOR = "ganzoo.nn.layers.NoDiscriminator"


def is_state(given: Any) -> bool:
    """Whether this is a state dict."""
    values = list(given.values()) if isinstance(given, Mapping) else []
    return bool(values) and all(isinstance(value, Tensor) for value in values)


def states_in(given: Any, name: str = "") -> Mapping[str, State]:
    """The state dicts in what was read, by their names; `name` is that of a lone one."""
    if is_state(given):
        return {name: given}
    held = given.items() if isinstance(given, Mapping) else ()
    return {str(name): state for name, state in held if is_state(state)}


def renamed(name: str, rules: Rules) -> str:
    """A name after all replacements, each a pattern and what takes its place."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def numbers(state: State, prefix: str) -> int:
    """How many numbers follow a prefix in the names of a state dict: the length of a list."""
    return len({name.split(".")[1] for name in state if name.startswith(f"{prefix}.")})


def imported(model: Options, weights: Mapping[str, State], size: int, channels: int) -> Imported:
    """The model of a config, filled with weights under our names.

    Args:
        model: config of the model; what only training needs is added.
        weights: state dict of each network, by its name within the model.
        size, channels: of the images.

    Raises:
        UserError: weights and networks differ in names or shapes.
    """
    model = {"optimizers": {}, "total_kimg": 0, "ema_kimg": 0, **model}
    gan: GAN = make(model)
    for name, state in weights.items():
        fill(gan.get_submodule(name), state, name)
    return gan, {"model": model, "image_size": size, "channels": channels}


def fill(network: nn.Module, state: State, name: str) -> nn.Module:
    """A network with the weights of a state dict; old ones may lack counters of batches.

    Raises:
        UserError: names or shapes differ.
    """
    own = network.state_dict()
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    state = {**counters, **state}
    if different := sorted(own.keys() ^ state.keys()):
        raise UserError(
            f"{name} cannot be imported: its layers differ from ours in {different[0]}."
        )
    for key, value in state.items():
        if own[key].shape != value.shape:
            raise UserError(
                f"{name} cannot be imported: {key} has shape {list(value.shape)} there and "
                f"{list(own[key].shape)} in our network."
            )
    network.load_state_dict(state)
    return network


def divided(state: State) -> dict[str, Tensor]:
    """A state dict with spectral norms of PyTorch, whose weights are divided by these for good.

    The largest singular value follows from the vectors u and v that are stored with a weight.
    """
    found = dict(state)
    for name in [name for name in found if name.endswith(".weight_orig")]:
        weight = found.pop(name)
        u, v = (found.pop(name.replace("_orig", end)) for end in ("_u", "_v"))
        found[name.removesuffix("_orig")] = weight / torch.dot(u, weight.flatten(1) @ v)
    return found


def place(name: str) -> list[tuple[int, str]]:
    """A key that sorts the names of layers as the layers are."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def convolutions(state: State) -> dict[str, Tensor]:
    """Weights of convolutions, in the order of the layers."""
    return {name: state[name] for name in sorted(state, key=place) if state[name].dim() == 4}


def in_order(network: nn.Module, state: State, supported: str) -> dict[str, Tensor]:
    """Weights under our names, each kind (weight, bias, ...) in the order of the layers.

    Args:
        network: ours, with the same layers in the same order.
        state: theirs; numbers in names say the order.
        supported: a sentence on what can be imported, for messages.

    Raises:
        UserError: a layer is missing, is left over, or has another shape.
    """
    found = dict(network.state_dict())  # old files lack counters of batches
    left = sorted(state, key=place)
    for ours, value in network.state_dict().items():
        kind = ours.rpartition(".")[2]
        theirs = next((name for name in left if name.endswith(f".{kind}")), None)
        if theirs is None and kind == "num_batches_tracked":
            continue
        if theirs is None or state[theirs].shape != value.shape:
            raise UserError(f"this network has no {ours} of shape {list(value.shape)}: {supported}")
        found[ours] = state[theirs]
        left.remove(theirs)
    if left:
        raise UserError(f"this network has a layer {left[0]} that ours has not: {supported}")
    return found
