"""Adversarial losses over logits, and gradient penalties.

A loss is a pair of formulas without state: what the discriminator minimizes and what the generator
minimizes. Logits may have any shape (one number per image, or a map of patches); every loss is the
mean over all of them. No loss contains a factor 1/2 or a weight: who wants one multiplies.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ganzoo.errors import UserError


class Loss(Protocol):
    """What a model asks of a loss.

    `relative` says that the generator's loss compares fakes with reals, so that the logits of reals
    must be given to it. `boundary` is the logit above which an image is taken for real; None where
    only differences count.
    """

    relative: bool
    boundary: float | None

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor: ...

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor: ...


def ignorance(loss: Loss) -> float | None:
    """What the discriminator loses when it tells nothing apart: all logits at the boundary.

    None where a loss has no scale of its own (Wasserstein).
    """
    logits = torch.tensor([loss.boundary or 0.0], device="cpu")  # whatever the default is
    return float(loss.discriminator(logits, logits)) or None


class NonSaturating:
    """The non-saturating loss: binary cross-entropy, the generator's labels swapped.

    The discriminator's two terms are summed, not averaged (Goodfellow et al. 2014, section 3; the
    scale of the DCGAN code).
    """

    relative = False
    boundary: float | None = 0.0

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return F.softplus(-fake).mean()


class Hinge:
    """The hinge loss (Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

    relative = False
    boundary: float | None = 0.0

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return -fake.mean()


class LeastSquares:
    """Least squares with targets 1 and 0 (Mao et al. 2017, equation 9, twice its scale).

    The paper's 1/2 is left out of both formulas, as in CycleGAN's (Zhu et al. 2017, section 3.1),
    whose code halves the discriminator's loss only.
    """

    relative = False
    boundary: float | None = 0.5

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return (real - 1).square().mean() + fake.square().mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return (fake - 1).square().mean()


class Wasserstein:
    """The difference of the mean scores (Arjovsky et al. 2017); wants a gradient penalty."""

    relative = False
    boundary: float | None = None

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return -fake.mean()


class Relativistic:
    """The relativistic pairing loss with softplus (Jolicoeur-Martineau 2019; Huang et al. 2024,
    equation 2); R3GAN adds `zero_centered_penalty` on reals and on fakes.

    Each real is compared with one fake, so both must have the same shape; UserError otherwise.
    """

    relative = True
    boundary: float | None = None

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-_margin(real, fake)).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        if real is None:
            raise UserError(
                "the generator's relativistic loss needs the logits of reals: give real too."
            )
        return F.softplus(_margin(real, fake)).mean()


def _margin(real: Tensor, fake: Tensor) -> Tensor:
    if real.shape != fake.shape:
        raise UserError(
            f"the relativistic loss pairs each real with one fake, but their logits have shapes "
            f"{tuple(real.shape)} and {tuple(fake.shape)}: use batches of one size."
        )
    return real - fake


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    mix: Tensor,
    target: float = 1.0,
) -> Tensor:
    """mean((|grad D(x̂)| - target)²) / target² at x̂ = real + mix (fake - real), a scalar.

    Gulrajani et al. 2017, section 4; `target` as in the official PGGAN code (its `wgan_target`,
    750 for CIFAR-10). Multiply by lambda (10 in both). The norm is that of the whole image.

    Args:
        discriminator: images -> logits. It must treat the images of a batch independently (no
            BatchNorm): the gradient is taken of the sum of all logits.
        real, fake: images of one shape, [N, C, H, W]; gradients do not flow into them.
        mix: one number in [0, 1) per image, [N] or [N, 1, 1, 1].
        target: the norm asked for, > 0.

    Raises:
        UserError: real and fake differ in shape, or target is not positive.
    """
    if real.shape != fake.shape:
        raise UserError(
            f"a gradient penalty lies between reals and fakes of one shape, but they have "
            f"{tuple(real.shape)} and {tuple(fake.shape)}: use batches of one size."
        )
    if target <= 0:
        raise UserError(
            f"target={target} is no norm to reach: give a positive one, or use "
            f"zero_centered_penalty for a target of 0."
        )
    mix = mix.reshape(len(real), *(1,) * (real.dim() - 1))
    gradient = _gradient(discriminator, real + mix * (fake - real))
    return (torch.linalg.vector_norm(gradient, dim=1) - target).square().mean() / target**2


def zero_centered_penalty(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """mean(|grad D(x)|²), a scalar: R1 when the images are reals, R2 when they are fakes.

    Mescheder et al. 2018, section 4.1. Multiply by gamma / 2. `discriminator` must treat the images
    of a batch independently (no BatchNorm); gradients do not flow into `images`, [N, C, H, W].
    """
    return _gradient(discriminator, images).square().sum(1).mean()


def _gradient(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The gradient of each image's logits by that image, [N, C*H*W], itself differentiable.

    In float32 at least: half precision loses the small gradients that are squared here.
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    images = images.detach().to(dtype).requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        logits = discriminator(images)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.flatten(1)
