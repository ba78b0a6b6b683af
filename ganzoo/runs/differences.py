"""What differs between runs: as few keys of their configs as say it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ganzoo.runs.folder import Run
from ganzoo.runs.names import endings

# Keys that make no other run of it, and what begins with them.
IGNORED = ("run_dir", "sweep_dir", "logger", "dry", "data.workers", "data.source.download",
           "data.source.unpack")  # fmt: skip
CHOICES = ("model", "data", "experiment")
NONE = "-"  # where a run has no such key


def read_config(run_dir: Path) -> dict[str, Any]:
    """The config of a run, keys joined by dots; empty where there is none that can be read."""
    try:
        told = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    except Exception:  # YAML's errors have no common base, and `Run.problems` tells of the file
        return {}
    return flatten(told) if isinstance(told, dict) else {}


def flatten(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, name + ".") if isinstance(value, dict) else {name: value}
    return flat


def differences(runs: Sequence[Run], configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each run the values, as text, of the keys that tell the runs apart.

    Of keys that always differ together only one is named: the one given on the command line, or the
    one that others are derived from, as `data.seed` is from `seed`. What a choice such as
    `loss=hinge` brings along goes by the name of the choice, where the runs tell what was chosen.

    Args:
        configs: of the runs, flat; an empty one says nothing.
    """
    given = [_given(run) for run in runs]
    places = [place for place, config in enumerate(configs) if config]
    known = [configs[place] for place in places]
    leaves = {key for config in known for key in config}
    columns = {
        key: tuple(_text(config[key]) if key in config else NONE for config in known)
        for key in sorted(leaves)
        if not _ignored(key, known)
    }
    columns = {key: column for key, column in columns.items() if len(set(column)) > 1}
    asked = {key for some in given for key in some}
    explicit = asked & columns.keys()
    kept = {k: c for k, c in columns.items() if not _derived(k, columns, explicit)}

    names = [*CHOICES, *sorted(asked - leaves - {*CHOICES})]
    choices = {name: tuple(given[place].get(name, NONE) for place in places) for name in names}
    choices = {name: column for name, column in choices.items() if len(set(column)) > 1}
    free = {key: column for key, column in kept.items() if key not in explicit}
    explained = {key for key, column in free.items() if _decided(column, choices.values())}
    for name in list(choices):  # only those that explain something
        others = [column for other, column in choices.items() if other != name]
        if all(_decided(kept[key], others) for key in explained):
            del choices[name]
    # Objects of different classes have no keys in common to speak of.
    explained |= {
        key for key, column in free.items() if _decided(column, _classes(key, kept).values())
    }
    columns = {**choices, **{k: c for k, c in kept.items() if k not in explained}}
    first = sorted(columns, key=lambda k: (k not in choices, k not in explicit, k.count("."), k))
    return [
        {key: columns[key][places.index(place)] for key in first} if place in places else {}
        for place in range(len(runs))
    ]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The ends of keys, as much of each as tells them apart, without `_target_`."""
    return dict(zip(keys, endings([key.removesuffix("._target_") for key in keys]), strict=True))


def _given(run: Run) -> dict[str, str]:
    """What was given on the command line and what was chosen, by key."""
    told = {name: str(run.about[name]) for name in CHOICES if run.about.get(name)}
    keys = run.about.get("keys")
    for override in keys if isinstance(keys, list) else []:
        key, _, value = str(override).partition("=")
        told[key.lstrip("+~").partition("@")[0]] = value
    return {key: value for key, value in told.items() if not _ignored(key, [])}


def _ignored(key: str, configs: Sequence[Mapping[str, Any]]) -> bool:
    if any(key == name or key.startswith(f"{name}.") for name in IGNORED):
        return True
    # A path in the run folder differs because the folder does.
    pairs = [(str(c.get(key)), c.get("run_dir")) for c in configs]
    return any(run_dir and f"{value}/".startswith(f"{run_dir}/") for value, run_dir in pairs)


def _derived(key: str, columns: Mapping[str, tuple[str, ...]], explicit: set[str]) -> bool:
    """Whether another key that differs alike says it."""
    if key in explicit:
        return False
    for other, column in columns.items():
        if other == key or column != columns[key]:
            continue
        first = (other.count("."), other) < (key.count("."), key)
        same = other.rpartition(".")[2] == key.rpartition(".")[2]
        # Numbers may be alike by chance, names of classes are not.
        names = not any(re.fullmatch(r"[-+.e\d]+|true|false|null", text) for text in column)
        if other in explicit or (first and (same or names)):
            return True
    return False


def _classes(key: str, columns: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The classes of the objects that a key is of, where they differ."""
    parts = key.split(".")
    owners = [".".join([*parts[:count], "_target_"]) for count in range(1, len(parts))]
    return {owner: columns[owner] for owner in owners if owner in columns and owner != key}


def _decided(column: Sequence[str], by: Iterable[Sequence[str]]) -> bool:
    """Whether runs that are alike in `by` are so in `column`."""
    by = list(by)
    if not by:
        return False
    seen: dict[tuple[str, ...], str] = {}
    return all(
        seen.setdefault(key, value) == value
        for key, value in zip(zip(*by, strict=True), column, strict=True)
    )


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value)
