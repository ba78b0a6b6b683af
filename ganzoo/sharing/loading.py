"""The two files that a shared model is loaded from, which hold numbers and text but no code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ganzoo.config.values import Natural, check_value
from ganzoo.disk import write_whole
from ganzoo.errors import UserError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Types of what a model takes from its config apart from the parts that it is made of.
KINDS: dict[str, Any] = {
    "images_seen": Natural,
    "rollbacks": Natural,
    "class_names": Sequence[str] | None,
    "growth": Mapping[str, float | None] | None,
}


def write(folder: Path, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the weights of a model and what it is; `about` is a checkpoint's entry `ganzoo`."""
    # Copies, since safetensors refuses weights that two layers share.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_whole(folder / WEIGHTS, save(plain, {"format": "pt"}))
    write_whole(folder / CONFIG, json.dumps(about, indent=2) + "\n")


def read(path: Path, device: Any = "cpu") -> dict[str, Any]:
    """What `write` wrote, in the form of a checkpoint.

    Args:
        path: the file of the weights; the config is in the same folder.
        device: where to put tensors.

    Raises:
        UserError: one of the files is missing, damaged, or of another kind, such as a pickle.
    """
    about = path.with_name(CONFIG)
    if not about.is_file():
        raise UserError(f"{path} needs {CONFIG} in the same folder: give what ganzoo.export wrote.")
    try:
        entry = json.loads(about.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{about} is damaged: it is not JSON ({type(error).__name__}).") from error
    if isinstance(entry, dict):
        for key, kind in KINDS.items():
            check_value(f"{key} in {about}", entry.get(key), kind)
    return {"state_dict": weights_of(path, device), "ganzoo": entry}


def weights_of(path: Path, device: Any = "cpu") -> dict[str, Tensor]:
    """The tensors in a file of safetensors. Raises `UserError` if it is none."""
    try:
        return load_file(path, device=str(device))
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"{path} is damaged, or is not a file of safetensors, and was not read: only "
            f"safetensors are taken from a shared model, never a pickle."
        ) from error
