"""Names of earlier versions, and what they are now: on command lines, and in checkpoints."""

from collections.abc import Iterable
from typing import Any

from ganzoo.errors import WrongUsage

RENAMED = {
    "data.source.root": "data.root",
    "data.classes": "data.only",
    "metrics.metrics": "metrics.scores",
    "metrics.extractor": "metrics.network",
    "metrics/extractor": "metrics/network",
    "callbacks.evaluate": "callbacks.metrics",
    "sweep": "truncations",
}


def check_names(keys: Iterable[str], own_data: bool = False) -> None:
    """Raise `WrongUsage` with today's name of a key that is now called something else.

    `own_data`: the data may be the user's own, whose config may have its root in `source`.
    """
    for key in keys:
        for old, new in RENAMED.items():
            own = own_data and old == "data.source.root"
            if (key == old or key.startswith(f"{old}.")) and not own:
                raise WrongUsage(f"{key} is now {new}{key.removeprefix(old)}.")


def rename_stored(config: Any) -> None:
    """Rename what matters in the config of a checkpoint when it is read.

    That is only `data.classes`: paths are stored with their values, and the rest is of a run.
    """
    data = config.get("data", {}) if isinstance(config, dict) else {}
    if isinstance(data, dict) and data.get("_target_") == "ganzoo.data.ImageData":
        data.update(only=data.pop("classes", data.get("only")))
