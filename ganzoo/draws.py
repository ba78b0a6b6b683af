"""Random numbers that depend on the seed and the images seen, and on nothing else.

Every draw of a training step is made for the global batch and each process takes its rows, so a run
does not depend on the number of devices, and a resumed run draws what an uninterrupted one draws.
Draws are made on the CPU: the same noise on every kind of device.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Generator, Tensor

Sampler = Callable[[Sequence[int], Generator], Tensor]


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from any key, the same in every process and every version of Python."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes a signed 64-bit number


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """N(0, 1)."""
    return torch.randn(shape, generator=generator)


def uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    """U[-1, 1), the prior of the DCGAN paper's code."""
    return torch.rand(shape, generator=generator) * 2 - 1


def unit(shape: Sequence[int], generator: Generator) -> Tensor:
    """U[0, 1)."""
    return torch.rand(shape, generator=generator)


def bernoulli(shape: Sequence[int], generator: Generator) -> Tensor:
    """0 or 1, equally likely: one of the priors that the BigGAN paper compares."""
    return torch.randint(2, shape, generator=generator).float()


def censored_normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """max(N(0, 1), 0): one of the priors that the BigGAN paper compares."""
    return torch.randn(shape, generator=generator).clamp_(min=0)


def integers(high: int) -> Sampler:
    """Sampler of int64 in [0, high)."""
    return partial(_integers, high)


def _integers(high: int, shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.randint(high, shape, generator=generator)


def from_seeds(
    seeds: Sequence[int], shape: Sequence[int], of: Sampler, truncation: float | None = None
) -> Tensor:
    """One row per seed, [len(seeds), *shape] float32; a seed's row depends on that seed alone.

    With `truncation`, values of larger magnitude are drawn again until they fit (Brock et al. 2019,
    section 3.1).
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # torch draws other numbers in float64
    try:
        rows = [torch.empty(0, *shape)]
        for seed in seeds:
            generator = Generator().manual_seed(seed_of("sample", seed))
            row = of((1, *shape), generator)
            while truncation is not None and (outside := row.abs() > truncation).any():
                row = torch.where(outside, of((1, *shape), generator), row)
            rows.append(row)
        return torch.cat(rows)
    finally:
        torch.set_default_dtype(before)


class Draws:
    """The stream of draws of one training step, which numbers and words in `key` name.

    Each call of `rows` continues the stream, so the order of the calls, and `n`, must be the same
    in every process.
    """

    def __init__(
        self,
        *key: int | str,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rank, self.world, self.device, self.dtype = rank, world, device, dtype
        self._generator = Generator().manual_seed(seed_of(*key))

    def rows(self, n: int, *shape: int, of: Sampler = normal) -> Tensor:
        """This process's n rows of a draw for the whole batch: [n, *shape].

        Floating-point values are converted to `dtype`, integers are unchanged; both are moved to
        `device`.
        """
        rows = of((n * self.world, *shape), self._generator)[self.rank * n : (self.rank + 1) * n]
        dtype = self.dtype if rows.is_floating_point() else rows.dtype
        if torch.device(self.device).type == "cuda":  # where a copy of other memory would wait
            return rows.pin_memory().to(self.device, dtype, non_blocking=True)
        return rows.to(self.device, dtype)
