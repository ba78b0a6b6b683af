"""Where numbers and pictures go. All x-axes count images.

Beside Lightning's interface, every logger here has `log_picture(name, picture, images_seen)`.
"""

import csv
import logging
import os
import uuid
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

log = logging.getLogger(__name__)


class MetricsCSV(Logger):
    """`metrics.csv` in the run folder: a row each time something is logged, a column a name.

    Unlike Lightning's, it goes on writing where a resumed run left off: rows past the checkpoint
    that the run resumes from (`images_seen`) are dropped, since they will be made again.
    """

    def __init__(self, run_dir: str | Path, images_seen: int = 0) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"
        self._resumed_at = images_seen
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """The config has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self._columns:
            self._start()
        row = {"images_seen": step, **metrics}
        if new := [name for name in row if name not in self._columns]:
            rows = read_rows(self.path)
            self._columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def log_picture(self, name: str, picture: Image.Image, images_seen: int) -> None:
        """Pictures lie in the run folder already."""

    def _start(self) -> None:
        rows = [r for r in read_rows(self.path) if int(r["images_seen"]) <= self._resumed_at]
        self._columns = list(rows[0]) if rows else ["images_seen"]
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a `metrics.csv`; none where there is no file. A last row cut off is left out."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values()]


class Wandb(WandbLogger):
    """wandb: online where a key is there, otherwise offline; never asks, never fails the run.

    Args:
        run_dir: for its files and the run's id, by which a resumed run goes on in the same run.
        project, group, tags, notes: as in `wandb.init`.
        name: of the run; the last parts of `run_dir` by default.
    """

    def __init__(
        self,
        run_dir: str | Path,
        project: str = "ganzoo",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
    ) -> None:
        run_dir = Path(run_dir)
        name = name or "-".join(run_dir.parts[-3:])
        super().__init__(
            project=project, name=name, save_dir=run_dir, group=group, tags=tags, notes=notes
        )
        self._run_dir = run_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = self._init()
        return self._experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._log({**metrics, "images_seen": step})

    def log_picture(self, name: str, picture: Image.Image, images_seen: int) -> None:
        self._log({name: wandb.Image(picture), "images_seen": images_seen})

    @rank_zero_only
    def _log(self, values: dict[str, Any]) -> None:
        self.experiment.log(values)

    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None

    def _init(self) -> Any:
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        keys = {k: v for k, v in self._wandb_init.items() if v is not None and k != "resume"}
        keys |= {"id": self._run_id(), "resume": "allow"}
        settings = wandb.Settings(silent=True, console="off", init_timeout=60)
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            run = wandb.init(**keys, mode=mode, settings=settings)
        except Exception as error:
            log.warning("wandb could not start (%s): it goes on offline", _first_line(error))
            mode = "offline"
            try:
                run = wandb.init(**keys, mode=mode, settings=settings)
            except Exception as again:
                log.warning("wandb is left out (%s); metrics.csv has it all", _first_line(again))
                return wandb.init(mode="disabled")
        run.define_metric("images_seen")
        run.define_metric("*", step_metric="images_seen")
        if mode == "offline":
            log.info(
                "wandb: offline, as no key was found; `wandb sync %s` uploads the run later",
                Path(run.dir).parent,
            )
        elif mode == "online":
            log.info("wandb: online, %s", run.url)
        return run

    def _run_id(self) -> str:
        path = self._run_dir / "wandb" / "id.txt"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(uuid.uuid4().hex[:12])
        return path.read_text().strip()


class TensorBoard(TensorBoardLogger):
    """TensorBoard event files in the run folder, under `tensorboard/`."""

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__(Path(run_dir) / "tensorboard", name="", version="")

    @rank_zero_only
    def log_picture(self, name: str, picture: Image.Image, images_seen: int) -> None:
        pixels = np.asarray(picture.convert("RGB"))
        self.experiment.add_image(name, pixels, images_seen, dataformats="HWC")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
