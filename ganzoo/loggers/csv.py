"""`metrics.csv`."""

import csv
import logging
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ganzoo.disk import whole
from ganzoo.loggers.base import RunLogger

log = logging.getLogger(__name__)


class MetricsCSV(RunLogger):
    """`metrics.csv` in the run folder: a row each time something is logged, a column for each name.

    Unlike Lightning's CSV logger, it continues the file of a resumed run. Rows after `images_seen`,
    at which the run resumes, are dropped, because they will be logged again.
    """

    def __init__(self, run_dir: str | Path, images_seen: int = 0) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"
        self._resumed_at = images_seen
        self._columns: list[str] = []
        self._declared: list[str] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def declare(self, names: Iterable[str]) -> None:
        """Give these numbers columns from the first row on.

        A number without a column gets one by writing the file again, which takes long late in a
        run.
        """
        self._declared += names

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Ignore the config, which has its own file."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"images_seen": self.images_seen(step), **metrics}
        if any(name not in self._columns for name in row):
            rows = read_rows(self.path)
            if not self._columns:  # the first row
                rows = [r for r in rows if int(r["images_seen"]) <= self._resumed_at]
                row = dict.fromkeys([*row, *self._declared]) | row
            self._columns = list(dict.fromkeys([*self._columns, *(rows[0] if rows else ()), *row]))
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with whole(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a `metrics.csv`, without a last row that was cut off; none if there is no file.

    Other lines that are not rows are left out with a warning.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        found = list(csv.DictReader(file))
    rows = [row for row in found if is_row(row)]
    if bad := sum(not is_row(row) for row in found[:-1]):
        log.warning("%s: %d lines are not rows of numbers and are left out", path, bad)
    return rows


def is_row(row: Mapping[Any, Any]) -> bool:
    """Whether a row of a CSV file of a run is complete, and says how many images were seen."""
    complete = None not in row and None not in row.values()
    return complete and str(row.get("images_seen")).isdecimal()
