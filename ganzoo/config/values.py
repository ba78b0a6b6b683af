"""Whether the values of a config have the types that the code declares, and how to say so."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from ganzoo.errors import UserError


class Range(NamedTuple):
    """The smallest and the largest value of a number."""

    least: float
    most: float = math.inf

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"of at least {self.least:g}"
        return f"from {self.least:.10g} to {self.most:.10g}"


Count = Annotated[int, Range(1, 1_000_000)]  # more never ends
Side = Annotated[int, Range(1, 16_384)]  # in pixels; more fits into no memory
Sides = Side | Sequence[Side]  # of an image: one number, or [height, width]
Kimg = Annotated[float, Range(0, 1e9)]
Positive = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Layers = Annotated[int, Range(0, 1000)]
NotNegative = Annotated[float, Range(0)]
Workers = Annotated[int, Range(0, 256)]  # processes: more only stop a machine
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_call(called: Any, given: Mapping[str, Any], key: str) -> None:
    """Compare keys and values of a config with the parameters of the class that it makes.

    Raises UserError: an unknown name, or a value of another type; only where that is certain.
    """
    kinds, complete = parameters(called)
    for name, value in given.items():
        full = f"{key}.{name}" if key else name
        if name in kinds:
            check_value(full, value, kinds[name])
        elif complete:
            near = difflib.get_close_matches(name, kinds, 1)
            remedy = f"did you mean {near[0]}?" if near else f"it has {', '.join(kinds)}."
            raise UserError(f"{full} is not a key of {called.__name__}: {remedy}")


def check_value(key: str, value: Any, kind: Any) -> None:
    """Raise `UserError` naming `key` if `value` certainly is not of this type."""
    if not fits(value, kind):
        for part in (kind, *get_args(kind)):
            if get_origin(part) in (dict, Mapping) and isinstance(value, Mapping):
                for name, one in value.items():  # the wrong one
                    check_value(f"{key}.{name}", one, get_args(part)[1])
        raise UserError(f"{key} must be {described(kind)}, not {value!r}.")


def parameters(called: Any) -> tuple[dict[str, Any], bool]:
    """The types of parameters by name, and whether there can be no others.

    A class that passes `**options` on to its base class has the parameters of both.
    """
    kinds: dict[str, Any] = {}
    makers, own = [called], 0
    if inspect.isclass(called):
        makers = [vars(c)["__init__"] for c in called.__mro__ if "__init__" in vars(c)][:-1]
        own = 1  # self
    for maker in makers:
        try:
            signature = inspect.signature(maker)
            hints = get_type_hints(maker, include_extras=True)
        except (TypeError, ValueError, NameError):  # written in C, or types only for type checkers
            return kinds, False
        for name, parameter in list(signature.parameters.items())[own:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                kinds.setdefault(name, hints.get(name, Any))
        if all(p.kind != p.VAR_KEYWORD for p in signature.parameters.values()):
            return kinds, True
    return kinds, False


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of a config may be of a type; True where that is not certain."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any or (isinstance(value, Mapping) and "_target_" in value):
        return True
    if origin is Annotated:
        ranges = [extra for extra in args[1:] if isinstance(extra, Range)]
        return fits(value, args[0]) and all(r.least <= value <= r.most for r in ranges)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in args)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in args)
    if kind in (None, NoneType):
        return value is None
    if kind in PLAIN:
        # A bool is an int to Python, NaN a float, and "" what an unset variable of a shell leaves,
        # but nobody means them so.
        accepted = {float: (float, int)}.get(kind, (kind,))
        return type(value) in accepted and value == value and value != ""
    if origin in (list, Sequence, Iterable):
        return _is_list(value) and all(fits(v, args[0]) for v in value)
    if origin is tuple and args[-1:] != (...,):
        return _is_list(value) and len(value) == len(args) and all(map(fits, value, args))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(v, args[1]) for v in value.values())
    if kind is Path:
        return isinstance(value, str)
    made = inspect.isclass(kind) and kind.__module__.split(".")[0] in ("ganzoo", "torch")
    if origin is Callable or (made and kind.__name__ not in ("device", "dtype")):
        # Only a config with _target_ makes an object.
        return not isinstance(value, str | float | int | Sequence | Mapping | NoneType)
    return True


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def described(kind: Any) -> str:
    """A type in words, such as "a whole number or null"."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return " ".join([described(args[0]), *(str(r) for r in args[1:] if isinstance(r, Range))])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(described, args)))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if kind in (None, NoneType):
        return "null"
    if kind in PLAIN or kind is Path:
        return PLAIN.get(kind, "a path")
    if origin in (list, tuple, Sequence, Iterable):
        return f"a list ({', '.join(described(a) for a in args if a is not ...)})"
    if origin in (dict, Mapping):
        return f"a mapping to {described(args[1])}"
    return "a config with _target_"


# The keys at the top of `conf/train.yaml` and `conf/evaluate.yaml`, which no class declares.
TRAIN: dict[str, Any] = {
    "seed": Seed,
    "total_kimg": Kimg,
    "batch_size": Count,
    "image_size": Sides,
    "channels": Count,
    "precision": str,
    "tf32": bool,
    "sync_batchnorm": bool,
    "init_from": str | None,
    "dry": bool,
    "trainer": Mapping[str, Any],
    "run_dir": str,
}
EVALUATE: dict[str, Any] = {
    "ckpt": str | None,
    "raw": bool,
    "truncation": NotNegative | None,
    "standing": Natural | None,
    "truncations": Sequence[float | None] | None,
    "fake": str | None,
    "real": str | None,
    "out": str | None,
    "device": str,
    "trust": Sequence[str],
    "image_size": Sides | None,
    "channels": Count | None,
    "batch_size": Count,
    "seed": Seed,
}
