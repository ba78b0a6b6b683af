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

LEARNED = 0.8  # share of the loss at chance below which a discriminator has learned something
BLANK = 0.95  # share above which it has forgotten everything, if its logits are alike as well
DIVERSE = 0.2  # diversity that a run must have reached before it can be lost


def collapse(
    share: float, least: float, real: float, fake: float, widest: float, limit: float
) -> str:
    """A discriminator that had learned something now does worse than chance, or ignores its input.

    Args:
        share: its loss, as a share of the loss at chance.
        least: the smallest such share of the run so far.
        real, fake: mean logits of reals and of fakes.
        widest: the largest difference of these two so far.
        limit: share above which it does worse than chance.
    """
    if least >= LEARNED:
        return ""
    if share > limit:
        return f"loses {share:.3g} times as much as at chance, after it had learned"
    if share > BLANK and abs(real - fake) < 0.002 * widest:
        return f"no longer distinguishes reals, with mean logit {real:.3g}, from fakes ({fake:.3g})"
    return ""


def discriminator_wins(share: float, real: float, fake: float, limit: float) -> str:
    """A discriminator loses almost nothing, so the generator has nothing to learn from.

    Args:
        share: its loss, as a share of the loss at chance; a median of several checks.
        real, fake: mean logits of reals and of fakes.
        limit: share below which it wins.
    """
    if share < limit and fake < real:
        return f"loses only {100 * share:.2g} % of what it would at chance"
    return ""


def memorization(accuracy: Mapping[str, float], training: float, held_out: float) -> str:
    """The discriminator recognizes training images, and fails on images that it has not seen.

    Args:
        accuracy: shares of images that it classifies correctly, by "training" and "held_out".
        training: least accuracy on training images.
        held_out: largest accuracy on held-out images.
    """
    seen, unseen = accuracy["training"], accuracy["held_out"]
    if seen >= training and unseen <= held_out:
        return (
            f"the discriminator is right on {100 * seen:.0f} % of training images and on "
            f"{100 * unseen:.0f} % of held-out images"
        )
    return ""


def spectrum_explodes(growth: float, weight: str, limit: float) -> str:
    """A weight's largest singular value grows much faster than it should; see `signs.Growth`."""
    if growth > limit:
        return (
            f"the largest singular value of {weight} has grown {growth:.3g} times as much as usual"
        )
    return ""


def diversity_gone(diversity: float, best: float, limit: float) -> str:
    """Samples that used to differ are alike.

    Args:
        diversity: diversity now; see `signs.Diversity`.
        best: the largest diversity of the run.
        limit: share of `best` below which it is gone.
    """
    if best >= DIVERSE and diversity < limit * best:
        return (
            f"the distance between samples is {diversity:.2g} of that between training images, "
            f"and was {best:.2g}"
        )
    return ""
