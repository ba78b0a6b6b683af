"""Weights & Biases."""

import logging
import os
import re
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from ganzoo.loggers.base import RunLogger

log = logging.getLogger(__name__)

DATA = "WANDB_DATA_DIR"  # folder of the files that wait for their upload
OURS = DATA not in os.environ  # then these files go to the run folder


class Wandb(RunLogger, WandbLogger):
    """Weights & Biases, online if there is a key, otherwise offline.

    It never asks for a key, and its errors do not end the run. If the server does not answer, the
    run stays offline, and `wandb sync` uploads it later.

    Args:
        run_dir: run folder, for its files and the id of the wandb run that a resumed run continues.
        project, entity, group, tags, notes: as in `wandb.init`.
        name: name of the run; None for the last part of `run_dir` in a group, else the last three.
        checkpoints: checkpoints to upload, as versions of an artifact with the run's name: each
            "best" one, the "last" one when the run ends or stops, "all" of them, or None.
        patience: seconds to wait for the server when the run starts, and when it ends.
    """

    def __init__(
        self,
        run_dir: str | Path,
        project: str = "ganzoo",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        entity: str | None = None,
        checkpoints: Literal["best", "last", "all"] | None = None,
        patience: float = 20.0,
    ) -> None:
        self._run_dir = Path(run_dir)
        super().__init__(
            project=project,
            name=name or "-".join(self._run_dir.parts[-1 if group else -3 :]),
            save_dir=run_dir,
            group=group,
            tags=tags,
            notes=notes,
            entity=entity,
        )
        self._checkpoints, self._patience = checkpoints, patience
        self._begun = False
        self._last: tuple[Path, int] | None = None  # to upload at the end

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if not self._begun:  # Lightning looks for it before the data has been checked
            raise AttributeError("the run of wandb begins when something is logged")
        if self._experiment is None:
            self._experiment = self._init()
        return self._experiment

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        self._log(lambda _: super(Wandb, self).log_hyperparams(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        seen = self.images_seen(step)
        self._log(lambda run: run.log({**metrics, "images_seen": seen}))

    def log_picture(self, name: str, picture: Image.Image, images_seen: int) -> None:
        self._log(lambda run: run.log({name: wandb.Image(picture), "images_seen": images_seen}))

    def log_facts(self, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        def call(run: Any) -> None:
            run.config.update(dict(config), allow_val_change=True)
            run.summary.update(dict(summary))

        self._log(call)

    def log_checkpoint(self, path: Path, images_seen: int) -> None:
        if self._checkpoints in ("all", path.stem):
            if self._checkpoints == "last":
                self._last = path, images_seen
            else:
                self._upload(path, images_seen)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is None:
            return
        if self._last is not None:
            self._upload(*self._last)
            self._last = None
        run, self._experiment = self._experiment, None
        try:
            run.finish(exit_code=0 if status == "success" else 1)
        except Exception as error:
            log.warning(
                "wandb did not receive everything (%s): `wandb sync %s` uploads the rest",
                _first_line(error),
                Path(run.dir).parent,
            )

    @rank_zero_only
    def _log(self, call: Callable[[Any], Any]) -> None:
        """Call a function with the wandb run. An error there ends the logging, not the training."""
        self._begun = True
        try:
            call(self.experiment)
        except Exception as error:
            log.warning(
                "wandb logs nothing from here on (%s); metrics.csv has all numbers",
                _first_line(error),
            )
            self._experiment = wandb.init(mode="disabled")

    def _upload(self, path: Path, images_seen: int) -> None:
        def call(run: Any) -> None:
            name = re.sub(r"[^\w.-]+", "-", str(self._name))
            artifact = wandb.Artifact(name, "model", metadata={"images_seen": images_seen})
            artifact.add_file(str(path))
            kimg = f"kimg-{images_seen / 1000:g}"
            run.log_artifact(artifact, aliases=["latest", kimg, *{path.stem} & {"best", "last"}])

        self._log(call)

    def _init(self) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        start = time.perf_counter()
        mode, why = os.environ.get("WANDB_MODE") or "online", "because of WANDB_MODE"
        try:
            if mode == "online" and not wandb.login(prompt=False, verify=False):
                mode, why = "offline", "because no key was found"
            run = self._start(mode)
        except Exception as error:
            lost = f"{_first_line(error)}; {time.perf_counter() - start:.0f} s"
            mode, why = "offline", f"because it could not start ({lost})"
            wandb.teardown()  # the service of the failed run would keep its id
            os.environ.pop("WANDB_SERVICE", None)
            run = self._start(mode)
        run.define_metric("images_seen")
        run.define_metric("*", step_metric="images_seen")
        if mode == "offline":
            folder = Path(run.dir).parent
            log.info("wandb: offline, %s; `wandb sync %s` uploads the run later", why, folder)
        elif mode == "online":
            log.info("wandb: online, %s", run.url)
        return run

    def _start(self, mode: Any) -> Any:
        if OURS:
            os.environ[DATA] = str((self._run_dir / "wandb").resolve())
        keys = {k: v for k, v in self._wandb_init.items() if v is not None and k != "resume"}
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self._patience,
            finish_timeout=self._patience,
            finish_timeout_raises=True,
        )
        return wandb.init(**keys, id=self._run_id(), resume="allow", mode=mode, settings=settings)

    def _run_id(self) -> str:
        path = self._run_dir / "wandb" / "id.txt"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(uuid.uuid4().hex[:12])
        return path.read_text().strip()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
