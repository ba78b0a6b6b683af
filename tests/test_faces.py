"""Drawn faces: the pictures bear out the table, and the same call finishes what was begun."""

import csv
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_runs import log_of, trained

from ganzoo import UserError, doctor, prepare
from ganzoo.faces import (
    STYLES,
    draw_faces,
    fingerprint,
    installed,
    packages,
    packages_folder,
)

drawing = pytest.mark.skipif(
    not installed() or shutil.which("node") is None,
    reason="what draws faces is not installed: run python -m ganzoo.prepare faces",
)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "attributes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def colors(out: Path, row: dict[str, str]) -> np.ndarray:
    """A picture, [H, W], with a number for each color."""
    pixels = np.asarray(Image.open(out / row["file"])).astype(int)
    return pixels @ [65536, 256, 1]


def color_of(has: list[bool], shown: list[Counter[int]]) -> int | None:
    """A color of which every face that has something shows more than any face without it."""
    ours = [areas for areas, true in zip(shown, has, strict=True) if true]
    rest = [areas for areas, true in zip(shown, has, strict=True) if not true]
    for color in ours[0]:
        if min(areas[color] for areas in ours) > max(areas[color] for areas in rest):
            return color
    return None


@drawing
@pytest.mark.parametrize("style", STYLES)
def test_files_are_what_they_should_be(style: str, tmp_path: Path) -> None:
    draw_faces(tmp_path, num=5, size=33, style=style, workers=2)
    names = [f"images/{i:06d}.png" for i in range(5)]
    others = ["LICENSE.txt", "attributes.csv", "faces.json"]
    assert sorted(contents(tmp_path)) == sorted(names + others)
    assert [row["file"] for row in table(tmp_path)] == names
    for name in names:
        image = Image.open(tmp_path / name)
        image.load()  # checksums included
        assert (image.mode, image.size) == ("RGB", (33, 33))
    text = (tmp_path / "LICENSE.txt").read_text(encoding="utf-8")
    design, code = text.split("# Code")
    assert f"@dicebear/{style} 9." in design
    assert "Designer: " in design
    assert "Source: " in design
    assert "License: CC0 1.0" in design
    assert "MIT License" in code


@drawing
def test_face_is_a_function_of_style_seed_and_index(tmp_path: Path) -> None:
    draw_faces(tmp_path / "a", num=9, size=32, workers=1)
    draw_faces(tmp_path / "b", num=5, size=32, workers=3)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    for i in range(5):
        assert a[f"images/{i:06d}.png"] == b[f"images/{i:06d}.png"]
    draw_faces(tmp_path / "b", num=9, size=32, workers=2)
    assert contents(tmp_path / "b") == a

    draw_faces(tmp_path / "large", num=9, size=48, workers=2)
    assert table(tmp_path / "large") == table(tmp_path / "a")
    draw_faces(tmp_path / "seed", num=9, size=32, seed=1, workers=2)
    assert table(tmp_path / "seed") != table(tmp_path / "a")


@drawing
@pytest.mark.parametrize(
    ("style", "names"),
    [
        ("lorelei", ["background", "skin", "hair_color", "glasses_color"]),
        ("open-peeps", ["background", "skin", "clothing_color"]),
        ("pixel-art", ["background", "skin", "hair_color", "glasses_color", "clothing_color"]),
    ],
)
def test_pictures_bear_out_the_table(style: str, names: list[str], tmp_path: Path) -> None:
    """Each value of a color is one color of the pictures; other things are where they belong.

    Which color that is is not asked of the code, so one face with a wrong value is found out.
    """
    draw_faces(tmp_path, num=70, size=192, style=style, workers=2)
    rows = table(tmp_path)
    pictures = [colors(tmp_path, row) for row in rows]
    shown = [Counter(picture.ravel().tolist()) for picture in pictures]
    found = {}
    for name in names:
        values = {row[name] for row in rows} - {"none"}
        assert len(values) >= 4
        for value in values:
            color = color_of([row[name] == value for row in rows], shown)
            assert color is not None, (name, value)
            found[name, value] = color
    if style != "lorelei":
        return
    assert color_of([row["earrings"] != "none" for row in rows], shown) is not None
    bald, others = [], []
    for row, picture, areas in zip(rows, pictures, shown, strict=True):
        hair = picture == found["hair_color", row["hair_color"]]
        assert (hair[125:160, 95:125].mean() > 0.4) == (row["beard"] != "none")
        (bald if row["hair"] == "bald" else others).append(hair[:90].sum())
        assert (row["glasses"] == "none") == (row["glasses_color"] == "none")
        if row["background"] != "white":
            assert (areas[0xFFFFFF] > 300) == (row["flowers"] != "none")
    assert max(bald) < min(others)


@drawing
@pytest.mark.parametrize("style", STYLES)
def test_attributes_are_balanced_and_independent(style: str, tmp_path: Path) -> None:
    draw_faces(tmp_path, num=400, size=8, style=style, workers=2)
    rows = table(tmp_path)
    whole = [name for name in rows[0] if name != "file" and not name.endswith("_drawing")]
    optional = {
        "lorelei": ["beard", "glasses", "earrings", "freckles", "flowers"],
        "open-peeps": ["facial_hair", "glasses"],
        "pixel-art": ["glasses", "earrings"],
    }[style]
    for name in whole:
        counts = Counter(row[name] for row in rows)
        if name in optional:
            assert counts["none"] / 400 == pytest.approx(2 / 3, abs=0.07), name
        elif "none" not in counts:
            least, most = min(counts.values()), max(counts.values())
            assert most < 1.3 * 400 / len(counts) + 15, name
            assert least > 0.7 * 400 / len(counts) - 15, name
    there = np.array([[row[name] != "none" for name in optional] for row in rows])
    related = np.corrcoef(there.T) - np.eye(len(optional))
    assert np.abs(related).max() < 0.15


@drawing
def test_same_call_finishes_what_was_begun(tmp_path: Path) -> None:
    draw_faces(tmp_path, num=8, size=32, workers=2)
    before = contents(tmp_path)
    kept = tmp_path / "images" / "000002.png"
    written = kept.stat().st_mtime_ns
    (tmp_path / "images" / "000003.png").unlink()
    (tmp_path / "images" / "000007.png").rename(tmp_path / "images" / "000007.png.partial")
    (tmp_path / "images" / "000007.png.partial").write_bytes(b"half")
    (tmp_path / "attributes.csv").unlink()
    draw_faces(tmp_path, num=8, size=32, workers=3)
    assert contents(tmp_path) == before
    assert kept.stat().st_mtime_ns == written, "what is whole is not drawn again"


def fill(out: Path, style: str, seed: int, size: int, num: int) -> None:
    """What an interrupted call leaves."""
    version = fingerprint("package.json", "draw.mjs")
    settings = {"style": style, "seed": seed, "size": size, "version": version}
    (out / "images").mkdir(parents=True)
    (out / "faces.json").write_text(json.dumps(settings))
    for i in range(num):
        (out / "images" / f"{i:06d}.png").touch()


OTHER_NODE = '[ "$1" = --version ] && echo v22.1.0 && exit 0\n'


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes shell scripts that are the only programs, beside an empty cache."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(name: str, script: str) -> None:
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)

    return write


def refusal(*args: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        draw_faces(*args, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_other_settings_and_other_folders_are_refused(
    tmp_path: Path, fake: Callable[[str, str], None]
) -> None:
    fake("node", OTHER_NODE + "exit 0")
    fake("npm", "echo npm error code ENOTFOUND >&2; exit 1")
    out = tmp_path / "faces"
    fill(out, "lorelei", 0, 32, 5)
    before = contents(out)
    assert "size 32, not 64" in refusal(out, 5, 64)
    assert "seed 0, not 1" in refusal(out, 5, 32, seed=1)
    assert "style lorelei, not pixel-art" in refusal(out, 5, 32, style="pixel-art")
    assert "more than 4 faces: ask for 5" in refusal(out, 4, 32)
    assert "ENOTFOUND" in refusal(out, 5, 32), "the same settings are not refused"
    assert contents(out) == before

    (out / "faces.json").write_text('{"style":')
    assert "is damaged" in refusal(out, 5, 32)
    (out / "faces.json").unlink()
    assert "other than faces" in refusal(out, 5, 32)
    assert "other than faces" in refusal(out / "images" / "000000.png", 5, 32)

    assert "lorelei, open-peeps, pixel-art" in refusal(tmp_path / "new", 5, 32, style="micah")
    for num, size, workers in [(0, 32, 1), (5, 4, 1), (5, 32, 0)]:
        assert "at least 1 worker" in refusal(tmp_path / "new", num, size, workers=workers)
    assert not (tmp_path / "new").exists()


def test_node_that_is_absent_or_old_is_refused(
    tmp_path: Path, fake: Callable[[str, str], None]
) -> None:
    assert "install version 18 or newer" in refusal(tmp_path / "out", 3, 32)
    fake("node", "echo v16.20.2")
    assert "v16.20.2" in refusal(tmp_path / "out", 3, 32)
    fake("node", "exit 1")
    assert "of no version" in refusal(tmp_path / "out", 3, 32)
    assert not (tmp_path / "out").exists()


def test_failed_install_is_refused_and_leaves_nothing(
    tmp_path: Path, fake: Callable[[str, str], None]
) -> None:
    fake("node", OTHER_NODE)
    assert "install npm" in refusal(tmp_path / "out", 3, 32)
    fake(
        "npm",
        "/bin/mkdir -p node_modules/@dicebear; echo npm warn old >&2;"
        "echo npm error code ENOTFOUND >&2; echo npm error A log is kept >&2; exit 1",
    )
    assert "(npm error code ENOTFOUND)" in refusal(tmp_path / "out", 3, 32)
    assert not installed()
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache" / "ganzoo").iterdir())

    fake("npm", "[ -f package.json ] && /bin/mkdir node_modules")
    assert (packages() / "node_modules").is_dir()
    assert installed()
    fake("npm", "exit 1")
    assert packages() == packages_folder(), "npm is not asked again"


def test_process_that_fails_ends_the_others(
    tmp_path: Path, fake: Callable[[str, str], None]
) -> None:
    asleep = tmp_path / "asleep"
    fails = f"until [ -s {asleep} ]; do :; done; echo first >&2; echo No space left. >&2; exit 3"
    sleeps = f"echo $$ >> {asleep}; exec /bin/sleep 100"
    fake("node", f"""{OTHER_NODE}case "$2" in *'"first": 1'*) {fails};; *) {sleeps};; esac""")
    package = packages_folder() / "node_modules" / "@dicebear" / "lorelei"
    package.mkdir(parents=True)
    (package / "LICENSE").write_text("CC0 1.0")
    start = time.monotonic()
    assert "(No space left.)" in refusal(tmp_path / "out", 9, 32, workers=3)
    assert time.monotonic() - start < 50
    for line in asleep.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line), 0)


@drawing
def test_faces_are_drawn_examined_packed_and_trained_on(tmp_path: Path, capsys) -> None:
    drawn, pack = tmp_path / "faces", tmp_path / "pack"
    prepare.main(["faces", str(drawn), "--num", "24", "--size", "32", "--workers", "1"])
    doctor.main([str(drawn), "attributes=[jaw]", "--size", "32", "--sheet", "none"])
    told = capsys.readouterr().out
    assert "faces: 24 images" in told
    assert "jaw: round" in told
    keys = ["attributes=[jaw]", "--size", "16", "--workers", "0"]
    prepare.main(["pack", str(drawn), str(pack), *keys])
    trained(tmp_path / "a", "data=faces", f"data.source.root={drawn}", "data.workers=0")
    trained(tmp_path / "b", "data=pack", f"data.source.root={pack}")
    assert "24 images of 16x16, 3 channel(s), 4 classes: jaw" in log_of(tmp_path / "b")
