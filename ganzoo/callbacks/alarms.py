"""What the numbers of a run say about its health: numbers in, alarms out.

Each function returns a sentence on what it saw, or "" if all is well. A comparison with NaN is
false, so a number that is missing raises no alarm. docs/watching.md has a table of the alarms.
"""

from collections.abc import Mapping

COLLAPSE, WINS = "collapse", "discriminator wins"
SPECTRUM, DIVERSITY = "spectrum explodes", "diversity gone"
MEMORIZATION, NOT_FINITE = "memorization", "not finite"
ADVICE = {
    COLLAPSE: "an earlier checkpoint with a lower learning rate, model.clip or a larger batch",
    WINS: "a lower learning rate or fewer steps of the discriminator, augmentation "
    "(model.augment), or a penalty (model.r1=1)",
    SPECTRUM: "a lower learning rate, model.clip, or an earlier checkpoint",
    DIVERSITY: "an earlier checkpoint with augmentation (model.augment), a larger batch or "
    "another loss",
    MEMORIZATION: "augmentation (model.augment, data.mirror=true), more data, or an earlier "
    "checkpoint",
    NOT_FINITE: "a lower learning rate, model.clip or precision=32-true",
}

# Shares are those of a discriminator's loss in the loss at chance.
LEARNED = 0.8  # share below which a discriminator has learned something
LOST = 1.2  # share above which it does worse than chance
BLANK = 0.95  # share above which it has forgotten everything, if its logits are alike as well
WON = 0.02  # share below which it wins
GROWTH = 5.0  # growth of a largest singular value that is too much; see `signs.Growth`
DIVERSE = 0.2  # diversity that a run must have reached before it can be lost
ALIKE = 0.3  # share of the largest diversity below which samples are alike
# Accuracies of a discriminator that has memorized (Brock et al. 2019, section 4.2: over 98 % on
# training images, and 50 to 55 % on held-out ones).
TRAINING, HELD_OUT = 0.98, 0.55


def collapse(share: float, least: float, real: float, fake: float, widest: float) -> str:
    """A discriminator that had learned something now does worse than chance, or ignores its input.

    Args:
        share: its loss, as a share of the loss at chance.
        least: the smallest such share of the run so far.
        real, fake: mean logits of reals and of fakes.
        widest: the largest difference of these two so far.
    """
    if least >= LEARNED:
        return ""
    if share > LOST:
        return f"loses {share:.3g} times as much as at chance, after it had learned"
    if share > BLANK and abs(real - fake) < 0.002 * widest:
        return f"no longer distinguishes reals, with mean logit {real:.3g}, from fakes ({fake:.3g})"
    return ""


def discriminator_wins(share: float, real: float, fake: float) -> str:
    """A discriminator loses almost nothing, so the generator has nothing to learn from.

    The arguments are those of `collapse`, but `share` is a median of several checks.
    """
    if share < WON and fake < real:
        return f"loses only {100 * share:.2g} % of what it would at chance"
    return ""


def memorization(accuracy: Mapping[str, float]) -> str:
    """The discriminator recognizes training images, and fails on images that it has not seen.

    `accuracy` has the shares of "training" and "held_out" images that it classifies correctly.
    """
    seen, unseen = accuracy["training"], accuracy["held_out"]
    if seen >= TRAINING and unseen <= HELD_OUT:
        return (
            f"the discriminator is right on {100 * seen:.0f} % of training images and on "
            f"{100 * unseen:.0f} % of held-out images"
        )
    return ""


def spectrum_explodes(growth: float, weight: str) -> str:
    """A weight's largest singular value grows much faster than it should; see `signs.Growth`."""
    if growth > GROWTH:
        return (
            f"the largest singular value of {weight} has grown {growth:.3g} times as much as usual"
        )
    return ""


def diversity_gone(diversity: float, best: float) -> str:
    """Samples that used to differ are alike: their diversity now, and the largest of the run."""
    if best >= DIVERSE and diversity < ALIKE * best:
        return (
            f"the distance between samples is {diversity:.2g} of that between training images, "
            f"and was {best:.2g}"
        )
    return ""
