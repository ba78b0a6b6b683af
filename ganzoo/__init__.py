"""ganzoo: a PyTorch Lightning zoo of generative adversarial networks."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ganzoo-lightning")
except PackageNotFoundError:  # a plain checkout on the path
    __version__ = "0+unknown"

from ganzoo.checkpoint import load
from ganzoo.errors import UserError

__all__ = ["UserError", "__version__", "load"]
