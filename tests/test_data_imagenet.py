"""ImageNet in its layouts: folders of classes, and the archives as distributed."""

import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from makers.layouts import SIDE, check_pixels, check_processes, check_run, encoded, refused
from makers.photos import crops

from ganzoo.data.sources.imagenet import ImageNet

WNIDS = {
    "n01440764": ("tench", "Tinca tinca"),
    "n02012849": ("crane",),
    "n03126707": ("crane",),  # the other one lifts weights
}
CALLED = ["tench", "crane (n02012849)", "crane (n03126707)"]


def jpegs(seed: int) -> list[bytes]:
    """Three images as there are in ImageNet, all named .JPEG: one is CMYK, and one a PNG."""
    plain, cmyk, png = crops(3, 70, 50, seed)
    cmyk = cmyk.convert("CMYK")
    return [encoded(plain, "JPEG"), encoded(cmyk, "JPEG"), encoded(png, "PNG")]


def write_ilsvrc(base: Path, split: str, wnids: Sequence[str]) -> list[bytes]:
    """Three images a class. Returns them in the order of classes."""
    files = []
    for number, wnid in enumerate(wnids):
        (base / split / wnid).mkdir(parents=True)
        for i, data in enumerate(jpegs(number)):
            (base / split / wnid / f"{wnid}_{i}.JPEG").write_bytes(data)
            files.append(data)
    return files


@pytest.fixture
def ilsvrc(tmp_path: Path) -> Path:
    """As torchvision leaves it, of three classes, the first of which has no validation images."""
    write_ilsvrc(tmp_path, "train", list(WNIDS))
    write_ilsvrc(tmp_path, "val", list(WNIDS)[1:])
    torch.save((WNIDS, ["n02012849"] * 3 + ["n03126707"] * 3), tmp_path / "meta.bin")
    return tmp_path


def test_imagenet_is_read_as_torchvision_reads_it(ilsvrc: Path) -> None:
    theirs = torchvision.datasets.ImageNet(str(ilsvrc), "train")
    source = ImageNet(str(ilsvrc), SIDE)
    names = [str(Path(path).relative_to(ilsvrc / "train")) for path, _ in theirs.samples]
    assert [source.name_of(i) for i in range(len(source))] == names
    assert source.labels().tolist() == theirs.targets
    assert source.__getitems__([8, 0])["label"].tolist() == [2, 0]
    assert source.classes == CALLED
    check_pixels(source, [Path(path).read_bytes() for path, _ in theirs.samples])
    assert "3 of 9 images are CMYK: converted to RGB." in source.notes
    check_processes(source)


def test_labels_of_validation_are_those_of_training(ilsvrc: Path) -> None:
    source = ImageNet(str(ilsvrc), SIDE, split="val")
    assert source.classes == CALLED
    assert source.labels().tolist() == [1, 1, 1, 2, 2, 2]
    (ilsvrc / "train").rename(ilsvrc / "elsewhere")
    (ilsvrc / "meta.bin").unlink()
    source = ImageNet(str(ilsvrc), SIDE, split="val")
    assert source.classes == list(WNIDS)[1:], "the folders' own names, where nothing calls them"
    assert source.labels().tolist() == [0, 0, 0, 1, 1, 1]


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """The archives as distributed: the training images in a tar of tars, and the devkit."""
    savemat = pytest.importorskip("scipy.io").savemat
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as train:
        for number, wnid in enumerate(WNIDS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for i, data in enumerate(jpegs(number)):
                    add(tar, f"{wnid}_{i}.JPEG", data)
            add(train, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as val:
        for i, data in enumerate(jpegs(7), 1):
            add(val, f"ILSVRC2012_val_{i:08d}.JPEG", data)
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"),
              ("num_children", "O"), ("children", "O")]  # fmt: skip
    rows = [(i, w, ", ".join(n), "", 0, 0) for i, (w, n) in enumerate(WNIDS.items(), 1)]
    rows.append((4, "n00001740", "entity", "", 3, 0))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields)})
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as devkit:
        folder = "ILSVRC2012_devkit_t12/data"
        add(devkit, f"{folder}/meta.mat", meta.getvalue())
        add(devkit, f"{folder}/ILSVRC2012_validation_ground_truth.txt", b"3\n1\n3\n")
    return tmp_path


@pytest.fixture
def any_checksum(monkeypatch) -> None:
    meta = torchvision.datasets.imagenet.ARCHIVE_META
    for key, (name, _) in list(meta.items()):
        monkeypatch.setitem(meta, key, (name, None))


@pytest.mark.usefixtures("any_checksum")
def test_imagenet_is_unpacked_when_asked(archives: Path, monkeypatch) -> None:
    told = refused(ImageNet(str(archives), SIDE).labels)
    assert "ILSVRC2012_img_train.tar" in told
    assert "data.source.unpack=true" in told
    ImageNet(str(archives), SIDE).prepare()
    assert not (archives / "train").exists()

    monkeypatch.setitem(sys.modules, "scipy", None)
    told = refused(ImageNet(str(archives), SIDE, unpack=True).prepare)
    assert 'scipy is missing: run pip install -e ".[imagenet]"' in told
    monkeypatch.delitem(sys.modules, "scipy")

    source = ImageNet(str(archives), SIDE, unpack=True)
    source.prepare()
    source.prepare()  # nothing is left to do
    assert source.classes == CALLED
    assert source.labels().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    check_pixels(source, [data for number in range(3) for data in jpegs(number)])

    source = ImageNet(str(archives), SIDE, split="val", unpack=True)
    source.prepare()
    assert source.labels().tolist() == [0, 2, 2]
    first, second, third = jpegs(7)
    check_pixels(source, [second, first, third])


def test_archives_that_are_wrong_or_missing(archives: Path) -> None:
    source = ImageNet(str(archives), SIDE, unpack=True)
    told = refused(source.prepare)  # their checksums are wrong
    assert "corrupted" in told
    assert f"Remove {archives / 'train'}" in told
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert "without ILSVRC2012_devkit_t12.tar.gz" in refused(source.prepare)
    (archives / "ILSVRC2012_img_train.tar").unlink()
    assert "ILSVRC2012_img_train.tar and ILSVRC2012_devkit_t12.tar.gz" in refused(source.prepare)
    assert "ImageNet's train is not in" in refused(source.labels)


def test_imagenet_refuses(ilsvrc: Path) -> None:
    assert "train, val" in refused(lambda: ImageNet("x", SIDE, split="test"))
    (ilsvrc / "train" / "n01440764.tar").touch()
    told = refused(ImageNet(str(ilsvrc), SIDE).labels)
    assert "not completely unpacked into a folder for each class (n01440764.tar" in told
    (ilsvrc / "train" / "n01440764.tar").unlink()

    (ilsvrc / "train" / "n03126707").rename(ilsvrc / "n03126707")
    told = refused(ImageNet(str(ilsvrc), SIDE, split="val").labels)
    assert "1 classes that have no folder in" in told
    assert "(n03126707)" in told

    (ilsvrc / "train" / "n01440764" / "n01440764_0.JPEG").rename(ilsvrc / "train" / "loose.JPEG")
    told = refused(ImageNet(str(ilsvrc), SIDE).labels)
    assert "(loose.JPEG): remove" in told

    (ilsvrc / "empty" / "train").mkdir(parents=True)
    assert "has no images" in refused(ImageNet(str(ilsvrc / "empty"), SIDE).labels)


def test_imagenet_trains(ilsvrc: Path) -> None:
    overrides = ("data=imagenet", f"data.root={ilsvrc}", "data.workers=1")
    check_run(ilsvrc / "run", *overrides)
