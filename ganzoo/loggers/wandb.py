"""Weights & Biases."""

import logging
import os
import re
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from ganzoo.errors import check_choice
from ganzoo.loggers.base import RunLogger

log = logging.getLogger(__name__)

DATA = "WANDB_DATA_DIR"  # where files of tables and artifacts wait for their upload
# where files of tables and artifacts wait for their upload
OURS = DATA not in os.environ  # so that it is for us to say: the run folder
# so that it is for us to say: the run folder


class Wandb(RunLogger, WandbLogger):
    """wandb: online where a key is there, otherwise offline; never asks, never fails the run.

    Where the server does not answer, the run is kept offline, to be uploaded by `wandb sync`.

    Args:
        run_dir: for its files and the run's id, by which a resumed run goes on in the same run.
        project, entity, group, tags, notes: as in `wandb.init`.
        name: of the run; by default the last part of `run_dir` in a group, else the last three.
        checkpoints: which are uploaded, as versions of an artifact that has the run's name: each
            "best", the "last" one when the run ends or stops, "all" that are written, or None.
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
        if checkpoints is not None:
            check_choice("logger.checkpoints", checkpoints, ["best", "last", "all"])
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
        self._last: tuple[Path, int] | None = None  # to be uploaded at the end

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = self._init()
        return self._experiment

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        self._tell(lambda _: super(Wandb, self).log_hyperparams(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._tell(lambda run: run.log({**metrics, "images_seen": step}))

    def log_picture(self, name: str, picture: Image.Image, images_seen: int) -> None:
        self._tell(lambda run: run.log({name: wandb.Image(picture), "images_seen": images_seen}))

    def log_sheet(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], images_seen: int
    ) -> None:
        def cell(value: Any) -> Any:
            return wandb.Image(value) if isinstance(value, Image.Image) else value

        def tell(run: Any) -> None:
            table = wandb.Table(list(columns), [[cell(value) for value in row] for row in rows])
            run.log({name: table, "images_seen": images_seen})

        self._tell(tell)

    def log_facts(self, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        def tell(run: Any) -> None:
            run.config.update(dict(config), allow_val_change=True)
            run.summary.update(dict(summary))

        self._tell(tell)

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
                "wandb did not get everything (%s): `wandb sync %s` uploads the rest",
                _first_line(error),
                Path(run.dir).parent,
            )

    @rank_zero_only
    def _tell(self, tell: Callable[[Any], Any]) -> None:
        """Call `tell` with the run. What goes wrong there ends the logging, not the training."""
        try:
            tell(self.experiment)
        except Exception as error:
            log.warning(
                "wandb is left out from here on (%s); metrics.csv has it all", _first_line(error)
            )
            self._experiment = wandb.init(mode="disabled")

    def _upload(self, path: Path, images_seen: int) -> None:
        def tell(run: Any) -> None:
            name = re.sub(r"[^\w.-]+", "-", str(self._name))
            artifact = wandb.Artifact(name, "model", metadata={"images_seen": images_seen})
            artifact.add_file(str(path))
            kimg = f"kimg-{images_seen / 1000:g}"
            run.log_artifact(artifact, aliases=["latest", kimg, *{path.stem} & {"best", "last"}])

        self._tell(tell)

    def _init(self) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        start = time.perf_counter()
        mode, why = os.environ.get("WANDB_MODE") or "online", "as WANDB_MODE says"
        try:
            if mode == "online" and not wandb.login(prompt=False, verify=False):
                mode, why = "offline", "as no key was found"
            run = self._start(mode)
        except Exception as error:
            lost = time.perf_counter() - start
            mode, why = "offline", f"as it could not start ({_first_line(error)}; {lost:.0f} s)"
            try:
                wandb.teardown()  # another service: that of the run that failed holds on to its id
                os.environ.pop("WANDB_SERVICE", None)
                run = self._start(mode)
            except Exception as again:
                log.warning("wandb is left out (%s); metrics.csv has it all", _first_line(again))
                return wandb.init(mode="disabled")
        run.define_metric("images_seen")
        run.define_metric("*", step_metric="images_seen")
        if mode == "offline":
            log.info(
                "wandb: offline, %s; `wandb sync %s` uploads the run later",
                why,
                Path(run.dir).parent,
            )
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
