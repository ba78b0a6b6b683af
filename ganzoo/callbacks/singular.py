"""The largest singular values of weights."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from ganzoo.draws import seed_of
from ganzoo.engine.gan import GAN
from ganzoo.engine.modes import evaluating

COUNT = 3  # number of singular values of each weight
BLOCK = 16  # vectors that are iterated; more vectors need fewer iterations
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class SingularValues:
    """The three largest singular values of matrices that change slowly, by subspace iteration.

    Each call starts from the singular vectors of the previous call, so it needs few iterations.

    Args:
        tolerance: iterate until |A'A v - s² v| < tolerance s² for the three; the error of s is
            about the square of that.
        first: largest number of iterations for a matrix that is new.
        again: largest number of iterations for a matrix that was there before.
    """

    def __init__(self, tolerance: float = 0.01, first: int = 100, again: int = 8) -> None:
        self.tolerance, self.first, self.again = tolerance, first, again
        self.vectors: dict[str, Tensor] = {}

    @torch.no_grad()
    def of(self, name: str, matrix: Tensor) -> Tensor:
        """Singular values [3] of a matrix [m, n], in descending order, on the CPU.

        Values that a smaller matrix does not have are 0; all are infinite if it is not finite.

        Args:
            name: name of the matrix, the same in each call.
            matrix: the matrix.
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
    """Orthonormal vectors to start with, [length, min(16, length)], the same for the same name."""
    generator = Generator().manual_seed(seed_of("spectra", name))
    return torch.linalg.qr(torch.randn(length, min(BLOCK, length), generator=generator)).Q


def weight_matrices(gan: GAN) -> Iterator[tuple[str, Tensor, float]]:
    """The weights of the generator and the discriminator that have at least two dimensions.

    Yields the name of each, the weight as a matrix [outputs, rest], and the number by which
    spectral norm divides it, or 1.
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
    """A layer that normalizes its weight before using it."""

    def normalized(self) -> Tensor:
        """The weight as the layer uses it."""


@torch.no_grad()
def divisor(module: nn.Module, kind: str, weight: Tensor) -> float:
    """The number by which spectral norm divides a weight: torch's, or that of `Normalized`."""
    with evaluating(module):  # in training mode it would iterate, and keep the result
        if kind:
            used: Tensor = getattr(module, kind.partition(".")[0])
        elif isinstance(module, Normalized):
            used = module.normalized()
        else:
            return 1.0
    if used is weight:
        return 1.0
    return float(weight.norm() / used.norm().clamp_min(torch.finfo(used.dtype).tiny))
