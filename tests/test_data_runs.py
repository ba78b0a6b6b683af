"""Training on each data set in the layout in which it is distributed; any shape of image."""

from pathlib import Path
from shutil import _ntuple_diskusage as Usage

import numpy as np
import pytest
from makers.celeba import write_images, zip_of
from makers.files import DEBIAN, write_cifar10, write_fashion
from makers.photos import crops
from makers.tiny import TINY, config
from PIL import Image

from ganzoo.data.packing import write_pack
from ganzoo.data.sources.folder import Folder
from ganzoo.data.sources.pack import Pack
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.pictures.grids import GAP
from ganzoo.train import train_config as train

BASE = [o for o in TINY if not o.startswith("data")]


def trained(run_dir: Path, *overrides: str) -> GAN:
    """Two iterations of a tiny DCGAN; the run is whole and its pictures are there."""
    cfg = config(*BASE, "total_kimg=0.016", f"run_dir={run_dir}", *overrides, tiny=False)
    gan = train(cfg)
    assert gan.images_seen == 16
    assert (run_dir / "done").exists()
    assert (run_dir / "progress.png").exists()
    return gan


def log_of(run_dir: Path) -> str:
    return (run_dir / "train.log").read_text()


def tiles(run_dir: Path, size: tuple[int, int]) -> np.ndarray:
    """The grid at the end: four tiles of `size`, two by two."""
    grid = np.array(Image.open(sorted((run_dir / "samples").glob("*.png"))[-1]))
    assert grid.shape[:2] == (2 * size[0] + GAP, 2 * size[1] + GAP)
    return grid


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_celeba(kind: str, tmp_path: Path) -> None:
    root = write_images(tmp_path / "img_align_celeba")
    if kind == "zip":
        root = zip_of(root, tmp_path / "img_align_celeba.zip")
    trained(tmp_path / "run", "data=celeba", f"data.root={root}", "data.workers=2")
    assert "CelebA: 12 images of 16x16, 3 channels, without labels." in log_of(tmp_path / "run")


def test_celeba_hq(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for i, photo in enumerate(crops(4, 128, 128)):
        photo.save(tmp_path / "faces" / f"{i:05d}.png")
    options = ("data=celeba_hq", f"data.root={tmp_path / 'faces'}", "data.workers=0")
    trained(tmp_path / "run", *options, "image_size=32")
    with Image.open(tmp_path / "run" / "progress.png") as picture:
        assert picture.width > 64


def test_cifar10(tmp_path: Path, monkeypatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    trained(tmp_path / "run", "data=cifar10", f"data.root={tmp_path}", "image_size=32")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist(name: str, tmp_path: Path) -> None:
    write_fashion(tmp_path, packed=True)
    options = (f"data={name}", f"data.root={tmp_path}", "image_size=32", "channels=1")
    trained(tmp_path / "run", *options)


def test_a_run_goes_on_without_the_key_that_fetched_its_data(tmp_path: Path) -> None:
    write_fashion(tmp_path, packed=True)
    options = ("data=mnist", f"data.root={tmp_path}", "image_size=32", "channels=1")
    trained(tmp_path / "run", *options, "data.source.download=true")
    trained(tmp_path / "run", *options)
    with pytest.raises(UserError, match=r"another config: data.source.split \(train there"):
        trained(tmp_path / "run", *options, "data.source.split=test", "total_kimg=1")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_on_the_real_files(tmp_path: Path) -> None:
    options = ("data=fashion_mnist", f"data.root={DEBIAN}", "image_size=32", "channels=1")
    trained(tmp_path / "run", *options)
    told = log_of(tmp_path / "run")
    assert "60000 images of 32x32, 1 channel, 10 classes with 6000 to 6000 images" in told


def test_a_pack(tmp_path: Path) -> None:
    for i, photo in enumerate(crops(10, 60, 60)):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        photo.save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg")
    write_pack(Folder(str(tmp_path / "photos"), 32), tmp_path / "pack", levels=True, workers=0)
    options = ("data=pack", f"data.root={tmp_path / 'pack'}")
    trained(tmp_path / "run", *options)
    assert "10 images of 16x16, 3 channels, 2 classes: a 5, b 5." in log_of(tmp_path / "run")
    assert Pack(str(tmp_path / "pack"), 16).shape == (3, 16, 16)


def test_the_same_run_from_folder_and_pack(tmp_path: Path) -> None:
    """Also the same weights in the end, since the same images come in the same order."""
    write_images(tmp_path / "photos")
    write_pack(Folder(str(tmp_path / "photos"), 16), tmp_path / "pack", workers=0)
    folder = ("data=folder", f"data.root={tmp_path / 'photos'}", "data.workers=1")
    pack = ("data=pack", f"data.root={tmp_path / 'pack'}", "data.workers=2")
    one = trained(tmp_path / "one", *folder).state_dict()
    other = trained(tmp_path / "other", *pack).state_dict()
    assert all(one[key].equal(other[key]) for key in one)


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_rectangles_of_any_number_of_channels(channels: int, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, photo in enumerate(crops(8, 90, 60)):
        if channels == 6:
            np.save(photos / f"{i}.npy", np.concatenate([photo, np.array(photo)[..., ::-1]], -1))
        elif channels == 4:
            photo.putalpha(photo.convert("L"))
            photo.save(photos / f"{i}.png")
        else:
            photo.save(photos / f"{i}.jpg")
    options = ("data=folder", f"data.root={photos}", "data.workers=0")
    gan = trained(tmp_path / "run", *options, "image_size=[48,80]", f"channels={channels}")
    assert gan.sample([0]).shape == (1, channels, 48, 80)
    grid = tiles(tmp_path / "run", (48, 80))
    assert grid.ndim == (2 if channels == 1 else 3)
    if channels > 1:
        assert grid.shape[2] == (4 if channels == 4 else 3)
    told = log_of(tmp_path / "run")
    assert f"8 images of 48x80, {channels} channel" in told
    assert ("Pictures show the first three channels of 6." in told) == (channels == 6)
    assert ("are RGB: converted to gray" in told) == (channels == 1)


def test_pictures_are_refused_where_six_channels_are_wanted(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    options = ("data=folder", f"data.root={tmp_path / 'photos'}", "channels=6")
    with pytest.raises(
        UserError, match=r"12 of 12 .* \(000001\.jpg.*at most 4 channels; 6 channels need"
    ):
        trained(tmp_path / "run", *options)


# -- a run and its images --------------------------------------------------------------------------


def test_a_run_knows_its_images_by_their_content(tmp_path: Path, monkeypatch) -> None:
    write_images(tmp_path / "photos")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def part(root: str, kimg: float, *options: str) -> None:
        keys = (f"data.root={root}", f"total_kimg={kimg}", f"run_dir={tmp_path / 'run'}")
        train(config(*BASE, "data=folder", "data.workers=0", *keys, *options, tiny=False))

    for i, root in enumerate((tmp_path / "photos", "photos/", "./photos", "link", "'~/photos'")):
        part(str(root), 0.016 * (i + 1))
    (tmp_path / "photos").rename(tmp_path / "moved")
    part("moved", 0.1)
    (tmp_path / "moved" / "000003.jpg").unlink()
    with pytest.raises(UserError, match=r"images have changed .* data\.accept_changed=true"):
        part("moved", 0.2)
    part("moved", 0.2, "data.accept_changed=true")
    assert "the run resumes with them" in log_of(tmp_path / "run")
    part("moved", 0.22)  # what is accepted once is what the run is trained on


def test_a_run_folder_among_its_images_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    options = ("data=folder", f"data.root={tmp_path / 'photos'}", "data.workers=0")
    with pytest.raises(UserError, match="choose a run_dir outside of it"):
        trained(tmp_path / "photos" / "run", *options)


@pytest.mark.parametrize("obstacle", ["temporary folder", "shared memory"])
def test_a_thread_reads_where_workers_cannot(obstacle, tmp_path: Path, monkeypatch) -> None:
    write_images(tmp_path / "photos")
    if obstacle == "shared memory":
        monkeypatch.setattr("ganzoo.data.loader.shutil.disk_usage", lambda _: Usage(0, 0, 2**12))
        monkeypatch.setattr("ganzoo.engine.preflight.check_room", lambda *_: None)
    else:
        monkeypatch.setattr("ganzoo.data.loader.tempfile.gettempdir", lambda: "/tmp/" + "x" * 90)
    options = ("data=folder", f"data.root={tmp_path / 'photos'}", "data.workers=1")
    trained(tmp_path / "run", *options)
    assert "A thread reads the images instead of 1 processes" in log_of(tmp_path / "run")
    assert obstacle in log_of(tmp_path / "run")
