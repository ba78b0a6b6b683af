"""What may be told of a run to everybody: its config without places and names, its scores."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ganzoo.errors import UserError

PLACES = ("root", "path", "data_files")  # keys of data whose values are somebody's folders
USUAL = (None, "data")  # but not these
KEYS = ("image_size", "channels", "batch_size", "total_kimg", "seed", "precision")  # of the config


def public(config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config with another model's part, without all that says where or whose it was.

    Raises:
        UserError: a path in the model's part, which is needed to load it.
    """
    for key, text in _texts(model):
        if text.startswith(("/", "~", "\\\\")) or text[1:3] in (":\\", ":/"):
            raise UserError(f"model.{key} has a path, {text}: the model would not load elsewhere.")
    kept = {key: config[key] for key in KEYS if key in config}
    if "data" in config and not _has_place(config["data"]):
        kept["data"] = config["data"]
    return {"model": dict(model), **kept}


def data_of(config: Mapping[str, Any]) -> tuple[str, bool]:
    """The class of the images that a run is trained on, and whether their name may be told."""
    data = config.get("data") or {}
    source = data.get("source") or {}
    target = source.get("_target_") or (data.get("a") or {}).get("_target_") or "Unknown"
    return str(target).rpartition(".")[2], not _has_place(data)


def _has_place(node: Any) -> bool:
    if isinstance(node, list | tuple):
        return any(map(_has_place, node))
    if not isinstance(node, Mapping):
        return False
    return any(
        (key in PLACES and value not in USUAL) or _has_place(value) for key, value in node.items()
    )


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All text in nested mappings and lists, with its dotted key."""
    if isinstance(node, str):
        yield key, node
    items: Any = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    for name, value in items:
        yield from _texts(value, f"{key}.{name}" if key else str(name))


def recipe(config: Mapping[str, Any], images_seen: int) -> dict[str, str]:
    """The rows of a card on how a model was trained."""
    model = config["model"]
    found = {
        "Data": data_of(config)[0],
        "Length": f"{images_seen / 1000:g} kimg (thousands of images shown to the discriminator)",
        "Batch size": config.get("batch_size"),
        "Discriminator steps per generator step": model.get("discriminator_steps"),
        "Loss": _class_of(model.get("loss")),
        "Augmentation": _class_of(model.get("augment")),
        "Seed": config.get("seed"),
    }
    for name, optimizer in (model.get("optimizers") or {}).items():
        options = ", ".join(
            f"{key} {optimizer[key]}" for key in ("lr", "betas", "eps") if key in optimizer
        )
        found[f"Optimizer of {name}"] = f"{_class_of(optimizer)}, {options}"
    found["Hardware"] = "not stated yet"
    return {key: str(value) for key, value in found.items() if value is not None}


def _class_of(node: Any) -> str | None:
    """The class that a part of a config makes."""
    if not isinstance(node, Mapping):
        return None
    return str(node.get("_target_", "")).rpartition(".")[2]


def scores(
    checkpoint: Path, images_seen: int, which: str, name: str = ""
) -> Iterator[dict[str, Any]]:
    """Scores of exactly these weights: `values`, `floors` and `protocol`, once for each protocol.

    Args:
        checkpoint: the checkpoint. `ganzoo.evaluate` writes its scores next to it; the run's own
            are in `metrics.json`.
        images_seen: its clock; scores of other moments are of other weights.
        which: "average" or "raw", the generator that is shared.
        name: what to call the data instead of its name; empty to keep that.
    """
    evaluated = checkpoint.with_name(f"{checkpoint.stem}.metrics.json")
    seen: list[Any] = []  # protocols
    for found in _of_evaluate(evaluated), _of_run(checkpoint.with_name("metrics.json")):
        for entry in found:
            protocol = entry["protocol"]
            parts = [protocol] if "real" in protocol else list(protocol.values())
            generators = {part["fake"].get("generator") for part in parts}
            fits = entry["images_seen"] == images_seen and generators == {which}
            if fits and protocol not in seen:
                seen.append(protocol)
                kept = {key: entry.get(key, {}) for key in ("values", "floors")}
                yield {**kept, "protocol": _renamed(protocol, name)}


def _renamed(protocol: dict[str, Any], name: str) -> dict[str, Any]:
    """A protocol with another name of the data."""
    if not name:
        return protocol
    if "real" not in protocol:
        return {direction: _renamed(part, name) for direction, part in protocol.items()}
    fake = {**protocol["fake"], **({"inputs": name} if "inputs" in protocol["fake"] else {})}
    return {**protocol, "real": {**protocol["real"], "data": name}, "fake": fake}


def _of_evaluate(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text())
        return [{**entry, "images_seen": entry["subject"]["images_seen"]} for entry in entries]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _of_run(path: Path) -> list[dict[str, Any]]:
    try:
        file = json.loads(path.read_text())
        protocols = file["protocols"]
        return [{**e, "protocol": protocols[e["protocol"]]} for e in file["evaluations"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({type(error).__name__}: {error}): move it elsewhere.")
