"""What the imports of all models share: names, shapes, and the model made of both."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ganzoo.config import make
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError

State = Mapping[str, Tensor]
Options = dict[str, Any]  # arguments of a network's class, with its `_target_`
Imported = tuple[GAN, Options]  # a model, and the config that it is rebuilt from
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


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


def fill(network: nn.Module, state: State, name: str) -> None:
    """Load a state dict into a network; old ones may lack counters of batches.

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
