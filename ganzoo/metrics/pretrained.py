"""Weights of published networks: finding, downloading, and reading them without trust."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from ganzoo.disk import sha256
from ganzoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors publish it."""

    url: str
    sha256: str  # in hexadecimal; only its start if no more is published

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


PUBLISHED = {
    # The network of TensorFlow's FID, converted by torch-fidelity; the hash is in the file's name.
    "inception": Published(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    # ViT-L/14. Its authors publish no hash; this is the one that several users have recorded.
    "dinov2": Published(
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
}


def _of_user() -> Path:
    try:
        return user_cache_path("ganzoo", appauthor=False)
    except RuntimeError:  # a user without a home, as in some containers
        return Path(tempfile.gettempdir()) / "ganzoo"


def cache_folder() -> Path:
    """Folder for what ganzoo keeps between runs: $GANZOO_CACHE, or in the user's cache."""
    own = os.environ.get("GANZOO_CACHE")
    return Path(own).expanduser() if own else _of_user()


def places(name: str) -> list[Path]:
    """The paths where a file of `PUBLISHED` is looked for, in this order.

    The last is that of torch.hub, which torch-fidelity and others use. A $GANZOO_CACHE on the disk
    of a node does not hide a file that was downloaded to the user's cache before.
    """
    file = PUBLISHED[name].file
    ours = dict.fromkeys([cache_folder(), _of_user()])
    import torch

    hub = Path(torch.hub.get_dir()) / "checkpoints" / file
    return [*(folder / "weights" / file for folder in ours), hub]


def find(name: str, given: str | None = None) -> Path | None:
    """The file of weights: `given`, which must exist, or the first of `places` that does."""
    if given is None:
        # Unlike Path.is_file, isfile returns False in folders without permission.
        return next((path for path in places(name) if os.path.isfile(path)), None)
    path = Path(given).expanduser()
    if not os.path.isfile(path):
        raise UserError(f"There are no weights at {path}: give the path of the weights of {name}.")
    return path


def load(name: str, given: str | None = None) -> tuple[dict[str, "Tensor"], str]:
    """State dict and SHA-256 of weights found by `find`; UserError unless they are as published."""
    path = find(name, given)
    if path is None:
        where = " or ".join(str(place.parent) for place in places(name))
        raise UserError(
            f"The weights {PUBLISHED[name].file} are not in {where}: fetch them with "
            f"{command(name)}, or give their path."
        )
    return read(path), check(name, path)


def check(name: str, path: Path) -> str:
    """SHA-256 of a file; UserError if it has the published name but not the published content."""
    published, digest = PUBLISHED[name], sha256(path)
    if path.name == published.file and not digest.startswith(published.sha256):
        raise UserError(
            f"{path} is corrupt or incomplete (its SHA-256 does not start with "
            f"{published.sha256[:8]}): delete it and download it again with {command(name)}."
        )
    return digest


def read(path: Path) -> dict[str, "Tensor"]:
    """The state dict in a file, on the CPU; UserError if it is anything else. No code is run."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, depending on the damage
        raise UserError(
            f"{path} cannot be read as weights ({type(error).__name__}): download them again."
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise UserError(f"{path} is not a state dict of tensors: give the path of one.")
    return dict(state)


def fetch(name: str) -> Path:
    """Download weights in `PUBLISHED` to the cache, where only complete, checked files appear."""
    published, path = PUBLISHED[name], places(name)[0]
    if os.path.isfile(path):
        check(name, path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        import torch

        torch.hub.download_url_to_file(published.url, str(path), published.sha256)
    except (RuntimeError, OSError, HTTPException) as error:  # RuntimeError: another checksum
        raise UserError(
            f"{published.url} could not be downloaded to {path.parent} ({error}): check the "
            f"network, or set GANZOO_CACHE to another folder. {by_hand(name)}"
        ) from error
    return path


def by_hand(name: str) -> str:
    """A sentence on how to get a file without `fetch`."""
    published, path = PUBLISHED[name], places(name)[0]
    start = "" if len(published.sha256) == 64 else " starting with"
    return (
        f"Or download {published.file} (SHA-256{start} {published.sha256}) from {published.url} "
        f"yourself and put it into {path.parent}."
    )


def command(name: str) -> str:
    """The command that downloads the weights of `name`."""
    return f"python -m ganzoo.prepare weights {name}"
