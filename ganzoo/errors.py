"""The one error that is meant for the user, and how names are written in its sentences."""

from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can fix: one sentence saying what is wrong and what to do.

    Commands print it without a traceback and exit with code 1.
    """


class NotFinite(UserError):
    """A loss, a gradient or another number of training became NaN or infinite."""


class WrongUsage(UserError):
    """A command line that cannot be meant; commands exit with code 2."""


class AnotherRun(UserError):
    """The run folder belongs to another run, and is left unchanged."""


def check_choice(key: str, value: object, choices: Sequence[object]) -> None:
    """Raises UserError naming `key` and the choices if `value` is not one of them."""
    if value not in choices:
        offered = ", ".join(map(str, choices))
        raise UserError(f"{key} must be one of {offered}, not {value}.")


def first(names: Sequence[str], count: int = 5) -> str:
    """The first of many names, for a sentence."""
    listed = ", ".join(shown(name) for name in names[:count])
    return listed + (", ..." if len(names) > count else "")


def shown(name: str) -> str:
    """A file name that can be printed: invalid text as \\x.., line ends as \\n."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
