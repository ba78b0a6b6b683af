"""When callbacks act, and how their files are named."""

from ganzoo.engine.gan import GAN
from ganzoo.schedules.images import crossed


def due(gan: GAN, every_kimg: float | None) -> bool:
    """Whether the last iteration crossed a multiple of a period; None for the model's own period.

    Periods are in thousands of images, so a resumed run does everything at the same moments as an
    uninterrupted one.
    """
    every = gan.tick_kimg(gan.images_before) if every_kimg is None else every_kimg
    return crossed(gan.images_before, gan.images_seen, every)


def kimg_name(images_seen: int, *periods: float | None) -> str:
    """Thousands of images, padded with zeros so that names sort; with decimals if needed.

    Args:
        images_seen: images seen so far.
        periods: the periods, in thousands of images, at which names are given; None for the
            model's own, which is an integer.
    """
    kimg = images_seen / 1000
    whole = all(p is None or float(p).is_integer() for p in periods)
    return f"{kimg:06.0f}" if whole else f"{kimg:010.3f}"
