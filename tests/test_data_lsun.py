"""LSUN in its layout: databases of photographs, against torchvision's reading of them."""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torchvision
from makers.layouts import SIDE, check_pixels, check_processes, check_run, encoded, photos, refused

from ganzoo.data.sources.lsun import LSUN


def write_lmdb(folder: Path, count: int, seed: int = 0) -> list[bytes]:
    """A database as LSUN's: images in WebP under hashes. Returns them in the order of the keys."""
    lmdb = pytest.importorskip("lmdb")
    files = [encoded(photo, "WEBP", quality=95) for photo in photos(count, seed)]
    values = {hashlib.sha1(file).hexdigest().encode(): file for file in files}
    with lmdb.open(str(folder), map_size=2**22) as database, database.begin(write=True) as write:
        for key, value in values.items():
            write.put(key, value)
    return [value for _, value in sorted(values.items())]


def test_lsun_is_read_as_torchvision_reads_it(tmp_path: Path, monkeypatch) -> None:
    files = write_lmdb(tmp_path / "bedroom_train_lmdb", 9)
    write_lmdb(tmp_path / "bedroom_val_lmdb", 3, seed=1)
    monkeypatch.chdir(tmp_path)  # where torchvision leaves a cache
    theirs = torchvision.datasets.LSUN(str(tmp_path), ["bedroom_train"])
    pixels = [np.asarray(theirs[i][0]).transpose(2, 0, 1) for i in range(len(theirs))]
    theirs.dbs[0].env.close()

    ours = LSUN(str(tmp_path), [48, 64])
    assert np.array_equal(ours.__getitems__(list(range(9)))["image"].numpy(), np.stack(pixels))
    assert ours.classes is None
    assert ours.labels() is None
    assert ours.notes == []
    assert ours.name_of(0).startswith("bedroom_train_lmdb/")
    check_pixels(LSUN(str(tmp_path), SIDE), files)
    assert len(LSUN(str(tmp_path), SIDE, split="val")) == 3
    untouched = sorted(path.name for path in (tmp_path / "bedroom_train_lmdb").iterdir())
    assert untouched == ["data.mdb", "lock.mdb"]


def test_lsun_categories_are_classes(tmp_path: Path) -> None:
    files = write_lmdb(tmp_path / "cat", 3)  # objects have no splits
    files += write_lmdb(tmp_path / "bedroom_train_lmdb", 4, seed=1)
    source = LSUN(str(tmp_path), SIDE, category=["cat", "bedroom"])
    assert source.classes == ["cat", "bedroom"]
    assert source.labels().tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert source.__getitems__([6, 1])["label"].tolist() == [1, 0]
    check_pixels(source, files)
    check_processes(source)
    check_processes(LSUN(str(tmp_path), SIDE, category="cat"))  # beside the other, in one process
    assert LSUN(str(tmp_path), SIDE, category=["cat"]).labels() is None


def test_lsun_refuses(tmp_path: Path, monkeypatch) -> None:
    def told(**options: object) -> str:
        return refused(LSUN(str(tmp_path), SIDE, **options).labels)

    assert "contains no databases" in told()
    write_lmdb(tmp_path / "tower_train_lmdb", 1)
    (tmp_path / "kitchen_val_lmdb.zip").touch()
    (tmp_path / "cat.zip").touch()
    assert "cat.zip, kitchen_val_lmdb.zip, tower_train_lmdb: unzip it there" in told()
    assert "LSUN's tower_val_lmdb is not in" in told(category="tower", split="val")
    assert "contains no databases" in refused(LSUN(str(tmp_path / "none"), SIDE).labels)
    assert "data.source.split must be one of train, val" in refused(
        lambda: LSUN("x", SIDE, split="test")
    )

    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "bedroom_train_lmdb").mkdir()
    data = tmp_path / "bedroom_train_lmdb" / "data.mdb"
    data.touch()
    assert 'pip install -e ".[lsun]"' in told()
    monkeypatch.undo()
    for damaged in (b"", b"no database" * 1000):
        data.write_bytes(damaged)
        assert f"{data} cannot be read" in told()


def test_a_database_that_is_cut_off_is_not_read(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "bedroom_train_lmdb", 6)
    data = tmp_path / "bedroom_train_lmdb" / "data.mdb"
    whole = data.stat().st_size
    os.truncate(data, whole - 4096)
    for _ in range(2):  # the second time, too
        told = refused(LSUN(str(tmp_path), SIDE).labels)
        assert f"{data} has only {whole - 4096:,} of its {whole:,} bytes" in told


def test_lsun_trains(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "church_outdoor_train_lmdb", 9)
    root = (f"data.root={tmp_path}", "data.source.category=church_outdoor")
    check_run(tmp_path / "run", "data=lsun", *root, "data.workers=1")
