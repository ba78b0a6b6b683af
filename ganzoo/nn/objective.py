"""What the two networks minimize: a loss, penalties on the discriminator, and augmentation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ganzoo.draws import Draws
from ganzoo.errors import UserError
from ganzoo.nn import losses
from ganzoo.nn.ada import ADA
from ganzoo.nn.augment import DiffAugment
from ganzoo.nn.losses import Loss

Logits = Callable[[Tensor], Tensor]  # images -> logits, by the discriminator


class Judged(NamedTuple):
    """Reals or fakes in a step of the discriminator."""

    images: Tensor  # [N, C, H, W], not augmented
    logits: Tensor
    of: Logits  # the discriminator with the augmentation and labels of these images

    def differentiable(self) -> tuple[Tensor, Tensor]:
        """Logits, and the images that they can be differentiated by: by a new pass if need be."""
        shared = self.images.requires_grad
        return (self.logits, self.images) if shared else losses.differentiable(self.of, self.images)


def judged(of: Logits, images: Tensor, penalty: float) -> Judged:
    """Images, judged in a pass that a zero-centered penalty of this weight can share.

    A loss of half precision has its own, because a penalty needs float32 at least.
    """
    if not penalty or images.dtype.itemsize < 4 or torch.is_autocast_enabled(images.device.type):
        return Judged(images, of(images), of)
    logits, images = losses.differentiable(of, images)
    return Judged(images, logits, of)


class Objective(nn.Module):  # one with state, if the augmentation has
    """The loss of both networks, and what is added to the discriminator's.

    Args:
        loss: the adversarial loss; see `ganzoo.nn.losses`.
        gradient_penalty: weight lambda of WGAN-GP's penalty; 0 for none.
        r1, r2: weights gamma of the zero-centered penalties on reals and on fakes, which are
            multiplied by gamma / 2; 0 for none.
        target: gradient norm that WGAN-GP's penalty aims at.
        augment: augmentation of all images that the discriminator sees, reals and fakes; None for
            none.
        scale: factor of the discriminator's loss and penalties.
    """

    def __init__(
        self,
        loss: Loss,
        gradient_penalty: float = 0.0,
        r1: float = 0.0,
        r2: float = 0.0,
        target: float = 1.0,
        augment: DiffAugment | ADA | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.loss, self.augment, self.scale = loss, augment, scale
        self.gradient_penalty, self.target, self.r1, self.r2 = gradient_penalty, target, r1, r2

    @property
    def at_chance(self) -> float | None:
        """The discriminator's loss, without penalties, when it cannot tell reals from fakes."""
        at_chance = losses.loss_at_chance(self.loss)
        return None if at_chance is None else self.scale * at_chance

    # -- the two losses ---------------------------------------------------------------------------

    def reals(self, of: Logits, images: Tensor, strength: float = 1.0) -> Judged:
        """The discriminator's judgment of reals for its loss, in a pass that R1 can share."""
        return judged(of, images, self.r1 * strength)

    def fakes(self, of: Logits, images: Tensor, strength: float = 1.0) -> Judged:
        """The discriminator's judgment of fakes for its loss, in a pass that R2 can share."""
        return judged(of, images, self.r2 * strength)

    def penalized(
        self,
        loss: Tensor,
        reals: Judged,
        fakes: Judged,
        mix: Tensor,
        strength: float = 1.0,
        times: int = 1,
    ) -> Tensor:
        """A discriminator's loss with the penalties on its gradients added.

        Args:
            reals, fakes: equally many. The gradients are with respect to the images before
                augmentation. Images between them get the augmentation and labels of the reals.
            mix: positions between real and fake, [N], drawn from U[0, 1).
            strength: factor of the penalties, `GAN.penalty_strength`; 0 for no penalties now.
            times: enlargement of images whose means over boxes of `times` x `times` these are:
                the gradients are with respect to the enlarged images. A pixel's gradient is then
                spread evenly over times^2 pixels, so that a norm is 1 / times of the norm here.
        """
        if not strength:
            return loss
        scale = self.scale * strength
        if self.gradient_penalty:
            # (norm / times - target)^2 / target^2 is the penalty with a target times as large.
            images = reals.images, fakes.images
            penalty = losses.gradient_penalty(reals.of, *images, mix, self.target * times)
            loss = loss + scale * self.gradient_penalty * penalty
        squared = scale / 2 / times**2
        for gamma, seen in ((self.r1, reals), (self.r2, fakes)):
            if gamma:
                loss = loss + squared * gamma * losses.zero_centered_penalty(*seen.differentiable())
        return loss

    def real_logits(self, logits: Callable[[], Tensor]) -> Tensor | None:
        """Logits of reals for the generator's loss; None, and no work, unless it is relative."""
        if not self.loss.relative:
            return None
        with torch.no_grad():  # reals do not depend on the generator
            return logits()

    # -- augmentation -----------------------------------------------------------------------------

    def draw(self, draws: Draws, n: int) -> Tensor:
        """The random numbers that augment n images, [n, k]; k is 0 without augmentation."""
        if self.augment is None:
            return torch.empty(n, 0, device=draws.device)
        return self.augment.draw(draws, n)

    def augmented(self, images: Tensor, u: Tensor) -> Tensor:
        """Images as the discriminator sees them; `u` are rows of `draw`."""
        return images if self.augment is None else self.augment(images, u)

    def watch(self, real: Tensor, fake: Tensor) -> None:
        """Show `ADA` logits of augmented images, [N] each, in a step of the discriminator.

        If only differences of logits count, a real has to be above its fake instead of above a
        boundary.
        """
        if isinstance(self.augment, ADA):
            boundary = self.loss.boundary
            self.augment.watch(real, fake if boundary is None else boundary)

    def adapt(self) -> dict[str, Tensor]:
        """Let `ADA` change its probability at the end of an iteration; the numbers to report."""
        return self.augment.adapt() if isinstance(self.augment, ADA) else {}

    # -- checks -----------------------------------------------------------------------------------

    @property
    def penalizes(self) -> bool:
        """Whether the loss contains gradients of the discriminator, and is differentiated again."""
        return bool(self.gradient_penalty or self.r1 or self.r2)

    def check_compiled(self, names: Sequence[str]) -> None:
        """Raise `UserError` if penalties meet a discriminator among the compiled networks."""
        if self.penalizes and any(name.partition(".")[0] == "discriminator" for name in names):
            raise UserError(
                "torch.compile cannot differentiate a network twice, which a gradient penalty "
                "needs: leave the discriminator out of model.compile."
            )

    def check_batchnorm(self, discriminator: nn.Module) -> None:
        """Raise `UserError` if penalties meet BatchNorm in the discriminator."""
        norms = [m for m in discriminator.modules() if isinstance(m, _BatchNorm)]
        if self.penalizes and norms:
            raise UserError(
                "A gradient penalty is computed for each image by itself, but BatchNorm mixes the "
                "images of a batch: set model.discriminator.norm to none (or to layer or instance, "
                "if the network offers it)."
            )
