"""The Frechet distance between the features of two sets of images (Heusel et al. 2017)."""

import torch
from torch import Tensor

from ganzoo.metrics.base import TwoSets, check_finite


class FrechetDistance(TwoSets):
    """Frechet distance of two Gaussians fitted to features; FID with those of Inception.

    Heusel et al. 2017, equation 6. The value is a float64 scalar, smaller is better. Fewer
    samples give larger values, so compare only values of equal numbers of samples.
    """

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("n", "sum", "outer"):
            # A scalar, which broadcasts to the shape of what is added first.
            self.add_states(name, torch.zeros((), dtype=torch.float64), "sum")

    def update(self, features: Tensor, real: bool) -> None:
        """Add features [N, D] of reals or of fakes."""
        x = features.to(self.device).double()
        # Never in place: after an update in inference mode, one outside of it would fail.
        for name, term in (("n", x.new_tensor(len(x))), ("sum", x.sum(0)), ("outer", x.T @ x)):
            setattr(self, f"{'real' if real else 'fake'}_{name}", self.side(name, real) + term)

    def compute(self) -> Tensor:
        reals, fakes = (int(self.side("n", real)) for real in (True, False))
        self.check_counts(reals, fakes)
        (_, *real), (_, *fake) = self.moments_of(True), self.moments_of(False)
        check_finite(self, *real, *fake)
        return frechet_distance(*real, *fake)

    def moments_of(self, real: bool) -> tuple[int, Tensor, Tensor]:
        """Number of samples, mean [D] and covariance [D, D] of the features of one side."""
        n, total, outer = (self.side(name, real) for name in ("n", "sum", "outer"))
        return int(n), *moments(n, total, outer)


def moments(n: Tensor | int, total: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and unbiased covariance [D, D] (divided by n - 1) of n > 1 vectors.

    `total` is their sum, [D], and `outer` the sum of their outer products, [D, D], in float64.
    """
    mean = total / n
    return mean, (outer - n * torch.outer(mean, mean)) / (n - 1)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """|m1 - m2|² + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2), a scalar (Dowson & Landau 1982).

    Means are [D], covariances [D, D], positive semidefinite and of any rank, float64.
    """
    # With C1 = A Aᵀ and C2 = B Bᵀ, the nonzero eigenvalues of C1 C2 are those of the symmetric
    # (Aᵀ B)(Aᵀ B)ᵀ. The narrower factor comes first: it leaves the fewest eigenvalues that should
    # be zero, which rounding makes 1e-16, and the root 1e-8.
    narrow, wide = sorted((_factor(cov1), _factor(cov2)), key=lambda factor: factor.shape[1])
    product = narrow.T @ wide
    roots = _eigen(product @ product.T)[0].clamp(min=0).sqrt()
    return (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * roots.sum()


def _factor(cov: Tensor) -> Tensor:
    """A [D, rank] with A Aᵀ = cov."""
    factor, failed = torch.linalg.cholesky_ex(cov)
    if not failed:
        return factor
    values, vectors = _eigen(cov)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues, and eigenvectors in columns, of a positive semidefinite matrix."""
    try:
        return torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # it may not converge if many eigenvalues are alike
        vectors, values, _ = torch.linalg.svd(matrix)
        return values.flip(0), vectors.flip(1)
