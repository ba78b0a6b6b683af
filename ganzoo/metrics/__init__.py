"""Metrics of generated images; `Suite` runs a set of them, `Evaluate` does so during training."""

from ganzoo.metrics.frechet import FrechetDistance
from ganzoo.metrics.inception_score import InceptionScore
from ganzoo.metrics.kernel import KernelDistance
from ganzoo.metrics.manifold import Manifold
from ganzoo.metrics.protocol import Scores
from ganzoo.metrics.sliced import SlicedWasserstein
from ganzoo.metrics.ssim import MSSSIM
from ganzoo.metrics.suite import Fakes, Suite

__all__ = [
    "MSSSIM",
    "Fakes",
    "FrechetDistance",
    "InceptionScore",
    "KernelDistance",
    "Manifold",
    "Scores",
    "SlicedWasserstein",
    "Suite",
]
