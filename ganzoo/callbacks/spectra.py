"""The largest singular values of all weights, followed through a run.

Those of the generator's first layers explode when a large GAN collapses, those of the discriminator
are noisy (Brock et al. 2019, section 4 and figure 3).
"""

import csv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from ganzoo.callbacks.periods import due
from ganzoo.callbacks.trainer import last_pictures, log_numbers
from ganzoo.config.values import NotNegative
from ganzoo.disk import whole
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.loggers.csv import is_row
from ganzoo.metrics.base import float64_device
from ganzoo.pictures.curves import plot_spectra

COUNT = 3  # number of singular values of each weight
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
COLUMNS = ["images_seen", "weight", *(f"sigma_{i + 1}" for i in range(COUNT))]


class Spectra(Callback):
    """Singular values of all weights over the run: `spectra.csv`, `spectra.png`, and every logger.

    These are the three largest of every weight of the generator and the discriminator, as a matrix
    [outputs, rest]. Loggers get them as `spectra/<weight>/<1 to 3>`, except `metrics.csv`, which
    they would flood. The picture is drawn at the end, even if the run fails.

    Args:
        every_kimg: thousands of images between two measurements; there is one at the start and at
            the end as well. None for the model's own period.
    """

    def __init__(self, every_kimg: NotNegative | None = 10.0) -> None:
        self.every_kimg = every_kimg
        self._path: Path | None = None  # of spectra.csv, once the run has started
        self._measured_at = -1

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if gan.control.dry:
            return
        self._path = Path(trainer.default_root_dir) / "spectra.csv"
        if trainer.is_global_zero:
            seen = gan.images_seen
            rows = [r for r in read(self._path) if seen and int(r["images_seen"]) <= seen]
            with whole(self._path) as partial, partial.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            if any(int(row["images_seen"]) == seen for row in rows):
                self._measured_at = seen
        if gan.images_seen == 0:
            self._measure(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if due(gan, self.every_kimg):
            self._measure(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        # A run that was stopped is resumed as if it never had been, so this is not its end.
        if self._path is not None and gan.trained:
            self._measure(trainer, gan)
        with last_pictures(gan, "spectra.png"):
            self._draw(trainer)

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        with suppress(Exception):  # the first error is the one to show
            self._draw(trainer)

    def _measure(self, trainer: L.Trainer, gan: GAN) -> None:
        if self._measured_at == gan.images_seen:
            return
        self._measured_at = gan.images_seen
        rows: list[list[Any]] = []
        numbers: dict[str, float] = {}
        for name, matrix in weight_matrices(gan):
            values = singular_values(matrix).tolist()
            rows.append([gan.images_seen, name, *(f"{value:.6g}" for value in values)])
            numbers |= {f"spectra/{name}/{i}": value for i, value in enumerate(values, 1)}
        log_numbers(trainer, gan, numbers, table=False)
        if trainer.is_global_zero:
            assert self._path is not None
            with self._path.open("a", newline="") as file:
                csv.writer(file).writerows(rows)

    def _draw(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and self._path is not None:
            plot_spectra(read(self._path), self._path.with_suffix(".png"))


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a `spectra.csv`; none if there is none; UserError if another program wrote it."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        columns, rows = reader.fieldnames, [row for row in reader if is_row(row)]
    if columns not in (COLUMNS, None):  # None: an empty file
        raise UserError(
            f"{path} was not written by ganzoo: move it elsewhere, or choose another run_dir."
        )
    return rows


@torch.no_grad()
def singular_values(matrix: Tensor) -> Tensor:
    """The three largest singular values of a matrix, in descending order, float64 [3].

    Values that a smaller matrix does not have are 0; all are infinite if it is not finite.
    """
    # Squares in float32 would lose half of the digits.
    matrix = matrix.to(float64_device(matrix.device)).double()
    if not bool(matrix.isfinite().all()):
        return torch.full((COUNT,), torch.inf)
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    # Eigenvalues of the smaller Gram matrix: many times faster than a decomposition.
    squares = torch.linalg.eigvalsh(wide @ wide.T).flip(0)[:COUNT].clamp_min(0)
    return nn.functional.pad(squares.sqrt(), (0, COUNT - len(squares)))


def weight_matrices(gan: GAN) -> Iterator[tuple[str, Tensor]]:
    """Name and matrix [outputs, rest] of each weight of both networks that is not a vector.

    Of weights under spectral norm, this is the parameter, which the norm divides.
    """
    modules = dict(gan.named_modules())
    for network in ("generator", "discriminator"):
        for name, weight in gan.get_submodule(network).named_parameters(prefix=network):
            # torch keeps what it normalizes as LAYER.parametrizations.weight.original.
            shown = name.replace(".parametrizations.", ".").removesuffix(".original")
            if weight.dim() >= 2:
                transposed = isinstance(modules[shown.rpartition(".")[0]], TRANSPOSED)
                yield shown, (weight.transpose(0, 1) if transposed else weight).flatten(1)
