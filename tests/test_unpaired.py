"""Two domains: where they lie, what is cut out of them, what a user may get wrong."""

import io
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from makers.photos import crops
from makers.tiny import config
from makers.unpaired import assert_same, attach, batches
from PIL import Image

from ganzoo import doctor
from ganzoo.config import make
from ganzoo.data import Unpaired
from ganzoo.data.decode import Decoder
from ganzoo.data.packing import write_pack
from ganzoo.data.pixels import to_uint8
from ganzoo.data.source import pair
from ganzoo.data.sources.domains import Domain
from ganzoo.data.sources.emoji import Emoji
from ganzoo.data.sources.folder import Folder
from ganzoo.data.sources.pack import Pack
from ganzoo.errors import UserError

COUNTS = {"trainA": 7, "trainB": 11, "testA": 3, "testB": 4}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set as CycleGAN's authors distribute theirs, of photographs 60x80."""
    root = tmp_path_factory.mktemp("sets") / "horse2zebra"
    photos = iter(crops(sum(COUNTS.values()), 80, 60))
    for folder, count in COUNTS.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            next(photos).save(root / folder / f"n02381460_{100 * i}.jpg", quality=90)
    (root / "trainA" / ".DS_Store").write_bytes(b"hidden")
    return root


# -- where the images lie --------------------------------------------------------------------------


def horses(root: Path, name: str = "horse2zebra", **options: Any) -> Unpaired:
    given = {"image_size": [45, 60], "crop": None, "mirror": False, **options}
    return Unpaired(
        partial(Domain, domain="A"), partial(Domain, domain="B"), channels=3, batch_size=2, seed=0,
        source={"root": str(root), "name": name, "split": "train"}, **given,
    )  # fmt: skip


def test_published_sets_are_found_wherever_they_are_put(published: Path, tmp_path: Path) -> None:
    archive = tmp_path / "downloads" / "horse2zebra.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(published.rglob("*.jpg")):
            file.write(path, path.relative_to(published.parent))
        file.writestr("__MACOSX/horse2zebra/trainA/._n02381460_0.jpg", b"hidden")
    expected = batches(attach(horses(published)), 6)
    for root in (published.parent, archive.parent, archive):
        data = horses(root)
        assert {n: len(d.source) for n, d in data.domains.items()} == {"A": 7, "B": 11}
        assert {n: len(d.source) for n, d in data.held_out().items()} == {"A": 3, "B": 4}
        assert_same(expected, batches(attach(data), 6))
    other = tmp_path / "other"
    shutil.copytree(published, other / "monet2photo")
    data = horses(other, name="monet2photo")
    assert data.domains["A"].source.name == "monet2photo A (train)"
    assert_same(expected, batches(attach(data), 6))


def test_test_images_are_whole_and_in_order(published: Path) -> None:
    data = horses(published, image_size=30, crop="random", mirror=True)
    tests = data.held_out()
    names = [tests["A"].source.name_of(i) for i in range(3)]
    assert names == [f"testA/n02381460_{i}.jpg" for i in (0, 100, 200)]
    assert all(not test.mirror for test in tests.values())
    for i, name in enumerate(names):
        data_of = (published / name).read_bytes()
        expected = Decoder((30, 30), 3, "stretch")(data_of)
        assert torch.equal(tests["A"].read([i])[0], expected)


def test_images_are_enlarged_as_the_authors_do_and_windows_cut_out(published: Path) -> None:
    for size, load_size in ((256, 286), (128, 143), ([64, 128], (72, 143))):
        source = horses(published, image_size=size, crop="random").domains["B"].source
        assert source.shape[1:] == (pair(load_size) if isinstance(load_size, int) else load_size)
    data = attach(horses(published, image_size=32, crop="random"))
    whole = data.domains["A"].source.__getitems__(list(range(7)))["image"]
    assert whole.shape == (7, 3, 36, 36)
    places = whole.unfold(2, 32, 1).unfold(3, 32, 1)  # [7, 3, 5, 5, 32, 32]
    found = set()
    for batch in batches(data, 20):
        for window in to_uint8(batch["A"]):
            same = (places == window[None, :, None, None]).all((1, 4, 5)).nonzero()
            assert len(same) == 1
            found.add(tuple(same[0, 1:].tolist()))
    assert len(found) > 12, "of 25 corners in forty windows"


def test_pillows_bicubic_is_what_stretches(published: Path) -> None:
    data = horses(published, image_size=[51, 71])
    names = [path.name for path in sorted((published / "trainB").iterdir())]
    for i, name in enumerate(names):
        picture = Image.open(published / "trainB" / name).convert("RGB")
        expected = np.asarray(picture.resize((71, 51), Image.Resampling.BICUBIC)).astype(int)
        got = data.domains["B"].source.__getitems__([i])["image"][0].permute(1, 2, 0).numpy()
        assert np.abs(got - expected).max() <= 1


# -- images of several sizes -----------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three photographs of three sizes, without loss."""
    for i, (width, height) in enumerate([(90, 60), (60, 90), (41, 47)]):
        (photo,) = crops(1, width, height, seed=i)
        photo.save(tmp_path / f"{i}.png")
    return tmp_path


def folders(a: Path, b: Path, **options: Any) -> Unpaired:
    source = {k: options.pop(k) for k in ("resize", "held_out", "split") if k in options}
    given = {"channels": 3, "batch_size": 3, "mirror": False, **options}
    return Unpaired(
        partial(Folder, root=str(a)), partial(Folder, root=str(b)), seed=0,
        source={"labels": False, "split": "train", **source}, **given,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "scaled"), [((90, 60), (256, 170)), ((60, 90), (256, 384)), ((300, 60), (256, 64))]
)
def test_scaling_to_a_width_is_the_authors(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    """height = int(max(load_size * h / w, crop_size)), with crop_size 64 and load_size 256."""
    file = io.BytesIO()
    (photo,) = crops(1, *size)
    photo.save(file, "PNG")
    width, height = scaled
    got = Decoder((64, 256), 3, "width")(file.getvalue())
    assert got.shape == (3, height, width)
    expected = np.asarray(photo.resize(scaled, Image.Resampling.BICUBIC)).astype(int)
    off = np.abs(got.permute(1, 2, 0).numpy() - expected)
    assert off.max() <= 2  # Pillow rounds between the two directions
    assert off.mean() < 0.1


def test_windows_come_out_of_images_as_they_are(mixed: Path) -> None:
    data = attach(folders(mixed, mixed, image_size=[24, 32], load_size=[24, 32], resize="none"))
    images = [torch.from_numpy(np.array(Image.open(p))) for p in sorted(mixed.iterdir())]
    tops = set()
    for batch in batches(data, 12):
        for window in to_uint8(batch["A"]).permute(0, 2, 3, 1):
            hits = [
                (image.unfold(0, 24, 1).unfold(1, 32, 1) == window.permute(2, 0, 1)).all(-1).all(-1)
                for image in images
            ]
            places = [(i, *place) for i, h in enumerate(hits) for place in h.all(-1).nonzero()]
            assert len(places) == 1
            tops.add(int(places[0][1]))
    assert len(tops) > 10
    assert max(tops) > 40, "also the lower part of the high image is shown"


def test_small_images_are_enlarged_until_a_window_fits(mixed: Path) -> None:
    data = folders(mixed, mixed, image_size=94, load_size=94, resize="none")
    shapes = [data.domains["A"].source.__getitems__([i])["image"][0].shape for i in range(3)]
    assert shapes == [(3, 94, 141), (3, 141, 94), (3, 108, 94)]


def test_tests_of_several_sizes_are_middles(mixed: Path) -> None:
    data = folders(mixed, mixed, image_size=40, resize="none", held_out=0.4)
    test = data.held_out()["A"]
    assert len(test.source) == 1
    image = torch.from_numpy(np.array(Image.open(mixed / test.source.name_of(0))))
    top, left = ((side - 40) // 2 for side in image.shape[:2])
    window = image[top : top + 40, left : left + 40].permute(2, 0, 1)
    assert torch.equal(test.read([0])[0], window)


def test_several_sizes_resume_and_are_shared(mixed: Path) -> None:
    def data(**place: int) -> Unpaired:
        given = folders(mixed, mixed, image_size=24, load_size=30, resize="width", batch_size=4)
        return attach(given, **place)

    straight = batches(data(), 6)
    assert_same(straight[3:], batches(data(seen=12), 3))
    halves = [batches(data(rank=rank, world=2), 6) for rank in (0, 1)]
    joined = [
        {name: torch.cat([a[name], b[name]]) for name in ("A", "B")}
        for a, b in zip(*halves, strict=True)
    ]
    assert_same(straight, joined)


def test_several_sizes_have_to_be_cropped(mixed: Path) -> None:
    data = folders(mixed, mixed, image_size=24, resize="none", crop=None)
    with pytest.raises(UserError, match=r"several sizes.*data\.crop=random"):
        data.check()
    source = Folder(str(mixed), 24, resize="width")
    with pytest.raises(UserError, match=r"several sizes.*resize=crop"):
        write_pack(source, mixed.parent / "pack", workers=0)


# -- the embedded set ------------------------------------------------------------------------------


def test_test_pairs_of_the_emoji_show_the_same() -> None:
    data: Unpaired = make(config("data=emoji_unpaired", "image_size=32", tiny=False).data)
    tests = data.held_out()
    assert data.test_pairs
    assert [len(t.source) for t in tests.values()] == [360, 360]
    a, b = (t.source for t in tests.values())
    assert torch.equal(a.labels(), b.labels())  # type: ignore[arg-type]
    every = list(range(360))
    left, right = (t.read(every).double().flatten(1) for t in tests.values())
    distance = torch.cdist(left, right, p=1)
    # The true partner is near: far better than chance, though vendors differ.
    ranks = (distance < distance.diagonal()[:, None]).sum(1)
    assert ranks.double().median() < 10
    train = {name: domain.source for name, domain in data.domains.items()}
    assert [type(s) for s in train.values()] == [Emoji, Emoji]
    assert [len(s) for s in train.values()] == [3421, 3421]
    assert [s.vendors for s in train.values()] == [["noto"], ["twemoji"]]  # type: ignore[attr-defined]


def test_pairs_have_to_be_as_many_on_either_side(published: Path) -> None:
    with pytest.raises(UserError, match=r"3 test images of A and 4 of B.*test_pairs=false"):
        horses(published, test_pairs=True).tests()


# -- what a user may get wrong ---------------------------------------------------------------------


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as told:
        call()
    assert "\n" not in str(told.value)
    return str(told.value)


def test_what_is_missing_is_named(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "monet2photo")  # another set is none of ours
    sentence = refused(lambda: horses(tmp_path).check())
    assert "horse2zebra.zip" in sentence
    assert "data.root" in sentence
    lacking = tmp_path / "horse2zebra"
    shutil.copytree(published, lacking)
    shutil.rmtree(lacking / "testA")
    data = horses(lacking)
    data.check()
    assert "testA" in refused(data.held_out)
    shutil.rmtree(lacking / "trainB")
    (lacking / "trainB").mkdir()
    assert "no folder trainB with images" in refused(lambda: horses(lacking).check())


def test_errors_name_the_key_of_the_domain(published: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    size = {"image_size": 32}
    assert "data.b.root" in refused(lambda: folders(published, nowhere, **size).check())
    (tmp_path / "empty").mkdir()
    empty = refused(lambda: folders(tmp_path / "empty", published, **size).check())
    assert "data.a.root" in empty
    assert "has no images" in empty
    one = refused(lambda: folders(published, published, channels=1, **size).check())
    assert "has 3 channel(s), not 1" in one
    small = refused(lambda: folders(published, published, load_size=20, **size).check())
    assert "too small to crop 32x32" in small
    wrong = partial(Folder, root=str(published), rot=1)
    assert "data.a" in refused(lambda: Unpaired(wrong, wrong, 32, 3, 2, 0))


def test_held_out_images_are_no_part_of_the_training(published: Path) -> None:
    data = folders(published, published, image_size=32, held_out=0.2)
    for name, test in data.held_out().items():
        train = data.domains[name].source
        names = [{s.name_of(i) for i in range(len(s))} for s in (train, test.source)]
        assert names[0].isdisjoint(names[1])
        assert len(names[0] | names[1]) == 25
    every = folders(published, published, image_size=32, held_out=0.2, split="all")
    assert "split=train" in refused(every.held_out)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("model=dcgan", "data=emoji_unpaired"), "DCGAN does not fit this data"),
        (("model=cyclegan", "data=synthetic"), "CycleGAN does not fit this data"),
    ],
)
def test_models_and_data_have_to_go_together(options: tuple[str, ...], sentence: str) -> None:
    cfg = config("image_size=16", *options, tiny=False)
    data, model = make(cfg.data), make(cfg.model)
    data.trainer = SimpleNamespace(lightning_module=model, global_rank=0, num_nodes=1, world_size=1)
    assert sentence in refused(lambda: data.setup("fit"))


# -- packs, the doctor -----------------------------------------------------------------------------


def test_packed_domains_are_shown_alike(published: Path, tmp_path: Path) -> None:
    size = (36, 36)
    for name in ("A", "B"):
        source = Folder(str(published / f"train{name}"), size, labels=False, resize="stretch")
        write_pack(source, tmp_path / name, workers=0)
    packed = Unpaired(
        partial(Pack, root=str(tmp_path / "A")), partial(Pack, root=str(tmp_path / "B")),
        image_size=32, channels=3, batch_size=2, seed=0, source={"split": "train"},
    )  # fmt: skip
    expected = batches(attach(horses(published, image_size=32, crop="random", mirror=True)), 8)
    assert_same(expected, batches(attach(packed), 8))


def test_the_doctor_looks_at_all_four(published: Path, capsys, tmp_path: Path) -> None:
    root = tmp_path / "horse2zebra"
    shutil.copytree(published, root)
    (root / "testB" / "bad.jpg").write_bytes(b"no image")
    command = ["horse2zebra", f"root={root}", "--size", "32", "--workers", "0"]
    with pytest.raises(SystemExit) as ended:
        doctor.main([*command, "--sheet", str(tmp_path / "sheet.png")])
    assert ended.value.code == 1
    output = capsys.readouterr().out
    for name, count in (("A", 7), ("B", 11), ("A-test", 3), ("B-test", 4)):
        assert f"{name}:\nhorse2zebra" in output
        assert f": {count} images, delivered as 32x32" in output
        assert (tmp_path / f"sheet-{name}.png").is_file()
    assert "bad.jpg" in output
