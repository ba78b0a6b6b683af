"""Going back in a run to an earlier checkpoint, and on from there with other random numbers."""

import logging
from pathlib import Path

import lightning as L
import torch

from ganzoo.distributed.collectives import rank, world_size
from ganzoo.engine.checkpoint import read
from ganzoo.engine.gan import GAN
from ganzoo.engine.saving import AtomicCheckpointIO

log = logging.getLogger(__name__)

GOOD, NEWER = "good.ckpt", "good.newer.ckpt"  # in the run folder; the newer one may become good


def keep_good(trainer: L.Trainer) -> None:
    """Write a checkpoint of a run that looks healthy; the one before becomes the good one.

    The newest one is not trusted yet, because a run is often sick before it shows.
    """
    run_dir = Path(trainer.default_root_dir)
    if trainer.is_global_zero and (run_dir / NEWER).is_file():
        (run_dir / NEWER).replace(run_dir / GOOD)
    trainer.save_checkpoint(run_dir / NEWER)


def good_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint to go back to: the good one, else the newer one, None if there is neither."""
    return next((run_dir / name for name in (GOOD, NEWER) if (run_dir / name).is_file()), None)


def go_back(gan: GAN, run_dir: Path) -> None:
    """Make `gan.control.go_back_to` the last checkpoint, with other random numbers from there on.

    All processes call it when training has ended; the run then resumes like any other.
    """
    path = gan.control.go_back_to
    assert path is not None
    if rank() == 0:
        checkpoint = read(path)
        checkpoint["ganzoo"]["rollbacks"] = gan.rollbacks + 1
        AtomicCheckpointIO().save_checkpoint(checkpoint, run_dir / "last.ckpt")
        if path.name == GOOD:
            (run_dir / NEWER).unlink(missing_ok=True)
        else:
            (run_dir / NEWER).replace(run_dir / GOOD)
        log.warning(
            "rollback %d: back to %.1f kimg, with other random numbers",
            gan.rollbacks + 1,
            checkpoint["ganzoo"]["images_seen"] / 1000,
        )
    if world_size() > 1:
        torch.distributed.barrier()
