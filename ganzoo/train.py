"""python -m ganzoo.train: trains a model on data, or goes on with a run.

Composed by Hydra from `conf/train.yaml`; `--help` lists groups and keys. Starting in a run folder
(`run_dir=...`) that holds `last.ckpt` resumes that run bit for bit.
"""

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from ganzoo.config import CONF, make, resolved
from ganzoo.data import choosing  # noqa: F401  defines ${classes:...}
from ganzoo.distributed import cluster
from ganzoo.distributed.strategy import BatchNormSync
from ganzoo.engine.checkpoint import AtomicCheckpointIO, initialize_from, read, restore
from ganzoo.engine.gan import GAN
from ganzoo.engine.preflight import Preflight
from ganzoo.engine.rollback import go_back
from ganzoo.errors import AnotherRun, NotFinite, UserError
from ganzoo.loggers.csv import MetricsCSV
from ganzoo.runs import sweeps
from ganzoo.runs.differences import flatten
from ganzoo.runs.names import about, changeable, in_sweep
from ganzoo.runs.state import recorded

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "32-true", "bf16-mixed", "64-true")


def train(cfg: DictConfig) -> GAN:
    """Train what the config describes and return the model.

    `cfg.run_dir` is the run folder. Raises `UserError` for what the user has to mend.
    """
    run_dir = Path(cfg.run_dir).resolve()
    with log_to(run_dir), recorded_by_first(run_dir, cfg):
        gan, children = attempt(cfg, run_dir, [])
        while gan.control.go_back_to is not None:
            go_back(gan, run_dir)
            gan, children = attempt(cfg, run_dir, children)
        return gan


def attempt(cfg: DictConfig, run_dir: Path, children: list[Any]) -> tuple[GAN, list[Any]]:
    """Train to the end, or until the run has to go back to an earlier state.

    Args:
        children: processes that an earlier attempt has started; the next one goes on with them.

    Returns:
        the model and the processes.
    """
    last = run_dir / "last.ckpt"
    resumed = read(last) if last.is_file() else None
    images_seen = resumed["ganzoo"]["images_seen"] if resumed else 0
    going_on = resumed is not None
    config = resolved(cfg)
    config.pop("sweep_dir", None)
    if resumed:
        check_same_run(resumed["ganzoo"]["config"], config)
    del resumed

    L.seed_everything(cfg.seed, verbose=False)
    data = make(cfg.data)
    gan: GAN = make(cfg.model)
    gan.config = config
    if images_seen >= gan.total_images and not cfg.dry:
        log.info("%s is complete: raise total_kimg to train on", run_dir)
        restore(gan, read(last))
        write_done(run_dir, gan)  # in case it was killed just before
        return gan, children
    if cfg.init_from and not images_seen:
        for sentence in initialize_from(gan, cfg.init_from):
            log.warning("init_from: %s", sentence)

    trainer = make_trainer(cfg, run_dir, images_seen)
    sweeps.check(trainer)
    if not cfg.dry:
        write_config(run_dir, config)
    log.info("run folder: %s", run_dir)
    log.info("%s", describe(gan))
    if going_on:
        log.info("resuming at %.1f of %g kimg", images_seen / 1000, cfg.total_kimg)
    launcher: Any = trainer.strategy.launcher
    if launcher is not None:
        launcher.procs = children
    fit(trainer, gan, data, last if going_on else None)
    if gan.control.given_up:
        raise UserError(gan.control.given_up)
    if trainer.is_global_zero and gan.control.go_back_to is None:
        close(trainer, gan, run_dir, cfg.dry)
    return gan, launcher.procs if launcher is not None else []


def fit(trainer: L.Trainer, gan: GAN, data: L.LightningDataModule, last: Path | None) -> None:
    """`Trainer.fit`, with the other processes ended when this one fails."""
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(gan.config or {})
        with logging_redirect_tqdm():
            trainer.fit(gan, datamodule=data, ckpt_path=last)
    except BaseException as error:
        if isinstance(error, NotFinite) and gan.control.go_back_to is not None:
            return
        if (launcher := trainer.strategy.launcher) is not None:
            launcher.kill(signal.SIGTERM)  # they wait in a collective for ever
        if sentence := cluster.lost(error):
            raise UserError(sentence) from error
        raise
    finally:
        for logger in trainer.loggers:
            logger.finalize("success" if gan.images_seen >= gan.total_images else "failed")


def close(trainer: L.Trainer, gan: GAN, run_dir: Path, dry: bool) -> None:
    """Say how the run ended; write `done` if it is complete, exit with 128 + n after a signal n."""
    if gan.control.stopped_by:
        log.info(
            "stopped by %s at %.1f kimg; last.ckpt is written, the same command with %s "
            "goes on from there",
            signal.Signals(gan.control.stopped_by).name,
            gan.images_seen / 1000,
            f"sweep_dir={run_dir.parent}" if in_sweep() else f"run_dir={run_dir}",
        )
        if gan.control.stopped_by == signal.SIGUSR1:
            cluster.requeue_if_asked(trainer)
        sys.exit(128 + gan.control.stopped_by)
    if dry:
        log.info("dry run: everything is ready, nothing was trained")
        return
    write_done(run_dir, gan)
    log.info("done: pictures, curves and last.ckpt are in %s", run_dir)


def make_trainer(cfg: DictConfig, run_dir: Path, images_seen: int) -> L.Trainer:
    """The Trainer of a run, with the loggers, callbacks and plugins that every run has."""
    on_gpu = torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    precision, why = choose_precision(cfg.precision, on_gpu)
    log.info("precision: %s (%s)", precision, why)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(cfg.tf32)

    loggers = [MetricsCSV(run_dir, images_seen)]
    if cfg.get("logger"):
        loggers.append(make(cfg.logger))
    plugins: list[Any] = [AtomicCheckpointIO()]
    if cfg.sync_batchnorm:
        plugins.append(BatchNormSync())
    if cfg.trainer.strategy == "auto":
        cluster.check_alone()
        plugins.append(LightningEnvironment())  # and nothing that Lightning would do under SLURM
    warnings.filterwarnings("ignore", module="lightning.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    new_trainer = make(cfg.trainer)
    with cluster.devices_explained(cfg.trainer.devices):
        return new_trainer(
            precision=precision,
            default_root_dir=run_dir,
            callbacks=[Preflight(cfg.dry), *(make(c) for c in cfg.callbacks.values() if c)],
            logger=loggers,
            plugins=plugins,
            max_epochs=-1,  # the run ends by images seen
            limit_val_batches=0,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def choose_precision(asked: str, on_gpu: bool) -> tuple[str, str]:
    """Lightning's name of a precision, and why it was taken.

    `auto` is bf16-mixed where the hardware is fast at it and 32-true elsewhere. Raises `UserError`
    for a precision that was not shown to be right.
    """
    if asked not in PRECISIONS:
        raise UserError(f"precision={asked} is not offered: choose one of {', '.join(PRECISIONS)}.")
    if asked != "auto":
        return asked, "as asked for"
    if on_gpu:
        if torch.cuda.get_device_capability() >= (8, 0):
            return "bf16-mixed", "the GPU is an Ampere or newer"
        return "32-true", "the GPU is older than Ampere"
    # Emulated elsewhere, and slower than float32 there.
    if getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)():
        return "bf16-mixed", "the CPU has AMX"
    return "32-true", "the CPU has no AMX"


def check_same_run(old: dict[str, Any] | None, new: dict[str, Any]) -> None:
    """Raise `UserError` if a resumed run's config differs where that would make it another run."""
    before, now = flatten(old or {}), flatten(new)
    changed = [
        f"{key} ({before.get(key)} there, {now.get(key)} now)"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not changeable(key)
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise AnotherRun(
            f"The run folder holds a run with another config: {', '.join(changed[:3])}{more}. Give "
            f"the same keys to go on with it, or another run_dir (with init_from to start from its "
            f"weights)."
        )


def describe(gan: GAN) -> str:
    """One line: the model and the sizes of its networks."""

    def size(network: torch.nn.Module) -> str:
        return f"{sum(p.numel() for p in network.parameters()):,}"

    return (
        f"{type(gan).__name__}: generator {size(gan.generator)} parameters, discriminator "
        f"{size(gan.discriminator)}"
    )


@rank_zero_only
def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    (run_dir / "done").unlink(missing_ok=True)


@rank_zero_only
def write_done(run_dir: Path, gan: GAN) -> None:
    (run_dir / "done").write_text(f"{gan.total_images} images\n")


@contextmanager
def recorded_by_first(run_dir: Path, cfg: DictConfig) -> Iterator[None]:
    """`state.json` in the run folder, written by the first process; see `ganzoo.runs.state`."""
    if rank_zero_only.rank != 0 or cfg.dry:  # type: ignore[attr-defined]
        yield
        return
    with recorded(run_dir, about(run_dir, cfg)):
        yield


@contextmanager
def log_to(run_dir: Path) -> Iterator[None]:
    """`train.log` in the run folder, written by the first process; the others only warn."""
    root = logging.getLogger()
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        root.setLevel(logging.WARNING)
        yield
        return
    sweeps.make_folder(run_dir)
    handler = logging.FileHandler(run_dir / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(min(root.level, logging.INFO))
    try:
        yield
    except UserError as error:  # `main` shows it on the terminal
        handler.emit(logging.makeLogRecord({"msg": str(error)}))
        raise
    finally:
        root.removeHandler(handler)
        handler.close()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Train, and return the best value of the monitored metric, None where there is none.

    In a sweep a run that fails does not take the others along: it is named at the end.
    """
    run_dir = cfg.run_dir = HydraConfig.get().runtime.output_dir
    # It may come before training, or once more after another process's has ended it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    start = time.perf_counter()
    try:
        train(cfg)
    except Exception as error:
        told = isinstance(error, UserError)
        if not told and not in_sweep():
            raise
        trace = not told or bool(os.environ.get("HYDRA_FULL_ERROR"))
        log.error("%s", error, exc_info=trace)
        refused = isinstance(error, AnotherRun)  # so would the other runs of a sweep be
        if not in_sweep() or refused or not sweeps.failed_together(run_dir):
            sys.exit(1)
        return None
    log.info("%s in all", timedelta(seconds=round(time.perf_counter() - start)))
    return sweeps.objective(Path(run_dir))


if __name__ == "__main__":
    # By its name, so that processes that a launcher of Hydra starts find it, too.
    from ganzoo.train import main as main_by_name

    main_by_name()
