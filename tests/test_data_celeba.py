"""CelebA as it is distributed, made of crops of photographs."""

import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision
from makers.celeba import NAMES, NUM, write_images, zip_of
from PIL import Image

from ganzoo.data.sources.celeba import CelebA
from ganzoo.errors import UserError

ATTRIBUTES = ["5_o_Clock_Shadow", "Male", "Smiling"]
VALUES = np.where(np.random.default_rng(3).random((NUM, 3)) < 0.5, 1, -1)
PARTITION = [0] * 7 + [1] * 2 + [2] * 3


def attribute_list() -> str:
    rows = [f"{name} {' '.join(f'{v:2d}' for v in row)}" for name, row in zip(NAMES, VALUES)]  # noqa: B905
    return "\n".join([str(NUM), " ".join(ATTRIBUTES) + " ", *rows]) + "\n"


def partition_list() -> str:
    return "".join(f"{name} {part}\n" for name, part in zip(NAMES, PARTITION, strict=True))


def csv_of(text: str, first: str) -> str:
    """The same list as it is given on Kaggle."""
    lines = [line.split() for line in text.splitlines()]
    if len(lines[0]) == 1:
        lines = lines[1:]
        lines[0].insert(0, first)
    else:
        lines.insert(0, [first, "partition"])
    return "\n".join(",".join(line) for line in lines) + "\n"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "made" / "img_align_celeba")


LAYOUTS = ["torchvision", "torchvision zip", "official", "kaggle", "folder", "zip"]


@pytest.fixture(params=LAYOUTS)
def root(request, images: Path, tmp_path: Path) -> Path:
    """The data set in each of the layouts that are around; `root` is what a user would give."""
    root = tmp_path / "root"
    root.mkdir()
    lists = {"list_attr_celeba": attribute_list(), "list_eval_partition": partition_list()}
    places = {name: root for name in lists}
    out, suffix = root, ".txt"
    match request.param:
        case "torchvision":
            (root / "celeba").mkdir()
            images.rename(root / "celeba" / "img_align_celeba")
            places = dict.fromkeys(lists, root / "celeba")
        case "torchvision zip":
            zip_of(images, root / "celeba" / "img_align_celeba.zip")
            places = dict.fromkeys(lists, root / "celeba")
        case "official":
            zip_of(images, root / "Img" / "img_align_celeba.zip")
            places = {"list_attr_celeba": root / "Anno", "list_eval_partition": root / "Eval"}
        case "kaggle":
            (root / "img_align_celeba").mkdir()
            images.rename(root / "img_align_celeba" / "img_align_celeba")
            suffix = ".csv"
            lists = {name: csv_of(text, "image_id") for name, text in lists.items()}
        case "folder":
            out = images.rename(root / "faces")
        case "zip":
            out = zip_of(images, root / "faces.zip")
    for name, text in lists.items():
        places[name].mkdir(exist_ok=True)
        (places[name] / f"{name}{suffix}").write_text(text)
    return out


def test_every_layout(root: Path, images: Path) -> None:
    source = CelebA(str(root), [218, 178], crop="resize", attributes=["Male", "Smiling"])
    assert len(source) == NUM
    assert [Path(source.name_of(i)).name for i in range(NUM)] == NAMES
    batch = source.__getitems__(list(range(NUM)))
    reference = (images if images.exists() else root) / NAMES[4]
    if reference.exists():
        assert np.array_equal(batch["image"][4].permute(1, 2, 0).numpy(), Image.open(reference))
    words = [
        f"{'' if male == 1 else 'not '}Male, {'' if smiling == 1 else 'not '}Smiling"
        for _, male, smiling in VALUES
    ]
    assert source.classes == sorted(set(words))
    assert [source.classes[i] for i in batch["label"]] == words
    assert torch.equal(source.labels(), batch["label"])
    for number, split in enumerate(("train", "valid", "test")):
        part = CelebA(str(root), 64, split=split)
        assert len(part) == PARTITION.count(number)
        assert Path(part.name_of(0)).name == NAMES[PARTITION.index(number)]
        assert f"{len(part)} of 12 images are in the {split} split." in part.notes


def test_labels_are_torchvisions(images: Path, tmp_path: Path, monkeypatch) -> None:
    """Its reader, on the same files, gives the same attributes and splits."""
    base = tmp_path / "root" / "celeba"
    base.mkdir(parents=True)
    images.rename(base / "img_align_celeba")
    (base / "list_attr_celeba.txt").write_text(attribute_list())
    (base / "list_eval_partition.txt").write_text(partition_list())
    numbers = "".join(f"{name} {' '.join('1' * 4)}\n" for name in NAMES)
    (base / "identity_CelebA.txt").write_text("".join(f"{name} 1\n" for name in NAMES))
    (base / "list_bbox_celeba.txt").write_text(f"{NUM}\nimage_id x_1 y_1 width height\n{numbers}")
    (base / "list_landmarks_align_celeba.txt").write_text(f"{NUM}\na b c d\n{numbers}")
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    theirs = torchvision.datasets.CelebA(str(tmp_path / "root"), split="train", target_type="attr")
    ours = CelebA(str(tmp_path / "root"), 64, split="train", attributes=["Smiling"])
    column = theirs.attr_names.index("Smiling")
    assert len(ours) == len(theirs)
    for i, (picture, attributes) in enumerate(theirs):
        assert ours.classes[ours.labels()[i]] == (
            "Smiling" if attributes[column] else "not Smiling"
        )
        whole = CelebA(str(tmp_path / "root"), [218, 178], crop="resize", split="train")
        pixels = whole.__getitems__([i])["image"][0].permute(1, 2, 0).numpy()
        assert np.array_equal(pixels, np.array(picture))


def test_default_needs_only_the_images(images: Path) -> None:
    source = CelebA(str(images), 64)
    assert source.labels() is source.classes is None
    assert source.__getitems__([0])["image"].shape == (1, 3, 64, 64)
    with pytest.raises(UserError, match=r"Put list_attr_celeba\.txt, the attributes of CelebA"):
        CelebA(str(images), 64, attributes=["Male"]).labels()
    with pytest.raises(UserError, match=r"split without list_eval_partition\.txt must be one of"):
        len(CelebA(str(images), 64, split="valid"))
    assert len(CelebA(str(images), 64, split="test", held_out=0.25)) == 3


def test_unknown_attributes_and_lists_of_others(images: Path) -> None:
    (images.parent / "list_attr_celeba.txt").write_text(attribute_list())
    with pytest.raises(UserError, match=r"no attribute Beard: .*may name 5_o_Clock_Shadow, Male"):
        CelebA(str(images), 64, attributes=["Beard"]).labels()
    (images / "000099.jpg").write_bytes((images / NAMES[0]).read_bytes())
    with pytest.raises(UserError, match=r"no row for 1 images, such as 000099\.jpg"):
        CelebA(str(images), 64, attributes=["Male"]).labels()


def test_images_of_another_size_are_named(images: Path) -> None:
    Image.open(images / NAMES[2]).resize((100, 100)).save(images / NAMES[2])
    with pytest.raises(UserError, match=r"000003\.jpg cannot be read \(it is 100x100, not 218x178"):
        CelebA(str(images), 64).__getitems__([2])


@pytest.mark.parametrize("download", [False, True])
def test_what_to_get_by_hand(download, tmp_path: Path, monkeypatch) -> None:
    """Names and checksums are those that torchvision publishes."""

    def refused(self) -> None:
        raise RuntimeError("Too many users have viewed or downloaded this file recently.")

    monkeypatch.setattr(torchvision.datasets.CelebA, "download", refused)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    source = CelebA(str(tmp_path), 64, download=download)

    def use() -> int:
        source.prepare()
        return len(source)

    with pytest.raises(UserError) as told:
        use()
    message = str(told.value)
    assert "img_align_celeba.zip (MD5 00d2c5bc6d35e252742224ab0c1e8fcb)" in message
    assert "list_attr_celeba.txt (MD5 75e246fa4810816ffd6ee81facbd244c)" in message
    assert "list_eval_partition.txt (MD5 d32c9cbf5e040fd4025c592c306e6668)" in message
    assert f"put them unchanged into {tmp_path / 'celeba'}" in message
    assert ("Too many users" in message) == download
    assert "\n" not in message

    # The remedy, carried out: the files where the message says.
    zip_of(write_images(tmp_path / "got"), tmp_path / "celeba" / "img_align_celeba.zip")
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text(attribute_list())
    source = CelebA(str(tmp_path), 64, attributes=["Male"], download=download)
    source.prepare()
    assert len(source.labels()) == NUM
    assert "only 12 of CelebA's 202,599 images" in source.notes[0]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError("no"), r"failed \(no\).* can be written to .* by hand"),
        (RuntimeError("Too many users"), r"failed \(Too many users\).* the host limits downloads"),
    ],
)
def test_why_a_download_failed(error, says, tmp_path: Path, monkeypatch) -> None:
    def failing(self) -> None:
        raise error

    source = CelebA(str(tmp_path), 64, download=True)
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(UserError, match=r"package gdown is missing: .*\[celeba\]"):
        source.prepare()
    monkeypatch.setitem(sys.modules, "gdown", ModuleType("gdown"))
    monkeypatch.setattr(torchvision.datasets.CelebA, "download", failing)
    with pytest.raises(UserError, match=says):
        source.prepare()


def test_kaggles_archive_and_png(images: Path, tmp_path: Path) -> None:
    archive = tmp_path / "kaggle" / "archive.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for name in NAMES:
            file.write(images / name, f"img_align_celeba/img_align_celeba/{name}")
        file.writestr("list_attr_celeba.csv", csv_of(attribute_list(), "image_id"))
        file.writestr("list_eval_partition.csv", csv_of(partition_list(), "image_id"))
    pngs = tmp_path / "png" / "img_align_celeba_png"
    pngs.mkdir(parents=True)
    for name in NAMES:
        Image.open(images / name).save((pngs / name).with_suffix(".png"))
    (pngs.parent / "list_attr_celeba.txt").write_text(attribute_list())
    (pngs.parent / "list_eval_partition.txt").write_text(partition_list())
    males = [("" if row[1] == 1 else "not ") + "Male" for row in VALUES]
    for root in (archive, archive.parent, pngs.parent):
        source = CelebA(str(root), 64, attributes=["Male"])
        assert [source.classes[label] for label in source.labels()] == males
        assert len(CelebA(str(root), 64, split="test")) == PARTITION.count(2)


@pytest.mark.parametrize("option", [{"crop": "center1"}, {"split": "val"}, {"filter": "box"}])
def test_options_that_are_none(option) -> None:
    with pytest.raises(UserError, match="must be one of"):
        CelebA("data", 64, **option)
