"""Image files in a folder, a zip or a tar, with one interface: names and bytes."""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from ganzoo.errors import UserError, first, shown


class Files(Protocol):
    """Files below a root, which can be opened in any process.

    Names are relative to the root, with forward slashes, and sorted, so that the same files have
    the same order in a folder and in an archive. Names that start with a dot are left out.
    """

    root: Path
    names: list[str]
    notes: list[str]  # sentences on what is left out or treated in a special way
    problems: list[str]  # sentences on what cannot be opened

    def open(self, name: str) -> BinaryIO:
        """Open one file. Raises OSError, or the errors of the archive's library."""


def open_files(root: Path) -> Files:
    """The files in a folder, zip or tar. Raises UserError for anything else."""
    if root.is_dir():
        return Tree(root)
    if not root.exists():
        raise UserError(
            f"There is no folder, zip or tar {root}: set data.source.root to your images."
        )
    try:
        if zipfile.is_zipfile(root):
            return Zip(root)
        if tarfile.is_tarfile(root):
            return Tar(root)
    except OSError as error:
        raise UserError(
            f"{root} cannot be read ({error.strerror}): change its permissions, or copy it."
        ) from error
    raise UserError(
        f"{root} is not a folder, zip or tar, or is damaged: set data.source.root to your images."
    )


class Tree:
    """All files below a folder. Links are followed, except links to a folder above them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loops: list[str] = []
        self._locked: list[str] = []
        self.names = sorted(self._walk(root, "", frozenset()))
        self.notes, self.problems = [], []
        if self._loops:
            self.notes.append(
                f"{len(self._loops)} links in {root} lead to a folder above them and are not "
                f"followed: {first(self._loops)}."
            )
        if self._locked:
            self.problems.append(
                f"{len(self._locked)} folders in {root} cannot be opened ({first(self._locked)}): "
                "change their permissions, or move them out."
            )

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")

    def _walk(self, folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        try:
            status = folder.stat()
            entries = list(os.scandir(folder))
        except OSError:
            self._locked.append(prefix or ".")
            return
        here = (status.st_dev, status.st_ino)
        if here in above:
            self._loops.append(prefix.rstrip("/"))
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
            else:
                yield prefix + entry.name


class One(Tree):
    """One file; the root is its folder."""

    def __init__(self, path: Path) -> None:
        self.root, self.names = path.parent, [path.name]
        self.notes, self.problems = [], []


class _Archive:
    """Common part of zip and tar: checks names, and finds the root in the archive."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        self.problems: list[str] = []
        members = self._members()
        out = [name for name in members if _leads_out(name)]
        if out:
            raise UserError(
                f"{root} has paths that lead out of it ({first(out)}): it is damaged or malicious; "
                "pack the images again."
            )
        visible = [m for m in members if not any(p.startswith(".") for p in m.split("/"))]
        self._within = _common_folder(visible)
        self.names = sorted({name[len(self._within) :] for name in visible})
        if self._within:
            self.notes.append(
                f"Everything in {root.name} is in its folder {shown(self._within)}, which is used "
                "as the root."
            )

    def _members(self) -> list[str]:
        """Names of all regular files, normalized."""
        raise NotImplementedError


class Zip(_Archive):
    """All files in a zip."""

    def open(self, name: str) -> BinaryIO:
        return self._zip.open(self._within + name)  # type: ignore[return-value]

    def _members(self) -> list[str]:
        try:
            return [info.filename for info in self._zip.infolist() if not info.is_dir()]
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(
                f"{self.root} cannot be read as a zip ({error}): fetch or make it again."
            ) from error

    @property
    def _zip(self) -> zipfile.ZipFile:
        # Each process opens the file, because reading moves the position that processes share.
        if self.__dict__.get("_process") != os.getpid():
            self._process, self._opened = os.getpid(), zipfile.ZipFile(self.root)
        return self._opened

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_opened", "_process")}


class Tar(_Archive):
    """All regular files in a tar that is not compressed."""

    def open(self, name: str) -> BinaryIO:
        start, size = self._places[self._within + name]
        with self.root.open("rb") as file:
            file.seek(start)
            return io.BytesIO(file.read(size))

    def _members(self) -> list[str]:
        return list(self._places)

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        try:
            with tarfile.open(self.root, "r:") as tar:
                members = {str(PurePosixPath(m.name)): m for m in tar if m.isfile() or m.issym()}
        except tarfile.ReadError as error:
            raise UserError(
                f"{self.root} is a compressed tar, whose files cannot be read one by one: "
                f"unpack it (tar xf {self.root.name}), or make it a plain tar."
            ) from error
        links = [name for name, member in members.items() if member.issym()]
        if links:
            self.notes.append(
                f"{len(links)} links in {self.root.name} are ignored: {first(links)}."
            )
        return {n: (m.offset_data, m.size) for n, m in members.items() if m.isfile()}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: opening it later fails with its name
        return False


def _leads_out(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or name.startswith(("/", "\\")) or ":" in parts[0][1:2]


def _common_folder(names: list[str]) -> str:
    """The folder that contains all names, with a slash at its end, or an empty string."""
    folders = {name.rpartition("/")[0] for name in names}
    common = os.path.commonpath(folders) if folders and "" not in folders else ""
    return f"{common}/" if common else ""
