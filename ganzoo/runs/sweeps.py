"""What a sweep (a multirun of Hydra) needs besides its runs: folders, checks, a summary."""

import json
import logging
import os
import re
import sys
import time
from importlib.util import find_spec
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, read_write

from ganzoo import cli
from ganzoo.callbacks.evaluation import Evaluate
from ganzoo.config.renamed import check_names
from ganzoo.config.values import Count, check_value
from ganzoo.errors import AnotherRun, UserError
from ganzoo.runs.leaderboard import leaderboard
from ganzoo.runs.names import given, in_sweep, torchrun_store
from ganzoo.runs.record import make_folder
from ganzoo.runs.state import State, read_state

log = logging.getLogger(__name__)

failed: list[str] = []  # the run folders of a sweep that have failed in this process
PATIENCE = 60.0  # seconds to wait for the other processes of a run to fail as well


class Folders(Callback):
    """Prepares run folders before Hydra calls `main`, and closes sweeps."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        # Hydra makes the run folder before it calls `main`; its name is made from the config.
        HydraConfig.instance().set_config(config)
        with read_write(config.hydra):  # `set_config` has made it read-only
            config.hydra.run.dir = os.path.expanduser(config.hydra.run.dir)
        with cli.exits("train"):
            make_folder(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        config.hydra.sweep.dir = os.path.expanduser(config.hydra.sweep.dir)
        with cli.exits("train"):
            check_sweep(config)
            make_folder(Path(config.hydra.sweep.dir))
        if "sampler" in config.hydra.sweeper and config.hydra.sweeper.sampler.get("seed") is None:
            # The same trials when the sweep is run again, so that it resumes.
            config.hydra.sweeper.sampler.seed = config.seed
        if not any(o.startswith("hydra.sweep.subdir=") for o in config.hydra.overrides.hydra):
            # Runs are named after the keys in which they differ.
            names = ",".join(sorted(swept(config)))
            config.hydra.overrides.hydra.append(f"hydra.sweep.subdir=${{job_name:{names}}}")

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        # All workers of joblib would take the first GPU.
        worker = re.fullmatch(r"LokyProcess-(\d+)", current_process().name)
        if worker and not torch.cuda.is_initialized() and (count := torch.cuda.device_count()) > 1:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            devices = seen.split(",") if seen else [str(i) for i in range(count)]
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[(int(worker[1]) - 1) % count]

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if config.dry and failed:  # nothing else is left of them
            sys.exit(1)
        if rank_zero_only.rank != 0 or config.dry:  # type: ignore[attr-defined]
            return
        folder = Path(config.hydra.sweep.dir)
        try:
            print(leaderboard(folder))
        except UserError as error:
            log.warning("%s", error)
        if not verdict(folder):
            sys.exit(1)


def check_sweep(config: DictConfig) -> None:
    """Raise `UserError` for keys of a sweep or a search that cannot be followed."""
    sweeper = config.hydra.sweeper
    check_names(swept(config), own_data="root" not in config.data)
    if "run_dir" in (o.partition("=")[0].lstrip("+") for o in given(config)):
        raise UserError(
            "A sweep makes a run folder for each of its runs: instead of run_dir, give "
            "sweep_dir, the folder for all of them."
        )
    if "direction" in sweeper and config.callbacks.get("metrics") is None:
        raise UserError(
            "A search needs a metric: keep callbacks.metrics, or sweep without hydra/sweeper."
        )
    if "sampler" not in sweeper:
        return
    if find_spec("optuna") is None:
        raise UserError('A search needs Optuna: pip install -e ".[sweep]".')
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "A search cannot run under torchrun, where each process would make its own: use "
            "hydra/launcher=submitit_slurm for runs of several processes."
        )
    for key in ("n_trials", "n_jobs"):
        check_value(f"hydra.sweeper.{key}", sweeper[key], Count)
    if not swept(config):
        raise UserError("A search needs values to search: give a key such as seed=choice(0,1,2).")


def swept(config: DictConfig) -> set[str]:
    """The keys that differ among the runs of a sweep, from its first config."""
    overrides = OverridesParser.create().parse_overrides(given(config))
    keys = {o.key_or_group for o in overrides if o.is_sweep_override()}
    fixed = {o.key_or_group for o in overrides} - keys
    return (keys | {str(key) for key in config.hydra.sweeper.get("params") or {}}) - fixed


def check(trainer: L.Trainer) -> None:
    """Raise `UserError` if this is a run of a sweep and cannot be one."""
    if not in_sweep():
        return
    strategy = trainer.strategy
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    outside = environment is not None and environment.creates_processes_externally
    if trainer.world_size > 1 and not outside:
        raise UserError(
            f"A run of a sweep cannot start {trainer.world_size} processes itself, because each "
            f"would start the sweep again: put torchrun --nproc-per-node {trainer.world_size} -m "
            f"before ganzoo.train, use hydra/launcher=submitit_slurm with trainer=slurm, or "
            f"trainer.devices=1."
        )
    direction = HydraConfig.get().sweeper.get("direction")
    evaluate = next((c for c in trainer.callbacks if isinstance(c, Evaluate)), None)  # type: ignore[attr-defined]
    if direction is None or evaluate is None:
        return
    wanted = "maximize" if evaluate.up else "minimize"
    if str(direction).rpartition(".")[2] != wanted:  # an enum of the sweeper, or its name
        raise UserError(
            f"{'Higher' if evaluate.up else 'Lower'} values of {evaluate.monitor} are better: set "
            f"hydra.sweeper.direction={wanted}."
        )


def survive(error: Exception, run_dir: str) -> None:
    """Report the error of a run and let the sweep continue; raise it again outside of sweeps."""
    if not in_sweep() or isinstance(error, AnotherRun):  # all other runs would fail the same way
        raise error
    failed.append(run_dir)
    log.error("%s", error, exc_info=None if isinstance(error, UserError) else error)
    if not failed_together(run_dir):
        sys.exit(1)


def failed_together(run_dir: str) -> bool:
    """Whether all processes of a run have failed, so that the sweep can continue.

    If only some have, the others wait for them in that run, and the sweep has to end.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return world == 1
    store, key = torchrun_store(), f"ganzoo/failed/{run_dir}"
    store.add(key, 1)
    end = time.monotonic() + PATIENCE
    while store.add(key, 0) < world:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def objective(run_dir: Path) -> float | None:
    """The best value of the monitored metric of a run; None if there is none."""
    path = run_dir / "metrics.json"
    try:
        best = json.loads(path.read_text())["best"] if path.is_file() else None
        return float(best["value"]) if best else None
    except (ValueError, KeyError, TypeError):
        log.warning("%s cannot be read, so the best value is not known", path)
        return None


def states(sweep_dir: Path) -> dict[str, State]:
    """The states of the runs of a sweep, by the names of their folders."""
    folders = sorted(path for path in sweep_dir.iterdir() if path.is_dir())
    found = {folder.name: read_state(folder) for folder in folders}
    return {name: state for name, state in found.items() if state is not None}


def verdict(sweep_dir: Path) -> bool:
    """Log how the runs of a sweep ended; return whether all are done."""
    ends = states(sweep_dir)
    done = [name for name, state in ends.items() if state.state == "done"]
    log.info("sweep: %d of %d runs are done, in %s", len(done), len(ends), sweep_dir)
    for name, state in ends.items():
        if state.state != "done":
            log.error("%s: %s. %s", name, state.state, state.sentence)
    if len(done) < len(ends):
        log.error("Run the same command with sweep_dir=%s to retry these runs.", sweep_dir)
    return len(done) == len(ends)
