"""Writing checkpoints: completely or not at all, and only if there is room for them."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from ganzoo.disk import whole
from ganzoo.engine.checkpoint import read
from ganzoo.errors import UserError


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
