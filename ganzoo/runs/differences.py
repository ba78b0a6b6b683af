"""In which of the given keys runs differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ganzoo.runs.folder import Run
from ganzoo.runs.text import endings

# Keys, and everything below them, that do not change what a run learns.
IGNORED = ("run_dir", "sweep_dir", "logger", "dry", "data.workers", "data.source.download",
           "data.source.unpack", "callbacks.pruning")  # fmt: skip
CHOICES = ("model", "data", "experiment")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: a tenth of the time of OmegaConf's
NONE = "-"  # the value of a key that a run does not have


def read_config(run_dir: Path) -> dict[str, Any]:
    """The config of a run, its keys joined by dots; empty if it cannot be read."""
    try:
        config = yaml.load((run_dir / "config.yaml").read_text(encoding="utf-8"), LOADER)
    except Exception:  # YAML's errors have no common base, and `Run.problems` names the file
        return {}
    return flatten(config) if isinstance(config, dict) else {}


def flatten(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, name + ".") if isinstance(value, dict) else {name: value}
    return flat


def differences(runs: Sequence[Run], configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each run the values, as text, of the given keys in which the runs differ.

    A key counts if it was given on the command line of any run; runs that were not given it have
    the value of their config, which is flat, and empty if unknown.
    """
    given = [_given(run) for run in runs]
    keys = dict.fromkeys([*CHOICES, *sorted({key for some in given for key in some})])
    values = {
        key: [
            as_text(config[key]) if key in config else some.get(key, NONE)
            for some, config in zip(given, configs, strict=True)
        ]
        for key in keys
    }
    differing = {key: column for key, column in values.items() if len(set(column)) > 1}
    return [{key: column[i] for key, column in differing.items()} for i in range(len(runs))]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest endings of keys that still differ from each other."""
    return dict(zip(keys, endings(list(keys)), strict=True))


def _given(run: Run) -> dict[str, str]:
    """The keys on the command line of a run, and its choices of model, data and experiment."""
    found = {name: str(run.about[name]) for name in CHOICES if run.about.get(name)}
    keys = run.about.get("keys")
    for override in keys if isinstance(keys, list) else []:
        key, _, value = str(override).partition("=")
        found[key.lstrip("+~").partition("@")[0]] = value
    return {key: value for key, value in found.items() if not ignored(key)}


def ignored(key: str) -> bool:
    """Whether a key does not change what a run learns."""
    return any(key == name or key.startswith(f"{name}.") for name in IGNORED)


def as_text(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_text, value))}]"
    return str(value)
