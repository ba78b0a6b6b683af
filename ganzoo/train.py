"""Train a model on data, or resume a run.

Composed by Hydra from `conf/train.yaml`; `--help` lists groups and keys. If the run folder
(`run_dir=...`) contains `last.ckpt`, the run resumes from it, bit for bit.
"""

import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    from ganzoo import cli

    cli.answer("train")  # before the imports below, which take seconds

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.callbacks import ProgressBar as LightningsBar
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from omegaconf import DictConfig, OmegaConf

from ganzoo import cli
from ganzoo.callbacks.saving import SaveLast
from ganzoo.callbacks.trainer import loggers_of
from ganzoo.config import CONF, check_keys, composed, make, resolved
from ganzoo.config.values import TRAIN
from ganzoo.data import choosing  # noqa: F401  defines ${classes:...}
from ganzoo.distributed import cluster
from ganzoo.distributed.batchnorm import BatchNormSync
from ganzoo.engine import stopping
from ganzoo.engine.checkpoint import AtomicCheckpointIO, initialize_from, read, restore
from ganzoo.engine.gan import GAN
from ganzoo.engine.precision import choose_precision, is_measured
from ganzoo.engine.preflight import Preflight
from ganzoo.engine.rollback import go_back
from ganzoo.engine.stopping import Stopped
from ganzoo.errors import NotFinite, UserError, check_choice
from ganzoo.loggers.csv import MetricsCSV
from ganzoo.metrics.pretrained import cache_folder
from ganzoo.runs import sweeps
from ganzoo.runs.names import in_sweep
from ganzoo.runs.record import check_same_run, is_done, recording, write_config, write_done

log = logging.getLogger(__name__)


def train(*overrides: str | DictConfig, **keys: Any) -> GAN:
    """Train from Python and return the model: `ganzoo.train("model=dcgan", total_kimg=1)`.

    Args:
        overrides: KEY=VALUE as on the command line; or a config that `hydra.compose` has made.
        keys: the same by name; keys with dots as in `**{"model.nz": 64}`.

    Raises UserError: something that the user can fix.
    """
    texts = [o for o in overrides if isinstance(o, str)]
    if configs := [o for o in overrides if not isinstance(o, str)]:
        if texts or keys or len(configs) > 1:
            raise UserError("A composed config has no overrides: give them to compose.")
        return train_config(configs[0])
    named = [f"{key}={value if isinstance(value, str) else json.dumps(value)}"
             for key, value in keys.items()]  # fmt: skip
    arguments = cli.for_hydra([*texts, *named])
    cfg = composed("train", arguments, return_hydra_config=True)
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)  # the name of the run folder is made from it
    try:
        OmegaConf.set_struct(cfg, False)
        cfg.run_dir = str(cfg.run_dir)
        del cfg["hydra"]
        with messages_shown():
            return train_config(cfg)
    finally:
        HydraConfig.instance().cfg = before


@contextmanager
def messages_shown() -> Iterator[None]:
    """Inside, messages go to the standard output, unless the program has set up its own logging."""
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def train_config(cfg: DictConfig) -> GAN:
    """Train what a composed config describes, in the folder `cfg.run_dir`; return the model."""
    check_keys(cfg, TRAIN)
    run_dir = Path(cfg.run_dir).expanduser().resolve()
    with recording(run_dir, cfg):
        try:
            gan, children = attempt(cfg, run_dir, [])
            while gan.control.go_back_to is not None:
                go_back(gan, run_dir)
                gan, children = attempt(cfg, run_dir, children)
        except Stopped as stopped:
            log.info("stopped by %s: run the same command with %s", stopped.name, same(run_dir))
            raise
    return gan


def attempt(cfg: DictConfig, run_dir: Path, children: list[Any]) -> tuple[GAN, list[Any]]:
    """Train to the end, or until the run has to go back to an earlier state.

    Returns the model, and the processes that were started, which the next attempt uses again.
    """
    config = resolved(cfg)
    config.pop("sweep_dir", None)
    last = run_dir / "last.ckpt"
    resuming = last.is_file()
    images_seen = 0
    if resuming:
        saved = read(last)["ganzoo"]
        if cfg.precision == "fastest":  # which it was when the run began
            cfg.precision = config["precision"] = saved["config"]["precision"]
        check_same_run(saved["config"], config)
        images_seen = saved["images_seen"]

    L.seed_everything(cfg.seed, verbose=False)
    data = make(cfg.data)
    gan: GAN = make(cfg.model)
    gan.config, gan.control.dry = config, cfg.dry
    if resuming and images_seen >= gan.total_images and is_done(run_dir) and not cfg.dry:
        log.info("%s is complete: raise total_kimg to train longer", run_dir)
        restore(gan, read(last))
        return gan, children
    if cfg.init_from and not images_seen:
        for sentence in initialize_from(gan, cfg.init_from):
            log.warning("init_from: %s", sentence)

    trainer = make_trainer(cfg, run_dir, images_seen)
    for logger in loggers_of(trainer):
        logger.clock = lambda: gan.images_seen
    sweeps.check(trainer)
    if not cfg.dry:
        write_config(run_dir, config)
    log.info("%s", describe(gan))
    log.info("run folder: %s", run_dir)
    if resuming and images_seen >= gan.total_images:
        log.info("all %g kimg are trained; what is missing at the end follows", cfg.total_kimg)
    elif resuming:
        log.info("resuming at %.1f of %g kimg", images_seen / 1000, cfg.total_kimg)
    launcher: Any = trainer.strategy.launcher  # starts the other processes, if there are any
    if launcher is not None:
        launcher.procs = children
    fit(trainer, gan, data, last if resuming else None)
    if gan.control.given_up:
        raise UserError(gan.control.given_up)
    if trainer.is_global_zero and gan.control.go_back_to is None:
        close(trainer, gan, run_dir, cfg.dry)
    return gan, launcher.procs if launcher is not None else []


def fit(trainer: L.Trainer, gan: GAN, data: L.LightningDataModule, last: Path | None) -> None:
    """`Trainer.fit`; if it fails, end the other processes and close the loggers."""
    try:
        trainer.fit(gan, datamodule=data, ckpt_path=last)
    except BaseException as error:
        if isinstance(error, NotFinite) and gan.control.go_back_to is not None:
            return
        if (launcher := trainer.strategy.launcher) is not None:
            launcher.kill(signal.SIGTERM)  # they would wait in a collective forever
        raise
    finally:
        for logger in trainer.loggers:
            logger.finalize("success" if gan.trained else "failed")


def close(trainer: L.Trainer, gan: GAN, run_dir: Path, dry: bool) -> None:
    """Log how the run ended; write `done` if it is complete, exit with 128 + n after a signal n."""
    if gan.control.stopped_by:
        log.info(
            "stopped by %s at %.1f kimg; last.ckpt is written: run the same command with %s",
            signal.Signals(gan.control.stopped_by).name,
            gan.images_seen / 1000,
            same(run_dir),
        )
        if gan.control.stopped_by == stopping.SIGUSR1:
            cluster.requeue_if_asked(trainer)
        sys.exit(128 + gan.control.stopped_by)
    if dry:
        log.info("dry run: everything is ready, nothing was trained")
        return
    if not gan.trained:
        log.warning(
            "ended at %.1f of %g kimg, as a key of the trainer or another callback asks (such as "
            "max_steps or max_time), and is not done: run the same command without that, with %s",
            gan.images_seen / 1000,
            gan.total_images / 1000,
            same(run_dir),
        )
        return
    if gan.control.enough:
        log.info("complete at %.1f kimg: %s", gan.images_seen / 1000, gan.control.enough)
    write_done(run_dir, min(gan.images_seen, gan.total_images))
    page = run_dir / "index.html"
    log.info("done: %s", f"open {page}" if page.is_file() else f"everything is in {run_dir}")


def same(run_dir: Path) -> str:
    """The key with which the same command resumes a run."""
    key = f"sweep_dir={run_dir.parent}" if in_sweep() else f"run_dir={run_dir}"
    return f"{key} to resume"


def make_trainer(cfg: DictConfig, run_dir: Path, images_seen: int) -> L.Trainer:
    """The Trainer of a run, with the loggers, callbacks and plugins that every run has."""
    on_gpu = torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    precision, why = choose_precision(cfg.precision, on_gpu)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(cfg.tf32)

    check_trainer(cfg.trainer)
    measured = is_measured(cfg.precision, on_gpu)
    preflight = Preflight(cache_folder() / "precision" if measured else None)
    callbacks = [preflight, *(make(c, f"callbacks.{k}") for k, c in cfg.callbacks.items() if c)]
    check_callbacks(callbacks)
    # What a checkpoint holds was done by the others before.
    callbacks.sort(key=lambda callback: isinstance(callback, SaveLast))
    plugins: list[Any] = [AtomicCheckpointIO()]
    if cfg.sync_batchnorm:
        plugins.append(BatchNormSync())
    if cfg.trainer.strategy == "auto":
        cluster.check_alone()
        plugins.append(LightningEnvironment())  # not what Lightning would choose under SLURM
    warnings.filterwarnings("ignore", module="lightning.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    new_trainer = make(cfg.trainer)
    with cluster.devices_explained(cfg.trainer.devices, cfg.trainer.accelerator):
        trainer: L.Trainer = new_trainer(
            precision=precision,
            default_root_dir=run_dir,
            callbacks=callbacks,
            logger=[MetricsCSV(run_dir, images_seen), *make_loggers(cfg.get("logger"))],
            profiler=profiler_of(cfg.trainer.get("profiler"), run_dir),
            plugins=plugins,
            max_epochs=-1,  # the run ends by images seen
            limit_val_batches=0,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    log.info("device: %s; precision %s (%s)", device_of(trainer), precision, why)
    return trainer


def device_of(trainer: L.Trainer) -> str:
    """What a run computes on, and why not on a GPU."""
    kind = trainer.strategy.root_device.type
    several = f"{trainer.world_size} processes on " if trainer.world_size > 1 else ""
    if kind == "cuda":
        return several + torch.cuda.get_device_name(trainer.strategy.root_device)
    if kind == "cpu":
        why = "as given" if torch.cuda.is_available() else "no GPU was found"
        threads = torch.get_num_threads()
        return f"{several}CPU with {threads} thread{'s'[: threads > 1]} ({why})"
    return several + kind


def make_loggers(node: Any) -> list[Any]:
    """The loggers of a config: one, or one for each entry that has a `_target_` of its own."""
    if not node:
        return []
    several = {k: v for k, v in node.items() if isinstance(v, DictConfig) and "_target_" in v}
    one = {k: v for k, v in resolved(node).items() if k not in several}
    only = [make(one, "logger")] if "_target_" in one else []
    return [*only, *map(make, several.values())]


def profiler_of(profiler: Any, run_dir: Path) -> Any:
    """A profiler of Lightning whose report goes to the run folder, as `fit-profile.txt`."""
    kinds: dict[Any, Any] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}
    if isinstance(profiler, str) and profiler in kinds:
        return kinds[profiler](dirpath=run_dir, filename="profile")
    if isinstance(profiler, DictConfig):
        return make(profiler)
    check_choice("trainer.profiler", profiler, [None, *kinds, "pytorch"])
    return profiler


# Keys of Lightning's Trainer, and the key that does the same here.
OUR_KEYS = {
    "gradient_clip_val": "model.clip={generator: 1.0}",
    "gradient_clip_algorithm": "model.clip={generator: 1.0}",
    "accumulate_grad_batches": "model.accumulate=2",
    "max_epochs": "total_kimg",
    "min_epochs": "total_kimg",
    "min_steps": "total_kimg",
    "precision": "precision",
    "sync_batchnorm": "sync_batchnorm",
    "logger": "logger",
    "callbacks": "callbacks",
    "default_root_dir": "run_dir",
    "val_check_interval": "callbacks.metrics.every_kimg",
    "limit_val_batches": "metrics.num_fake",
    "overfit_batches": "data.subset",
    "enable_progress_bar": "callbacks.bar",
    "enable_checkpointing": "callbacks.save",
}


def check_trainer(trainer: DictConfig) -> None:
    """Raise `UserError` for a key of the Trainer that a run here does not follow."""
    for key, ours in OUR_KEYS.items():
        if trainer.get(key) is not None:
            raise UserError(f"trainer.{key} has no effect on a run here: use {ours} instead.")
    if isinstance(trainer.strategy, str) and trainer.strategy != "auto":
        raise UserError(
            f"trainer.strategy={trainer.strategy} cannot train networks that take turns: use "
            "trainer=ddp for several devices."
        )


def check_callbacks(callbacks: list[L.Callback]) -> None:
    """Raise `UserError` for a callback of Lightning that could never act here."""
    ours = {
        Checkpoint: "callbacks.save, callbacks.stages and callbacks.metrics (best.ckpt) write "
        "checkpoints",
        EarlyStopping: "it acts when an epoch ends, and a run has none; "
        "callbacks.metrics.patience=3 ends a run that no longer improves",
        LightningsBar: "callbacks.bar shows the progress",
    }
    for callback in callbacks:
        for kind, instead in ours.items():
            if isinstance(callback, kind):
                raise UserError(
                    f"{type(callback).__name__} cannot be used here: {instead}. Leave it out."
                )


def describe(gan: GAN) -> str:
    """One line: the model and the sizes of its networks."""

    def size(network: torch.nn.Module) -> str:
        return f"{sum(p.numel() for p in network.parameters()):,}"

    return (
        f"{type(gan).__name__}: generator {size(gan.generator)} parameters, discriminator "
        f"{size(gan.discriminator)}"
    )


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Train, and return the best value of the monitored metric; None if there is none.

    A run of a sweep that fails does not end the sweep; it is listed at the end.
    """
    run_dir = cfg.run_dir = HydraConfig.get().runtime.output_dir
    stopping.begin()
    start = time.perf_counter()
    with cli.exits("train"):
        try:
            train_config(cfg)
        except Exception as error:
            sweeps.survive(error, run_dir)
            return None
    log.info("%s in total", timedelta(seconds=round(time.perf_counter() - start)))
    return sweeps.objective(Path(run_dir))


class _Callable(ModuleType):
    """Makes `ganzoo.train(...)` work, although `ganzoo.train` is this module."""

    def __call__(self, *overrides: str | DictConfig, **keys: Any) -> GAN:
        return train(*overrides, **keys)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    # By its name, so that processes that a launcher of Hydra starts find it, too.
    from ganzoo.train import main as main_by_name

    with cli.exits("train"):
        sys.argv[1:] = cli.for_hydra(sys.argv[1:])
    with cli.key_hints("train"):
        main_by_name()
