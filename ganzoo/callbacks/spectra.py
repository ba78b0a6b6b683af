"""The largest singular values of all weights, followed through a run.

Those of the generator's first layers explode when a large GAN collapses, those of the discriminator
are noisy (Brock et al. 2019, section 4 and figure 3).
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import matplotlib
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn

from ganzoo.callbacks.ticks import due
from ganzoo.draws import seed_of
from ganzoo.engine.gan import GAN, evaluating
from ganzoo.errors import UserError
from ganzoo.loggers.extras import MetricsCSV

COUNT = 3  # how many of the largest are looked at
BLOCK = 16  # vectors that are iterated: the more, the fewer iterations
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
COLUMNS = [
    *("images_seen", "weight"),
    *(f"sigma_{i + 1}" for i in range(COUNT)),
    *(f"normalized_{i + 1}" for i in range(COUNT)),
]


class SingularValues:
    """The three largest singular values of matrices that change slowly, by subspace iteration.

    Each call goes on from the singular vectors of the call before, so that few iterations do.

    Args:
        tolerance: iterate until |A'A v - s² v| < tolerance s² for the three; the error of s is
            about the square of that.
        first: the most iterations for a matrix that was not met before.
        again: the most iterations for one that was.
    """

    def __init__(self, tolerance: float = 0.01, first: int = 100, again: int = 8) -> None:
        self.tolerance, self.first, self.again = tolerance, first, again
        self.vectors: dict[str, Tensor] = {}

    @torch.no_grad()
    def of(self, name: str, matrix: Tensor) -> Tensor:
        """Of a matrix [m, n] known by its name: [3] in descending order, on the CPU.

        Those that a smaller matrix does not have are 0; all are infinite if an entry is not finite.
        """
        matrix = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
        if not bool(matrix.isfinite().all()):
            return torch.full((COUNT,), torch.inf)
        tall = matrix if len(matrix) >= matrix.shape[1] else matrix.T  # vectors are the shorter
        known = self.vectors.get(name)
        vectors = start_vectors(name, tall.shape[1]) if known is None else known
        vectors = vectors.to(tall)
        for _ in range(self.first if known is None else self.again):
            images = tall @ vectors
            # Within the subspace: singular vectors from its small Gram matrix (Rayleigh and Ritz).
            gram = (images.T @ images).double().cpu()
            rotation = torch.linalg.eigh(gram).eigenvectors.flip(1).to(tall)
            images = images @ rotation
            values = images.norm(dim=0)
            back = tall.T @ (images / values.square().clamp_min(torch.finfo(values.dtype).tiny))
            apart = (back - vectors @ rotation).norm(dim=0)[:COUNT].max()
            vectors = torch.linalg.qr(back.cpu()).Q.to(tall)
            if float(apart) < self.tolerance:
                break
        self.vectors[name] = vectors.cpu()
        return nn.functional.pad(values[:COUNT].cpu(), (0, max(0, COUNT - len(values))))


def start_vectors(name: str, length: int) -> Tensor:
    """Orthonormal vectors to start with, [length, min(16, length)], the same for a name."""
    generator = Generator().manual_seed(seed_of("spectra", name))
    return torch.linalg.qr(torch.randn(length, min(BLOCK, length), generator=generator)).Q


def weight_matrices(gan: GAN) -> Iterator[tuple[str, Tensor, float]]:
    """Every weight of the generator and the discriminator that is a matrix, or more than that.

    Yields its name, the weight as a matrix [outputs, rest], and what it is divided by where it is
    under spectral norm, otherwise 1.
    """
    modules = dict(gan.named_modules())
    for network in ("generator", "discriminator"):
        for name, weight in gan.get_submodule(network).named_parameters(prefix=network):
            owner, _, kind = name.partition(".parametrizations.")
            if not kind:
                owner = name.rpartition(".")[0]
            if weight.dim() < 2:
                continue
            module = modules[owner]
            tensor = weight.transpose(0, 1) if isinstance(module, TRANSPOSED) else weight
            shown = f"{owner}.{kind.removesuffix('.original')}" if kind else name
            yield shown, tensor.flatten(1), divisor(module, kind, weight)


@runtime_checkable
class Normalized(Protocol):
    """A layer that computes with another weight than its parameter."""

    def normalized(self) -> Tensor:
        """The weight as it is used."""


@torch.no_grad()
def divisor(module: nn.Module, kind: str, weight: Tensor) -> float:
    """What a weight is divided by under spectral norm: torch's parametrization, or `Normalized`."""
    with evaluating(module):  # in training mode it would iterate, and keep that
        if kind:
            used: Tensor = getattr(module, kind.partition(".")[0])
        elif isinstance(module, Normalized):
            used = module.normalized()
        else:
            return 1.0
    if used is weight:
        return 1.0
    return float(weight.norm() / used.norm().clamp_min(torch.finfo(used.dtype).tiny))


class Spectra(Callback):
    """`spectra.csv`, every logger and `spectra.png`: singular values of all weights over the run.

    The three largest of every weight of the generator and the discriminator, as a matrix
    [outputs, rest]; where a weight is under spectral norm, also those of the weight divided by it
    (the first is then near 1). Loggers get them as `spectra/<weight>/<1 to 3>`, and `metrics.csv`
    is spared. The picture is drawn at the end, also at that of a run that fails.

    Args:
        every_kimg: how often, and at the start and the end.
    """

    def __init__(self, every_kimg: float | None = 10.0) -> None:
        self.every_kimg = every_kimg
        self.singular_values = SingularValues()

    def state_dict(self) -> dict[str, Any]:
        return {"vectors": dict(self.singular_values.vectors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.singular_values.vectors = dict(state["vectors"])

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        if trainer.should_stop:  # a dry run
            return
        self._path = Path(trainer.default_root_dir) / "spectra.csv"
        if trainer.is_global_zero:
            seen = gan.images_seen
            rows = [r for r in read(self._path) if seen and int(r["images_seen"]) <= seen]
            with self._path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
        self._looked_at = -1
        if gan.images_seen == 0:
            self._look(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        if due(gan, self.every_kimg):
            self._look(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        if hasattr(self, "_path"):
            if gan.images_seen >= gan.total_images:  # else the run goes on as if never stopped
                self._look(trainer, gan)
            self._draw(trainer)

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:  # type: ignore[override]
        if hasattr(self, "_path"):
            self._draw(trainer)

    def _look(self, trainer: L.Trainer, gan: GAN) -> None:
        if self._looked_at == gan.images_seen:
            return
        self._looked_at = gan.images_seen
        rows: list[list[Any]] = []
        told: dict[str, float] = {}
        for name, matrix, divided_by in weight_matrices(gan):
            values = self.singular_values.of(name, matrix).tolist()
            normalized = [v / divided_by for v in values] if divided_by != 1 else COUNT * [""]
            rows.append([gan.images_seen, name, *values, *normalized])
            told |= {f"spectra/{name}/{i}": value for i, value in enumerate(values, 1)}
        for logger in trainer.loggers:
            if not isinstance(logger, MetricsCSV):
                logger.log_metrics(told, step=gan.images_seen)
        if trainer.is_global_zero:
            with self._path.open("a", newline="") as file:
                csv.writer(file).writerows(
                    [[f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows]
                )

    def _draw(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            plot(read(self._path), self._path.with_suffix(".png"))


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a `spectra.csv`, none where there is no file.

    Raises:
        UserError: it is something else.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if None not in row.values()]
    if reader.fieldnames != COLUMNS:
        raise UserError(f"{path} is no file of ganzoo's: move it elsewhere, or choose a run_dir.")
    return rows


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """A row of panels for each network, a panel for each of the three, a curve for each weight.

    Colors go from the first layer (dark) to the last (light).
    """
    networks: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in rows:
        network = row["weight"].partition(".")[0]
        networks.setdefault(network, {}).setdefault(row["weight"], []).append(row)
    if not networks:
        return
    most = max(len(weights) for weights in networks.values())
    height = max(2.6, 0.12 * min(most, 40) + 0.6)
    figure = Figure(figsize=(13, height * len(networks)), layout="constrained")
    panels = figure.subplots(len(networks), COUNT, squeeze=False)
    for line, (network, weights) in zip(panels, networks.items(), strict=True):
        for number, axes in enumerate(line, 1):
            curves(axes, weights, f"sigma_{number}", len(network) + 1)
            axes.set_title(f"{network}: {['largest', 'second', 'third'][number - 1]}", fontsize=9)
        if len(weights) <= 40:
            line[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=6)
    figure.savefig(path, dpi=100)


def curves(
    axes: Any, weights: Mapping[str, list[dict[str, str]]], column: str, prefix: int
) -> None:
    """One panel: singular values over thousands of images, without the name of the network."""
    colors = matplotlib.colormaps["viridis"]
    for i, (name, rows) in enumerate(weights.items()):
        x = [int(row["images_seen"]) / 1000 for row in rows]
        y = [float(row[column]) for row in rows]
        axes.plot(x, y, color=colors(i / len(weights)), linewidth=1, label=name[prefix:])
    axes.set_yscale("log", nonpositive="mask")
    axes.set_xlabel("thousand images")
    axes.grid(alpha=0.3)
