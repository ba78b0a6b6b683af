"""When callbacks act, and how their files are named."""

import math

from ganzoo.engine.gan import GAN
from ganzoo.schedules.images import crossed


def due(gan: GAN, every_kimg: float | None) -> bool:
    """Whether the last iteration crossed a multiple of a period; None for the model's own."""
    every = gan.tick_kimg(gan.images_before) if every_kimg is None else every_kimg
    return crossed(gan.images_before, gan.images_seen, every)


MOST = 1000  # pictures that a callback leaves in a run folder


def picture_period(gan: GAN, every_kimg: float | None) -> float | None:
    """A period of pictures such that a run leaves at most `MOST`; None for the model's own."""
    if not every_kimg:
        return every_kimg
    return every_kimg * max(1, math.ceil(gan.total_images / 1000 / every_kimg / MOST))


def picture_name(gan: GAN, every_kimg: float | None) -> str:
    """`kimg_name` of files that are written at this period, by the clock of the model."""
    own = {gan.tick_kimg(gan.total_images * i // 100) for i in range(101)}
    periods = own if every_kimg is None else {every_kimg}
    return kimg_name(gan.images_seen, *periods, gan.total_images / 1000)


def kimg_name(images_seen: int, *periods: float) -> str:
    """Thousands of images, padded with zeros so that names sort; with decimals if periods have."""
    kimg = images_seen / 1000
    whole = all(float(period).is_integer() for period in periods)
    return f"{kimg:06.0f}" if whole else f"{kimg:010.3f}"
