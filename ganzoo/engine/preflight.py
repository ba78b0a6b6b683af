"""What could fail hours later is tried before the first step."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning_utilities.core.apply_func import apply_to_collection

from ganzoo.engine import stopping
from ganzoo.engine.gan import GAN
from ganzoo.engine.memory import forget_peak, peak_memory
from ganzoo.engine.precision import take_fastest
from ganzoo.engine.saving import check_room, checkpoint_bytes
from ganzoo.errors import UserError

log = logging.getLogger(__name__)


class Preflight(Callback):
    """One real iteration on real data, after which everything is restored to the last bit.

    Shows that the data can be read, that the step fits into memory, that gradients are finite, and
    that the run folder has room for checkpoints. If a model has several stages, each is tried, and
    a table shows their memory and time.

    Args:
        precisions: the folder of measured precisions, if the precision is to be measured now.
    """

    def __init__(self, precisions: Path | None = None) -> None:
        self.precisions = precisions

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        # Replaces Lightning's SIGTERM handler, which starts a collective inside of the handler.
        stopping.at_once()
        self._try(trainer, gan)
        if not gan.control.dry:
            for logger in trainer.loggers:  # not before: a typo must leave no run of wandb
                logger.log_hyperparams(gan.config or {})

    def _try(self, trainer: L.Trainer, gan: GAN) -> None:
        if gan.trained and not gan.control.dry:
            trainer.should_stop = True  # only the end of the run is made up for
            return
        run_dir = Path(trainer.default_root_dir)
        if trainer.is_global_zero:
            check_room(run_dir, checkpoint_bytes(gan))
        stages = gan.stages()
        with put_back(trainer, gan):
            if self.precisions is not None:
                # The last stage, as networks that grow spend most of their time at full size.
                at, name = max(stages.items())
                take_fastest(
                    trainer, gan, lambda: try_stage(trainer, gan, at, name).seconds, self.precisions
                )
            tried = [
                try_stage(trainer, gan, at, name, 2 if len(stages) > 1 else 1)
                for at, name in stages.items()
            ]
        if trainer.is_global_zero:
            log.info(
                "preflight: data, one iteration%s, gradients and run folder are fine; memory "
                "%.2f GiB",
                " of every stage" if len(stages) > 1 else f" ({tried[0].seconds:.2f} s, warm-up)",
                max(stage.memory for stage in tried) / 2**30,
            )
            if len(stages) > 1:
                for line in table(tried, gan.total_images):
                    log.info("%s", line)
        if gan.control.dry:
            trainer.should_stop = True


class Tried(NamedTuple):
    """Results of one iteration in a stage of training."""

    name: str  # of the stage, empty if there is one
    at: int  # images seen when the stage begins
    batch: int  # images of an iteration, over all processes
    seconds: float
    memory: int  # in bytes; see `peak_memory`
    accumulate: int  # number of micro-batches


def try_stage(trainer: L.Trainer, gan: GAN, at: int, name: str, times: int = 1) -> Tried:
    """Run iterations as they will be after `at` images, and time the last one.

    With `accumulate: auto`, the number of micro-batches is doubled until an iteration fits.

    Raises UserError: it does not fit, or anything else in it fails.
    """
    device, stage = gan.device, gan.stage(at)
    gan.images_seen = gan.images_before = at
    batch = trainer.datamodule.first_batch()  # type: ignore[attr-defined]
    batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    images = len(next(iter(batch.values())))
    start = 0.0

    def iteration() -> None:
        nonlocal start
        forget_peak(device)
        for _ in range(times):
            gan.images_seen = gan.images_before = at
            start = time.perf_counter()
            with trainer.precision_plugin.train_step_context():
                gan.training_step(batch)
            gan.report.check_finite()

    try:
        gan.fitting.fit(stage, images // gan.discriminator_steps, iteration)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"One iteration of {images} images{f' at {name}' if name else ''} does not fit into "
            f"the memory of {device}: use a smaller batch_size, model.accumulate=2 or more (same "
            f"results, less memory), or precision=bf16-mixed."
        ) from error
    seconds = time.perf_counter() - start
    total = images * trainer.world_size
    return Tried(name, at, total, seconds, peak_memory(device), gan.fitting.parts(stage))


def table(tried: list[Tried], total_images: int) -> list[str]:
    """Lines of a table: what each stage takes, and how long all of them will take."""
    ends = [*(stage.at for stage in tried[1:]), total_images]
    spans = [end - stage.at for stage, end in zip(tried, ends, strict=True)]
    seconds = [span * stage.seconds / stage.batch for stage, span in zip(tried, spans, strict=True)]
    lines = [
        f"{'stage':22} {'batch':>6} {'parts':>5} {'memory':>10} {'sec/kimg':>9} {'kimg':>8} share"
    ]
    for stage, span, spent in zip(tried, spans, seconds, strict=True):
        lines.append(
            f"{stage.name:22} {stage.batch:6} {stage.accumulate:5} "
            f"{stage.memory / 2**30:6.2f} GiB {1000 * stage.seconds / stage.batch:9.2f} "
            f"{span / 1000:8.1f} {100 * spent / max(sum(seconds), 1e-9):4.0f} %"
        )
    left = timedelta(seconds=round(sum(seconds)))
    return [*lines, f"about {left} in total, without metrics and pictures"]


@contextmanager
def put_back(trainer: L.Trainer, gan: GAN) -> Iterator[None]:
    """On leaving, weights, buffers, optimizers and the clock are restored."""
    # On the CPU, where there is room for all of it twice.
    states = [dict(gan.state_dict()), *(o.state_dict() for o in trainer.optimizers)]
    copies = apply_to_collection(states, torch.Tensor, lambda t: t.to("cpu", copy=True))
    weights, *optimizers = copies
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
        gan.report.clear()
        trainer.should_stop = False
