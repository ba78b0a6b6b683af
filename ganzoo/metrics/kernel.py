"""The kernel distance between the features of two sets of images (Binkowski et al. 2018)."""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ganzoo.config.values import Count, Range, Seed
from ganzoo.metrics.base import FeatureSamples


class KernelDistance(FeatureSamples):
    """Squared maximum mean discrepancy with a cubic kernel; KID with the features of Inception.

    Binkowski et al. 2018, section 4. The value is {"kid": mean over random subsets, "kid_std":
    their population standard deviation}; smaller is better. It is unbiased, so it may be negative.

    Args:
        subsets: number of pairs of subsets.
        subset_size: number of samples in each, drawn without replacement.
        seed: random seed of the subsets, which are then those of torch-fidelity.
    """

    higher_is_better = False
    names = ("kid", "kid_std")
    limit = "subset_size"

    def __init__(
        self, subsets: Count = 100, subset_size: Annotated[int, Range(2)] = 1000, seed: Seed = 2020
    ) -> None:
        super().__init__()
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    @property
    def least(self) -> int:
        return self.subset_size

    def compute(self) -> dict[str, Tensor]:
        real, fake = self.both()
        rng, size = np.random.RandomState(self.seed), self.subset_size
        chosen = [
            [torch.from_numpy(rng.choice(len(x), size, replace=False)).to(x.device) for x in pair]
            for pair in [(fake, real)] * self.subsets
        ]
        # Samples of small sets are in many subsets, so one kernel of all pairs is less work.
        pairs = len(fake) ** 2 + len(real) ** 2 + len(fake) * len(real)
        if pairs < 3 * self.subsets * size**2:
            distances = _of_all(fake, real, chosen)
        else:
            distances = torch.stack([mmd2(fake[a], real[b]) for a, b in chosen])
        return {"kid": distances.mean(), "kid_std": distances.std(correction=0)}


def mmd2(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of the squared MMD of two sets of m features, [m, D] each, a scalar.

    The kernel is (x·y / D + 1)³ (Binkowski et al. 2018, equations 3 and 4).
    """
    m = len(x)
    kxx, kyy, kxy = (_kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
    within = (kxx.sum() - kxx.trace() + kyy.sum() - kyy.trace()) / (m * (m - 1))
    return within - 2 * kxy.mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _of_all(x: Tensor, y: Tensor, chosen: list[list[Tensor]]) -> Tensor:
    """`mmd2` of the chosen rows of x and of y, [subsets], by one kernel of all rows.

    The sum of the kernel K over a subset is s K t, with s and t 1 for its rows and 0 elsewhere.
    """
    sides = [torch.zeros(len(chosen), len(z), dtype=z.dtype, device=z.device) for z in (x, y)]
    for row, pair in enumerate(chosen):
        for side, rows in zip(sides, pair, strict=True):
            side[row, rows] = 1
    m = len(chosen[0][0])

    def total(a: Tensor, b: Tensor, s: Tensor, t: Tensor) -> Tensor:
        sums = s.new_zeros(len(s))
        for rows, part in zip(a.split(1024), s.split(1024, 1), strict=True):
            sums += (part @ _kernel(rows, b) * t).sum(1)
        return sums

    within = torch.zeros_like(sides[0][:, 0])
    for z, s in zip((x, y), sides, strict=True):
        diagonal = (z.square().sum(1) / z.shape[1] + 1) ** 3
        within = within + total(z, z, s, s) - s @ diagonal
    return within / (m * (m - 1)) - 2 * total(x, y, *sides) / m**2
