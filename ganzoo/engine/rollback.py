"""Going back in a run to an earlier checkpoint, and on from there with other random numbers."""

import logging
from pathlib import Path

import lightning as L
import torch

from ganzoo.distributed.collectives import any_process, rank, world_size
from ganzoo.engine.checkpoint import AtomicCheckpointIO, read
from ganzoo.engine.gan import GAN

log = logging.getLogger(__name__)

GOOD, NEWER = "good.ckpt", "good.newer.ckpt"  # in the run folder; the newer one may become good


class GoodCheckpoints:
    """The two checkpoints of a run that it may go back to.

    They are not part of `last.ckpt`, so a run that was killed may find newer ones than it resumes
    from. Until it has come as far again, it leaves them alone, and goes back to the same moment as
    a run that was never killed.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._newer: tuple[int, int] | None = None  # rollbacks and images of the newer one

    def keep(self, trainer: L.Trainer, gan: GAN) -> None:
        """Write a checkpoint of a run that looks healthy; the one before becomes the good one.

        The newest one is not trusted yet, because a run is often sick before it shows. All
        processes call it.
        """
        newer, now = self.run_dir / NEWER, (gan.rollbacks, gan.images_seen)
        if trainer.is_global_zero:
            if self._newer is None and newer.is_file():
                saved = read(newer)["ganzoo"]
                self._newer = saved["rollbacks"], saved["images_seen"]
            if self._newer is not None and self._newer[0] != gan.rollbacks:
                newer.unlink(missing_ok=True)  # killed while it went back
                self._newer = None
        ahead = self._newer is not None and self._newer >= now
        if any_process(ahead, gan.device):
            return
        if trainer.is_global_zero:
            if newer.is_file():
                newer.replace(self.run_dir / GOOD)
            self._newer = now
        trainer.save_checkpoint(newer)


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
