"""Metrics as a suite: what they are fed, what is kept of the reals, how numbers carry protocols."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from makers.photos import crops
from makers.tiny import TinyExtractor
from PIL import Image
from torch import Tensor

from ganzoo.data import ImageData
from ganzoo.data.packing import write_pack
from ganzoo.data.pixels import to_float, to_uint8
from ganzoo.data.reference import Reference
from ganzoo.data.source import Source
from ganzoo.data.sources.folder import Folder
from ganzoo.data.sources.pack import Pack
from ganzoo.data.subset import Subset
from ganzoo.errors import UserError
from ganzoo.metrics import cache as kept
from ganzoo.metrics.frechet import FrechetDistance
from ganzoo.metrics.inception_score import InceptionScore
from ganzoo.metrics.kernel import KernelDistance
from ganzoo.metrics.sliced import SlicedWasserstein
from ganzoo.metrics.suite import Fakes, Suite

SIDE = 16
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty photographs of 16x16 in two classes."""
    root = tmp_path / "photos"
    for i, photo in enumerate(crops(40, SIDE, SIDE)):
        path = root / ("cats", "dogs")[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    return root


def data_of(source: Source | Path, mirror: bool = False, **options: object) -> ImageData:
    given = source if isinstance(source, Source) else Folder(str(source), SIDE)
    size = options.pop("image_size", SIDE)
    return ImageData(given, size, 3, 8, seed=0, mirror=mirror, **options)  # type: ignore[arg-type]


def pixels(reference: Reference) -> Tensor:
    return torch.cat([c.images for c in reference.chunks(range(reference.num_chunks))])


def suite_of(**options: object) -> Suite:
    metrics = {"fd": FrechetDistance(), "kid": KernelDistance(4, 10), "is": InceptionScore()}
    return Suite(**{"scores": metrics, "network": TinyExtractor(), "num_fake": 24, **options})


def noise(num: int = 24, side: int = SIDE) -> Fakes:
    images = torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def some(numbers: Sequence[int]) -> Tensor:
        return images[list(numbers)]

    return Fakes(num, some, {"seeds": f"0-{num - 1}"}, {"model": "noise"})


# -- the reals -------------------------------------------------------------------------------------


def test_reals_are_what_networks_are_shown(photos) -> None:
    data = data_of(photos)
    plain = data.source.__getitems__(list(range(40)))["image"]
    assert torch.equal(pixels(Reference(data)), plain)
    flipped = data_of(photos, mirror=True)
    assert torch.equal(pixels(Reference(flipped)), torch.cat([plain, plain.flip(-1)]))
    assert torch.equal(pixels(Reference(flipped, mirror=False)), plain)
    half = data_of(photos, image_size=8)
    boxes = to_float(plain).unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean((-1, -3))
    assert (pixels(Reference(half)).int() - to_uint8(boxes).int()).abs().max() <= 1


def test_a_number_of_reals_is_chosen_once_and_for_all(photos) -> None:
    every = pixels(Reference(data_of(photos))).flatten(1).tolist()
    some = pixels(Reference(data_of(photos), num=10)).flatten(1).tolist()
    assert len(some) == 10
    places = [every.index(image) for image in some]
    assert places == sorted(set(places))
    assert places != list(range(10))
    assert pixels(Reference(data_of(photos), num=10)).flatten(1).tolist() == some


def test_random_crops_of_reals_are_the_same_each_time(photos) -> None:
    data = data_of(photos, image_size=8, crop="random")
    first = pixels(Reference(data))
    assert first.shape == (40, 3, 8, 8)
    assert torch.equal(first, pixels(Reference(data)))
    assert not torch.equal(first, pixels(Reference(data_of(photos, image_size=8, crop="center"))))


def test_key_is_of_content_and_treatment(photos, tmp_path) -> None:
    def key(root: Path = photos, **options: object) -> str:
        return Reference(data_of(root, **options)).key()

    before = key()
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    assert key(moved) == before
    assert len({before, key(mirror=True), key(image_size=8), key(image_size=8, crop="center")}) == 4
    assert Reference(data_of(photos), num=20).key() != before
    assert Reference(data_of(Folder(str(photos), SIDE, labels=False))).key() != before
    assert Reference(data_of(Folder(str(photos), 8), image_size=8)).key() != before
    image = Image.open(moved / "cats" / "00.png")
    image.putpixel((3, 3), (1, 2, 3))
    image.save(moved / "cats" / "00.png")
    assert key(moved) != before


def test_same_pixels_have_one_fingerprint(photos, tmp_path) -> None:
    pack = tmp_path / "pack"
    write_pack(Folder(str(photos), SIDE), pack, workers=0)
    suites = [suite_of(), suite_of()]
    suites[0].prepare(Reference(data_of(photos)), CPU)
    suites[1].prepare(Reference(data_of(Pack(str(pack), SIDE))), CPU)
    a, b = (suite.facts["fingerprint"] for suite in suites)
    assert a == b
    scores = [suite.score(noise()) for suite in suites]
    assert scores[0].values == scores[1].values
    assert scores[0].protocol["real"]["data"] != scores[1].protocol["real"]["data"]
    assert scores[0].protocol_id == scores[1].protocol_id


def test_labels_of_a_subset_are_part_of_the_key(photos) -> None:
    one, other = (
        Reference(data_of(Subset(Folder(str(photos), SIDE), classes)))
        for classes in (["cats", "dogs"], ["dogs", "cats"])
    )
    assert one.key() != other.key()


# -- what is kept ----------------------------------------------------------------------------------


def test_features_are_computed_once(photos, monkeypatch) -> None:
    reference = Reference(data_of(photos))
    suite = suite_of()
    suite.prepare(reference, CPU)
    first = suite.score(noise())
    monkeypatch.setattr(kept, "compute", lambda *_: pytest.fail("they were there"))
    again = suite_of()
    again.prepare(Reference(data_of(photos)), CPU)
    assert torch.equal(again.real.features, suite.real.features)
    assert again.score(noise()).values == first.values


def test_another_network_has_its_own_entry(photos) -> None:
    for seed in (0, 1):
        suite_of(network=TinyExtractor(seed)).prepare(Reference(data_of(photos)), CPU)
    assert len(list(kept.folder().iterdir())) == 2


def test_an_edited_image_is_seen(photos) -> None:
    suite = suite_of()
    suite.prepare(Reference(data_of(photos)), CPU)
    before = suite.facts["fingerprint"]
    Image.new("RGB", (SIDE, SIDE), "red").save(photos / "cats" / "00.png")
    suite.prepare(Reference(data_of(photos)), CPU)
    assert suite.facts["fingerprint"] != before
    assert len(list(kept.folder().iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_entries_are_computed_again(damage, photos) -> None:
    suite = suite_of()
    suite.prepare(Reference(data_of(photos)), CPU)
    (entry,) = kept.folder().iterdir()
    content = bytearray(entry.read_bytes())
    content[500] ^= 64  # in the first array, the features
    entry.write_bytes(content[:-9] if damage == "truncated" else content)
    again = suite_of()
    again.prepare(Reference(data_of(photos)), CPU)
    assert torch.equal(again.real.features, suite.real.features)


def test_a_cache_that_cannot_be_written(photos, tmp_path, caplog) -> None:
    (tmp_path / "cache").write_text("in the way")
    suite = suite_of()
    suite.prepare(Reference(data_of(photos)), CPU)
    assert suite.score(noise()).values
    assert "set the environment variable GANZOO_CACHE" in caplog.text


# -- scores ----------------------------------------------------------------------------------------


def test_scores_are_those_of_the_metrics_alone(photos) -> None:
    suite = suite_of()
    suite.prepare(Reference(data_of(photos)), CPU)
    scores = suite.score(noise())
    extractor, fakes = TinyExtractor(), to_uint8(noise().images(range(24)))
    alone = FrechetDistance()
    alone.update(extractor(pixels(Reference(data_of(photos))))[0], real=True)
    alone.update(extractor(fakes)[0], real=False)
    assert scores.values["fd_tiny"] == pytest.approx(float(alone.compute()), rel=1e-6)
    assert set(scores.values) == {"fd_tiny", "kid_tiny", "kid_tiny_std", "is_tiny", "is_tiny_std"}


def test_batch_size_does_not_matter(photos) -> None:
    values = []
    for batch_size in (1, 7, 64):
        suite = suite_of(batch_size=batch_size)
        suite.prepare(Reference(data_of(photos)), CPU)
        values.append(suite.score(noise()).values)
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-6)


def test_scoring_twice_gives_the_same(photos) -> None:
    suite = suite_of(scores={"fd": FrechetDistance(), "swd": SlicedWasserstein(patches=4)})
    suite.prepare(Reference(data_of(photos), num=24), CPU)
    state = torch.get_rng_state()
    first, second = suite.score(noise()), suite.score(noise())
    assert first.values == second.values
    assert {"fd_tiny", "swd", "swd_16"} == set(first.values)
    assert torch.equal(torch.get_rng_state(), state)


def test_floor_is_of_reals_against_other_reals(photos) -> None:
    suite = suite_of()
    suite.prepare(Reference(data_of(photos)), CPU)
    scores = suite.score(noise())
    assert set(scores.floors) == {"fd_tiny", "kid_tiny"}
    assert scores.protocol["floor"] == [20, 20]
    assert scores.floors["fd_tiny"] < scores.values["fd_tiny"] / 3
    real_fakes = Fakes(20, lambda n: pixels(Reference(data_of(photos)))[list(n)], {}, {})
    again = suite.score(real_fakes)
    assert again.floors == scores.floors  # the same counts


def test_images_alone_need_no_network(photos) -> None:
    suite = Suite({"swd": SlicedWasserstein(patches=4)}, num_fake=24)
    suite.prepare(Reference(data_of(photos), num=24), CPU)
    scores = suite.score(noise())
    assert set(scores.values) == {"swd", "swd_16"}
    assert scores.protocol["extractor"] is None
    assert not kept.folder().exists()


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_images_of_any_channels_become_rgb(channels) -> None:
    images = torch.randint(0, 256, (3, channels, 4, 4), dtype=torch.uint8)
    rgb = kept.rgb(images)
    assert rgb.shape == (3, 3, 4, 4)
    if channels < 3:
        assert torch.equal(rgb, images[:, :1].repeat(1, 3, 1, 1))
    elif channels == 4:
        opaque = images.clone()
        opaque[:, 3] = 255
        assert torch.equal(kept.rgb(opaque), images[:, :3])
        opaque[:, 3] = 0
        assert bool((kept.rgb(opaque) == 255).all())
    else:
        assert torch.equal(rgb, images[:, :3])


# -- protocols -------------------------------------------------------------------------------------


def test_protocol_tells_numbers_apart_that_cannot_be_compared(photos) -> None:
    def protocol(fakes: Fakes, **options: object) -> str:
        num, mirror = options.pop("num", None), options.pop("mirror", False)
        suite = suite_of(**options)
        suite.prepare(Reference(data_of(photos, mirror=mirror), num=num), CPU)
        return suite.score(fakes).protocol_id

    base = protocol(noise())
    assert protocol(noise()) == base
    assert protocol(noise(), batch_size=3) == base
    truncated = noise()._replace(facts={"seeds": "0-23", "truncation": 0.5})
    others = [
        protocol(noise(20)),
        protocol(truncated),
        protocol(noise(), num=30),
        protocol(noise(), mirror=True),
        protocol(noise(), network=TinyExtractor(1)),
        protocol(noise(), scores={"fd": FrechetDistance()}),
        protocol(noise(), scores={"is": InceptionScore(splits=2)}),
        protocol(noise(), scores={"is": InceptionScore(splits=3)}),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_lines_say_how_numbers_came_about(photos) -> None:
    suite = suite_of()
    suite.prepare(Reference(data_of(photos)), CPU)
    told = "\n".join(suite.score(noise()).lines())
    assert "(real against real" in told
    assert "tiny (weights 00000000, none, float32)" in told
    assert "24 fakes (seeds 0-23); 40 real of photos" in told
    assert "ganzoo" in told


def test_few_images_are_warned_of(photos) -> None:
    suite = suite_of(scores={"fd": FrechetDistance()})
    suite.prepare(Reference(data_of(photos)), CPU)
    assert suite.score(noise()).notes == []
    (note,) = suite.score(noise(6)).notes
    assert "fd_tiny of 6 images in 6 dimensions" in note
    assert "trust kid_tiny, or raise metrics.num_fake" in note


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.rand(24, 3, 8, 8), "are 3x8x8 .* and the real ones 3x16x16"),
        (torch.rand(24, 1, SIDE, SIDE), "are 1x16x16"),
        (torch.rand(24, 3, SIDE, SIDE) * 255, r"in \[-1, 1\]: divide by 127.5"),
        (torch.full((24, 3, SIDE, SIDE), torch.nan), "NaN or infinity"),
    ],
)
def test_images_that_are_none(images, sentence, photos) -> None:
    suite = suite_of()
    suite.prepare(Reference(data_of(photos)), CPU)
    with pytest.raises(UserError, match=sentence):
        suite.score(Fakes(24, lambda numbers: images[list(numbers)], {}, {}))


def test_too_few_images(photos) -> None:
    suite = suite_of()
    suite.prepare(Reference(data_of(photos)), CPU)
    with pytest.raises(
        UserError, match=r"kid needs at least 10 .* lower metrics.scores.kid.subset_size"
    ):
        suite.score(noise(9))
    with pytest.raises(UserError, match="too few for metrics"):
        suite.score(noise(1))
    with pytest.raises(UserError, match="at least 2 real images"):
        Reference(data_of(photos), num=1)


def test_too_few_images_are_refused_before_any_is_read(photos, monkeypatch) -> None:
    monkeypatch.setattr(kept, "compute", lambda *_: pytest.fail("it is too early"))
    with pytest.raises(UserError, match="kid needs at least 10 images, and there are 4 real ones"):
        suite_of().prepare(Reference(data_of(photos), num=4), CPU)


def test_metrics_that_cannot_be() -> None:
    with pytest.raises(UserError, match="names no metric"):
        Suite({"fd": None})
    with pytest.raises(UserError, match="fd needs a network"):
        Suite({"fd": FrechetDistance()})
    blind = TinyExtractor()
    blind.classifier = None
    with pytest.raises(UserError, match="is needs a classifier, which tiny is not"):
        Suite({"is": InceptionScore()}, blind)
    with pytest.raises(UserError, match="No metric gives fid"):
        suite_of().monitored("fid")
    for name in ("is", "is_tiny"):
        assert suite_of().monitored(name) == ("is_tiny", True)
    assert suite_of().monitored("fd") == ("fd_tiny", False)
    assert suite_of().monitored("kid_std") == ("kid_tiny_std", False)
