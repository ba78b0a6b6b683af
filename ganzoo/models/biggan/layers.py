"""The layers of BigGAN's networks: spectral normalization, conditional BatchNorm, attention; and
the initialization and orthogonal regularization of weights."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.errors import UserError
from ganzoo.nn.layers import fused_down, fused_up

Init = Literal["orthogonal", "normal", "xavier"]
Layer = TypeVar("Layer", bound="Spectral")


# -- spectral normalization -----------------------------------------------------------------------


class Spectral(nn.Module):
    """A layer whose weight, as a matrix [outputs, rest], is divided by its largest singular value.

    Miyato et al. 2018, section 2.1 and algorithm 1. The singular value is estimated by power
    iteration from the left vector `u`, a buffer that is updated by each forward in training mode
    only. Gradients flow through the weight in sigma = u' W v, not through u and v.
    """

    weight: Tensor
    u: Tensor

    def normalize_spectrum(self, eps: float, iterations: int) -> None:
        """Set the iterations (0: do not normalize) and the smallest norm to divide by."""
        self.eps, self.iterations = eps, iterations
        if iterations:
            self.register_buffer("u", torch.randn(len(self.weight)))

    def normalized(self) -> Tensor:
        """The weight divided by its largest singular value."""
        return self.weight / self.sigma() if self.iterations else self.weight

    def bake(self) -> None:
        """Store the normalized weight, which gives the same outputs without normalization."""
        if self.iterations:
            self.weight.data = self.normalized().detach()
            self.iterations = 0
            del self.u

    def sigma(self) -> Tensor:
        """The estimate of the largest singular value, a scalar."""
        with torch.autocast(self.weight.device.type, enabled=False):
            rows = matrix(self.weight)
            u = self.u
            for _ in range(self.iterations):
                with torch.no_grad():
                    v = F.normalize(u @ rows, dim=0, eps=self.eps)
                stretched = rows @ v
                u = F.normalize(stretched.detach(), dim=0, eps=self.eps)
            if self.training:
                self.u.copy_(u)
            return torch.dot(u, stretched)


def matrix(weight: Tensor) -> Tensor:
    """A weight [outputs, ...] as [outputs, rest], without copying it.

    The columns have the order that they have in memory, which changes neither singular values nor
    left vectors.
    """
    if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


class Conv2d(Spectral, nn.Conv2d):
    """A convolution of an odd kernel that keeps height and width."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalized(), self.bias, padding=self.padding)

    def enlarging(self, x: Tensor) -> Tensor:
        """This convolution, 3x3, of the input with each pixel repeated 2x2."""
        return fused_up(x, self.normalized(), self.bias)

    def halving(self, x: Tensor) -> Tensor:
        """This convolution, 3x3, and then means over boxes of 2x2."""
        return fused_down(x, self.normalized(), self.bias)


class Linear(Spectral, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized(), self.bias)


class Embedding(Spectral, nn.Embedding):
    """Rows [N, width] of classes: labels int64 [N], or mixtures of classes, shares [N, classes]."""

    def forward(self, y: Tensor) -> Tensor:
        weight = self.normalized()
        return y.to(weight.dtype) @ weight if y.is_floating_point() else F.embedding(y, weight)


# -- layers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layers:
    """Makes layers that share the options of a network, and initializes them."""

    # Whether all convolutions and linear layers are normalized spectrally, with norms of at least
    # `sn_eps` and `sn_iterations` of power iteration in each forward.
    spectral_norm: bool = True
    sn_eps: float = 1e-6
    sn_iterations: int = 1
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    statistics: int = 0  # sets of BatchNorm statistics for truncations; see `StoredBatchNorm`
    init: Init = "orthogonal"  # normal: with a standard deviation of 0.02; xavier: uniform
    zero_biases: bool = False  # start biases at 0 instead of PyTorch's random values

    def conv(self, inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> Conv2d:
        return self._normalized(Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias))

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> Linear:
        return self._normalized(Linear(inputs, outputs, bias))

    def embedding(self, classes: int, width: int, spectral: bool = True) -> Embedding:
        return self._normalized(Embedding(classes, width), spectral)

    def norm(self, maps: int, affine: bool = True) -> nn.BatchNorm2d:
        if self.statistics:
            return StoredBatchNorm(self.statistics, maps, self.bn_eps, self.bn_momentum, affine)
        return nn.BatchNorm2d(maps, self.bn_eps, self.bn_momentum, affine)

    def attention(self, maps: int, wanted: bool) -> nn.Module:
        """What follows a block: attention, or nothing."""
        return Attention(maps, self) if wanted else nn.Identity()

    def initialize(self, network: nn.Module) -> None:
        """Initialize convolutions, linear layers and embeddings of a complete network."""
        functions: dict[Init, Callable[[Tensor], Tensor]] = {
            "orthogonal": nn.init.orthogonal_,
            "normal": lambda weight: nn.init.normal_(weight, 0.0, 0.02),
            "xavier": nn.init.xavier_uniform_,
        }
        for module in network.modules():
            if isinstance(module, Spectral):
                functions[self.init](module.weight)
                if self.zero_biases and isinstance(bias := getattr(module, "bias", None), Tensor):
                    nn.init.zeros_(bias)

    def _normalized(self, layer: Layer, spectral: bool = True) -> Layer:
        on = self.spectral_norm and spectral
        layer.normalize_spectrum(self.sn_eps, self.sn_iterations if on else 0)
        return layer


class ConditionalNorm(nn.Module):
    """BatchNorm whose gain and bias follow from a condition: BN(x) (1 + W_g c) + W_b c.

    Args:
        maps: number of feature maps of x.
        condition: length of the vectors c, from which two linear layers without bias compute gain
            and bias; or number of classes, for which two tables hold them. 0: gain and bias are
            plain parameters.
        of_labels: whether c are class labels (or mixtures of them) instead of vectors.
    """

    def __init__(self, maps: int, condition: int, of_labels: bool, layers: Layers) -> None:
        super().__init__()
        self.norm = layers.norm(maps, affine=condition == 0)
        self.conditional = condition > 0

        def function() -> nn.Module:
            if of_labels:  # like all class embeddings of the generator, not normalized
                return layers.embedding(condition, maps, spectral=False)
            return layers.linear(condition, maps, bias=False)

        if self.conditional:
            self.gain, self.bias = function(), function()

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        x = self.norm(x)
        if not self.conditional:
            return x
        gain, bias = (f(c).to(x.dtype)[:, :, None, None] for f in (self.gain, self.bias))
        return torch.addcmul(bias, x, 1 + gain)


class StoredBatchNorm(nn.BatchNorm2d):
    """BatchNorm with sets of statistics, `means` and `variances` [sets, maps], of the published
    weights: for truncations from 0 to 1 in equal steps. Training does not update them.
    """

    means: Tensor
    variances: Tensor

    def __init__(self, sets: int, maps: int, eps: float, momentum: float, affine: bool) -> None:
        super().__init__(maps, eps, momentum, affine)
        self.register_buffer("means", torch.zeros(sets, maps))
        self.register_buffer("variances", torch.ones(sets, maps))

    @torch.no_grad()
    def choose(self, truncation: float) -> None:
        """Use the statistics for a truncation in (0, 1].

        Between two sets they are mixed as in the package pytorch-pretrained-biggan, which gives the
        farther set the larger share.
        """
        share, index = math.modf(truncation / (1.0 / (len(self.means) - 1)))
        for running, sets in ((self.running_mean, self.means), (self.running_var, self.variances)):
            chosen = sets[int(index)]
            if share:
                chosen = chosen * share + sets[int(index) + 1] * (1 - share)
            assert running is not None
            running.copy_(chosen)


def choose_statistics(network: nn.Module, truncation: float | None = None) -> None:
    """Each `StoredBatchNorm` uses the statistics for a truncation (None: 1); UserError if none."""
    norms = [module for module in network.modules() if isinstance(module, StoredBatchNorm)]
    truncation = 1.0 if truncation is None else truncation
    if norms and not 0 < truncation <= 1:
        raise UserError(
            f"This generator has BatchNorm statistics for truncations up to 1, not {truncation}: "
            f"use one of these, or standing statistics."
        )
    for norm in norms:
        norm.choose(truncation)


class Attention(nn.Module):
    """Self-attention (Zhang et al. 2019, SAGAN), as in its code: x + gamma o(g beta').

    beta is the softmax of theta' phi: each position of x (theta) attends to all boxes of 2x2, of
    which phi and g take the maximum. Dot products are not scaled. gamma starts at 0, so the layer
    starts as the identity.
    """

    def __init__(self, maps: int, layers: Layers) -> None:
        super().__init__()
        if maps % 8:
            raise UserError(f"attention needs a multiple of 8 feature maps, not {maps}: change ch.")
        self.theta = layers.conv(maps, maps // 8, 1, bias=False)
        self.phi = layers.conv(maps, maps // 8, 1, bias=False)
        self.g = layers.conv(maps, maps // 2, 1, bias=False)
        self.o = layers.conv(maps // 2, maps, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta(x).flatten(2)
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)
        g = F.max_pool2d(self.g(x), 2).flatten(2)
        beta = (theta.transpose(1, 2) @ phi).softmax(-1)  # [N, places, boxes]
        # Not `len(x)`, which a graph for any batch would keep as a number.
        seen = (g @ beta.transpose(1, 2).to(g.dtype)).view(x.shape[0], -1, *x.shape[2:])
        return x + self.gamma * self.o(seen)


# -- weights --------------------------------------------------------------------------------------


@torch.no_grad()
def add_orthogonal_gradient(weights: Iterable[Tensor], strength: float) -> None:
    """Add the gradient of orthogonal regularization to `.grad` (Brock et al. 2019, equation 3).

    strength |W W' * (1 - I)|_F^2, with weights W as [outputs, rest]: rows should be orthogonal, but
    may have any length. The gradient is that of the official PyTorch code, 2 (W W' * (1 - I)) W,
    half of the formula's.
    """
    for weight in weights:
        if weight.grad is not None:
            rows = weight.flatten(1)
            if len(rows) <= rows.shape[1]:
                gram = rows @ rows.T
                gradient = gram.fill_diagonal_(0) @ rows
            else:  # equal, but the matrix product is smaller
                gradient = rows @ (rows.T @ rows) - rows * rows.square().sum(1, keepdim=True)
            weight.grad.add_(gradient.view(weight.shape), alpha=2 * strength)


def orthogonal_weights(network: nn.Module) -> list[Tensor]:
    """The weights that orthogonal regularization applies to: all but class embeddings."""
    return [
        module.weight
        for module in network.modules()
        if isinstance(module, Spectral) and not isinstance(module, Embedding)
    ]
