"""Everything that could fail later, tried before the first step."""

import copy
import logging
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from ganzoo.errors import UserError
from ganzoo.gan import GAN
from ganzoo.strategy import any_process

log = logging.getLogger(__name__)


class Preflight(Callback):
    """One real iteration on real data, then everything is put back to the last bit.

    Shows that the data can be read, that the step fits into memory, that gradients are finite, that
    samples can be made and that the run folder takes a checkpoint.

    Args:
        dry: stop after it.
    """

    def __init__(self, dry: bool = False) -> None:
        self.dry = dry

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        run_dir = Path(trainer.default_root_dir)
        if trainer.is_global_zero:
            check_room(run_dir, checkpoint_bytes(gan))
        device = gan.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            with put_back(trainer, gan):
                batch = trainer.datamodule.first_batch()  # type: ignore[attr-defined]
                batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
                start = time.perf_counter()
                with trainer.precision_plugin.train_step_context():
                    gan.training_step(batch)
                gan.check_finite()
                seconds = time.perf_counter() - start
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"One iteration of {gan.images_seen + 1:,} images on does not fit into the memory "
                f"of {device}: use a smaller batch_size, model.accumulate=2 or more (same results, "
                f"less memory), or precision=bf16-mixed."
            ) from error
        log.info(
            "preflight: data, one iteration (%.2f s with warm-up), gradients and run folder are "
            "fine; peak memory %.2f GiB",
            seconds,
            peak_memory(device) / 2**30,
        )
        if any_process(self.dry, device):
            trainer.should_stop = True


@contextmanager
def put_back(trainer: L.Trainer, gan: GAN) -> Iterator[None]:
    """On leaving, weights, buffers, optimizers and the clock are what they were."""
    weights = {k: v.to("cpu", copy=True) for k, v in gan.state_dict().items()}
    optimizers = [_to_cpu(copy.copy(o.state_dict())) for o in trainer.optimizers]
    clock = gan.images_before, gan.images_seen
    try:
        yield
    finally:
        with torch.no_grad():
            for key, value in gan.state_dict().items():
                value.copy_(weights[key])
        for optimizer, state in zip(trainer.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(state)
        gan.images_before, gan.images_seen = clock
        gan.forget_report()
        trainer.should_stop = False


def checkpoint_bytes(gan: GAN) -> int:
    """Size of a checkpoint: the weights, and two numbers of Adam's for each trainable one."""
    weights = sum(t.numel() * t.element_size() for t in gan.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in gan.parameters() if p.requires_grad)
    return weights + 2 * trained


def check_room(folder: Path, size: int) -> None:
    """Raise `UserError` unless two checkpoints of `size` bytes fit into a writable folder."""
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
            f"{2 * size / 2**20:.0f} MiB: make room or choose another run_dir."
        )


def peak_memory(device: torch.device) -> int:
    """Largest memory so far in bytes: the device's, or on a CPU the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _to_cpu(node: Any) -> Any:
    if isinstance(node, torch.Tensor):
        return node.to("cpu", copy=True)
    if isinstance(node, dict):
        return {k: _to_cpu(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_to_cpu(v) for v in node]
    return node
