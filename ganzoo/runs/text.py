"""Numbers and counts of runs as text, for tables and leaderboards."""

import math
from collections import Counter
from collections.abc import Sequence

from ganzoo.runs.folder import Run
from ganzoo.runs.state import STATES


def kimg(images: float | None) -> str:
    """Thousands of images, such as `12.5`, or `?`."""
    if images is None:
        return "?"
    return f"{images:.1f}".removesuffix(".0") if images >= 1 else f"{images:.3g}"


def duration(seconds: float | None) -> str:
    """A time span such as `2:05:00` or `3 d 4 h`; empty if unknown."""
    if seconds is None:
        return ""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h} h" if days else f"{h}:{m:02}:{s:02}"


def speed(images_per_second: float | None) -> str:
    """Images per second in three digits; empty if unknown."""
    if images_per_second is None:
        return ""
    return f"{images_per_second:.3g}" if images_per_second < 1000 else f"{images_per_second:.0f}"


def best(run: Run) -> str:
    """The best value by each protocol, such as `12.3 fid @ 40`; empty if there is none."""
    known = [score for score in run.scores if not math.isnan(score.best)]
    return "; ".join(f"{s.best:.4g} {s.metric} @ {kimg(s.at_kimg)}" for s in known)


def counts(runs: Sequence[Run]) -> str:
    """How many runs are in each state, such as `1 running, 3 done, 1 failed`."""
    found = Counter(run.state or "unknown" for run in runs)
    return ", ".join(f"{found[state]} {state}" for state in (*STATES, "unknown") if found[state])


def cut(text: str, width: int) -> str:
    """A text without its middle, if it is longer than `width`: names often differ at their end."""
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def endings(keys: list[str]) -> list[str]:
    """For each dotted key its shortest ending that no other key has."""

    def ending(key: str) -> str:
        parts = key.split(".")
        for count in range(1, len(parts)):
            short = ".".join(parts[-count:])
            if sum(f".{other}".endswith(f".{short}") for other in set(keys)) == 1:
                return short
        return key

    return [ending(key) for key in keys]
