"""Adversarial losses over logits, and gradient penalties.

A loss is a pair of formulas without state: what the discriminator minimizes and what the generator
minimizes. Logits may have any shape (one number per image, or a map of patches); every loss is the
mean over all of them. No loss contains a factor 1/2 or a weight: models multiply where they need
one.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ganzoo.errors import UserError
from ganzoo.nn.piecewise import Piecewise


class Loss(Protocol):
    """The two formulas that a model needs."""

    relative: bool  # the generator's loss compares fakes with reals, and needs the logits of both
    boundary: float | None  # the logit above which an image counts as real; None: differences count

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor: ...

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor: ...


def loss_at_chance(loss: Loss) -> float | None:
    """The discriminator's loss when it cannot tell reals from fakes: all logits at the boundary.

    None if that value says nothing because the loss has no scale of its own (Wasserstein).
    """
    logits = torch.tensor([loss.boundary or 0.0], device="cpu")  # whatever the default device is
    return float(loss.discriminator(logits, logits)) or None


class NonSaturating:
    """The non-saturating loss: binary cross-entropy, the generator's labels swapped.

    The generator maximizes log D(G(z)) instead of minimizing log(1 - D(G(z))), whose gradient
    vanishes while the discriminator wins (Goodfellow et al. 2014, section 3). The discriminator's
    two terms are summed, not averaged, as in the code of DCGAN. With D = sigmoid(logit),
    -log D = softplus(-logit) and -log(1 - D) = softplus(logit), which cannot overflow.
    """

    relative = False
    boundary: float | None = 0.0

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return F.softplus(-fake).mean()


class Hinge:
    """The hinge loss (Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17).

    The discriminator ignores reals above 1 and fakes below -1: they are classified well enough.
    """

    relative = False
    boundary: float | None = 0.0

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return -fake.mean()


class LeastSquares:
    """Least squares with targets 1 and 0: twice the loss of Mao et al. 2017, equation 9.

    The paper's factor 1/2 is left out, as in CycleGAN (Zhu et al. 2017), whose code halves the
    discriminator's loss only.
    """

    relative = False
    boundary: float | None = 0.5

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return (real - 1).square().mean() + fake.square().mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return (fake - 1).square().mean()


class Wasserstein:
    """The difference of the mean scores (Arjovsky et al. 2017, equation 2).

    It estimates a distance only if scores are Lipschitz continuous: add a gradient penalty.
    """

    relative = False
    boundary: float | None = None

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return -fake.mean()


class Relativistic:
    """The relativistic pairing loss with softplus (Jolicoeur-Martineau 2019).

    Equation 2 of R3GAN (Huang et al. 2024), which adds `zero_centered_penalty` on reals and on
    fakes. Each real is compared with one fake, so both must have the same shape; UserError
    otherwise.
    """

    relative = True
    boundary: float | None = None

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        check_shapes("logits of reals and fakes", real, fake)
        return F.softplus(fake - real).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        assert real is not None, "`relative` says that it is needed"
        check_shapes("logits of reals and fakes", real, fake)
        return F.softplus(real - fake).mean()


def check_shapes(what: str, real: Tensor, fake: Tensor) -> None:
    """Raise `UserError` unless both have one shape: torch would broadcast [N, 1] and [N]."""
    if real.shape != fake.shape:
        raise UserError(
            f"The {what} have shapes {tuple(real.shape)} and {tuple(fake.shape)}, but are compared "
            f"one by one: use batches of equal size."
        )


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    mix: Tensor,
    target: float = 1.0,
) -> Tensor:
    """mean((|grad D(x̂)| - target)²) / target² at x̂ = real + mix (fake - real), a scalar.

    The second term of Gulrajani et al. 2017, equation 3, without lambda (10). `target` is from the
    official PGGAN code (`wgan_target`, 750 for CIFAR-10). The norm is taken over all channels and
    pixels of an image.

    Args:
        discriminator: images -> logits. The logits of an image must not depend on other images
            (no BatchNorm), because the gradient is that of the sum of all logits.
        real, fake: images of equal shape, [N, C, H, W]; gradients do not flow into them.
        mix: positions between real and fake in [0, 1), [N] or [N, 1, 1, 1].
        target: the norm that is aimed at, above 0.

    Raises UserError: real and fake differ in shape.
    """
    check_shapes("reals and fakes", real, fake)
    mix = mix.reshape(len(real), *(1,) * (real.dim() - 1))
    gradient = _gradient(*differentiable(discriminator, real + mix * (fake - real)))
    return (torch.linalg.vector_norm(gradient, dim=1) - target).square().mean() / target**2


def zero_centered_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """mean(|grad D(x)|²), a scalar: R1 for real images, R2 for fakes.

    Mescheder et al. 2018, equations 9 and 10, without the factor gamma / 2. The logits of an image
    must not depend on other images (no BatchNorm).

    Args:
        logits, images: from `differentiable`; images are [N, C, H, W].
    """
    return _gradient(logits, images).square().sum(1).mean()


def differentiable(
    discriminator: Callable[[Tensor], Tensor], images: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits of images for a penalty on their gradient, and the images that it is taken by.

    In float32 at least: half precision loses the small gradients that a penalty squares. Gradients
    do not flow into the `images` given, [N, C, H, W].
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    images = images.detach().to(dtype).requires_grad_()
    with torch.autocast(images.device.type, enabled=False), Piecewise():
        return discriminator(images), images


def _gradient(logits: Tensor, images: Tensor) -> Tensor:
    """Gradients of images' own logits with respect to them, [N, C*H*W], differentiable."""
    with torch.autocast(images.device.type, enabled=False):
        # The sum's gradient is that of each image's own logits, as they depend on no other image.
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.flatten(1)
