"""Where the weights of published networks are: found, fetched, and read without trusting them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch
from platformdirs import user_cache_path
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from ganzoo import disk
from ganzoo.errors import UserError


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors publish it."""

    url: str
    sha256: str  # in hexadecimal; only its start where no more is published

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


PUBLISHED = {
    # The network of TensorFlow's FID, converted by torch-fidelity; the file's name has the hash.
    "inception": Published(URL_INCEPTION_V3, "6726825d"),
    # ViT-L/14. Its authors publish no hash: this is what several who have fetched it record.
    "dinov2": Published(
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
}


def cache_folder() -> Path:
    """What ganzoo keeps between runs: $GANZOO_CACHE, else ganzoo in the user's cache folder."""
    own = os.environ.get("GANZOO_CACHE")
    return Path(own).expanduser() if own else user_cache_path("ganzoo", appauthor=False)


def places(name: str) -> list[Path]:
    """Where the file of `name` in `PUBLISHED` is looked for, in this order.

    The last is where torch.hub, and with it torch-fidelity and others, leave it. A $GANZOO_CACHE on
    the disk of a node does not hide what was fetched before into the user's cache.
    """
    file = PUBLISHED[name].file
    ours = dict.fromkeys([cache_folder(), user_cache_path("ganzoo", appauthor=False)])
    hub = Path(torch.hub.get_dir()) / "checkpoints" / file
    return [*(folder / "weights" / file for folder in ours), hub]


def find(name: str, given: str | None = None) -> Path | None:
    """The file of weights: `given`, else the first of `places` that is there, else None.

    Raises:
        UserError: when `given` is no file.
    """
    if given is None:
        # Unlike Path.is_file, isfile has an answer where a folder may not be looked into.
        return next((path for path in places(name) if os.path.isfile(path)), None)
    path = Path(given).expanduser()
    if not os.path.isfile(path):
        raise UserError(f"There is no file of weights at {path}: give the path of {name}'s.")
    return path


def load(name: str, given: str | None = None) -> tuple[dict[str, Tensor], str]:
    """State dict and SHA-256 of the weights of `name`; see `find`.

    Raises:
        UserError: when they are not there, or not what was published, or no state dict.
    """
    path = find(name, given)
    if path is None:
        published = PUBLISHED[name]
        raise UserError(
            f"The weights {published.file} are not in "
            f"{' or '.join(str(place.parent) for place in places(name))}: fetch them with "
            f"{command(name)}, or give their path."
        )
    check(name, path)
    return read(path), sha256(path)


def check(name: str, path: Path) -> None:
    """Raises `UserError` when a file has the published name and not the published contents."""
    published = PUBLISHED[name]
    if path.name == published.file and not sha256(path).startswith(published.sha256):
        raise UserError(
            f"{path} is corrupt or incomplete (its SHA-256 does not start with "
            f"{published.sha256[:8]}): delete it and fetch it again with {command(name)}."
        )


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU. No code in the file is run.

    Raises:
        UserError: when it cannot be read, or is anything else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives and pickles end in as many types
        raise UserError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is damaged, or holds "
            "more than tensors; fetch it again or give the path of another."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} is no state dict of tensors: give the path of one.")
    return dict(state)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, computed once for as long as the file is not changed.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        stat = path.stat()
        return _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): look at its permissions."
        ) from error


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    return disk.sha256(path)


def fetch(name: str) -> Path:
    """Download the weights of `name` in `PUBLISHED` into the cache, unless they are there.

    The file is there only when it is whole and its checksum right.

    Raises:
        UserError: when they cannot be downloaded or written, or are not what was published.
    """
    published, path = PUBLISHED[name], places(name)[0]
    if os.path.isfile(path):
        check(name, path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(published.url, str(path), published.sha256)
    except RuntimeError as error:  # of a checksum that differs
        raise UserError(
            f"What {published.url} delivers is not what was published (its SHA-256 does not start "
            f"with {published.sha256[:8]}): try again. {by_hand(name)}"
        ) from error
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"{published.url} could not be downloaded ({getattr(error, 'reason', error)}): look at "
            f"the network. {by_hand(name)}"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error.strerror or error}): make room, or set "
            "GANZOO_CACHE to a folder that can be."
        ) from error
    return path


def by_hand(name: str) -> str:
    """Which file to get without `fetch`, and where to put it."""
    published, path = PUBLISHED[name], places(name)[0]
    start = "" if len(published.sha256) == 64 else " starting with"
    return (
        f"Or get {published.file} (SHA-256{start} {published.sha256}) from {published.url} by "
        f"another way and put it into {path.parent}."
    )


def command(name: str) -> str:
    """The command that fetches the weights of `name`."""
    return f"python -m ganzoo.prepare weights {name}"
