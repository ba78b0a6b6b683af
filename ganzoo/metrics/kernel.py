"""The kernel distance between the features of two sets of images (Binkowski et al. 2018)."""

import numpy as np
import torch
from torch import Tensor

from ganzoo.metrics.base import FeatureSamples


class KernelDistance(FeatureSamples):
    """Squared maximum mean discrepancy with a cubic kernel; KID with the features of Inception.

    Binkowski et al. 2018, section 4. The value is {"kid": mean over random subsets, "kid_std":
    their population standard deviation}; smaller is better; being unbiased, it may be negative.

    Args:
        subsets: how many pairs of subsets are drawn, as torch-fidelity draws them with this seed.
        subset_size: samples in each, drawn without replacement.
        seed: of the draw.
        keep_real: `reset` keeps the reals.

    Raises:
        UserError: in `compute`, fewer samples than `subset_size`, or features not finite.
    """

    higher_is_better = False
    names = ("kid", "kid_std")

    def __init__(
        self,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 2020,
        keep_real: bool = False,
    ) -> None:
        super().__init__(keep_real)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def compute(self) -> dict[str, Tensor]:
        real, fake = self.both(self.subset_size, "use more images or lower subset_size")
        rng = np.random.RandomState(self.seed)

        def subset(features: Tensor) -> Tensor:
            chosen = rng.choice(len(features), self.subset_size, replace=False)
            return features[torch.from_numpy(chosen).to(features.device)]

        distances = torch.stack([mmd2(subset(fake), subset(real)) for _ in range(self.subsets)])
        return {"kid": distances.mean(), "kid_std": distances.std(correction=0)}


def mmd2(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of the squared MMD of two sets of m features, [m, D] each, a scalar.

    The kernel is (x·y / D + 1)³ (Binkowski et al. 2018, equations 3 and 4).
    """
    m = len(x)
    kxx, kyy, kxy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (kxx.sum() - kxx.trace() + kyy.sum() - kyy.trace()) / (m * (m - 1))
    return within - 2 * kxy.mean()
