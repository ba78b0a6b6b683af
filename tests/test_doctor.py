"""What the doctor says of planted faults, and that it says nothing else."""

import csv
import io
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import run
from makers.photos import crops
from PIL import Image

from ganzoo import doctor
from ganzoo.data.choosing import source_of
from ganzoo.data.packing import write_pack
from ganzoo.data.sources.emoji import PACK
from ganzoo.data.sources.folder import Folder
from ganzoo.pictures import checkup


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty photographs in two classes with nothing wrong."""
    root = tmp_path / "photos"
    for i, photo in enumerate(crops(20, 96, 96, seed=5)):
        path = root / ("cats", "dogs")[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    return root


def asked(capsys, *arguments: str, code: int) -> str:
    """What the doctor prints; its exit code must be `code`."""
    command = [*arguments, "--sheet", "none", "--workers", "0"]
    if code:
        with pytest.raises(SystemExit) as ended:
            doctor.main(command)
        assert ended.value.code == code
    else:
        doctor.main(command)
    return capsys.readouterr().out


def problems(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("PROBLEM: ")]


def photo_of(root: Path, number: int) -> Path:
    return root / ("cats", "dogs")[number % 2] / f"{number:02d}.png"


# -- clean data ------------------------------------------------------------------------------------


def test_clean_data_has_no_problem(photos, capsys) -> None:
    output = asked(capsys, str(photos), code=0)
    assert problems(output) == []
    assert "photos: 20 images, delivered as 64x64 (height x width) with 3 channels" in output
    assert "2 classes: cats 10, dogs 10\n" in output
    assert "as delivered: 20 of 20 images are not 64x64: cropped at the center" in output
    assert "note: There are only 20 images" in output
    assert "repeat" not in output
    assert output.endswith("no problems\n")


@pytest.mark.parametrize("kind", ["zip", "pack"])
def test_zips_and_packs(kind, photos, tmp_path, capsys) -> None:
    data = tmp_path / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as archive:
            for path in sorted(photos.rglob("*.png")):
                archive.write(path, path.relative_to(photos))
    else:
        write_pack(Folder(str(photos), 64), data, workers=0)
    output = asked(capsys, str(data), code=0)
    assert "20 images, delivered as 64x64" in output
    assert problems(output) == []


def test_a_changed_pack(photos, tmp_path, capsys) -> None:
    pack = tmp_path / "pack"
    write_pack(Folder(str(photos), 64), pack, workers=0)
    images = bytearray((pack / "64x64.npy").read_bytes())
    images[-1] ^= 1
    (pack / "64x64.npy").write_bytes(images)
    (problem,) = problems(asked(capsys, str(pack), code=1))
    assert "64x64.npy has changed since packing (its SHA-256 differs)" in problem


# -- planted faults --------------------------------------------------------------------------------


def test_files_that_cannot_be_read(photos, capsys) -> None:
    whole = photo_of(photos, 3).read_bytes()
    photo_of(photos, 3).write_bytes(whole[: len(whole) // 2])
    photo_of(photos, 8).write_text("a shopping list")
    output = asked(capsys, str(photos), code=1)
    (problem,) = problems(output)
    assert "2 of 20 images cannot be read" in problem
    assert "--skip-bad" in problem
    told = [line for line in output.splitlines() if line.startswith("  /")]
    assert [line.split(" cannot be read (")[0].strip() for line in told] == [
        str(photo_of(photos, 8)),
        str(photo_of(photos, 3)),
    ]
    assert output.endswith("1 problem\n")


def test_one_class(photos, capsys) -> None:
    (photos / "dogs").rename(photos / "cats" / "more")
    (problem,) = problems(asked(capsys, str(photos), code=1))
    assert "Every image has the class cats, so the labels mean nothing" in problem
    assert "data.source.labels=false" in problem
    assert problems(asked(capsys, str(photos), "labels=false", code=0)) == []


def test_a_class_of_one_image_and_imbalance(photos, capsys) -> None:
    (photos / "birds").mkdir()
    photo_of(photos, 4).rename(photos / "birds" / "1.png")
    output = asked(capsys, str(photos), code=1)
    (problem,) = problems(output)
    assert "1 of 3 classes have fewer than 2 images (birds: 1)" in problem
    assert "data.balanced" not in output, "ten times is not over ten times"
    crops(1, 96, 96, seed=77)[0].save(photos / "dogs" / "new.png")
    assert "data.balanced=true" in asked(capsys, str(photos), code=1)


def test_copies_are_found_in_any_lossless_form(photos, capsys) -> None:
    (photos / "cats" / "copy.png").write_bytes(photo_of(photos, 2).read_bytes())
    Image.open(photo_of(photos, 5)).save(photos / "dogs" / "saved again.bmp")
    output = asked(capsys, str(photos), code=1)
    (problem,) = problems(output)
    assert "2 of 22 images repeat another pixel for pixel at 64x64" in problem
    assert "  cats/02.png, cats/copy.png" in output
    assert "  dogs/05.png, dogs/saved again.bmp" in output


def test_one_image_in_two_classes(photos, capsys) -> None:
    (photos / "dogs" / "02.png").write_bytes(photo_of(photos, 2).read_bytes())
    output = asked(capsys, str(photos), code=1)
    assert any("same pixels as an image of another class" in line for line in problems(output))
    assert "  cats/02.png, dogs/02.png" in output


def test_images_of_one_color(photos, capsys) -> None:
    for i in range(3):
        Image.new("RGB", (96, 96), (i, 200, 9)).save(photos / "cats" / f"plain{i}.png")
    (problem,) = problems(asked(capsys, str(photos), code=1))
    assert "3 of 23 images have a single color (cats/plain0.png, cats/plain1.png" in problem


def test_modes_and_sizes_that_are_mixed(photos, capsys) -> None:
    photo = Image.open(photo_of(photos, 0))
    photo.convert("L").save(photos / "cats" / "gray.png")
    photo.crop((0, 0, 30, 40)).save(photos / "cats" / "small.png")
    photo.resize((900, 90)).save(photos / "cats" / "wide.png")
    output = asked(capsys, str(photos), code=0)
    assert "1 of 23 images are L: converted to RGB" in output
    assert "1 of 23 images are smaller than 64x64 (the smallest 40x30)" in output
    assert "1 of 23 images lose more than half" in output


def test_pictures_that_are_not_read_and_files_that_outnumber_images(photos, capsys) -> None:
    photo_of(photos, 0).rename(photos / "cats" / "00.jfif")
    for i in range(2):
        (photos / "cats" / f"{i}.nef").write_bytes(b"of a camera")
    (problem,) = problems(asked(capsys, str(photos), code=1))
    assert f"2 pictures in {photos} have a format that is not read (.nef): convert" in problem
    for i in range(2):
        (photos / "cats" / f"{i}.nef").unlink()
    for i in range(21):
        (photos / "cats" / f"{i}.txt").write_text("a caption")
        if i == 19:
            assert problems(asked(capsys, str(photos), code=0)) == []
    (problem,) = problems(asked(capsys, str(photos), code=1))
    assert f"21 files in {photos} are not images and are ignored: .txt" in problem


def test_only_images_of_one_color(tmp_path, capsys) -> None:
    for i in range(6):
        Image.new("RGB", (16, 16), (i * 40, 9, 9)).save(tmp_path / f"{i}.png")
    assert "6 of 6 images have a single color" in asked(capsys, str(tmp_path), code=1)


# -- the embedded data, whose repeats are known ----------------------------------------------------


def test_repeats_of_the_emoji_are_those_of_its_own_index() -> None:
    with np.load(PACK) as pack:
        rows = list(csv.DictReader(io.StringIO(pack["index.csv"].decode())))
        kept = [i for i, label in enumerate(pack["label"]) if label < 9]
    known = Counter(
        frozenset((int(row["noto_same_as"]), int(row["index"])))
        for row in rows
        if row["noto_same_as"]
    )
    assert len(known) == 19
    source = source_of("emoji", (64, 64), keys=["split=all"])
    record = checkup.examine(source, workers=2)
    found = {
        frozenset((kept[earlier], kept[other]))
        for earlier, group in record.copies.items()
        for other in group[1:]
    }
    assert found == set(known)


# -- sheets and commands ---------------------------------------------------------------------------


def test_a_data_set_of_ones_own(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    text = "defaults: [synthetic]\nsource: {_target_: makers.tiny.Unpacked, folder: unused}\n"
    (tmp_path / "data" / "ours.yaml").write_text(text)
    kind = type(source_of("ours", (16, 16), config_dir=str(tmp_path)))
    assert f"{kind.__module__}.{kind.__name__}" == "makers.tiny.Unpacked"
    with pytest.raises(SystemExit, match="elsewhere is not a folder"):
        doctor.main(["ours", "--config-dir", str(tmp_path / "elsewhere")])


def test_the_sheet_shows_the_images(tmp_path, capsys) -> None:
    root = tmp_path / "photos"
    for name, color in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (root / name).mkdir(parents=True)
        for i in range(3):
            picture = Image.new("RGB", (64, 64), color)
            picture.putpixel((i, 0), (1, 2, 3))
            picture.save(root / name / f"{i}.png")
    sheet = tmp_path / "out" / "sheet.png"
    doctor.main([str(root), "--sheet", str(sheet), "--workers", "0"])
    assert f"as the networks would see them: {sheet}" in capsys.readouterr().out
    pixels = np.array(Image.open(sheet).convert("RGB"))
    assert pixels.shape[:2] == (2 * 66 - 2, 3 * 66 - 2)
    assert (pixels[32, np.arange(3) * 66 + 32] == [0, 0, 255]).all()
    assert (pixels[66 + 32, np.arange(3) * 66 + 32] == [255, 0, 0]).all()


@pytest.mark.parametrize("channels", ["1", "4"])
def test_sheets_of_other_channels(channels, photos, tmp_path) -> None:
    sheet = tmp_path / "sheet.png"
    doctor.main([str(photos), "--channels", channels, "--size", "32x48", "--sheet", str(sheet)])
    assert sheet.exists()


def test_a_sheet_is_not_put_among_the_images(photos, capsys) -> None:
    with pytest.raises(SystemExit, match="would become one of them"):
        doctor.main([str(photos), "--sheet", str(photos / "doctor.png")])


def test_the_command_exits_with_one_and_a_sentence(photos, tmp_path) -> None:
    command = [sys.executable, "-m", "ganzoo.doctor"]
    ended = run([*command, str(tmp_path / "nowhere")], cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("ganzoo.doctor: ")
    assert "not a file or folder and not one of" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert run([*command, str(photos)], cwd=tmp_path).returncode == 0
    assert (tmp_path / "doctor.png").exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [("imagenet", "root must be given: add root=VALUE"), ("unpaired_folder", "add a.root=VALUE")],
)
def test_keys_are_named_as_the_doctor_takes_them(data: str, says: str) -> None:
    with pytest.raises(SystemExit) as ended:
        doctor.main([data])
    assert says in str(ended.value.code)
    assert "data." not in str(ended.value.code)


def test_a_path_and_another_root_are_refused(photos: Path) -> None:
    with pytest.raises(SystemExit, match=r"Both .*photos and root=nowhere are given"):
        doctor.main([str(photos), "root=nowhere"])
