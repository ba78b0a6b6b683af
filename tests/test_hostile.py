"""What people have in their folders: named, converted or left out, never a surprise later."""

import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import run
from makers import hostile
from makers.hostile import BAD, IGNORED, READ
from makers.tiny import TINY, config

from ganzoo.data.packing import write_pack
from ganzoo.data.sources.folder import Folder
from ganzoo.data.sources.pack import Pack
from ganzoo.errors import UserError, shown
from ganzoo.train import train_config as train

SIZE = ("--size", "16")
BASE = [o for o in TINY if not o.startswith("data")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("hostile") / "photos"
    return root, hostile.make(root)


@pytest.fixture
def root(made) -> Path:
    return made[0]


@pytest.fixture
def fate(made) -> dict[str, str]:
    return made[1]


def ended(command: str, *arguments: str, code: int) -> str:
    """All that a command printed, in a process of its own, with the exit code that it must have."""
    done = run([sys.executable, "-m", f"ganzoo.{command}", *arguments])
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert "Traceback" not in output
    assert "Warning" not in output
    return output


def names(fate: dict[str, str], outcome: str) -> list[str]:
    return sorted(name for name in fate if fate[name] == outcome)


def test_the_doctor_names_all_that_is_wrong(root, fate, tmp_path) -> None:
    sheet = tmp_path / "sheet.png"
    output = ended("doctor", str(root), *SIZE, "--sheet", str(sheet), code=1)
    assert all(shown(name) in output for name in names(fate, BAD))
    assert not [name for name in names(fate, READ) if f"{shown(name)} cannot" in output]
    assert "names/loop" in output
    assert sheet.exists()


def test_packing_names_all_and_goes_on_when_told(root, fate, tmp_path) -> None:
    arguments = ("pack", str(root), str(tmp_path / "pack"), *SIZE, "--workers", "2")
    output = ended("prepare", *arguments, code=1)
    assert f"{len(names(fate, BAD))} of {60 - len(names(fate, IGNORED))} images cannot" in output
    assert all(shown(name) in output for name in names(fate, BAD))
    assert not (tmp_path / "pack").exists()

    ended("prepare", *arguments, "--skip-bad", code=0)
    pack, folder = Pack(str(tmp_path / "pack")), Folder(str(root), 16)
    pack.check()
    assert [pack.name_of(i) for i in range(len(pack))] == names(fate, READ)
    for i, name in enumerate(names(fate, READ)):
        pixels = folder.__getitems__([folder.listing.names.index(name)])["image"]
        assert torch.equal(pack.__getitems__([i])["image"], pixels), name

    options = ("data=pack", f"data.root={tmp_path / 'pack'}", "total_kimg=0.016")
    train(config(*BASE, *options, f"run_dir={tmp_path / 'run'}", tiny=False))
    assert (tmp_path / "run" / "done").exists()
    told = (tmp_path / "run" / "train.log").read_text()
    assert "12 images that could not be read were left out when packing." in told


def test_training_refuses_at_the_start(root, fate, tmp_path) -> None:
    options = ("data=folder", f"data.root={root}", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError) as told:
        train(config(*BASE, *options, tiny=False))
    message = str(told.value)
    assert "of 58 inspected images" in message
    assert "broken/empty.jpg" in message
    assert "ganzoo.doctor lists them all" in message
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_files_that_may_not_be_read(tmp_path_factory) -> None:
    base = tmp_path_factory.mktemp("theirs")
    for folder in (base, *(p for p in base.parents if p.name.startswith(("pytest", "popen")))):
        folder.chmod(0o755)
    root = base / "photos"
    hostile.make(root)
    base.chmod(0o777)
    (root / "good" / "03.jpg").chmod(0)
    (root / "modes").chmod(0)
    os.seteuid(65534)  # nobody
    try:
        with pytest.raises(UserError, match=r"1 folders in .* cannot be opened \(modes\)"):
            write_pack(Folder(str(root), 16), base / "pack", workers=0)
        skipped = write_pack(Folder(str(root), 16), base / "pack", skip_bad=True, workers=0)
        packed = Pack(str(base / "pack"))
        assert "Permission denied" in skipped["good/03.jpg"]
        assert "(modes)" in skipped["folders, 1"]
        assert "good/04.jpg" in [packed.name_of(i) for i in range(len(packed))]
    finally:
        os.seteuid(0)
