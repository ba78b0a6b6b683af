"""A folder through a model that translates: every image, under its name, in its size."""

import html.parser
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from conftest import run
from makers import hostile
from makers.photos import crops
from makers.tiny import config
from PIL import Image
from torch import Tensor, nn

import ganzoo
from ganzoo.data.decode import Decoder
from ganzoo.data.outputs import target_name
from ganzoo.data.pixels import to_float, to_uint8
from ganzoo.errors import UserError
from ganzoo.models.cyclegan import CycleGAN
from ganzoo.pictures.translating import translate
from ganzoo.train import train_config as train
from ganzoo.translate import main

SMALL = (
    "model=cyclegan", "data=emoji_unpaired", "image_size=16", "batch_size=4", "total_kimg=0.008",
    "model.generator.ngf=4", "model.generator.blocks=1", "model.discriminator.ndf=4",
    "model.discriminator.layers=1", "model.ema_kimg=0.001", "logger=csv", "trainer=cpu",
    "callbacks.metrics=null", "callbacks.accuracy=null", "~callbacks.grid", "~callbacks.ticks",
)  # fmt: skip


class Known(nn.Module):
    """Takes channels apart or together in a known way and darkens: x -> x / 2 - 1 / 4."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs, self.weight = outputs, nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        assert images.min() >= -1
        assert images.max() <= 1
        gray = images[:, :1]
        spread = images if images.shape[1] == self.outputs else gray.repeat(1, self.outputs, 1, 1)
        return spread / 2 - 0.25 + self.weight


def known(channels_a: int = 3, channels_b: int = 3) -> CycleGAN:
    return CycleGAN(
        Known, None, {}, channels_a=channels_a, channels_b=channels_b, lambda_identity=0, pool=0,
        total_kimg=1, ema_kimg=0,
    ).eval()  # fmt: skip


def expected(path: Path, channels: int = 3, results: int | None = None) -> np.ndarray:
    """What becomes of a file: uint8 [H, W, C]."""
    pixels = Decoder((1, 1), channels, "none")(path.read_bytes())
    after = to_uint8(Known(channels, results or channels)(to_float(pixels[None])))
    return after[0].detach().permute(1, 2, 0).numpy()


def difference(path: Path, pixels: np.ndarray) -> int:
    got = np.asarray(Image.open(path)).reshape(pixels.shape)
    return int(np.abs(got.astype(int) - pixels).max())


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(config(*SMALL, f"run_dir={folder}", tiny=False))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photographs of two sizes in two folders, without loss."""
    root = tmp_path / "photos"
    for i in range(7):
        (photo,) = crops(1, *((40, 30), (25, 33))[i % 2], seed=i)
        path = root / ("", "deep/er")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    return root


def below(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def failing(argv: list[str], capsys: Any) -> tuple[object, str]:
    """Exit code and all that was written."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    code = ended.value.code
    written = capsys.readouterr()
    return (code, written.out + written.err) if isinstance(code, int) else (1, str(code))


# -- every image, its name, its size ---------------------------------------------------------------


def mixed_photographs(root: Path, count: int, scale: int = 1) -> dict[str, tuple[int, int]]:
    """Photographs of mixed sizes, modes, formats and orientations; name -> (height, width)."""
    sizes = [(32, 24), (24, 32), (33, 31), (17, 40)]
    modes = ["RGB", "L", "CMYK", "RGBA", "P", "I;16", "1", "LA"]
    endings = {
        "RGB": [".jpg", ".png", ".webp", ".bmp", ".JPEG"], "L": [".jpg", ".png"],
        "CMYK": [".jpg", ".tif"], "RGBA": [".png", ".webp"], "P": [".png", ".gif"],
        "I;16": [".png", ".tiff"], "1": [".png"], "LA": [".png"],
    }  # fmt: skip
    made = {}
    for i in range(count):
        width, height = (side * scale for side in sizes[i % len(sizes)])
        mode = modes[i % 11] if i % 11 < len(modes) else "RGB"
        ending = endings[mode][i // 11 % len(endings[mode])]
        (photo,) = crops(1, width, height, seed=i)
        options: dict[str, Any] = {}
        if mode in ("RGBA", "LA"):
            photo = photo.convert("RGB" if mode == "RGBA" else "L")
            photo.putalpha(Image.linear_gradient("L").resize(photo.size))
        elif mode == "I;16":
            photo = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
        else:
            photo = photo.convert(mode)
        size = height, width
        if ending == ".jpg" and i % 3 == 0:
            exif = Image.Exif()
            exif[0x0112] = 6
            options["exif"], size = exif, (width, height)
        name = f"{('album', 'album/größe', '.')[i % 3]}/photo {i:03d}{ending}".removeprefix("./")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(root / name, **options)
        made[name] = size
    return made


def check_mixed(root: Path, out: Path, count: int, scale: int, argv: list[str], capsys) -> None:
    """All that the issue promises of `count` photographs with two broken ones among them."""
    sizes = mixed_photographs(root, count - 2, scale)
    whole = (root / next(n for n in sizes if n.endswith(".jpg"))).read_bytes()
    (root / "album" / "cut off.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "no photo.png").write_bytes(b"a shopping list")
    (root / "album" / "notes.txt").write_text("not an image")
    before = {name: (root / name).read_bytes() for name in below(root)}
    code, output = failing([*argv, str(root), str(out), "--page"], capsys)
    assert code == 1
    assert f"{count - 2} images in " in output
    assert "images/s" in output
    assert "1 files are not images" in output
    listed = output[output.index("could not be translated") :]
    assert output[: output.index(" could not be translated")].endswith("\n2")
    assert "album/cut off.jpg: " in listed
    assert "no photo.png: it is not an image" in listed
    assert {name: (root / name).read_bytes() for name in below(root)} == before
    names = {name: f"{name}.png" if name.endswith(".gif") else name for name in sizes}
    assert below(out) == sorted([*names.values(), "index.html"])
    for name, size in sizes.items():
        picture = Image.open(out / names[name])
        assert (picture.height, picture.width) == size, name
        picture.load()
        transparent = Image.open(root / name).has_transparency_data
        assert picture.mode == ("RGBA" if transparent else "RGB")


def test_twenty_mixed_photographs_with_two_broken_ones(run_dir, tmp_path, capsys) -> None:
    argv = [str(run_dir), "--workers", "0"]
    check_mixed(tmp_path / "photos", tmp_path / "out", 24, 1, argv, capsys)


@pytest.mark.slow
def test_two_hundred_mixed_photographs_with_two_broken_ones(run_dir, tmp_path, capsys) -> None:
    argv = [str(run_dir), "--direction", "BtoA"]
    check_mixed(tmp_path / "photos", tmp_path / "out", 200, 4, argv, capsys)


def test_results_are_the_models(photos: Path, tmp_path: Path) -> None:
    for batch in (1, 3, 8):
        out = tmp_path / f"out{batch}"
        done = translate(known(), photos, out, batch=batch, workers=0)
        assert done[:3] == (7, {}, 0)
        assert below(out) == below(photos)
        for name in below(photos):
            assert difference(out / name, expected(photos / name)) == 0, name


def test_images_are_read_and_written_by_processes(photos: Path, tmp_path: Path) -> None:
    translate(known(), photos, tmp_path / "zero", workers=0)
    translate(known(), photos, tmp_path / "two", batch=2, workers=2)
    for name in below(photos):
        assert (tmp_path / "zero" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_directions_and_the_average_are_chosen(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    gan: Any = ganzoo.load(run_dir)
    picture = photos / "0.png"
    images = to_float(torch.from_numpy(np.array(Image.open(picture)))).permute(2, 0, 1)[None]
    got = {}
    for options in (("AtoB", False), ("BtoA", False), ("AtoB", True)):
        direction, raw = options
        out = tmp_path / "-".join(map(str, options)) / "0.png"
        main([str(run_dir), str(picture), str(out), "--direction", direction, "--workers", "0",
              "--device", "cpu", *(["--raw"] if raw else [])])  # fmt: skip
        pixels = to_uint8(gan.translate(images, direction, raw=raw))[0].permute(1, 2, 0).numpy()
        assert difference(out, pixels) <= 1
        got[options] = out.read_bytes()
    assert len(set(got.values())) == 3


def test_a_single_image_goes_to_a_file_or_a_folder(photos: Path, tmp_path: Path) -> None:
    picture = photos / "deep" / "er" / "1.png"
    pixels = expected(picture)
    translate(known(), picture, tmp_path / "folder", workers=0)
    assert below(tmp_path / "folder") == ["1.png"], "its neighbors are left alone"
    assert difference(tmp_path / "folder" / "1.png", pixels) == 0
    translate(known(), picture, tmp_path / "new" / "mine.bmp", page=True, workers=0)
    assert below(tmp_path / "new") == ["index.html", "mine.bmp"]
    assert difference(tmp_path / "new" / "mine.bmp", pixels) == 0


def test_archives_are_read(photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        for name in below(photos):
            file.write(photos / name, f"photos/{name}")
    translate(known(), tmp_path / "photos.zip", tmp_path / "out", page=True, workers=0)
    assert below(tmp_path / "out") == sorted([*below(photos), "index.html"])
    for name in below(photos):
        assert difference(tmp_path / "out" / name, expected(photos / name)) == 0


def test_hostile_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    fate = hostile.make(root)
    shutil.rmtree(root / "sizes")  # too large for a test; of one pixel, see the networks'
    fate = {name: what for name, what in fate.items() if not name.startswith("sizes/")}
    done = translate(known(), root, tmp_path / "out", page=True, workers=0)
    assert set(done.bad) == {name for name, what in fate.items() if what == hostile.BAD}
    assert done.ignored == 2
    others = {".gif": ".gif.png", ".pgm": ".pgm.png"}
    for name, what in fate.items():
        if what == hostile.READ:
            ending = Path(name).suffix
            out = tmp_path / "out" / (name.removesuffix(ending) + others.get(ending, ending))
            if ending == ".npy":
                assert (np.load(out) == expected(root / name)).all()
            elif ending.lower() not in (".jpg", ".webp") and "transparent" not in name:
                assert difference(out, expected(root / name)) == 0, name
            else:
                assert out.is_file()


# -- channels and transparency ---------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "results"), [(1, 1), (1, 3), (3, 1), (4, 4), (4, 3)])
def test_channels_are_the_models(channels: int, results: int, photos: Path, tmp_path) -> None:
    translate(known(channels, results), photos, tmp_path / "out", workers=0)
    for name in below(photos):
        picture = Image.open(tmp_path / "out" / name)
        assert picture.mode == {1: "L", 3: "RGB", 4: "RGBA"}[results]
        assert difference(tmp_path / "out" / name, expected(photos / name, channels, results)) == 0


def test_arrays_of_any_channels(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    six = np.random.default_rng(0).integers(256, size=(9, 14, 6), dtype=np.uint8)
    np.save(tmp_path / "in" / "six.npy", six)
    (photo,) = crops(1, 8, 8)
    photo.save(tmp_path / "in" / "photo.png")
    done = translate(known(6, 6), tmp_path / "in", tmp_path / "out", workers=0)
    assert list(done.bad) == ["photo.png"]
    assert (np.load(tmp_path / "out" / "six.npy") == expected(tmp_path / "in/six.npy", 6)).all()
    translate(known(3, 6), tmp_path / "in" / "photo.png", tmp_path / "more", workers=0)
    assert np.load(tmp_path / "more" / "photo.png.npy").shape == (8, 8, 6)


@pytest.fixture
def glass(tmp_path: Path) -> Path:
    """A photograph that is transparent at its left and opaque at its right."""
    (photo,) = crops(1, 32, 20)
    photo.putalpha(Image.fromarray(np.tile(np.arange(0, 256, 8, np.uint8), (20, 1))))
    (tmp_path / "glass").mkdir()
    photo.save(tmp_path / "glass" / "pane.png")
    photo.convert("LA").save(tmp_path / "glass" / "gray.png")
    return tmp_path / "glass"


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_kept(channels: int, glass: Path, tmp_path: Path) -> None:
    translate(known(channels, channels), glass, tmp_path / "out", workers=0)
    for name in ("pane.png", "gray.png"):
        picture = Image.open(tmp_path / "out" / name)
        assert picture.mode == {1: "LA", 3: "RGBA"}[channels]
        pixels, before = np.asarray(picture), np.asarray(Image.open(glass / name))
        assert (pixels[..., -1] == before[..., -1]).all()
        assert (pixels[..., :-1] == expected(glass / name, channels)).all(), "as it looks on white"


@pytest.mark.parametrize(
    ("name", "channels", "png", "result"),
    [
        ("a/b.png", 4, False, "a/b.png"),
        ("a/b.JPG", 3, False, "a/b.JPG"),
        ("b.jpg", 1, False, "b.jpg"),
        ("b.bmp", 4, False, "b.bmp.png"),
        ("b.gif", 3, False, "b.gif.png"),
        ("b.ppm", 1, False, "b.ppm.png"),
        ("b.pgm", 1, False, "b.pgm"),
        ("b.webp", 2, False, "b.webp.png"),
        ("b.tif", 2, False, "b.tif"),
        ("b.jpg", 5, False, "b.jpg.npy"),
        ("b.npy", 3, True, "b.npy"),
        ("a.b/c.d.jpg", 3, True, "a.b/c.d.png"),
    ],
)
def test_formats_are_kept_where_they_can_hold_the_result(name, channels, png, result) -> None:
    assert target_name(name, channels, png) == result


def test_png_for_all(photos: Path, tmp_path: Path) -> None:
    (photo,) = crops(1, 20, 20)
    photo.save(photos / "lossy.jpg")
    translate(known(), photos, tmp_path / "out", png=True, workers=0)
    assert difference(tmp_path / "out" / "lossy.png", expected(photos / "lossy.jpg")) == 0
    photo.save(photos / "lossy.png")
    with pytest.raises(UserError, match=r"lossy\.jpg, lossy\.png would both become"):
        translate(known(), photos, tmp_path / "two", png=True, workers=0)
    assert not (tmp_path / "two").exists()


# -- nothing is lost -------------------------------------------------------------------------------


def test_what_is_read_is_never_replaced(photos: Path, tmp_path: Path) -> None:
    before = {name: (photos / name).read_bytes() for name in below(photos)}
    picture = photos / "0.png"
    link = tmp_path / "link"
    link.symlink_to(photos)
    for src, dst in (
        (photos, photos), (photos, photos / "new"), (link, photos), (photos, link),
        (photos / "deep", photos / "deep"), (picture, picture), (picture, photos),
    ):  # fmt: skip
        with pytest.raises(UserError, match="choose"):
            translate(known(), src, dst, overwrite=True, workers=0)
    assert {name: (photos / name).read_bytes() for name in below(photos)} == before


def test_what_is_there_is_replaced_only_if_asked(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "0.png").write_text("precious")
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"1 of the files to write already exist.*0\.png"):
        translate(known(), photos, out, workers=0)
    assert below(out) == ["0.png", "mine.txt"]
    translate(known(), photos, out, overwrite=True, workers=0)
    assert difference(out / "0.png", expected(photos / "0.png")) == 0
    assert (out / "mine.txt").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(run_dir, photos, tmp_path, capsys) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    argv = [str(run_dir), str(photos), str(tmp_path / "locked" / "out"), "--workers", "0"]
    code, output = failing(argv, capsys)
    assert code == 1
    assert "cannot read or write" in output


def test_a_file_in_the_way_is_named(run_dir, photos: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    code, output = failing([str(run_dir), str(photos), str(tmp_path / "file" / "x")], capsys)
    assert code == 1
    assert "cannot read or write" in output


# -- what a user may get wrong ---------------------------------------------------------------------


def test_what_cannot_be_is_said_in_a_sentence(run_dir, photos, tmp_path, capsys) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.txt").write_text("no image")
    for argv, words in (
        ((run_dir, tmp_path / "no", "out"), "There is no folder, zip or tar"),
        ((run_dir, empty, "out"), "has no images"),
        ((run_dir, tmp_path / "text.txt", "out"), "give the path of your images"),
        ((run_dir, photos, "out", "--direction", "BtoC"), "--direction must be one of AtoB, BtoA"),
        ((run_dir, photos, "out", "--device", "tpu"), "Device tpu is not available"),
        ((tmp_path / "none.ckpt", photos, "out"), "There is no checkpoint"),
    ):
        code, output = failing([*map(str, argv)], capsys)
        assert code == 1
        assert words in output
        assert "\n" not in output.strip()
    assert not Path("out").exists()


def test_a_model_of_seeds_translates_nothing(photos: Path, tmp_path: Path) -> None:
    train(config(f"run_dir={tmp_path / 'run'}", "total_kimg=0.008"))
    with pytest.raises(UserError, match="makes images from seeds"):
        translate(ganzoo.load(tmp_path / "run"), photos, tmp_path / "out")


# -- the page --------------------------------------------------------------------------------------


class Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a":
            self.links.append(unquote(given["href"] or ""))
        if tag == "img":
            self.pictures.append(given["src"] or "")


def test_the_page_shows_all_and_links_to_the_files(photos: Path, tmp_path: Path) -> None:
    (photo,) = crops(1, 300, 500)
    photo.save(photos / "<b> & 'große' #1?.png")
    (photos / "bad<i>.png").write_bytes(b"no image")
    translate(known(), photos, tmp_path / "out", page=True, workers=0)
    text = (tmp_path / "out" / "index.html").read_text()
    page = Links()
    page.feed(text)
    assert sorted(page.links) == [n for n in below(photos) if n != "bad<i>.png"]
    assert len(page.pictures) == 2 * len(page.links)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.pictures)
    assert "http" not in text
    assert "&lt;b&gt; &amp;" in text
    assert re.search(r"(?s)Not translated.*bad&lt;i&gt;\.png", text)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_in_a_process_of_its_own(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "ganzoo.translate", str(run_dir), str(photos)]
    done = run([*argv, str(tmp_path / "out")])
    assert done.returncode == 0, done.stderr
    assert "7 images in" in done.stdout
    assert below(tmp_path / "out") == below(photos)
