"""`metrics.csv`: a row each time something is logged."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ganzoo.disk import whole
from ganzoo.loggers.base import RunLogger


class MetricsCSV(RunLogger):
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

    def _start(self) -> None:
        rows = [r for r in read_rows(self.path) if int(r["images_seen"]) <= self._resumed_at]
        self._columns = list(rows[0]) if rows else ["images_seen"]
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with whole(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a `metrics.csv`; none where there is no file. A last row cut off is left out."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values()]
