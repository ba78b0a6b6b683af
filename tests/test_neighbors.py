"""The training images that are most like a sample."""

import csv
import re
from pathlib import Path

import pytest
import torch
from makers.photos import crops
from makers.tiny import TinyExtractor, config
from PIL import Image

from ganzoo import load
from ganzoo.config import make
from ganzoo.data.pixels import to_float
from ganzoo.data.reference import Reference
from ganzoo.metrics import extractors
from ganzoo.metrics.nearest import at, by_features, by_pixels
from ganzoo.neighbors import main
from ganzoo.pictures.grids import GAP
from ganzoo.train import train_config as train

KEYS = ("data=folder", "data.workers=0")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, photo in enumerate(crops(100, 16, 16)):
        photo.save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def run_dir(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from makers.tiny import TINY

    keys = [key for key in TINY if not key.startswith("data")]
    folder = tmp_path_factory.mktemp("run")
    given = (*KEYS, f"data.root={photos}", "total_kimg=0.016", f"run_dir={folder}")
    train(config(*keys, *given, tiny=False))
    return folder


@pytest.fixture(autouse=True)
def _tiny_extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(extractors, "auto", TinyExtractor)


def reference(photos: Path) -> Reference:
    keys = (*KEYS, f"data.root={photos}", "image_size=16", "batch_size=8")
    data = make(config(*keys, tiny=False).data)
    assert data.mirror
    return Reference(data)


def all_of(reference: Reference) -> torch.Tensor:
    chunks = list(reference.chunks(range(reference.num_chunks)))
    return torch.cat([to_float(chunk.images) for chunk in chunks])


def test_copies_are_found_flipped_ones_too(photos) -> None:
    reals = reference(photos)
    everything = all_of(reals)
    places = torch.tensor([3, 97, 150])
    assert [reals.mirrored(place) for place in places.tolist()] == [False, False, True]
    for near in (
        by_pixels(everything[places], reals, 3),
        by_features(everything[places], reals, TinyExtractor(), 3),
    ):
        assert near.places[:, 0].tolist() == places.tolist()
        assert near.distances[:, 0].max() < 1e-3
        assert (near.distances[:, 1:] > 0).all()
        assert near.usual > 0


@pytest.mark.parametrize("way", ["pixels", "features"])
def test_the_nearest_are_those_of_all_distances(way, photos) -> None:
    reals = reference(photos)
    everything = all_of(reals)
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if way == "pixels":
        near = by_pixels(images, reals, 4)
        rows = [x.flatten(1).double() for x in (images, everything)]
    else:
        extractor = TinyExtractor()
        near = by_features(images, reals, extractor, 4)
        as_uint8 = [((x + 1) * 127.5).round().to(torch.uint8) for x in (images, everything)]
        rows = [extractor(x)[0].double() for x in as_uint8]
    distances = (rows[0][:, None] - rows[1][None]).square().sum(2).sqrt()
    best = distances.sort(dim=1, stable=True)
    torch.testing.assert_close(near.distances.double(), best.values[:, :4], rtol=1e-4, atol=1e-5)
    assert near.places.tolist() == best.indices[:, :4].tolist()
    among = (rows[1][:, None] - rows[1][None]).square().sum(2).sqrt().fill_diagonal_(torch.inf)
    mirrored = torch.arange(200).roll(100)  # an image and its mirror image are one
    usual = among.scatter(1, mirrored[:, None], torch.inf).min(1).values
    assert usual.quantile(0.4) <= near.usual <= usual.quantile(0.6), "a sample of them"


def test_a_mirror_image_is_not_another_image(tmp_path) -> None:
    """Else symmetric photos, whose mirror images are the same, would be no distance apart."""
    for i, photo in enumerate(crops(8, 16, 16)):
        half = photo.crop((0, 0, 8, 16))
        photo.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (8, 0))
        photo.save(tmp_path / f"{i}.png")
    reals = reference(tmp_path)
    images = all_of(reals)
    assert torch.equal(images[:8], images[8:])
    apart = torch.cdist(images[:8].flatten(1), images[:8].flatten(1)).fill_diagonal_(torch.inf)
    near = by_pixels(images[:3] * 0.5, reals, 1)
    assert near.usual == pytest.approx(float(apart.min(1).values.repeat(2).median()), rel=1e-4)


def test_the_picture_has_a_row_for_each_sample(photos, run_dir, tmp_path, capsys) -> None:
    out = tmp_path / "new" / "near.png"
    main([str(run_dir), "--seeds", "4,7", "--neighbors", "2", "--out", str(out)])
    picture = Image.open(out)
    tiles = 1 + 2 * (1 + 2)
    assert picture.height == 2 * (16 + GAP) - GAP
    margin = picture.width - (tiles * (16 + GAP) - GAP)
    assert margin > 20, "seeds are named"
    pixels = torch.tensor(list(picture.getdata())).view(picture.height, picture.width, 3)
    sample = load(run_dir).sample([7])[0].permute(1, 2, 0) * 127.5 + 127.5
    shown = pixels[16 + GAP :, margin : margin + 16].float()
    assert (shown - sample).abs().max() < 0.51

    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["seed"], r["by"], r["rank"]) for r in rows] == [
        (seed, by, rank) for by in ("features", "pixels") for seed in ("4", "7") for rank in "12"
    ]
    reals = reference(photos)
    first = rows[0]
    place = int(first["image"].removesuffix(".png")) + 100 * (first["mirrored"] == "True")
    named = at(reals, torch.tensor([place]))[0].permute(1, 2, 0) * 127.5 + 127.5
    left = margin + 2 * (16 + GAP)
    assert (pixels[:16, left : left + 16] - named).abs().max() < 0.51
    told = capsys.readouterr().out
    assert "by features: samples are" in told
    assert "by pixels" in told
    assert "Near 0 is a copy" in told


def test_other_places_of_the_data(photos, run_dir, tmp_path) -> None:
    moved = tmp_path / "moved"
    photos.rename(moved)
    try:
        with pytest.raises(SystemExit, match=r"ganzoo\.neighbors: "):
            main([str(run_dir), "--num", "1", "--out", str(tmp_path / "a.png")])
        main([str(run_dir), "--num", "1", "--data", str(moved), "--out", str(tmp_path / "a.png")])
        assert (tmp_path / "a.csv").is_file()
    finally:
        moved.rename(photos)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--out", "x.png"], "no checkpoint at nowhere"),
        (["RUN", "--out", "x.jpg"], r"\.png"),
        (["RUN", "--out", "x.png", "--num", "0"], "from 1 to"),
        (["RUN", "--out", "x.png", "--neighbors", "1000"], "lower --neighbors"),
        (["RUN", "--out", "x.png", "--truncation", "0"], "greater than 0"),
        (["RUN", "--out", "x.png", "--class", "3"], "no classes"),
    ],
)
def test_errors_are_sentences(arguments, says, run_dir, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([a.replace("RUN", str(run_dir)) for a in arguments])
    said = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert re.search(says, said)
    assert "ganzoo.neighbors: " in said or "python -m ganzoo.neighbors: error" in said
