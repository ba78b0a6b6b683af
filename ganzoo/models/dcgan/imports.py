"""Networks that pytorch/examples' DCGAN has trained: its state dicts as ours.

Both codes have the same layers in the same order, so that only names differ.
"""

from collections.abc import Mapping
from typing import Any

from ganzoo.config import make
from ganzoo.models.weights import (
    NO_DISCRIMINATOR,
    Imported,
    Options,
    convolutions,
    imported,
    in_order,
    states_in,
)

PACKAGE = "ganzoo.models.dcgan"
ONLY = "only networks of 4x4 kernels whose filters halve with each doubling can be imported."


def example_model(given: Mapping[str, Any]) -> Imported:
    """The model of a generator alone, or of both networks by the names of their files.

    Raises:
        UserError: a network that is not a generator of that code, or with other layers.
    """
    states = {name[:4]: state for name, state in states_in(given, "netG").items()}
    first, *_, last = kernels = [*convolutions(states["netG"]).values()]
    size, nz, nc = 4 * 2 ** (len(kernels) - 1), first.shape[0], last.shape[1]
    generator: Options = {
        "_target_": f"{PACKAGE}.Generator",
        "image_size": size,
        "nc": nc,
        "nz": nz,
        "ngf": last.shape[0],
    }
    discriminator: Options = {"_target_": NO_DISCRIMINATOR}
    weights = {"generator": in_order(make(generator), states["netG"], ONLY)}
    if "netD" in states:
        first, *_ = kernels = [*convolutions(states["netD"]).values()]
        discriminator = {
            "_target_": f"{PACKAGE}.Discriminator",
            "image_size": 4 * 2 ** (len(kernels) - 1),
            "nc": first.shape[1],
            "ndf": len(first),
        }
        weights["discriminator"] = in_order(make(discriminator), states["netD"], ONLY)
    networks = {"generator": generator, "discriminator": discriminator}
    return imported({"_target_": f"{PACKAGE}.DCGAN", "nz": nz, **networks}, weights, size, nc)
