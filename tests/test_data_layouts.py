"""LSUN, ImageNet and Hugging Face in their layouts, made of crops of photographs."""

import hashlib
import io
import os
import pickle
import socket
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from makers.photos import crops
from makers.tiny import TINY, config
from PIL import Image
from torch.utils.data import DataLoader

from ganzoo.data.encoded import EncodedImages
from ganzoo.data.source import part
from ganzoo.data.sources.huggingface import HuggingFace
from ganzoo.data.sources.imagenet import ImageNet
from ganzoo.data.sources.lsun import LSUN
from ganzoo.errors import UserError
from ganzoo.train import train_config as train

SIDE = 16


def photos(count: int, seed: int = 0) -> list[Image.Image]:
    return crops(count, 64, 48, seed)


def encoded(photo: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format, **options)
    return buffer.getvalue()


def means(data: bytes) -> np.ndarray:
    """The square in the middle of an image, and the mean over the area of each pixel to be."""
    photo = Image.open(io.BytesIO(data)).convert("RGB")
    short = min(photo.size)
    left, top = (photo.width - short) // 2, (photo.height - short) // 2
    square = np.asarray(photo.crop((left, top, left + short, top + short)), float)
    fine = square.repeat(SIDE, 0).repeat(SIDE, 1)
    return fine.reshape(SIDE, short, SIDE, short, 3).mean((1, 3)).transpose(2, 0, 1)


def check_pixels(source: EncodedImages, files: Sequence[bytes]) -> None:
    assert len(source) == len(files)
    images = source.__getitems__(list(range(len(files))))["image"]
    assert images.dtype == torch.uint8
    expected = np.stack([means(data) for data in files])
    assert np.abs(images.numpy() - expected).max() <= 0.6  # rounding, and Pillow's thirds


def check_processes(source: EncodedImages) -> None:
    """The same images here, in workers, here again, and after pickling."""
    batches = [[0, len(source) - 1], [1], [2, 0, 1], [len(source) // 2]]
    here = [source.__getitems__(batch) for batch in batches]
    loader = DataLoader(source, batch_sampler=batches, collate_fn=lambda b: b, num_workers=2)
    again = [source.__getitems__(batch) for batch in batches]
    copy = pickle.loads(pickle.dumps(source))
    copied = [copy.__getitems__(batch) for batch in batches]
    for other in (list(loader), again, copied):
        for expected, got in zip(here, other, strict=True):
            assert expected.keys() == got.keys()
            assert all(torch.equal(expected[key], got[key]) for key in expected)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as told:
        call()
    message = str(told.value)
    assert "\n" not in message, message
    assert message.endswith("."), message
    return message


def check_run(folder: Path, *overrides: str) -> None:
    """A tiny run of two iterations."""
    small = [o for o in TINY if not o.startswith(("data", "callbacks.ticks", "callbacks.grid"))]
    quiet = ("~callbacks.ticks", "~callbacks.grid", "~callbacks.bar", "total_kimg=0.016")
    train(config(*small, *quiet, f"run_dir={folder}", *overrides, tiny=False))
    assert (folder / "done").exists()


# -- LSUN ------------------------------------------------------------------------------------------


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


# -- ImageNet --------------------------------------------------------------------------------------

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


# -- Hugging Face ----------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch):
    """The library, with a cache of its own, and no network: asking for it fails the test."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asked = []
    connect = socket.socket.connect

    def offline(*address: object, **_: object) -> None:
        asked.append(address)
        raise OSError("no network")

    def connect_here(self: socket.socket, address: object) -> None:
        return connect(self, address) if self.family == socket.AF_UNIX else offline(address)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(socket.socket, "connect", connect_here)
    yield datasets
    assert asked == []
    assert not datasets.config.HF_HUB_OFFLINE


LABELS = [1, 0, 2, 2, 1, 0, 0, 1, 2]
KINDS = ["bridge", "dragonfly", "wine"]


def write_parquet(datasets, folder: Path, **splits: list[int]) -> dict[str, list[bytes]]:
    """Parquet files as the library writes them, of labels by split. Returns the images."""
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=KINDS),
            "level": datasets.Value("int64"),
            "kind": datasets.Value("string"),
        }
    )
    folder.mkdir(parents=True)
    written = {}
    for seed, (split, labels) in enumerate(splits.items()):
        images = [encoded(photo, "PNG") for photo in photos(len(labels), seed)]
        table = {
            "id": [f"{split} {i}" for i in range(len(labels))],
            "image": [{"bytes": data, "path": None} for data in images],
            "label": labels,
            "level": [10 * label + 5 if label >= 0 else None for label in labels],
            "kind": [KINDS[label] for label in labels],
        }
        data = datasets.Dataset.from_dict(table, features=features)
        data.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
        written[split] = images
    return written


def test_a_folder_of_parquet(hub, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    files = write_parquet(hub, folder, train=LABELS, test=[2, 1])
    source = HuggingFace(str(folder), SIDE)
    source.prepare()
    assert source.classes == KINDS
    assert source.labels().tolist() == LABELS
    check_pixels(source, files["train"])
    check_processes(source)
    assert source.notes == ["9 of 9 images are not 16x16: cropped at the center and resized."]
    full = HuggingFace(str(folder), [48, 64]).__getitems__([3])["image"][0]
    exact = np.asarray(Image.open(io.BytesIO(files["train"][3])))
    assert np.array_equal(full.permute(1, 2, 0).numpy(), exact)
    test = HuggingFace(str(folder), SIDE, split="test", held_out=0.5)  # it has one of its own
    assert test.labels().tolist() == [2, 1]
    check_pixels(test, files["test"])


def test_parquet_files_by_name(hub, tmp_path: Path) -> None:
    files = write_parquet(hub, tmp_path / "a", train=[0, 1, 2], other=[2, 2])
    train, other = (str(tmp_path / "a" / f"{s}-00000-of-00001.parquet") for s in files)
    check_pixels(HuggingFace("parquet", SIDE, data_files=train), files["train"])
    both = HuggingFace("parquet", SIDE, data_files=[train, other])
    check_pixels(both, files["train"] + files["other"])
    mapped = HuggingFace("parquet", SIDE, data_files={"valid": other}, split="valid")
    check_pixels(mapped, files["other"])


def test_columns_of_classes(hub, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_parquet(hub, folder, train=[2, 0, 2, 2], test=[1, -1])
    levels = HuggingFace(str(folder), SIDE, label="level")
    assert levels.classes == ["5", "15", "25"], "of all splits, so that labels mean the same"
    assert levels.labels().tolist() == [2, 0, 2, 2]
    kinds = HuggingFace(str(folder), SIDE, label="kind")
    assert (kinds.classes, kinds.labels().tolist()) == (KINDS, [2, 0, 2, 2])
    hidden = HuggingFace(str(folder), SIDE, split="test")
    assert hidden.labels() is None
    assert hidden.notes[0] == (
        "1 of 2 images have no class in the column label, so this column is not used."
    )
    for label in ("label", "level"):
        told = refused(HuggingFace(str(folder), SIDE, split="test", label=label).labels)
        assert f"1 of 2 images have no class in the column {label}: set" in told
    told = refused(HuggingFace(str(folder), SIDE, label="laebl").labels)
    assert "no column laebl: data.source.label may be one of id, image, label, level" in told


def test_a_test_split_can_be_held_out(hub, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    files = write_parquet(hub, folder, train=LABELS, validation=[0])["train"]
    names = [f"train/{row}" for row in range(9)]
    for split in ("train", "test"):
        source = HuggingFace(str(folder), SIDE, split=split, held_out=1 / 3)
        kept = part(names, split, 1 / 3)
        assert len(kept) == {"train": 6, "test": 3}[split]
        assert source.labels().tolist() == [LABELS[i] for i in kept]
        check_pixels(source, [files[i] for i in kept])
        assert source.notes[0] == f"{len(kept)} of 9 images are in the {split} split."
    assert len(HuggingFace(str(folder), SIDE, split="validation", held_out=0.5)) == 1
    told = refused(HuggingFace(str(folder), SIDE, split="test").labels)
    assert "data.source.split may be train, validation, or test with data.source.held_out" in told
    told = refused(HuggingFace(str(folder), SIDE, split="val").labels)
    assert "data.source.split may be train, validation" in told


def test_parquet_of_other_programs(hub, tmp_path: Path) -> None:
    """Without the library's own description: images are bytes, in a struct or not."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    files = [encoded(photo, "JPEG") for photo in photos(3)]
    other = [encoded(photo, "PNG") for photo in photos(3, seed=1)]
    table = {"photo": [{"bytes": data, "path": "a.jpg"} for data in files], "year": [7, 5, 7]}
    path = str(tmp_path / "a.parquet")
    write_table(pa.table(table), path)
    source = HuggingFace("parquet", SIDE, data_files=path)
    check_pixels(source, files)
    assert source.classes is None

    write_table(pa.table(table | {"map": other}), path)
    told = refused(HuggingFace("parquet", SIDE, data_files=path).labels)
    assert "columns of images are photo, map: set data.source.image to one" in told
    source = HuggingFace("parquet", SIDE, data_files=path, image="map", label="year")
    check_pixels(source, other)
    assert (source.classes, source.labels().tolist()) == (["5", "7"], [1, 0, 1])
    told = refused(HuggingFace("parquet", SIDE, data_files=path, image="year").labels)
    assert "columns of images are photo, map: set data.source.image" in told

    write_table(pa.table({"map": [other[0], None, b"none"], "year": [1, 2, 3]}), path)
    source = HuggingFace("parquet", SIDE, data_files=path)
    assert "2 of 3 inspected images" in refused(lambda: source.notes)
    assert "train/1 cannot be read (there is no image" in refused(lambda: source.__getitems__([1]))
    write_table(pa.table({"year": [1], "month": [2]}), path)
    told = refused(HuggingFace("parquet", SIDE, data_files=path).labels)
    assert "The columns of images are missing" in told


def test_several_columns_of_classes(hub, tmp_path: Path) -> None:
    kind = hub.ClassLabel(names=["a", "b"])
    features = hub.Features({"image": hub.Image(), "coarse": kind, "fine": kind})
    image = {"bytes": encoded(photos(1)[0], "PNG"), "path": None}
    table = {"image": [image], "coarse": [0], "fine": [1]}
    path = str(tmp_path / "a.parquet")
    hub.Dataset.from_dict(table, features=features).to_parquet(path)
    told = refused(HuggingFace("parquet", SIDE, data_files=path).labels)
    assert "set data.source.label to one of coarse, fine." in told
    assert HuggingFace("parquet", SIDE, data_files=path, label="fine").labels().tolist() == [1]


def test_images_that_the_library_keeps_as_files(hub, tmp_path: Path) -> None:
    files = []
    for kind, photo in zip(["a", "a", "b"], photos(3), strict=True):
        folder = tmp_path / "pictures" / "train" / kind
        folder.mkdir(parents=True, exist_ok=True)
        files.append(encoded(photo, "PNG"))
        (folder / f"{len(files)}.png").write_bytes(files[-1])
    source = HuggingFace(str(tmp_path / "pictures"), SIDE)
    check_pixels(source, files)
    assert (source.classes, source.labels().tolist()) == (["a", "b"], [0, 0, 1])


def test_a_data_set_of_the_hub_from_the_cache(hub, tmp_path: Path) -> None:
    assert "data.source.download=true" in refused(HuggingFace("someone/wings", SIDE).labels)
    files = write_parquet(hub, tmp_path / "wings", train=LABELS)
    hub.load_dataset(str(tmp_path / "wings"))
    (tmp_path / "cache" / "wings").rename(tmp_path / "cache" / "someone___wings")  # so they lie
    source = HuggingFace("someone/wings", SIDE)
    source.prepare()
    check_pixels(source, files["train"])
    asked = HuggingFace("someone/wings", SIDE, download=True)
    asked.prepare()  # it is here: nothing to fetch
    assert asked.labels().tolist() == LABELS
    told = refused(HuggingFace("someone/wings", SIDE, config="large").labels)
    assert "someone/wings cannot be read (" in told
    assert "large" in told


def test_only_download_asks_the_network(hub, tmp_path: Path, monkeypatch) -> None:
    write_parquet(hub, tmp_path / "wings", train=LABELS)
    there = hub.load_dataset(str(tmp_path / "wings"))
    calls = []

    def load_dataset(path: str, config: str | None, data_files: object) -> object:
        calls.append((path, config, hub.config.HF_HUB_OFFLINE))
        if hub.config.HF_HUB_OFFLINE:
            raise ConnectionError("it is\nnot here")
        return there

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    source = HuggingFace("someone/wings", SIDE, config="all")
    source.prepare()
    assert calls == []
    told = refused(source.labels)
    assert "someone/wings cannot be read (it is not here)" in told
    assert "data.source.download=true" in told
    assert calls == [("someone/wings", "all", True)]
    source = HuggingFace("someone/wings", SIDE, config="all", download=True)
    source.prepare()
    assert calls[1:] == [("someone/wings", "all", True), ("someone/wings", "all", False)]
    assert source.labels().tolist() == LABELS
    assert len(calls) == 3

    far = HuggingFace("parquet", SIDE, data_files={"train": "https://example.org/a.parquet"})
    assert "on the network" in refused(far.labels)
    assert len(calls) == 3
    monkeypatch.setattr(hub, "load_dataset", lambda *_, **__: {}["gone"])
    told = refused(HuggingFace("someone/wings", SIDE, download=True).prepare)
    assert told == (
        "someone/wings cannot be read ('gone'): check data.source.path, config and data_files."
    )


def test_without_the_library(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    told = refused(HuggingFace("someone/wings", SIDE).labels)
    assert 'pip install -e ".[huggingface]"' in told


def test_huggingface_trains(hub, tmp_path: Path) -> None:
    write_parquet(hub, tmp_path / "wings", train=LABELS)
    path = f"data.source.path={tmp_path / 'wings'}"
    check_run(tmp_path / "run", "data=huggingface", path, "data.workers=1")
