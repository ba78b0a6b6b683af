"""LSUN (Yu et al. 2015): photographs of scenes and objects in LMDB databases, as distributed."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import torch

from ganzoo.config.values import Sides
from ganzoo.data.encoded import EncodedImages, Listing
from ganzoo.data.files import Files
from ganzoo.data.source import library
from ganzoo.errors import UserError, check_choice, first


class LSUN(EncodedImages):
    """Photographs of one category, or of several categories, which are then the classes.

    Args:
        root: folder that contains the unzipped databases: `bedroom_train_lmdb/data.mdb` for scenes,
            `cat/data.mdb` for objects, which have no splits.
        image_size, decoding: see `EncodedImages`.
        category: "bedroom", "church_outdoor", "cat", ..., or a list of them.
        split: "train" or "val".
    """

    test_split = "val"
    license = "LSUN (Yu et al. 2015), no license known: see github.com/fyu/lsun."

    def __init__(
        self,
        root: str,
        image_size: Sides,
        category: str | Sequence[str] = "bedroom",
        split: str = "train",
        **decoding: Any,
    ) -> None:
        check_choice("data.source.split", split, ["train", "val"])
        super().__init__(image_size, **decoding)
        self.root, self.split = Path(root).expanduser(), split
        self.categories = [category] if isinstance(category, str) else list(category)
        self.name = f"LSUN {', '.join(self.categories)} ({split})"

    def _list(self) -> Listing:
        folders = [self._find(category) for category in self.categories]
        files = Databases(self.root, folders)
        if len(folders) == 1:
            return Listing(files, files.names)
        counts = torch.tensor([files.counts[folder] for folder in folders])
        labels = torch.arange(len(folders)).repeat_interleave(counts)
        return Listing(files, files.names, self.categories, labels)

    def _find(self, category: str) -> str:
        """The name of the folder of a category."""
        names = [f"{category}_{self.split}_lmdb", *([category] if self.split == "train" else [])]
        for name in names:
            if _holds_lmdb(self.root / name):
                return name
        there = [p.name for p in self.root.glob("*") if _holds_lmdb(p) or p.suffix == ".zip"]
        raise UserError(
            f"LSUN's {names[0]} is not in {self.root}, which contains "
            f"{first(sorted(there), 40) or 'no databases'}: unzip it there, choose another "
            "data.source.category or split, or set data.root to the folder that contains it."
        )


class Databases(Files):
    """The values in LMDB databases as files `<folder>/<key>`, in the order of their keys.

    Raises UserError: the package lmdb is missing, or a database is damaged.
    """

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        self.root = root
        self.names = []
        self.counts: dict[str, int] = {}
        self._paths = {folder: (root / folder).resolve() for folder in folders}
        for folder, path in self._paths.items():
            with _environment(path).begin() as transaction:
                keys = transaction.cursor().iternext(values=False)
                self.names += [f"{folder}/{os.fsdecode(key)}" for key in keys]
                self.counts[folder] = transaction.stat()["entries"]

    def open(self, name: str) -> BinaryIO:
        folder, _, key = name.partition("/")
        with _environment(self._paths[folder]).begin() as transaction:
            return io.BytesIO(transaction.get(os.fsencode(key)))


_opening = Lock()
_opened: dict[Path, tuple[int, Any]] = {}  # path -> process that opened it, environment


def _environment(folder: Path) -> Any:
    """The database in a folder, opened once per process for all threads, as LMDB requires."""
    with _opening:
        process, environment = _opened.get(folder, (None, None))
        if process != os.getpid():
            if environment is not None:  # opened by the process that this one was forked from
                environment.close()
            environment = _open(folder)
            _opened[folder] = os.getpid(), environment
        return environment


def _open(folder: Path) -> Any:
    lmdb = library("lmdb", "lsun")
    path = folder / "data.mdb"
    again = "fix its permissions, or download and unzip it again"
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise UserError(f"{path} cannot be read ({error}): {again}.") from error
    size = path.stat().st_size
    whole = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < whole:  # reading the missing part would kill the process
        environment.close()
        raise UserError(f"{path} has only {size:,} of its {whole:,} bytes: {again}.")
    return environment


def _holds_lmdb(folder: Path) -> bool:
    return (folder / "data.mdb").is_file()
