"""What the config in a checkpoint may call: a closed list of exact names.

A checkpoint is somebody else's file, so its config is read as a description and not as a program.
All of it is checked before anything that it names is imported.
"""

import importlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any

from ganzoo.config import CONF
from ganzoo.errors import UserError

# Parts of models and data. Every class here that a YAML file of `conf/` makes is on the list.
MODEL = ("ganzoo.models.", "ganzoo.nn.", "ganzoo.schedules.", "torch.optim.")
DATA = ("ganzoo.data.",)

# Classes on the list that are only made from the command line, or by import and export.
ALSO = {
    "ganzoo.nn.layers.NoDiscriminator",
    "ganzoo.models.cyclegan.PixelDiscriminator",
    "ganzoo.models.cyclegan.UNetGenerator",
    *(f"torch.optim.{name}" for name in ("Adadelta", "Adagrad", "AdamW", "Adamax", "NAdam")),
    *(f"torch.optim.{name}" for name in ("RAdam", "RMSprop", "SGD")),
}

# `get_method` returns a function without calling it; the functions that it may return.
GET_METHOD = "hydra.utils.get_method"
FUNCTIONS = frozenset(
    f"ganzoo.draws.{name}" for name in ("normal", "uniform", "bernoulli", "censored_normal")
)

# Trust is for packages of the user's own: these have functions that run commands.
NOT_OWN = {*sys.stdlib_module_names, "ganzoo", "hydra", "lightning", "omegaconf", "torch"}

DEEPEST = 50  # a config that refers to itself has no end


def check(path: str | Path, config: Any, rooms: Sequence[str], trust: Sequence[str] = ()) -> None:
    """Refuse a part of a checkpoint's config that calls anything but what `rooms` offer.

    Args:
        rooms: `MODEL` or `DATA`.
        trust: packages of the user's own, such as "mypackage", that it may be made of, too.

    Raises UserError: a name that is not on the list, or anything that is not plain data.
    """
    prefixes = tuple(_prefix(package) for package in trust)
    for name in list(_named(path, config, offered(tuple(rooms)), prefixes)):
        _check_own(path, name, prefixes)


@cache
def offered(rooms: tuple[str, ...]) -> frozenset[str]:
    """The names in these rooms that a checkpoint may call."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(CONF.rglob("*.yaml"))]
    named = {name for text in texts for name in re.findall(r"_target_: *([\w.]+)", text)}
    return frozenset(name for name in named | ALSO if name.startswith(rooms))


def _prefix(package: str) -> str:
    """`mypackage` or `mypackage.` -> `mypackage.`"""
    package = str(package).removesuffix(".")
    if not all(part.isidentifier() for part in package.split(".")):
        raise UserError(f"trust={package!r} is not the name of a package, such as mypackage.")
    if package.partition(".")[0] in NOT_OWN:
        raise UserError(
            f"{package} cannot be trusted as a whole, because parts of it can run commands: trust "
            f"only packages of your own."
        )
    return f"{package}."


def _named(
    path: str | Path, node: Any, listed: frozenset[str], prefixes: tuple[str, ...], depth: int = 0
) -> Iterator[str]:
    """The names in a config that only `prefixes` allow; `UserError` for what nothing allows."""
    if depth > DEEPEST:
        raise UserError(f"{path} is damaged or crafted: its config is nested without end.")
    if isinstance(node, str) and "${" in node:
        # Configs are written with their values in place, so that this can only hide a name.
        raise UserError(f"{path} is damaged or crafted: its config has an interpolation, {node}.")
    if type(node) in (str, int, float, bool, type(None)):
        return
    if type(node) in (list, tuple):
        for value in node:
            yield from _named(path, value, listed, prefixes, depth + 1)
        return
    if not isinstance(node, Mapping):
        raise UserError(
            f"{path} is damaged or crafted: its config holds a {type(node).__name__}, not only "
            f"numbers, text, lists and mappings."
        )
    for key, value in node.items():
        special = isinstance(key, str) and key.startswith("_")
        right = {"_target_": str, "_partial_": bool}.get(key) if special else None
        if special and type(value) is not right:
            raise UserError(f"{path} is damaged or crafted: its config has an entry {key}.")
        yield from _named(path, key, listed, prefixes, depth + 1)
        yield from _named(path, value, listed, prefixes, depth + 1)
    if "_target_" not in node:
        return
    target = node["_target_"]
    if target == GET_METHOD and {*node} == {"_target_", "path"}:
        target, listed = str(node["path"]), FUNCTIONS
    if target in listed:
        return
    if not target.startswith(prefixes):
        raise UserError(_refusal(path, target))
    yield target


def _refusal(path: str | Path, name: str) -> str:
    package = name.partition(".")[0]
    if package in NOT_OWN or not package.isidentifier():
        return (
            f"{path} wants to call {name}, which is not a part of models or data in this version "
            f"of ganzoo: it was written by another version, or crafted to harm; nothing was called."
        )
    return (
        f"{path} wants to call {name}, which is not part of ganzoo: if you know and trust its "
        f"author, add --trust {package} (ganzoo.evaluate: trust=[{package}]; in Python: "
        f'trust=["{package}"]).'
    )


def _check_own(path: str | Path, name: str, prefixes: tuple[str, ...]) -> None:
    """Refuse a name in a trusted package that leads out of it, such as `mypackage.os.system`."""
    module, _, attribute = name.rpartition(".")
    try:
        found = vars(importlib.import_module(module)).get(attribute)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} needs {name}, but Python finds no {error.name}: start in the folder that "
            f"contains the package, or install it."
        ) from error
    own = isclass(found) or isfunction(found)
    if not own or not f"{found.__module__}.".startswith(prefixes):
        raise UserError(
            f"{path} wants to call {name}, which is not a class or function defined in a package "
            f"that you trust."
        )
