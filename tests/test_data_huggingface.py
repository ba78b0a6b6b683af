"""Data sets of Hugging Face: Parquet files, columns of classes, splits, the cache of the Hub."""

import io
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from makers.layouts import SIDE, check_pixels, check_processes, check_run, encoded, photos, refused
from PIL import Image

from ganzoo.data.source import part
from ganzoo.data.sources.huggingface import HuggingFace


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
