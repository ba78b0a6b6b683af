"""ganzoo: a PyTorch Lightning zoo of generative adversarial networks."""

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ganzoo.errors import UserError

if TYPE_CHECKING:
    from ganzoo import train
    from ganzoo.engine.checkpoint import load
    from ganzoo.engine.gan import GAN
    from ganzoo.engine.kinds import FromSeeds, Translating

try:
    __version__ = version("ganzoo-lightning")
except PackageNotFoundError:  # a plain checkout on the path
    __version__ = "0+unknown"

# A command in a notebook's cell inherits the notebook's backend. Where that is not installed, the
# import of matplotlib fails.
module = os.environ.get("MPLBACKEND", "").partition("module://")[2]
if module and find_spec(module.partition(".")[0]) is None:
    del os.environ["MPLBACKEND"]

__all__ = ["GAN", "FromSeeds", "Translating", "UserError", "__version__", "load", "train"]

PLACES = {
    "GAN": "ganzoo.engine.gan",
    "FromSeeds": "ganzoo.engine.kinds",
    "Translating": "ganzoo.engine.kinds",
    "load": "ganzoo.engine.checkpoint",
}


def __getattr__(name: str) -> Any:
    # Not before it is needed: importing torch takes seconds, and some commands do without.
    if name == "train":
        return import_module("ganzoo.train")  # which can be called
    if name in PLACES:
        return getattr(import_module(PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
