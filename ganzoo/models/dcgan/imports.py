"""Networks that pytorch/examples' DCGAN has trained: its state dicts as ours.

Both codes have the same layers in the same order, so that only names differ.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganzoo.config import make
from ganzoo.models.weights import (
    NO_DISCRIMINATOR,
    Format,
    Imported,
    Options,
    State,
    imported,
    in_order,
    is_state,
    place,
)

PACKAGE = "ganzoo.models.dcgan"
NAMES = r"main\.\d+\."  # names of layers start like this
ONLY = "only networks of 4x4 kernels whose filters halve with each doubling can be imported."


def is_example(given: Any) -> bool:
    """Whether this is a state dict of that code, or `netG...` and `netD...` by their names."""
    if is_state(given):
        return is_state(given, NAMES)
    return isinstance(given, Mapping) and any(
        str(name).startswith("netG") and is_state(state, NAMES) for name, state in given.items()
    )


def example_model(given: Mapping[str, Any]) -> Imported:
    """The model of a generator alone, or of both networks by the names of their files.

    Raises:
        UserError: a network that is not a generator of that code, or with other layers.
    """
    named = {"netG": given} if is_state(given) else given
    states = {str(name)[:4]: state for name, state in named.items()}
    kernels = _convolutions(states["netG"])
    options: Options = {
        "image_size": 4 * 2 ** (len(kernels) - 1),
        "nc": kernels[-1].shape[1],
        "nz": kernels[0].shape[0],
        "ngf": kernels[-1].shape[0],
    }
    generator = {"_target_": f"{PACKAGE}.Generator", **options}
    discriminator: Options = {"_target_": NO_DISCRIMINATOR}
    weights = {"generator": in_order(make(generator), states["netG"], ONLY)}
    if "netD" in states:
        first, *_ = judges = _convolutions(states["netD"])
        discriminator = {
            "_target_": f"{PACKAGE}.Discriminator",
            "image_size": 4 * 2 ** (len(judges) - 1),
            "nc": first.shape[1],
            "ndf": len(first),
        }
        weights["discriminator"] = in_order(make(discriminator), states["netD"], ONLY)
    model = {
        "_target_": f"{PACKAGE}.DCGAN",
        "nz": options["nz"],
        "generator": generator,
        "discriminator": discriminator,
    }
    return imported(model, weights, options["image_size"], options["nc"])


def _convolutions(state: State) -> list[Tensor]:
    return [state[n] for n in sorted(state, key=place) if state[n].dim() == 4]


FORMATS = [
    Format(
        "networks of pytorch/examples' DCGAN (netG_epoch_24.pth, or their folder)",
        is_example,
        example_model,
    )
]
