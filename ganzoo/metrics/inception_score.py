"""The Inception score (Salimans et al. 2016)."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ganzoo.config.values import Count, Seed
from ganzoo.errors import UserError
from ganzoo.metrics.base import SuiteMetric, check_finite


class InceptionScore(SuiteMetric):
    """exp(E KL(p(y|x) || p(y))) of fakes, over splits (Salimans et al. 2016, section 4).

    The value is {"is": mean over the splits, "is_std": their population standard deviation};
    larger is better. It lies between 1 and the number of classes.

    Args:
        total: number of fakes that there will be; may also be set later, until the first update.
        splits: number of parts, of equal size if possible, that are scored separately.
        shuffle_seed: seed with which fakes are shuffled into splits, as torch-fidelity does; None
            to keep the order of their numbers.
    """

    higher_is_better = True
    names = ("is", "is_std")
    limit = "splits"

    n: Tensor
    p: Tensor
    entropy: Tensor

    def __init__(
        self, total: Count | None = None, splits: Count = 10, shuffle_seed: Seed | None = 2020
    ) -> None:
        super().__init__()
        self.total, self.splits, self.shuffle_seed = total, splits, shuffle_seed
        for name in ("n", "p", "entropy"):
            # A scalar, which broadcasts to what is added first: one row for each split.
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def least(self) -> int:
        return self.splits

    def expect(self, fakes: int) -> None:
        self.total = fakes

    def update(self, logits: Tensor, index: Tensor) -> None:
        """Add the logits [N, K] of the fakes numbered by `index` [N]."""
        assert self.total is not None, "splits depend on the number of fakes"
        split = _splits(self.total, self.splits, self.shuffle_seed)[index.cpu()].to(self.device)
        member = torch.nn.functional.one_hot(split, self.splits).T.double()
        p = logits.to(self.device, torch.float64).softmax(1)
        self.n = self.n + member.sum(1)
        self.p = self.p + member @ p
        self.entropy = self.entropy + member @ torch.special.entr(p).sum(1)

    def compute(self) -> dict[str, Tensor]:
        if (seen := int(self.n.sum())) != self.total or not seen:
            raise UserError(
                f"InceptionScore has seen {seen} of {self.total} fakes: update it with each of "
                f"them once, or set total to their number."
            )
        # E KL(p || q) = H(q) - E H(p), with q the mean of the p's.
        marginal = torch.special.entr(self.p / self.n[:, None]).sum(1)
        scores = (marginal - self.entropy / self.n).exp()
        check_finite(self, scores)
        return {"is": scores.mean(), "is_std": scores.std(correction=0)}


@lru_cache(maxsize=1)
def _splits(total: int, splits: int, seed: int | None) -> Tensor:
    """The split of each sample, [total] int64."""
    order = np.arange(total) if seed is None else np.random.RandomState(seed).permutation(total)
    bounds = np.arange(splits + 1) * total // splits
    split = np.empty(total, dtype=np.int64)
    split[order] = np.repeat(np.arange(splits), np.diff(bounds))
    return torch.from_numpy(split)
