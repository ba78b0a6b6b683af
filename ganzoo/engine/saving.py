"""What a checkpoint has to have, and the room that it takes."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ganzoo.errors import UserError

FORMAT = 2  # of the entry `ganzoo` and the names of weights; version 0.1 wrote none


def check_fits(gan: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Raise `UserError` unless the checkpoint is ganzoo's and has the weights of this model."""
    if "ganzoo" not in checkpoint:
        raise UserError("The checkpoint was not written by ganzoo: choose another run_dir.")
    ours, theirs = gan.state_dict(), checkpoint["state_dict"]
    differing = [
        key
        for key in sorted({*ours, *theirs})
        if key not in ours or key not in theirs or ours[key].shape != theirs[key].shape
    ]
    if differing:
        key = differing[0]
        raise UserError(
            f"The checkpoint belongs to another model: {len(differing)} weights differ, the first "
            f"is {key} ({shape_of(theirs.get(key))} there, {shape_of(ours.get(key))} here). Use "
            f"the options it was trained with, or another run_dir."
        )


def shape_of(tensor: Tensor | None) -> str:
    return "none" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"


def checkpoint_bytes(model: nn.Module) -> int:
    """Size of a checkpoint: the weights, and Adam's two numbers for each trainable weight."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return weights + 2 * trained


def check_room(folder: Path, size: int) -> None:
    """Raise `UserError` unless two checkpoints of `size` bytes fit into a writable folder.

    Two, because the previous one is only replaced when the new one is complete.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"ganzoo")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The run folder {folder} cannot be written to ({error.strerror}): choose another "
            f"run_dir."
        ) from error
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise UserError(
            f"The disk of {folder} has {free / 2**20:.0f} MiB left, two checkpoints need "
            f"{2 * size / 2**20:.0f} MiB: free some space or choose another run_dir."
        )
