"""Files that are written completely or not at all, and their checksums."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ganzoo.errors import UserError

REMEDY = "Check its permissions and the free space on the disk."


@contextmanager
def whole(path: Path, remedy: str = REMEDY) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the place of `path` at the end.

    A reader never sees half a file: if writing fails, the temporary file is deleted, and whatever
    was at `path` is unchanged.

    Raises UserError: the file cannot be written, for example because the disk is full.
    """
    if path.exists() and not path.is_file():  # such as a folder, or /dev/null
        raise UserError(f"{path} is not a regular file, and is left unchanged. {remedy}")
    partial = path.with_name(path.name + ".partial")
    while partial.is_dir():  # somebody else's
        partial = partial.with_name(partial.name + "_")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())  # a crash of the machine must not leave an empty file
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if cause := _disk_error(error):
            raise UserError(f"{path} could not be written ({reason(cause)}). {remedy}") from error
        raise


def write_whole(path: Path, content: str | bytes, remedy: str = REMEDY) -> None:
    """Write a file completely or not at all; text as UTF-8. See `whole`."""
    with whole(path, remedy) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def reason(error: OSError) -> str:
    """Why the operating system refused, in a few words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)


def _disk_error(error: BaseException) -> OSError | None:
    """The error of the operating system, even if torch hides it behind a RuntimeError."""
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        return error.__context__
    return error if isinstance(error, OSError) else None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
