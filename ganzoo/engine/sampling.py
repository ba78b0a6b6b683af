"""Images of a model side by side: classes, thresholds, ways from one to another."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError

Threshold = float | None  # of truncation; None: no limit


def class_sheet(
    gan: GAN,
    classes: Sequence[int],
    seeds: Sequence[int],
    truncation: Threshold = None,
    raw: bool = False,
) -> dict[str, Tensor]:
    """Images [len(seeds), C, H, W] of each class by its name, of the same seeds."""
    return {
        class_name(gan, label): gan.sample(seeds, label=label, truncation=truncation, raw=raw)
        for label in classes
    }


def class_name(gan: GAN, label: int) -> str:
    """What a class is called, shortened where that is long; its number where it has no name."""
    if gan.class_names is None or label >= len(gan.class_names):
        return str(label)
    name = gan.class_names[label].partition(",")[0]
    return f"{label} {name[:20]}"


def truncations(
    gan: GAN,
    seeds: Sequence[int],
    thresholds: Sequence[Threshold],
    label: int | None = None,
    raw: bool = False,
    batches: int = 16,
) -> dict[str, Tensor]:
    """Images [len(seeds), C, H, W] of the same seeds at each threshold, by its name.

    `batches` are those of standing statistics, which each threshold has its own of.
    """
    made = {}
    for threshold in thresholds:
        with statistics(gan, threshold, batches, raw):
            images = gan.sample(seeds, label=label, truncation=threshold, raw=raw)
        made[threshold_name(threshold)] = images
    return made


def check(thresholds: Sequence[Threshold]) -> None:
    """Raise `UserError` unless these are thresholds, at least one."""
    if not thresholds or any(t is not None and t <= 0 for t in thresholds):
        raise UserError("Thresholds of truncation are numbers above 0, or null for no limit.")


def threshold_name(threshold: Threshold) -> str:
    return "no limit" if threshold is None else f"{threshold:g}"


def batches_for(gan: GAN, asked: int | None, truncated: bool) -> int:
    """Batches for standing statistics: as asked for; None: 16 where latents are limited, if the
    generator has no statistics for that already, else 0.
    """
    if asked is not None:
        return asked
    return 16 if truncated and not gan.stored_statistics else 0


@contextmanager
def statistics(
    gan: GAN, threshold: Threshold, batches: int, raw: bool = False
) -> Iterator[dict[str, int] | None]:
    """Inside, the generator has standing statistics for a threshold, of so many batches of 64.

    Yields what a protocol says of them: None where `batches` is 0 or there are no such statistics.
    """
    if not batches:
        yield None
        return
    with gan.standing(threshold, batches, 64, raw) as estimated:
        yield {"batches": batches, "size": 64} if estimated else None


# -- ways ------------------------------------------------------------------------------------------


def walk(
    gan: GAN,
    seeds: Sequence[int],
    frames: int,
    truncation: Threshold = None,
    raw: bool = False,
    label: int | None = None,
) -> Tensor:
    """Images on the way from each seed to the next and from the last to the first.

    The way is the great circle between latents, as suits a Gaussian (White 2016): [len(seeds) *
    frames, C, H, W] in [-1, 1], all of one class where there are classes.
    """
    ends = gan.latents(seeds, truncation)
    t = torch.arange(frames, device=ends.device, dtype=ends.dtype) / frames
    legs = [slerp(a, b, t) for a, b in zip(ends, ends.roll(-1, 0), strict=True)]
    return torch.cat(
        [gan.images(leg, raw, label, truncation) for leg in tqdm(legs, unit=" legs", disable=None)]
    )


def morph(
    gan: GAN,
    classes: Sequence[int],
    seeds: Sequence[int],
    frames: int,
    truncation: Threshold = None,
    raw: bool = False,
    loop: bool = False,
) -> Tensor:
    """Images of each seed on the way from class to class, [len(seeds), steps, C, H, W].

    Latents stay, and the vectors of classes are interpolated evenly (Brock et al. 2019, figure 8).

    Args:
        frames: from one class to the next.
        loop: and from the last class to the first, which is not repeated at the end; otherwise the
            last class is, so there is one step more.
    """
    z = gan.latents(seeds, truncation)
    ends = gan.class_vectors(torch.tensor(classes, device=z.device), raw)
    t = torch.arange(frames, device=ends.device, dtype=ends.dtype)[:, None] / frames
    legs = [torch.lerp(a, b, t) for a, b in zip(ends, ends.roll(-1, 0), strict=True)]
    way = torch.cat(legs) if loop else torch.cat([*legs[:-1], ends[-1:]])
    made = [
        gan.images(row.expand(len(way), -1), raw, way, truncation)
        for row in tqdm(z, unit=" seeds", disable=None)
    ]
    return torch.stack(made)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation of two vectors [D] at the shares t [T] of the way: [T, D]."""
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    t = t[:, None]
    if angle.sin() < 1e-6:  # the same direction, or opposite ones: no great circle is told apart
        return torch.lerp(a.expand(len(t), -1), b.expand(len(t), -1), t)
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
