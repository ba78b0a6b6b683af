"""What a sweep (Hydra's multirun) needs beside its runs: folders, checks, a verdict."""

import json
import logging
import os
import re
import sys
import time
from multiprocessing import current_process
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from ganzoo.callbacks.evaluation import Evaluate
from ganzoo.errors import UserError
from ganzoo.runs.leaderboard import leaderboard
from ganzoo.runs.names import given, in_sweep, torchrun_store
from ganzoo.runs.state import State, read_state

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds for the processes of a run to fail, if all of them do


class Folders(Callback):
    """Sees to run folders and sweeps around Hydra's calls of `main`."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        # Hydra makes the run folder before it calls `main`; its name is made of Hydra's config.
        HydraConfig.instance().set_config(config)
        _made(config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if "run_dir" in (o.partition("=")[0].lstrip("+") for o in given(config)):
            _stop(
                "A sweep makes a run folder for each of its runs: give sweep_dir, the folder that "
                "they lie in, instead of run_dir."
            )
        if "direction" in config.hydra.sweeper and config.callbacks.get("evaluate") is None:
            _stop(
                "A search needs a number to go by: leave callbacks.evaluate in, or sweep without "
                "hydra/sweeper."
            )
        _made(config.hydra.sweep.dir)
        if "sampler" in config.hydra.sweeper and config.hydra.sweeper.sampler.get("seed") is None:
            # The same trials again when the sweep is run again, so that it goes on.
            config.hydra.sweeper.sampler.seed = config.seed
        if not any(o.startswith("hydra.sweep.subdir=") for o in config.hydra.overrides.hydra):
            # Runs are named after what differs among them.
            names = ",".join(sorted(swept(config)))
            config.hydra.overrides.hydra.append(f"hydra.sweep.subdir=${{job_name:{names}}}")

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        # joblib's workers would all take the first GPU.
        worker = re.fullmatch(r"LokyProcess-(\d+)", current_process().name)
        if worker and not torch.cuda.is_initialized() and (count := torch.cuda.device_count()) > 1:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            devices = seen.split(",") if seen else [str(i) for i in range(count)]
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[(int(worker[1]) - 1) % count]

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if rank_zero_only.rank != 0 or config.dry:  # type: ignore[attr-defined]
            return
        folder = Path(config.hydra.sweep.dir)
        try:
            print(leaderboard(folder))
        except UserError as error:
            log.warning("%s", error)
        if not verdict(folder):
            sys.exit(1)


def swept(config: DictConfig) -> set[str]:
    """The keys that differ among the runs of a sweep, from its first config."""
    overrides = OverridesParser.create().parse_overrides(given(config))
    keys = {o.key_or_group for o in overrides if o.is_sweep_override()}
    fixed = {o.key_or_group for o in overrides} - keys
    return (keys | {str(key) for key in config.hydra.sweeper.get("params") or {}}) - fixed


def check(trainer: L.Trainer) -> None:
    """Raise `UserError` for what cannot be in a sweep, where this is a run of one."""
    if not in_sweep():
        return
    environment = getattr(trainer.strategy, "cluster_environment", None)
    outside = environment is not None and environment.creates_processes_externally
    if trainer.world_size > 1 and not outside:
        raise UserError(
            f"A run of a sweep cannot start {trainer.world_size} processes itself, as each of them "
            f"would start the sweep again: put torchrun --nproc-per-node {trainer.world_size} -m "
            f"before ganzoo.train, use hydra/launcher=submitit_slurm with trainer=slurm, or "
            f"trainer.devices=1."
        )
    direction = HydraConfig.get().sweeper.get("direction")
    evaluate = next((c for c in trainer.callbacks if isinstance(c, Evaluate)), None)  # type: ignore[attr-defined]
    if direction is None or evaluate is None:
        return
    wanted = "maximize" if evaluate.up else "minimize"
    if getattr(direction, "name", direction) != wanted:
        raise UserError(
            f"{evaluate.monitor} is better the {'higher' if evaluate.up else 'lower'} it is: give "
            f"hydra.sweeper.direction={wanted}."
        )


def failed_together(run_dir: str) -> bool:
    """Whether a sweep can go on after a run that failed in this process.

    If it failed in some processes only, the others wait for them in that run: the sweep has to end.
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
    """The best value of the monitored metric of a run; None where there is none."""
    path = run_dir / "metrics.json"
    return float(json.loads(path.read_text())["best"]["value"]) if path.is_file() else None


def states(sweep_dir: Path) -> dict[str, State]:
    """The states of the runs of a sweep, by their names."""
    folders = sorted(path for path in sweep_dir.iterdir() if path.is_dir())
    found = {folder.name: read_state(folder) for folder in folders}
    return {name: state for name, state in found.items() if state is not None}


def verdict(sweep_dir: Path) -> bool:
    """Say how the runs of a sweep ended; whether all are done."""
    ends = states(sweep_dir)
    done = [name for name, state in ends.items() if state.state == "done"]
    log.info("sweep: %d of %d runs are done, in %s", len(done), len(ends), sweep_dir)
    for name, state in ends.items():
        if state.state != "done":
            log.error("%s: %s. %s", name, state.state, state.sentence)
    if len(done) < len(ends):
        log.error("The same command with sweep_dir=%s runs these again, and goes on.", sweep_dir)
    return len(done) == len(ends)


def make_folder(folder: Path) -> None:
    """Make a folder that can be written to, or raise `UserError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be written to ({error.strerror}): choose another run_dir, "
            f"or sweep_dir for a sweep."
        ) from error


def _made(folder: str) -> None:
    try:
        make_folder(Path(folder))
    except UserError as error:
        _stop(str(error))


def _stop(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(1)
