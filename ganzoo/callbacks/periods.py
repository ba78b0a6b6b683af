"""When callbacks act, and how their files are named."""

from ganzoo.engine.gan import GAN
from ganzoo.schedules.images import crossed


def due(gan: GAN, every_kimg: float | None) -> bool:
    """Whether the last iteration crossed a multiple of a period, None for the model's own."""
    every = gan.tick_kimg(gan.images_before) if every_kimg is None else every_kimg
    return crossed(gan.images_before, gan.images_seen, every)


def kimg_name(images_seen: int, *periods: float | None) -> str:
    """Thousands of images, zero-padded so that names sort; with decimals if one of `periods` has.

    The periods, in thousands of images, are those at which names are given; those of a model are
    whole.
    """
    kimg = images_seen / 1000
    whole = all(p is None or float(p).is_integer() for p in periods)
    return f"{kimg:06.0f}" if whole else f"{kimg:010.3f}"
