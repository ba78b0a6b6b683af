"""The largest singular values of weights."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from ganzoo.draws import seed_of
from ganzoo.engine.gan import GAN
from ganzoo.engine.modes import evaluating

COUNT = 3  # how many of the largest are looked at
# how many of the largest are looked at
BLOCK = 16  # vectors that are iterated: the more, the fewer iterations
# vectors that are iterated: the more, the fewer iterations
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


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
