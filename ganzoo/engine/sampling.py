"""What a seed stands for: its latents, its class, and how far latents are truncated."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError

Threshold = float | None  # largest magnitude of a latent; None: no limit


def check(thresholds: Sequence[Threshold]) -> None:
    """Raise `UserError` unless these are valid thresholds, at least one."""
    if not thresholds or any(t is not None and t <= 0 for t in thresholds):
        raise UserError("Thresholds of truncation are numbers above 0, or null for no limit.")


def threshold_name(threshold: Threshold) -> str:
    return "no limit" if threshold is None else f"{threshold:g}"


def batches_for(gan: GAN, asked: int | None, truncated: bool) -> int:
    """How many batches standing statistics are estimated from.

    `asked` if given. By default 16 when latents are truncated, because running statistics belong to
    latents without a limit; 0 otherwise, or if the generator stores statistics for truncations.
    """
    if asked is not None:
        return asked
    return 16 if truncated and not gan.stored_statistics else 0


@contextmanager
def statistics(
    gan: GAN, threshold: Threshold, batches: int, raw: bool = False
) -> Iterator[dict[str, int] | None]:
    """Inside, the generator uses standing statistics for a threshold, from batches of 64.

    Yields the entry for a metric's protocol; None if `batches` is 0 or there is no BatchNorm.
    """
    if not batches:
        yield None
        return
    with gan.standing(threshold, batches, 64, raw) as estimated:
        yield {"batches": batches, "size": 64} if estimated else None
