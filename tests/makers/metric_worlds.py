"""All metrics with small data, to be computed in one process and in several.

Run by the tests under torchrun:  python metric_worlds.py FOLDER
Each process leaves FOLDER/<rank>.pt.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Generator, Tensor
from torchmetrics import Metric

from ganzoo.metrics.frechet import FrechetDistance
from ganzoo.metrics.inception_score import InceptionScore
from ganzoo.metrics.kernel import KernelDistance
from ganzoo.metrics.manifold import Manifold
from ganzoo.metrics.sliced import SlicedWasserstein
from ganzoo.metrics.ssim import MSSSIM

FAKES, REALS = 46, 53


def all_metrics(keep_real: bool = False) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {
        "fd": FrechetDistance(),
        "is": InceptionScore(FAKES, splits=4),
        "kid": KernelDistance(subsets=5, subset_size=20),
        "manifold": Manifold(),
        "swd": SlicedWasserstein(num=24, patches=16, repeats=2, directions=8),
        "ms_ssim": MSSSIM(num_pairs=20),
    }
    for metric in metrics.values():
        metric.keep_real = keep_real
    return metrics


def samples(real: bool, seed: int = 0) -> dict[str, Tensor]:
    """Everything that a metric may ask of all reals or all fakes."""
    generator = Generator().manual_seed(2 * seed + real)
    n = REALS if real else FAKES
    coarse = torch.randint(256, (n, 3, 5, 6), generator=generator).float()
    return {
        "features": torch.randn(n, 12, generator=generator) * 2 + (0.5 if real else 0),
        "logits": torch.randn(n, 7, generator=generator) * 3,
        "images": torch.nn.functional.interpolate(coarse, (33, 36), mode="bilinear").byte(),
        "index": torch.arange(n),
    }


def feed(metric: Metric, all_of: Mapping[str, Tensor], batches: Iterable, real: bool) -> None:
    """Update a metric with the samples numbered by each batch; an Inception score ignores reals."""
    if real and isinstance(metric, InceptionScore):
        return
    for batch in batches:
        given = {name: values[batch] for name, values in all_of.items()}
        metric.update(**metric._filter_kwargs(**given, real=real))


def values(metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
    """All values by their names."""
    named: dict[str, Tensor] = {}
    for name, metric in metrics.items():
        value = metric.compute()
        named |= value if isinstance(value, dict) else {name: value}
    return named


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    metrics = all_metrics(keep_real=True)

    def show(real: bool, seed: int = 0) -> None:
        """Neither as many samples nor as many batches to each process."""
        numbers = torch.arange(REALS if real else FAKES)
        mine = numbers[numbers % 3 == 1] if rank else numbers[numbers % 3 != 1]
        for metric in metrics.values():
            feed(metric, samples(real, seed), mine.split(5 + 4 * rank), real)

    show(real=True)
    show(real=False, seed=1)
    values(metrics)
    for metric in metrics.values():
        metric.reset()
    show(real=False)
    torch.save(values(metrics), Path(sys.argv[1]) / f"{rank}.pt")
    dist.destroy_process_group()
