"""How translations are scored: closed forms, both directions, known pairs, during training."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_same_tensors, checkpoint, run
from hydra import compose, initialize_config_dir
from makers.tiny import TINY_METRICS, TRANSLATING, TinyExtractor, config
from PIL import Image
from torch import Generator, Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

import ganzoo
from ganzoo import evaluate
from ganzoo.config import CONF
from ganzoo.data import Unpaired
from ganzoo.data.pixels import to_float, to_uint8
from ganzoo.data.source import Source
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import Translating
from ganzoo.errors import UserError
from ganzoo.loggers.csv import read_rows
from ganzoo.metrics.frechet import FrechetDistance
from ganzoo.metrics.inception_score import InceptionScore
from ganzoo.metrics.kernel import KernelDistance
from ganzoo.metrics.scoring import TranslationScorer, scorer_of
from ganzoo.metrics.ssim import ssim
from ganzoo.metrics.suite import Suite
from ganzoo.metrics.translation import Cycle, Identity, Pair, l1, psnr
from ganzoo.pictures.grids import GAP
from ganzoo.train import train_config as train

pytestmark = pytest.mark.usefixtures("no_curves")
SCRIPT = str(Path(__file__).parent / "makers" / "worlds.py")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


# -- the numbers -----------------------------------------------------------------------------------


def test_numbers_of_images_that_differ_by_a_constant() -> None:
    a = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    b = torch.stack([a[0] + 51, a[1]])
    assert l1(a, b).tolist() == pytest.approx([0.2, 0])
    assert psnr(a, b).tolist() == pytest.approx(
        [20 * np.log10(5), 10 * np.log10(255**2 * 12)], rel=1e-12
    )
    # With neither variance nor covariance only luminance counts.
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 151 + c1) / (100**2 + 151**2 + c1)
    assert ssim(a.double(), b.double()).tolist() == pytest.approx([expected, 1])


def test_numbers_are_those_of_torchmetrics() -> None:
    a = noise(3, 3, 40, 33)
    b = a.int() + noise(3, 3, 40, 33, seed=1).int() // torch.tensor([2, 8, 64]).view(3, 1, 1, 1)
    b = b.clamp(max=255).to(torch.uint8)
    x, y = a.double(), b.double()
    theirs = peak_signal_noise_ratio(x, y, data_range=255, dim=(1, 2, 3), reduction="none")
    torch.testing.assert_close(psnr(a, b), theirs)
    _, full = structural_similarity_index_measure(
        x, y, data_range=255.0, reduction="none", return_full_image=True
    )
    # Theirs also counts windows over reflected borders, which the paper does not.
    torch.testing.assert_close(ssim(x, y), full[..., 5:-5, 5:-5].mean((1, 2, 3)))


def test_metrics_are_means_over_images_however_they_come() -> None:
    images, inputs, partners = (noise(7, 1, 12, 12, seed=i) for i in range(3))
    for metric, of in ((Pair("l1"), l1), (Pair("psnr"), psnr)):
        for part in (slice(0, 1), slice(1, 5), slice(5, 7)):
            metric.update(images=images[part], inputs=inputs[part], partners=partners[part])
        name, copy = metric.names
        values = metric.compute()
        assert float(values[name]) == pytest.approx(float(of(images, partners).mean()))
        assert float(values[copy]) == pytest.approx(float(of(inputs, partners).mean()))
        metric.reset()
        assert metric.compute() == {}
    for one, keys in (
        (Cycle(), ("inputs", "reconstructed")),
        (Identity(), ("targets", "identity")),
    ):
        one.update(**dict(zip(keys, (images, inputs), strict=True)))
        assert float(one.compute()[one.names[0]]) == pytest.approx(
            (images.double() - inputs.double()).abs().mean() / 255
        )


def test_copies_of_other_channels_are_not_compared() -> None:
    metric = Pair("ssim")
    metric.update(noise(2, 3, 12, 12), noise(2, 1, 12, 12), noise(2, 3, 12, 12, seed=1))
    assert list(metric.compute()) == ["ssim"]


# -- what is compared with what --------------------------------------------------------------------


class Shades(Source):
    """Noise; B's images are those of A, inverted. Both have a test split."""

    def __init__(
        self, domain: str, num: int, tests: int, image_size: Sequence[int], split: str = "train"
    ) -> None:
        self.name, self.split, self.shape = f"shades {domain} {split}", split, (3, *image_size)
        images = noise(num, *self.shape, seed=7 if split == "test" else 8)[: tests or num]
        if split == "test" and not tests:
            raise UserError("There is no test split.")
        self.images = images if domain == "A" else 255 - images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"image": self.images[indices]}


class Inverting(Translating):
    """AtoB is right; BtoA is that, a little brighter, so that cycles do not close."""

    directions = ("AtoB", "BtoA")

    def __init__(self) -> None:
        network = torch.nn.Linear(1, 1)
        super().__init__(network, network, {}, 1, ema_kimg=0)
        self.channels = {"A": 3, "B": 3}
        self.seen: dict[str, list[Tensor]] = {"AtoB": [], "BtoA": []}

    def translate(self, images: Tensor, direction: str = "AtoB", raw: bool = False) -> Tensor:
        self.seen[direction].append(to_uint8(images))
        return -images if direction == "AtoB" else (0.1 - images).clamp(max=1)


def shades(tests: tuple[int, int] = (12, 12), **options: Any) -> Unpaired:
    num = max(*tests, 20)
    a, b = (partial(Shades, d, num, n) for d, n in zip("AB", tests, strict=True))
    given = {"image_size": 16, "source": {"split": "train"}, "test_pairs": True, **options}
    return Unpaired(a, b, channels=3, batch_size=4, seed=0, crop=None, **given)


def suite(**options: Any) -> Suite:
    metrics = {"fd": FrechetDistance(), "kid": KernelDistance(4, 30), "is": InceptionScore()}
    given = {"num_real": 100, "num_fake": 100, "batch_size": 5, "cache": False, **options}
    return Suite(metrics, TinyExtractor(), **given)


def test_both_directions_are_scored_against_true_partners() -> None:
    gan, data = Inverting(), shades()
    scores = scorer_of(gan, data, suite(), CPU).score()
    assert scores is not None
    values = scores.values
    a, b = (t.read(range(12)) for t in data.held_out().values())
    assert torch.equal(b, 255 - a)
    assert values["AtoB/l1"] == 0
    assert values["AtoB/ssim"] == pytest.approx(1)
    assert values["AtoB/psnr"] == pytest.approx(10 * np.log10(255**2 * 12))
    assert values["AtoB/fd_tiny"] == pytest.approx(0, abs=1e-6)
    back = to_uint8(gan.translate(to_float(b), "BtoA"))
    assert values["BtoA/l1"] == pytest.approx(float(l1(back, a).mean()))
    assert values["BtoA/fd_tiny"] > 0
    for direction in ("AtoB", "BtoA"):
        assert values[f"{direction}/copy_l1"] == pytest.approx(float(l1(a, b).mean()))
        assert values[f"{direction}/copy_psnr"] == pytest.approx(float(psnr(a, b).mean()))
    again = to_uint8(gan.translate(-to_float(a), "BtoA"))
    assert values["AtoB/cycle"] == pytest.approx(float(l1(again, a).mean()))
    # The identity error of AtoB is what it makes of images of B.
    assert values["AtoB/identity"] == pytest.approx(float(l1(255 - b, b).mean()))
    brighter = to_uint8(gan.translate(to_float(a), "BtoA"))
    assert values["BtoA/identity"] == pytest.approx(float(l1(brighter, a).mean()))


def test_distances_are_of_translations_against_the_other_domain() -> None:
    gan, data, extractor = Inverting(), shades((12, 15), test_pairs=False), TinyExtractor()
    scores = scorer_of(gan, data, suite(), CPU).score()
    assert scores is not None
    tests = data.held_out()
    a, b = (t.read(range(len(t.source))) for t in tests.values())
    for direction, given, real in (("AtoB", a, b), ("BtoA", b, a)):
        fakes = to_uint8(gan.translate(to_float(given), direction))
        metric = FrechetDistance()
        metric.update(extractor(real)[0], real=True)
        metric.update(extractor(fakes)[0], real=False)
        assert scores.values[f"{direction}/fd_tiny"] == pytest.approx(
            float(metric.compute()), rel=1e-6
        )
    assert not any("l1" in name for name in scores.values), "no pairs, no distance to a partner"


@pytest.mark.parametrize("tests", [(5, 12), (12, 5), (7, 7)])
def test_every_test_image_is_looked_at_once(tests: tuple[int, int]) -> None:
    gan, data = Inverting(), shades(tests, test_pairs=False)
    scorer = scorer_of(gan, data, suite(batch_size=3), CPU)
    scorer.score()
    domains = {name: t.read(range(len(t.source))) for name, t in data.held_out().items()}
    # AtoB translates all of A, all of B for the identity, and what comes back of B.
    seen = torch.cat(gan.seen["AtoB"]).flatten(1)
    for images in domains.values():
        for image in images.flatten(1):
            assert int((seen == image).all(1).sum()) == 1


def test_numbers_do_not_depend_on_batches_and_at_most_so_many_are_translated() -> None:
    gan, data = Inverting(), shades((40, 40))
    some = [scorer_of(gan, data, suite(batch_size=n), CPU).score() for n in (3, 40)]
    assert some[0] is not None
    assert some[1] is not None
    assert some[0].values == pytest.approx(some[1].values, rel=1e-6, abs=1e-9)
    assert some[0].protocol_id == some[1].protocol_id
    few = scorer_of(gan, data, suite(num_fake=10, num_real=30), CPU).score()
    assert few is not None
    assert {p["fake"]["images"] for p in few.protocol.values()} == {10}
    assert {p["real"]["images"] for p in few.protocol.values()} == {30}
    assert few.values["AtoB/l1"] == 0, "partners are those of the images that were taken"


def test_protocols_travel_with_the_numbers() -> None:
    gan = Inverting()
    scores = scorer_of(gan, shades(), suite(), CPU).score()
    assert scores is not None
    assert list(scores.protocol) == ["AtoB", "BtoA"]
    protocol = scores.protocol["AtoB"]
    assert protocol["real"]["data"] == "shades B test"
    assert protocol["real"]["split"] == "test"
    assert protocol["fake"]["inputs"] == "shades A test"
    assert protocol["fake"]["direction"] == "AtoB"
    lines = scores.lines()
    (line,) = [line for line in lines if line.startswith("BtoA/l1 ")]
    assert f"of the unchanged inputs {scores.values['BtoA/copy_l1']:.5g}" in line
    assert sum("real against real" in line for line in lines) == 4
    assert sum(f"protocol {scores.protocol_id}" in line for line in lines) == 2
    # Subsets of thirty cannot be had of twelve images, and it is said.
    assert protocol["metrics"]["kid"]["subset_size"] == 12
    assert "AtoB: kid uses subset_size=12, because there are 12 real and 12 fake images." in lines

    def protocol_id(**options: Any) -> str:
        other = scorer_of(gan, shades(**options), suite(), CPU).score()
        assert other is not None
        return other.protocol_id

    assert protocol_id() == scores.protocol_id
    assert protocol_id(tests=(11, 11)) != scores.protocol_id
    assert protocol_id(test_pairs=False) != scores.protocol_id


def test_training_images_take_the_place_of_missing_tests(caplog) -> None:
    gan, data = Inverting(), shades((0, 0))
    with caplog.at_level("INFO"):
        scorer = scorer_of(gan, data, suite(), CPU)
    assert "training images" in caplog.text
    assert isinstance(scorer, TranslationScorer)
    scores = scorer.score()
    assert scores is not None
    assert scores.protocol["AtoB"]["real"]["split"] == "train"
    assert scores.protocol["AtoB"]["real"]["images"] == 20
    assert "AtoB/l1" not in scores.values


def test_a_single_test_image_is_refused() -> None:
    with pytest.raises(UserError, match="too few test images for scores"):
        scorer_of(Inverting(), shades((1, 4), test_pairs=False), suite(), CPU)


# -- during training -------------------------------------------------------------------------------


def trained(run_dir: Path, *keys: str) -> GAN:
    return train(config(*TRANSLATING, f"run_dir={run_dir}", *keys, tiny=False))


def told(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "metrics.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translating")
    trained(folder / "run", "metrics.cache=false")
    return folder / "run"


def test_numbers_of_both_directions_go_everywhere(finished: Path) -> None:
    file = told(finished)
    assert [e["images_seen"] for e in file["evaluations"]] == [16, 32, 48]
    rows = [row for row in read_rows(finished / "metrics.csv") if row.get("metrics/AtoB/l1")]
    assert len(rows) == 3
    for row, entry in zip(rows, file["evaluations"], strict=True):
        for name, value in entry["values"].items():
            assert float(row[f"metrics/{name}"]) == value
    (protocol,) = file["protocols"].values()
    assert protocol["BtoA"]["real"]["data"] == "emoji (noto, test)"
    names = {name.partition("/")[2] for name in file["evaluations"][0]["values"]}
    pairs = {f"{copy}{name}" for name in ("l1", "psnr", "ssim") for copy in ("", "copy_")}
    assert names == {"fd_tiny", "kid_tiny", "kid_tiny_std", "is_tiny", "is_tiny_std", "cycle",
                     "identity", *pairs}  # fmt: skip


def test_the_best_is_that_of_the_mean_or_of_a_direction(finished: Path, tmp_path: Path) -> None:
    def value(entry: dict[str, Any]) -> float:
        return (entry["values"]["AtoB/fd_tiny"] + entry["values"]["BtoA/fd_tiny"]) / 2

    file = told(finished)
    best = min(file["evaluations"], key=value)
    assert file["monitor"] == "fd_tiny"
    assert file["best"] == {"images_seen": best["images_seen"], "value": value(best)}
    assert ganzoo.load(finished / "best.ckpt").images_seen == best["images_seen"]
    trained(tmp_path, "callbacks.metrics.monitor=BtoA/psnr")
    file = told(tmp_path)
    best = max(file["evaluations"], key=lambda entry: entry["values"]["BtoA/psnr"])
    assert file["best"]["value"] == best["values"]["BtoA/psnr"]
    assert file["higher_is_better"] is True
    assert ganzoo.load(tmp_path / "best.ckpt").images_seen == best["images_seen"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (("callbacks.metrics.monitor=AtoC/fd",), "AtoC/fd_tiny is not measured here"),
        (("callbacks.metrics.monitor=l2",), "No metric gives l2"),
        (
            ("callbacks.metrics.monitor=l1", "data.test_pairs=false"),
            "monitor=l1 is not measured here",
        ),
    ],
)
def test_what_is_not_measured_cannot_be_monitored(keys, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        trained(tmp_path, *keys)


def test_what_is_watched_does_not_change_the_run(finished: Path, tmp_path: Path) -> None:
    trained(tmp_path, "callbacks.metrics=null", "~callbacks.grid", "~callbacks.accuracy")
    one, other = checkpoint(finished), checkpoint(tmp_path)
    for part in ("state_dict", "optimizer_states"):
        assert_same_tensors(one[part], other[part])


def test_a_resumed_run_tells_what_a_straight_one_does(tmp_path: Path) -> None:
    constant = "model.lr_factors=null"  # by default it depends on the length of the run
    trained(tmp_path / "straight", constant)
    trained(tmp_path / "resumed", constant, "total_kimg=0.032")
    trained(tmp_path / "resumed", constant)
    straight, resumed = (told(tmp_path / name)["evaluations"] for name in ("straight", "resumed"))
    assert straight == resumed


def test_the_command_finds_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    def evaluated(*keys: str) -> evaluate.Scores:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("evaluate", ["metrics=quick", *TINY_METRICS, *keys])
        return evaluate.evaluate(cfg)

    out = f"out={tmp_path / 'scores.json'}"
    scores = evaluated(f"ckpt={finished}", out, "metrics.batch_size=7")
    last = told(finished)["evaluations"][-1]
    assert scores.values == pytest.approx(last["values"], rel=1e-5, abs=1e-7)
    assert scores.protocol_id == last["protocol"]
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written[0]["protocol"]["AtoB"]["fake"]["inputs"] == "emoji (noto, test)"
    other = evaluated(f"ckpt={finished}", out, "data=emoji_unpaired", "data.source.variants=false")
    assert other.protocol["AtoB"]["real"]["images"] == 40
    assert other.protocol_id != scores.protocol_id


def test_one_process_scores_as_two(tmp_path: Path) -> None:
    files = []
    for name, processes in (("one", 1), ("two", 2)):
        command = [sys.executable, SCRIPT, str(tmp_path / name), "translations"]
        done = run(command, processes)
        assert done.returncode == 0, done.stderr[-3000:]
        files.append(torch.load(tmp_path / name / "translations-0.pt", weights_only=True))
    assert {name.split("/")[1] for name in files[0]} >= {"AtoB", "BtoA", "accuracy"}
    assert_same_tensors(*files, atol=1e-7)


# -- what a person sees ----------------------------------------------------------------------------


def test_panels_show_what_becomes_of_the_same_images(finished: Path) -> None:
    names = sorted(path.name for path in (finished / "samples").iterdir())
    assert names == ["000000.000.png", "000000.024.png", "000000.048.png"]
    gan: Any = ganzoo.load(finished)
    panel = np.asarray(Image.open(finished / "samples" / names[-1]))
    assert panel.shape[0] == 8 * (16 + GAP) - GAP
    left = panel.shape[1] - (3 * (16 + GAP) - GAP)

    def tiles(row: int) -> Tensor:
        top = row * (16 + GAP)
        return torch.stack([
            torch.tensor(panel[top : top + 16, left + i * (16 + GAP) :][:, :16]).permute(2, 0, 1)
            for i in range(3)
        ])  # fmt: skip

    data: Unpaired = ganzoo.config.make(gan.config["data"])
    reals = {name: t.read([0, 120, 240]) for name, t in data.held_out().items()}
    for start, (domain, forth, back) in enumerate((("A", "AtoB", "BtoA"), ("B", "BtoA", "AtoB"))):
        real = to_float(reals[domain])
        fake = gan.translate(real, forth)
        rows = (real, fake, gan.translate(fake, back), gan.translate(real, back))
        for i, images in enumerate(rows):
            assert (tiles(4 * start + i).int() - to_uint8(images).int()).abs().max() <= 1
    strip = Image.open(finished / "progress.png")
    assert strip.height == 8 * (48 + GAP), "real, then three times fake, of each domain"
    first = np.asarray(strip)[: 48 + GAP][:48, -(3 * 18 - 2) * 3 :]
    assert (first[::3, ::3][:, :16] == panel[:16, left : left + 16]).all()
    assert Image.open(finished / "growth.gif").n_frames == 3  # type: ignore[attr-defined]


def test_both_discriminators_are_watched(finished: Path) -> None:
    rows = [r for r in read_rows(finished / "metrics.csv") if r.get("accuracy/A/training")]
    assert [row["images_seen"] for row in rows] == ["24", "48"]
    for row in rows:
        for domain in ("A", "B"):
            for kind in ("training", "held_out", "fakes"):
                share = float(row[f"accuracy/{domain}/{kind}"])
                assert 0 <= share <= 1
                assert share * 20 == pytest.approx(round(share * 20)), "of twenty images"
