"""Classes, thresholds, ways between them: `ganzoo.sample`, and a sweep by `ganzoo.evaluate`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from makers.tiny import TINY, TINY_METRICS, config
from PIL import Image, ImageSequence
from torch import nn

import ganzoo
from ganzoo import evaluate
from ganzoo.config import CONF, make
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.pictures.grids import GAP
from ganzoo.pictures.sheets import class_sheet, morph, truncations, walk
from ganzoo.sample import main
from ganzoo.train import train_config as train

BIGGAN = (
    *(key for key in TINY if not key.startswith("model.")),
    *("model=biggan", "model.classes=10", "model.generator.ch=4", "model.generator.nz=12"),
    *("model.generator.shared=6", "model.generator.attention=[]", "image_size=32"),
    *("model.generator.widths=null", "total_kimg=0.016", "~callbacks.ticks"),
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(config(*BIGGAN, f"run_dir={folder}", tiny=False))
    return folder


@pytest.fixture(scope="module")
def gan(run_dir: Path) -> GAN:
    return ganzoo.load(run_dir)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model without classes."""
    folder = tmp_path_factory.mktemp("plain")
    train(config(f"run_dir={folder}", "~callbacks.ticks", "~callbacks.grid"))
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def shown(images: torch.Tensor) -> np.ndarray:
    """[N, H, W, C] in 0..255 of floats in [-1, 1]."""
    return (images.permute(0, 2, 3, 1) * 127.5 + 127.5).numpy()


def assert_tiles(picture: np.ndarray, rows: list[torch.Tensor]) -> None:
    """The right part of a picture is a grid of these rows."""
    size = rows[0].shape[-1]
    left = picture.shape[1] - (len(rows[0]) * (size + GAP) - GAP)
    assert picture.shape[0] == len(rows) * (size + GAP) - GAP
    for i, row in enumerate(rows):
        for j, tile in enumerate(shown(row)):
            y, x = i * (size + GAP), left + j * (size + GAP)
            assert np.abs(picture[y : y + size, x : x + size] - tile).max() <= 0.51, (i, j)


# -- images ----------------------------------------------------------------------------------------


def test_a_class_sheet_has_a_row_for_each_class(gan, run_dir, tmp_path) -> None:
    out = tmp_path / "sheet.png"
    main([str(run_dir), "--scale", "1", "--classes", "2,0,9", "--num", "3", "--out", str(out)])
    rows = [gan.sample(range(3), label=label) for label in (2, 0, 9)]
    assert_tiles(pixels(out), rows)
    sheet = class_sheet(gan, [2, 0], [5])
    assert list(sheet) == ["2 class 2", "0 class 0"], "the data's names"
    assert (pixels(out)[:32, :20] < 128).any(), "the name is there"
    assert not torch.equal(rows[0], rows[1])


def test_one_class_is_a_grid_and_many_are_files(gan, run_dir, tmp_path) -> None:
    main(
        [
            str(run_dir),
            "--scale",
            "1",
            "--classes",
            "7",
            "--num",
            "2",
            "--out",
            str(tmp_path / "one.png"),
        ]
    )
    assert_tiles(pixels(tmp_path / "one.png"), [gan.sample(range(2), label=7)])
    main([str(run_dir), "--classes", "7,8", "--seeds", "3", "--out", str(tmp_path / "all")])
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == ["class0007_seed000003.png", "class0008_seed000003.png"]
    alone = shown(gan.sample([3], label=8))[0]
    assert np.abs(pixels(tmp_path / "all" / names[1]) - alone).max() <= 0.51


def test_a_walk_stays_in_its_class(gan, run_dir, tmp_path) -> None:
    out = tmp_path / "walk.gif"
    main(
        [
            str(run_dir),
            "--scale",
            "1",
            "--walk",
            "0,1",
            "--classes",
            "4",
            "--frames",
            "3",
            "--out",
            str(out),
        ]
    )
    assert Image.open(out).n_frames == 6
    way = walk(gan, [0, 1], 3, label=4)
    torch.testing.assert_close(way[::3], gan.sample([0, 1], label=4), atol=1e-5, rtol=0)


def test_from_class_to_class_latents_stay(gan, run_dir, tmp_path) -> None:
    images = morph(gan, [3, 7, 1], [0, 5], 4)
    assert images.shape[:2] == (2, 9)
    for at, label in ((0, 3), (4, 7), (8, 1)):
        torch.testing.assert_close(
            images[:, at], gan.sample([0, 5], label=label), atol=1e-5, rtol=0
        )
    halfway = gan.class_embeddings(torch.tensor([3, 7])).mean(0, keepdim=True)
    expected = gan.images(gan.latents([5]), labels=halfway)
    torch.testing.assert_close(images[1, 2], expected[0], atol=1e-5, rtol=0)
    assert morph(gan, [3, 7], [0], 4, loop=True).shape[:2] == (1, 8)

    out = tmp_path / "ways.png"
    arguments = ["--morph", "3,7,1", "--seeds", "0,5", "--frames", "4", "--out", str(out)]
    main([str(run_dir), "--scale", "1", *arguments])
    assert_tiles(pixels(out), list(images))
    main([str(run_dir), "--scale", "1", *arguments[:-1], str(tmp_path / "ways.gif")])
    gif = Image.open(tmp_path / "ways.gif")
    assert sum(1 for _ in ImageSequence.Iterator(gif)) == 12
    assert gif.size == (2 * 32 + GAP, 32)


def test_each_threshold_has_its_own_latents_and_statistics(gan, run_dir, tmp_path) -> None:
    out = tmp_path / "row.png"
    arguments = ["--truncation", "0.3,none", "--num", "4", "--standing", "2", "--out", str(out)]
    main([str(run_dir), "--scale", "1", *arguments])
    rows = []
    for threshold in (0.3, None):
        with gan.standing_statistics(threshold, 2):
            rows.append(gan.sample(range(4), truncation=threshold))
    assert_tiles(pixels(out), rows)
    told = truncations(gan, [0, 1], [0.3, None], batches=2)
    assert list(told) == ["0.3", "no limit"]
    assert not torch.equal(told["0.3"], gan.sample([0, 1], truncation=0.3)), "statistics are used"
    torch.testing.assert_close(
        gan.sample([0, 1], truncation=0.3), ganzoo.load(run_dir).sample([0, 1], truncation=0.3)
    )


def test_standing_statistics_come_with_truncation(gan, run_dir, tmp_path) -> None:
    pictures = []
    for extra in ([], ["--standing", "16"], ["--standing", "0"]):
        out = tmp_path / f"{len(pictures)}.png"
        main([str(run_dir), "--num", "2", "--truncation", "0.5", "--out", str(out), *extra])
        pictures.append(pixels(out))
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != pictures[2]).any()


def test_standing_statistics_of_any_model_with_batchnorm(plain) -> None:
    """BatchNorm then normalizes the very batches that they are of."""
    gan = ganzoo.load(plain)
    before = {k: v.clone() for k, v in gan.state_dict().items()}
    norm = next(m for m in gan.average.modules() if isinstance(m, nn.BatchNorm2d))
    entered: list[torch.Tensor] = []
    with gan.standing_statistics(0.5, batches=3, size=16) as estimated:
        assert estimated
        handle = norm.register_forward_hook(lambda _, given, out: entered.append(given[0]))
        gan.images(gan.latents(range(2**40, 2**40 + 48), 0.5))
        handle.remove()
        x = torch.cat(entered)
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    for key, value in gan.state_dict().items():
        assert torch.equal(value, before[key])
    with gan.standing_statistics(0.5, 0) as told:
        assert told is None


def test_models_without_batchnorm_have_no_standing_statistics() -> None:
    cfg = config()
    cfg.model.generator = {"_target_": "makers.tiny.PlainGenerator"}
    gan: GAN = make(cfg.model)
    with gan.standing_statistics(0.5, 4) as told:
        assert told is None


def test_classes_of_pggan(tmp_path) -> None:
    keys = ("model=pggan", "image_size=8", "model.generator.classes=10", "loss=nonsaturating")
    small = [
        f"model.{n}.{k}"
        for n in ("generator", "discriminator")
        for k in ("fmap_base=32", "fmap_max=8")
    ]
    cfg = config(*keys, *small, "total_kimg=1", tiny=False)
    gan: GAN = make(cfg.model)
    labels = torch.tensor([4, 2])
    together = gan.images(gan.latents([0, 1]), labels=labels)
    for i, label in enumerate((4, 2)):
        torch.testing.assert_close(together[i : i + 1], gan.sample([i], label=label))
    assert gan.labels([0, 1, 2]).shape == (3,)
    with pytest.raises(UserError, match="no classes to interpolate between"):
        morph(gan, [0, 1], [0], 2)
    with pytest.raises(UserError, match="no class 10"):
        gan.sample([0], label=10)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--classes", "11", "--out", "x.png"], "no class 11"),
        (["--morph", "3", "--out", "x.png"], "at least two"),
        (["--morph", "3,4", "--out", "x"], r"NAME\.png or NAME\.gif"),
        (["--morph", "3,4", "--classes", "1", "--out", "x.png"], "without --walk or --classes"),
        (["--walk", "0,1", "--classes", "1,2", "--out", "x.gif"], "a single class"),
        (["--truncation", "0.2,1", "--out", "x"], "rows of one PNG"),
        (["--truncation", "0.2,1", "--classes", "1,2", "--out", "x.png"], "at most one class"),
        (["--truncation", "0.2,0", "--out", "x.png"], "greater than 0"),
        (["--truncation", "much", "--out", "x.png"], "not a list of thresholds"),
        (["--standing", "-1", "--out", "x.png"], "--standing"),
    ],
)
def test_errors_are_sentences(arguments, says, run_dir, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([str(run_dir), *arguments])
    message = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert re.search(says, message), message
    assert list(tmp_path.iterdir()) == []


def test_models_without_classes_say_so(plain, tmp_path) -> None:
    for arguments in (["--classes", "1"], ["--morph", "1,2"]):
        with pytest.raises(SystemExit, match="no classes"):
            main([str(plain), *arguments, "--out", str(tmp_path / "x.png")])


# -- the grid during training ----------------------------------------------------------------------


def test_grids_of_a_model_with_classes_are_class_sheets(gan, run_dir) -> None:
    (last,) = (run_dir / "samples").glob("000000.016.png")
    picture = pixels(last)
    rows = [gan.sample(range(2), label=label) for label in range(10)]
    assert_tiles(picture, rows)


# -- the sweep -------------------------------------------------------------------------------------


def swept(run: Path, *keys: str) -> list[evaluate.Scores]:
    metrics = ("metrics=quick", *TINY_METRICS)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", [*metrics, f"ckpt={run}", *keys])
    return evaluate.evaluate(cfg)


def test_a_sweep_scores_every_threshold(run_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))
    found = swept(run_dir, "truncations=[0.2,1.0,null]", "standing=2")
    assert [s.protocol["fake"]["truncation"] for s in found] == [0.2, 1.0, None]
    assert {json.dumps(s.protocol["fake"]["standing_statistics"]) for s in found} == {
        '{"batches": 2, "size": 64}'
    }
    assert len({s.protocol_id for s in found}) == 3
    for threshold, scores in ((0.2, found[0]), (None, found[2])):
        given = "null" if threshold is None else threshold
        alone = swept(run_dir, f"truncation={given}", "standing=2", f"out={tmp_path / 'a.json'}")
        assert alone.values == scores.values
        assert alone.protocol_id == scores.protocol_id
    told = json.loads((run_dir / "truncation.json").read_text())
    assert [entry["protocol_id"] for entry in told] == [s.protocol_id for s in found]
    assert Image.open(run_dir / "truncation.png").width > 400


def test_a_sweep_without_inception_score_is_drawn_over_thresholds(
    plain, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "here.json"
    swept(plain, "truncations=[0.5,null]", "metrics.scores.is=null", f"out={out}")
    assert Image.open(tmp_path / "here.png").width > 900, "two panels"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["truncations=[0,1]"], "above 0"),
        (["truncations=[0.5]", "truncation=0.5"], "without truncation"),
    ],
)
def test_sweeps_that_cannot_be(keys, says, run_dir) -> None:
    with pytest.raises(UserError, match=says):
        swept(run_dir, *keys)
