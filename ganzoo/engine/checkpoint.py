"""Reading checkpoints, without running code that they might contain, and rebuilding their models.

A checkpoint is Lightning's, plus an entry `ganzoo` with the resolved config (plain dicts and
numbers), the images seen, and the version of ganzoo.
"""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from ganzoo import __version__
from ganzoo.config import make
from ganzoo.config import trust as trusted
from ganzoo.config.renamed import rename_stored
from ganzoo.disk import whole
from ganzoo.engine.gan import GAN
from ganzoo.engine.saving import FORMAT, shape_of
from ganzoo.errors import UserError
from ganzoo.sharing import hub
from ganzoo.sharing import loading as sharing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning plugin: a checkpoint is written completely or not at all, and read by `read`."""

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read(path, map_location)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = "The previous checkpoint is unchanged" if path.exists() else "There is none yet"
        remedy = (
            f"{kept}: free some space or choose another run_dir, then run the same command again "
            f"to resume."
        )
        # To an open file: torch keeps the reason of a failure only then.
        with whole(path, remedy) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)


def find(path: str | Path) -> Path:
    """The checkpoint file meant by `path`: itself, or the one of a run folder or a shared model.

    A folder has `last.ckpt` or `model.safetensors`; `hf:USER/NAME[@REVISION]` is a model on the
    Hugging Face Hub. Raises UserError: there is none.
    """
    path = hub.fetched(str(path)) if str(path).startswith(hub.SCHEME) else Path(path)
    if path.is_dir():
        shared = path / sharing.WEIGHTS
        path = path / "last.ckpt"
        if shared.is_file() and not path.is_file():
            path = shared
    if not path.is_file():
        raise UserError(
            f"There is no checkpoint at {path}: give a .ckpt file, a run folder that holds one, or "
            f"a folder that ganzoo.export wrote."
        )
    return path


def read(path: str | Path, device: Any = "cpu") -> dict[str, Any]:
    """The contents of ganzoo's checkpoint; runs nothing in it. UserError if damaged or foreign."""
    path = find(path)
    if path.suffix == ".safetensors":
        checkpoint: Any = sharing.read(path, device)
    else:
        checkpoint = _unpickled(path, device)
    written = checkpoint.get("ganzoo") if isinstance(checkpoint, dict) else None
    if not isinstance(written, dict):
        raise UserError(
            f"{path} was not written by ganzoo: give the last.ckpt of one of its runs, or convert "
            f"it with python -m ganzoo.prepare import."
        )
    if written.get("format") != FORMAT:
        raise UserError(
            f"{path} was written by ganzoo {written.get('version')}, whose checkpoints ganzoo "
            f"{__version__} cannot read: install that version to use it."
        )
    rename_stored(written.get("config"))
    return checkpoint


def _unpickled(path: Path, device: Any) -> Any:
    try:
        check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, before refusing it
            return torch.load(path, map_location=device, weights_only=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged or of "
            f"another kind; give a file that ganzoo wrote."
        ) from error


def check_sums(path: Path) -> None:
    """Raise `UserError` if a tensor, or anything else in a zip of `torch.save`, is damaged.

    torch stores checksums but does not compare them, so it would read a flipped bit as a weight.
    """
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged:
        raise UserError(
            f"{path} is damaged: the checksum of {damaged} differs; use a copy of the file, or an "
            f"older checkpoint."
        )


def load(
    path: str | Path, device: torch.device | str | None = None, trust: Sequence[str] = ()
) -> GAN:
    """The model of a checkpoint, run folder or shared model, rebuilt from that alone, in eval mode.

    Args:
        path: a `.ckpt` file, a run folder (its `last.ckpt`), a folder that `ganzoo.export` wrote,
            or `hf:USER/NAME[@REVISION]`.
        device: where to put it; the CPU by default.
        trust: packages of your own that its config may call, such as `"mypackage"`.

    Raises UserError: no such file, not a checkpoint of ganzoo, a config that calls what is not
    trusted, or options that this version does not know.
    """
    checkpoint = read(path)
    about = checkpoint["ganzoo"]
    config = about.get("config")
    if config is None:
        raise UserError(
            f"{path} does not say how its model was built: set `gan.config` before training from "
            f"Python, or load its `state_dict` into the networks yourself."
        )
    if not isinstance(config, dict) or "model" not in config or "state_dict" not in checkpoint:
        raise UserError(f"{path} has no model or no weights: give a last.ckpt of a run.")
    trusted.check(path, config["model"], trusted.MODEL, trust)
    try:
        gan: GAN = make(config["model"], "model")
    except UserError as error:
        raise UserError(
            f"{path} was written by ganzoo {about.get('version')}, whose options this version does "
            f"not know: install that version to use it ({str(error).removesuffix('.')})."
        ) from error
    gan.config = config
    try:
        restore(gan, checkpoint)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}, {error}.") from error
    return gan.to(device or "cpu").eval()


def restore(gan: GAN, checkpoint: dict[str, Any]) -> None:
    """Put weights and clock of a checkpoint into the model that it is of."""
    gan.on_load_checkpoint(checkpoint)
    gan.load_state_dict(checkpoint["state_dict"])


def initialize_from(gan: GAN, path: str | Path) -> list[str]:
    """Take over the weights of another checkpoint where name and shape fit.

    Returns a sentence for every key that did not fit, and for what else differs. Raises `UserError`
    if nothing fits.
    """
    checkpoint = read(path)
    theirs: dict[str, Tensor] = checkpoint["state_dict"]
    ours = gan.state_dict()
    fitting = {k: v for k, v in theirs.items() if k in ours and ours[k].shape == v.shape}
    if not fitting:
        raise UserError(f"Nothing in {path} fits this model: init_from needs a similar model.")
    gan.load_state_dict(fitting, strict=False)
    return [
        *(f"{k}: {shape_of(v)} there, {shape_of(ours[k])} here; not taken"
          for k, v in theirs.items() if k in ours and k not in fitting),
        *(f"{k}: only there; not taken" for k in theirs if k not in ours),
        *(f"{k}: only here; left as initialized" for k in ours if k not in theirs),
        *gan.differs_from(checkpoint),
    ]  # fmt: skip
