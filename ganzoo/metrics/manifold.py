"""Precision, recall, density and coverage of two sets of features."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ganzoo.config.values import Count
from ganzoo.metrics.base import FeatureSamples

_BLOCK = 2**24  # distances held at a time


class Manifold(FeatureSamples):
    """Shares of the fakes that lie among the reals, and of the reals among the fakes.

    The value is {"precision", "recall", "density", "coverage"}; larger is better. All lie in
    [0, 1], except for the density, which has no upper bound. A set's manifold is the union of balls
    around its samples that reach to the k-th neighbor in the set. Precision and recall are those of
    Kynkäänniemi et al. 2019 (equations 1 and 2, closed balls), density and coverage those of Naeem
    et al. 2020 (section 3; open balls, as in their code).

    Args:
        neighbors: number k of neighbors that a ball reaches to.
    """

    higher_is_better = True
    names = ("precision", "recall", "density", "coverage")
    limit = "neighbors"

    def __init__(self, neighbors: Count = 3) -> None:
        super().__init__()
        self.neighbors = neighbors

    @property
    def least(self) -> int:
        return self.neighbors + 1

    def compute(self) -> dict[str, Tensor]:
        real, fake = self.both()
        # This does not change distances, but near zero they lose fewer digits.
        real, fake = real - real.mean(0), fake - real.mean(0)
        real_radii, fake_radii = _radii(real, self.neighbors), _radii(fake, self.neighbors)
        precise = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
        recalled = covered = balls = torch.zeros((), dtype=torch.int64, device=fake.device)
        for rows, distances in _blocks(real, fake):
            radii = real_radii[rows, None]
            precise |= (distances <= radii).any(0)
            recalled = recalled + (distances <= fake_radii).any(1).sum()
            inside = distances < radii
            covered = covered + inside.any(1).sum()
            balls = balls + inside.sum()
        return {
            "precision": precise.double().mean(),
            "recall": recalled.double() / len(real),
            "density": balls.double() / (self.neighbors * len(fake)),
            "coverage": covered.double() / len(real),
        }


def _radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th neighbor, [N]."""
    # The nearest neighbor of each row is the row itself.
    return torch.cat([d.kthvalue(k + 1, dim=1).values for _, d in _blocks(x, x)])


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances of some rows of x to all of y, block by block, with those rows.

    In float64, so that small distances keep enough digits, although they come from a product of
    matrices, which is fast.
    """
    size = max(1, _BLOCK // len(y))
    y_squared = y.square().sum(1)
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        squared = x[rows].square().sum(1, keepdim=True) + y_squared - 2 * x[rows] @ y.T
        yield rows, squared.clamp_(min=0)
