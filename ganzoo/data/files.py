"""Image files in a folder, a zip or a tar, with one interface: names and bytes."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ganzoo.errors import UserError, first, shown


class Files:
    """Files below a root, which can be opened in any process.

    Names are relative to the root, with forward slashes, and sorted, so that the same files have
    the same order in a folder and in an archive. Names that start with a dot are left out.
    """

    root: Path
    names: list[str]
    notes: Sequence[str] = ()  # sentences on what is left out or treated in a special way
    problems: Sequence[str] = ()  # sentences on what cannot be opened

    def open(self, name: str) -> BinaryIO:
        """Open one file. Raises OSError, or the errors of the archive's library."""
        raise NotImplementedError

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Sizes of files in bytes; empty if they are unknown until the files are read."""
        return []


def open_files(root: Path) -> Files:
    """The files in a folder, zip or tar. Raises UserError for anything else."""
    if root.is_dir():
        return Tree(root)
    if not root.exists():
        raise UserError(f"There is no folder, zip or tar {root}: set data.root to your images.")
    try:
        if root.is_file():  # opening a pipe would wait forever
            if tarfile.is_tarfile(root):  # before zip: any file that ends in a zip passes for one
                return Tar(root)
            if zipfile.is_zipfile(root):
                return Zip(root)
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror}).") from error
    raise UserError(
        f"{root} is not a folder, zip or tar, or is damaged: set data.root to your images."
    )


class Tree(Files):
    """All files below a folder. Links are followed, except links to a folder above them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names, loops, locked = _walk(root)
        self.names = sorted(names)
        if loops:
            self.notes = [
                f"{len(loops)} links in {root} lead to a folder above them and are not followed: "
                f"{first(loops)}."
            ]
        if locked:
            self.problems = [
                f"{len(locked)} folders in {root} cannot be opened ({first(locked)}): change their "
                "permissions, or move them out."
            ]

    def open(self, name: str) -> BinaryIO:
        path = self.root / name
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait forever
            raise ValueError("it is a pipe, socket, device or folder")
        return path.open("rb")

    def sizes(self, names: Sequence[str]) -> list[int]:
        return [os.stat(self.root / name).st_size for name in names]


class One(Tree):
    """One file; the root is its folder."""

    def __init__(self, path: Path) -> None:
        self.root, self.names = path.parent, [path.name]


class _Archive(Files):
    """Common part of zip and tar: checks names, and finds the root in the archive."""

    def __init__(self, root: Path, members: Sequence[str], ignored: Sequence[str]) -> None:
        self.root = root
        if out := [name for name in members if _leads_out(name)]:
            raise UserError(
                f"{root} has paths that lead out of it ({first(out)}): it is damaged or malicious; "
                "pack the images again."
            )
        visible = [m for m in members if not any(p.startswith(".") for p in m.split("/"))]
        self._within = _common_folder(visible)
        self.names = sorted({name[len(self._within) :] for name in visible})
        self.notes = []
        if self._within:
            self.notes.append(
                f"Everything in {root.name} is in its folder {shown(self._within)}, which is used "
                "as the root."
            )
        if ignored:
            self.notes.append(
                f"{len(ignored)} links or devices in {root.name} are ignored: {first(ignored)}."
            )


class Zip(_Archive):
    """All files in a zip."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            infos = self._zip.infolist()
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(
                f"{root} cannot be read as a zip ({error}): fetch or make it again."
            ) from error
        # Some programs for Windows write backslashes between folders.
        found = {info.filename.replace("\\", "/"): info for info in infos}
        links = [n for n, info in found.items() if stat.S_ISLNK(info.external_attr >> 16)]
        self._stored = {
            name: (info.filename, info.file_size)
            for name, info in found.items()
            if not name.endswith("/") and name not in links
        }
        super().__init__(root, list(self._stored), links)

    def open(self, name: str) -> BinaryIO:
        return self._zip.open(self._stored[self._within + name][0])  # type: ignore[return-value]

    def sizes(self, names: Sequence[str]) -> list[int]:
        return [self._stored[self._within + name][1] for name in names]

    @property
    def _zip(self) -> zipfile.ZipFile:
        # Each process opens the file, because reading moves the position that processes share.
        if self.__dict__.get("_process") != os.getpid():
            self._process, self._opened = os.getpid(), zipfile.ZipFile(self.root)
        return self._opened

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_opened", "_process")}


class Tar(_Archive):
    """All regular files in a tar that is not compressed, under each of their hard-linked names."""

    def __init__(self, root: Path) -> None:
        self._places: dict[str, tuple[int, int]] = {}  # offset and size of each file
        ignored = []
        for member in _members(root):
            name = str(PurePosixPath(member.name))
            target = str(PurePosixPath(member.linkname))
            if member.isfile():
                self._places[name] = member.offset_data, member.size
            elif member.islnk() and target in self._places:  # a hard link to an earlier member
                self._places[name] = self._places[target]
            elif not member.isdir():
                ignored.append(name)
        super().__init__(root, list(self._places), ignored)

    def open(self, name: str) -> BinaryIO:
        start, size = self._places[self._within + name]
        with self.root.open("rb") as file:
            file.seek(start)
            return io.BytesIO(file.read(size))

    def sizes(self, names: Sequence[str]) -> list[int]:
        return [self._places[self._within + name][1] for name in names]


def refuse_among(path: Path, folder: Path | None, remedy: str) -> None:
    """Raises UserError if an output would lie in a folder whose images are inputs."""
    if folder and folder.is_dir() and path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{path} is in {folder.resolve()}, which contains the inputs, and would become one of "
            f"them: {remedy}."
        )


def _members(root: Path) -> list[tarfile.TarInfo]:
    """All members of a tar. Raises UserError if it is compressed or incomplete."""
    try:
        tar = tarfile.open(root, "r:")  # noqa: SIM115  closed below
    except tarfile.ReadError as error:
        raise UserError(
            f"{root} is a compressed tar, whose files cannot be read one by one: unpack it "
            f"(tar xf {root.name}), or make it a plain tar."
        ) from error
    with tar, root.open("rb") as file:
        try:
            members = tar.getmembers()
            last = members[-1]
            blocks = -(-last.size // tarfile.BLOCKSIZE) if last.isreg() else 0
            file.seek(last.offset_data + blocks * tarfile.BLOCKSIZE)
            # Python's tarfile stops without an error at a damaged header, but a complete tar ends
            # in blocks of zeros.
            complete = last.issparse() or file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except (tarfile.TarError, IndexError):
            complete = False
    if not complete:
        raise UserError(
            f"{root} is a damaged or incomplete tar: it does not end as a tar ends. Fetch or make "
            "it again."
        )
    return members


def _walk(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Names of all files, of links to a folder above them, and of folders that cannot be opened."""
    names: list[str] = []
    loops: list[str] = []
    locked: list[str] = []

    def refused(error: OSError) -> None:
        locked.append(Path(error.filename).relative_to(root).as_posix())

    for here, folders, files in os.walk(root, onerror=refused, followlinks=True):
        folder = Path(here)
        prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        above = {os.path.realpath(path) for path in (folder, *folder.parents)}
        visible = [name for name in folders if not name.startswith(".")]
        links = [name for name in visible if os.path.islink(folder / name)]
        back = [name for name in links if os.path.realpath(folder / name) in above]
        loops += [prefix + name for name in back]
        folders[:] = set(visible) - set(back)  # those that `os.walk` enters
        names += [prefix + name for name in files if not name.startswith(".")]
    return names, loops, locked


def _leads_out(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or name.startswith(("/", "\\")) or ":" in parts[0][1:2]


def _common_folder(names: list[str]) -> str:
    """The folder that contains all names, with a slash at its end, or an empty string."""
    folders = {name.rpartition("/")[0] for name in names}
    common = os.path.commonpath(folders) if folders and "" not in folders else ""
    return f"{common}/" if common else ""
