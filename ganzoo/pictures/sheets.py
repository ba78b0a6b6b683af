"""Sheets of generated images: classes, truncation thresholds, walks between seeds and classes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds
from ganzoo.engine.sampling import Threshold, threshold_name
from ganzoo.errors import UserError


def class_sheet(
    gan: FromSeeds,
    classes: Sequence[int],
    seeds: Sequence[int],
    truncation: Threshold = None,
    raw: bool = False,
) -> dict[str, Tensor]:
    """Images [len(seeds), C, H, W] of each class by its name, all from the same seeds."""
    return {
        class_name(gan, label): gan.sample(seeds, label=label, truncation=truncation, raw=raw)
        for label in classes
    }


def class_name(gan: GAN, label: int) -> str:
    """The number of a class and its name, shortened to fit on a picture; names may be unknown."""
    if gan.class_names is None or label >= len(gan.class_names):
        return str(label)
    name = gan.class_names[label].partition(",")[0]
    return f"{label} {name[:20]}"


def truncations(
    gan: FromSeeds,
    seeds: Sequence[int],
    thresholds: Sequence[Threshold],
    label: int | None = None,
    raw: bool = False,
    batches: int = 16,
) -> dict[str, Tensor]:
    """Images [len(seeds), C, H, W] at each threshold by its name, all from the same seeds.

    Standing statistics are estimated for each threshold from `batches` batches.
    """
    made = {}
    for threshold in thresholds:
        with gan.standing_statistics(threshold, batches, raw=raw):
            images = gan.sample(seeds, label=label, truncation=threshold, raw=raw)
        made[threshold_name(threshold)] = images
    return made


def walk(
    gan: FromSeeds,
    seeds: Sequence[int],
    frames: int,
    truncation: Threshold = None,
    raw: bool = False,
    label: int | None = None,
) -> Tensor:
    """Images on the way from each seed to the next, and from the last back to the first.

    The latents follow the great circle, which keeps them as long as a Gaussian's (White 2016).
    Returns [len(seeds) * frames, C, H, W] in [-1, 1], all of one class if there are classes.
    """
    ends = gan.latents(seeds, truncation)
    t = torch.arange(frames, device=ends.device, dtype=ends.dtype) / frames
    legs = [slerp(a, b, t) for a, b in zip(ends, ends.roll(-1, 0), strict=True)]
    return torch.cat(
        [gan.images(leg, raw, label, truncation) for leg in tqdm(legs, unit=" legs", disable=None)]
    )


def morph(
    gan: FromSeeds,
    classes: Sequence[int],
    seeds: Sequence[int],
    frames: int,
    truncation: Threshold = None,
    raw: bool = False,
    loop: bool = False,
) -> Tensor:
    """Images of each seed on the way from class to class, [len(seeds), steps, C, H, W].

    The latents stay fixed while the class embeddings are interpolated linearly (Brock et al. 2019,
    figure 8).

    Args:
        frames: images from one class to the next.
        loop: continue from the last class to the first. Otherwise the last class is one more step.
    """
    z = gan.latents(seeds, truncation)
    ends = gan.class_embeddings(torch.tensor(classes, device=z.device), raw)
    if ends is None:
        raise UserError(f"{type(gan).__name__} has no classes to interpolate between.")
    t = torch.arange(frames, device=ends.device, dtype=ends.dtype)[:, None] / frames
    legs = [torch.lerp(a, b, t) for a, b in zip(ends, ends.roll(-1, 0), strict=True)]
    way = torch.cat(legs) if loop else torch.cat([*legs[:-1], ends[-1:]])
    made = [
        gan.images(row.expand(len(way), -1), raw, way, truncation)
        for row in tqdm(z, unit=" seeds", disable=None)
    ]
    return torch.stack(made)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation from vector a [D] to b [D] at the positions t [T] in [0, 1]: [T, D].

    (sin((1 - t) w) a + sin(t w) b) / sin(w), where w is the angle between a and b.
    """
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    t = t[:, None]
    if angle.sin() < 1e-6:  # parallel or opposite: no great circle is defined, so go straight
        return torch.lerp(a.expand(len(t), -1), b.expand(len(t), -1), t)
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
