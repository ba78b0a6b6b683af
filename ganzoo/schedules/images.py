"""Functions of images seen, the one clock of a run.

A kimg is a thousand real images shown to the discriminator.
"""

import math
from dataclasses import dataclass

from ganzoo.errors import UserError


def crossed(before: int, now: int, every_kimg: float | None) -> bool:
    """Whether a multiple of `every_kimg`, if that is positive, is in (before, now], in images."""
    if every_kimg is None or every_kimg <= 0:
        return False
    every = max(1, round(every_kimg * 1000))
    return now // every > before // every


def ema_beta(images: int, half_life_kimg: float, rampup: float | None, images_seen: int) -> float:
    """What an average of weights keeps of itself over `images` images, in [0, 1).

    average <- beta average + (1 - beta) weights; a weight's share halves every `half_life_kimg`.
    With `rampup` the half-life is at most that share of the images seen, so that early weights are
    soon forgotten (Karras et al. 2020, StyleGAN2-ADA, which uses 0.05). A half-life of 0 follows
    the weights: beta is 0.
    """
    half_life = half_life_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, rampup * images_seen)
    return 0.5 ** (images / half_life) if half_life > 0 else 0.0


@dataclass(frozen=True)
class EpochDecay:
    """A learning rate factor for a run of equal epochs: 1 at first, then linearly down.

    In epoch e = 1, 2, ... it is 1 - max(0, e - constant) / (epochs - constant + 1), as in
    CycleGAN's authors' PyTorch code where its scheduler steps at the end of an epoch: the last
    epoch has the lowest rate, not 0.

    Args:
        epochs: number of epochs; the authors' 200 are passes over the larger data set.
        constant: number of epochs at the full rate.
        early: whether everything happens one epoch sooner and the last epoch has a rate of 0, as in
            newer versions of that code.

    Raises UserError unless 0 <= constant < epochs, and the length is finite.
    """

    total_kimg: float
    epochs: int = 200
    constant: int = 100
    early: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.constant < self.epochs:
            raise UserError(
                f"a decay after {self.constant} of {self.epochs} epochs has no length: let "
                f"0 <= constant < epochs."
            )
        if not 0 <= self.total_kimg < math.inf:
            raise UserError(f"total_kimg={self.total_kimg} of a decay is no length: give a number.")

    def __call__(self, images_seen: int) -> float:
        epoch = 1 + images_seen * self.epochs // max(1, round(1000 * self.total_kimg)) + self.early
        return max(0.0, 1 - max(0, epoch - self.constant) / (self.epochs - self.constant + 1))
