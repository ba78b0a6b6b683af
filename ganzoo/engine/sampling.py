"""What a seed stands for: its latents, its class, and how latents are truncated.

A seed's latents and class depend on that seed alone, so its image is the same in every batch.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ganzoo.draws import Sampler, from_seeds, integers, unit
from ganzoo.errors import UserError

Threshold = float | None  # largest magnitude of a latent; None: no limit

# A way to truncate latents: threshold -> the magnitude beyond which a value is drawn again (None:
# no limit), and the factor that all values are multiplied by.
Truncate = Callable[[float], tuple[Threshold, float]]

TRUNCATIONS: dict[str, Truncate] = {
    "resample": lambda threshold: (threshold, 1.0),  # Brock et al. 2019, section 3.1
    "truncated_normal": lambda threshold: (2.0, threshold),  # the published BigGAN weights
    "scale": lambda threshold: (None, threshold),  # the authors' PyTorch code
}

CLASS_SEEDS = 2**32  # added to a seed, so that its class does not depend on its latents' numbers
LEAST_LIMIT = 0.01  # for latents that are drawn again: about 1 of 125 is smaller than that


# -- seeds ----------------------------------------------------------------------------------------


def latents_of(
    seeds: Sequence[int],
    nz: int,
    prior: Sampler,
    threshold: Threshold = None,
    truncate: Truncate = TRUNCATIONS["resample"],
) -> Tensor:
    """One latent vector per seed, [len(seeds), nz], truncated unless the threshold is None."""
    limit, factor = None, 1.0
    if threshold is not None:
        if not 0 < threshold < math.inf:  # NaN, too
            raise UserError(f"A truncation of {threshold} is no limit: use a number above 0.")
        limit, factor = truncate(threshold)
        if limit is not None and limit < LEAST_LIMIT:
            raise UserError(
                f"With a truncation of {threshold}, nearly all latents would be drawn again, "
                f"practically forever: use at least {LEAST_LIMIT}."
            )
    return from_seeds(seeds, (nz,), prior, limit) * factor


def uniform_classes(seeds: Sequence[int], classes: int) -> Tensor:
    """One class per seed, int64 [len(seeds)], all equally likely."""
    return from_seeds([seed + CLASS_SEEDS for seed in seeds], (), integers(classes)).long()


def shared_classes(seeds: Sequence[int], shares: Tensor) -> Tensor:
    """One class per seed, int64 [len(seeds)], as likely as its share of the images, [classes]."""
    u = from_seeds([seed + CLASS_SEEDS for seed in seeds], (), unit)
    bounds = shares.double().cumsum(0).cpu()
    return torch.searchsorted(bounds, u.double() * bounds[-1], right=True)


# -- classes --------------------------------------------------------------------------------------


def checked_classes(labels: int | Tensor | None, n: int, classes: int) -> Tensor | None:
    """The classes of n images, int64 [n]; None for a model without classes.

    `labels` is one class for all images, or int64 [n], or None for the first class. Raises
    `UserError` if the model has no such class, or no classes at all.
    """
    if not classes:
        if labels is not None:
            raise UserError("This model has no classes: sample without a label.")
        return None
    y = torch.as_tensor(0 if labels is None else labels)
    if len(outside := y[(y < 0) | (y >= classes)]):
        raise UserError(
            f"There is no class {int(outside[0])}: this model has {classes}, from 0 to "
            f"{classes - 1}."
        )
    return y.expand(n)


def class_counts(
    labels: Tensor | None, names: Sequence[str] | None, classes: int, key: str = "model.classes"
) -> Tensor:
    """How many training images each class of the model has, float64 [classes].

    `labels` are of all images, `names` of the data's classes, if there are any; the config key
    `key` sets `classes`. Raises `UserError` if the data has no labels, another number of classes,
    or images of only one class.
    """
    without = f"or train without classes: {key}=0"
    if labels is None:
        raise UserError(
            f"The model has {classes} classes, but the data has no labels: choose data with labels "
            f"(a folder has labels if each image lies in a folder of its class), {without}."
        )
    found = len(names) if names is not None else int(labels.max()) + 1
    if found != classes:
        raise UserError(
            f"The data has {found} classes, but the model has {classes}: set {key}={found}."
        )
    counts = torch.bincount(labels, minlength=classes).double()
    if (counts > 0).sum() < 2:
        name = repr(names[int(counts.argmax())]) if names else "one"
        raise UserError(
            f"All images are of one class, {name}: if classes are folders, set data.root to "
            f"the folder above them, {without}."
        )
    return counts


# -- truncation -----------------------------------------------------------------------------------


def check(thresholds: Sequence[Threshold]) -> None:
    """Raise `UserError` unless these are valid thresholds, at least one."""
    if not thresholds or any(t is not None and not 0 < t < math.inf for t in thresholds):
        raise UserError("Thresholds of truncation are numbers above 0, or null for no limit.")


def threshold_name(threshold: Threshold) -> str:
    return "no limit" if threshold is None else f"{threshold:g}"
