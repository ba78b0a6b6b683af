"""Packs: what is in them, what becomes of interruptions and of files that cannot be read."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run
from makers import warm
from makers.photos import crops
from torch import Tensor

from ganzoo import prepare
from ganzoo.data.packing import write_pack
from ganzoo.data.sources.emoji import Emoji
from ganzoo.data.sources.folder import Folder
from ganzoo.data.sources.pack import Pack, levels_of, pyramid
from ganzoo.data.sources.synthetic import Synthetic
from ganzoo.errors import UserError

COMMAND = [sys.executable, "-m", "ganzoo.prepare", "pack"]


def pixels(source, count: int | None = None) -> Tensor:
    return source.__getitems__(list(range(len(source) if count is None else count)))["image"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for i, photo in enumerate(crops(20, 70, 90)):
        path = folder / "ab"[i % 2] / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pack_holds_what_its_source_delivers(workers, tmp_path) -> None:
    source = Emoji("twemoji", split="test", image_size=32)
    assert write_pack(source, tmp_path / "pack", workers=workers, origin="somewhere") == {}
    pack = Pack(str(tmp_path / "pack"), 32)
    assert len(pack) == len(source) == 360
    assert torch.equal(pixels(pack), pixels(source))
    assert torch.equal(pack.labels(), source.labels())
    assert pack.classes == source.classes
    assert pack.shape == source.shape
    assert pack.name_of(7) == source.name_of(7)
    facts = json.loads((tmp_path / "pack" / "pack.json").read_text())
    assert facts["from"]["source"] == source.name
    assert facts["from"]["files"] == "somewhere"
    assert facts["from"]["notes"] == source.notes
    for name, digest in facts["sha256"].items():
        assert hashlib.sha256((tmp_path / "pack" / name).read_bytes()).hexdigest() == digest
    assert sorted(facts["sha256"]) == ["32x32.npy", "labels.npy", "names.txt"]
    assert {p.name for p in (tmp_path / "pack").iterdir()} == {*facts["sha256"], "pack.json"}
    assert pack.license == source.license != ""
    assert pack.notes[0].startswith("Packed from emoji (twemoji, test): Emoji are reduced from")
    pack.check()


def test_without_labels(tmp_path) -> None:
    write_pack(Synthetic(5, 8, channels=6, classes=0), tmp_path / "pack", workers=0)
    pack = Pack(str(tmp_path / "pack"))
    assert pack.classes is pack.labels() is None
    assert pack.shape == (6, 8, 8)
    assert pack.__getitems__([0]).keys() == {"image"}


# -- levels ----------------------------------------------------------------------------------------


def test_sizes_of_levels() -> None:
    assert levels_of((64, 64)) == [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]
    assert levels_of((48, 80)) == [(48, 80), (24, 40), (12, 20), (6, 10)]
    assert levels_of((10, 10)) == [(10, 10), (5, 5)]
    assert levels_of((9, 16)) == [(9, 16)]


def test_levels_are_box_means_that_are_rounded_only_when_written(tmp_path) -> None:
    source = Synthetic(9, [16, 32], channels=3)
    noisy = np.random.default_rng(0).integers(0, 256, (9, 3, 16, 32), np.uint8)
    source.__getitems__ = lambda indices: {"image": torch.from_numpy(noisy[indices])}
    source.classes = None
    write_pack(source, tmp_path / "pack", levels=True, workers=0)
    for factor in (1, 2, 4):
        height, width = 16 // factor, 32 // factor
        boxes = noisy.reshape(9, 3, height, factor, width, factor).astype(np.float64)
        expected = np.rint(boxes.mean((3, 5))).astype(np.uint8)
        pack = Pack(str(tmp_path / "pack"), [height, width])
        assert pack.shape == (3, height, width)
        assert np.array_equal(pixels(pack).numpy(), expected)
    assert Pack(str(tmp_path / "pack"), 8).shape == (3, 16, 32), "no such level: the full size"
    assert len(list(pyramid(torch.zeros(1, 3, 16, 32, dtype=torch.uint8), 3))) == 3


# -- what cannot be read ---------------------------------------------------------------------------


def test_every_file_that_cannot_be_read_is_named(photos, tmp_path, capsys) -> None:
    bad = [photos / "a" / "04.jpg", photos / "b" / "19.jpg"]
    whole = bad[0].read_bytes()
    bad[0].write_bytes(whole[: len(whole) // 2])
    bad[1].write_text("not an image")
    arguments = ["pack", str(photos), str(tmp_path / "pack"), "--size", "32", "--workers", "0"]
    with pytest.raises(SystemExit) as ended:
        prepare.main(arguments)
    assert "2 of 20 images cannot be read" in str(ended.value)
    assert "--skip-bad" in str(ended.value)
    told = capsys.readouterr().out.splitlines()
    assert [path for path in bad if any(str(path) in line for line in told)] == bad
    assert not (tmp_path / "pack").exists()

    prepare.main([*arguments, "--skip-bad"])
    assert "(2 left out, each named above)" in capsys.readouterr().out
    pack = Pack(str(tmp_path / "pack"))
    pack.check()
    good = Folder(str(photos), 32)
    names = [pack.name_of(i) for i in range(len(pack))]
    assert len(names) == 18
    assert not {"a/04.jpg", "b/19.jpg"} & set(names)
    for i, name in enumerate(names):
        place = good.listing.names.index(name)
        assert torch.equal(pixels(pack)[i], good.__getitems__([place])["image"][0])
        assert pack.labels()[i] == good.labels()[place]
    skipped = json.loads((tmp_path / "pack" / "pack.json").read_text())["from"]["skipped"]
    assert sorted(skipped) == ["a/04.jpg", "b/19.jpg"]
    assert "2 images that could not be read were left out when packing." in pack.notes


def test_nothing_readable(tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("no")
    with pytest.raises(UserError, match="None of the 1 images can be read"):
        write_pack(Folder(str(tmp_path / "photos"), 8), tmp_path / "pack", skip_bad=True, workers=0)
    assert not (tmp_path / "pack").exists()


# -- interruptions ---------------------------------------------------------------------------------


class Interrupted(Synthetic):
    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        if 600 in indices:
            raise KeyboardInterrupt
        return super().__getitems__(indices)


def test_an_interrupted_packing_leaves_nothing(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_pack(Interrupted(1000, 64), tmp_path / "pack", workers=0)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path) -> None:
    out = tmp_path / "pack"
    write_pack(Synthetic(30, 8), out, workers=0)
    before = (out / "pack.json").read_bytes()
    with pytest.raises(UserError, match="already exists"):
        write_pack(Synthetic(31, 8), out, workers=0)
    assert (out / "pack.json").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_killed_and_run_again(number, tmp_path) -> None:
    out, partial = tmp_path / "pack", tmp_path / "pack.partial"
    command = [*COMMAND, "synthetic", str(out), "num=4000", "--size", "64", "--workers", "1"]
    started = warm.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (partial / "64x64.npy").exists():
        assert time.monotonic() < deadline
        assert started.poll() is None, started.stdout
        time.sleep(0.02)
    time.sleep(0.1)
    os.killpg(started.pid, number)
    output = started.communicate(timeout=60)[0].decode()
    assert "Traceback" not in output
    assert not out.exists()
    assert partial.exists() == (number == signal.SIGKILL)
    ended = run(command)
    assert ended.returncode == 0, ended.stderr
    Pack(str(out)).check()
    rows = list(range(0, 4000, 125))
    got = Pack(str(out)).__getitems__(rows)["image"]
    assert torch.equal(got, Synthetic(4000, 64).__getitems__(rows)["image"])


def test_a_disk_without_room(tmp_path, monkeypatch) -> None:
    class Usage:
        free = 10 * 2**20

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(UserError, match=r"needs 12 MiB .* has 10 MiB left"):
        write_pack(Synthetic(1000, 64), tmp_path / "pack", workers=0)


# -- damaged packs and command lines ---------------------------------------------------------------


def test_damaged_packs(tmp_path) -> None:
    out = tmp_path / "pack"
    with pytest.raises(UserError, match="There is no pack at"):
        len(Pack(str(out)))
    write_pack(Synthetic(30, 8), out, workers=0)
    images = out / "8x8.npy"
    whole = bytearray(images.read_bytes())
    whole[-1] ^= 1
    images.write_bytes(whole)
    with pytest.raises(UserError, match=r"8x8\.npy has changed since packing"):
        Pack(str(out)).check()
    images.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"8x8\.npy cannot be read"):
        pixels(Pack(str(out)))
    np.save(images, np.zeros((29, 3, 8, 8), np.uint8))
    with pytest.raises(UserError, match=r"has shape \[29, 3, 8, 8\], but pack.json says \[30, 3"):
        pixels(Pack(str(out)))
    (out / "pack.json").write_text("{")
    with pytest.raises(UserError, match=r"pack\.json cannot be read"):
        len(Pack(str(out)))
    (out / "pack.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="pack format 99"):
        len(Pack(str(out)))


def test_a_pack_is_not_read_as_a_folder(tmp_path) -> None:
    write_pack(Synthetic(3, 8), tmp_path / "pack", workers=0)
    with pytest.raises(UserError, match="read it with data=pack"):
        len(Folder(str(tmp_path / "pack"), 8))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing", "out"], "not a file or folder and not one of"),
        (["emoji", "out", "vendr=noto"], "vendr"),
        (["emoji", "out", "vendor=apple"], "must be one of noto"),
        (["emoji", "out", "--size", "48"], "64x64, 32x32"),
        (["celeba", "out", "root=nowhere"], "MD5 00d2c5bc6d35e252742224ab0c1e8fcb"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(arguments, says, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        prepare.main(["pack", *arguments])
    message = str(ended.value)
    assert says in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "b", "--size", "0x"],
        ["a", "b", "root"],
        ["a"],
        ["a", "b", "--size", "x9"],
        ["a", "b", "--size", "9", "root"],
        ["a", "b", "--sizes=9"],
    ],
)
def test_command_lines_that_are_none(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        prepare.main(["pack", *arguments])
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_named_data_set_is_packed_with_its_keys(tmp_path, capsys) -> None:
    prepare.main(
        ["pack", "emoji", str(tmp_path / "pack"), "vendor=twemoji", "--size", "16", "split=test"]
    )
    assert "data=pack data.root=" in capsys.readouterr().out
    source = Emoji("twemoji", split="test", image_size=16)
    assert torch.equal(pixels(Pack(str(tmp_path / "pack"))), pixels(source))
