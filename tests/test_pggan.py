"""PGGAN's iteration against its formulae; growth in real runs; resume and several processes."""

from collections.abc import Callable
from math import ceil, floor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_same_tensors, in_worlds
from makers.tiny import TINY, adam, config
from makers.worlds import fit, pggan
from PIL import Image
from torch import Tensor

import ganzoo
from ganzoo.data.packing import write_pack
from ganzoo.data.pixels import to_float
from ganzoo.data.sources.synthetic import Synthetic
from ganzoo.errors import UserError
from ganzoo.models.pggan import PGGAN, Discriminator, Generator
from ganzoo.nn.layers import shrunk
from ganzoo.schedules.growth import Growth
from ganzoo.train import train_config as train

SCRIPT = str(Path(__file__).parent / "makers" / "worlds.py")
SMALL = [o for o in TINY if not o.startswith(("model.", "total_kimg"))]
GROWING = [
    *SMALL,
    "model=pggan",
    "total_kimg=0.32",
    "model.generator.fmap_base=64",
    "model.generator.fmap_max=8",
    "model.growth.train_kimg=0.064",
    "model.growth.fade_kimg=0.064",
    "model.growth.batch_sizes={4:16,8:16,16:8}",
    "model.growth.repeats=1",
]


def two_sided(gan: PGGAN, n: int, lod: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = gan.generator.resolution(lod)
    real, fake = (torch.rand(n, 3, *size, generator=generator).double() * 2 - 1 for _ in range(2))
    return real, fake, torch.rand(n, generator=generator).double()


def doubled(classes: int = 0, **options: Any) -> PGGAN:
    """A tiny model in float64."""
    torch.manual_seed(0)
    widths = {"fmap_base": 64, "fmap_max": 8, "classes": classes}
    return PGGAN(
        Generator(16, **widths),
        Discriminator(16, **widths),
        Growth(16, 0.064, 0.064),
        optimizers={"generator": adam(), "discriminator": adam()},
        total_kimg=1,
        **options,
    ).double()


@pytest.mark.parametrize("lod", [2.0, 1.4, 0.0])
@pytest.mark.parametrize("target", [1.0, 750.0])
@pytest.mark.parametrize("classes", [0, 3])
def test_discriminators_loss_is_the_formula(lod: float, target: float, classes: int) -> None:
    gan = doubled(classes, target=target)
    real, fake, mix = two_sided(gan, 8, lod)
    y = torch.arange(8) % 3 if classes else None
    empty = torch.empty(8, 0)
    loss = gan._discriminator_loss(real, fake, y, empty, empty, mix, lod=lod)
    network = gan.discriminator
    ours = torch.autograd.grad(loss, [p for p in network.parameters()], allow_unused=True)

    out_real, out_fake = network(real, lod), network(fake, lod)
    s_real, s_fake = (out[:, 0] if classes else out for out in (out_real, out_fake))
    between = (real + mix[:, None, None, None] * (fake - real)).requires_grad_()
    out = network(between, lod)
    (slope,) = torch.autograd.grad(
        (out[:, 0] if classes else out).sum(), between, create_graph=True
    )
    norm = slope.pow(2).sum((1, 2, 3)).sqrt() / 2 ** int(lod)
    expected = (
        s_fake.mean()
        - s_real.mean()
        + 10 / target**2 * ((norm - target) ** 2).mean()
        + 0.001 * s_real.pow(2).mean()
    )
    if y is not None:
        for judged in (out_real, out_fake):
            expected = expected - judged[:, 1:].log_softmax(1)[torch.arange(8), y].mean()
    theirs = torch.autograd.grad(expected, [p for p in network.parameters()], allow_unused=True)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def boxes(images: Tensor, side: int) -> Tensor:
    """Means over boxes of side x side."""
    return images.unflatten(-1, (-1, side)).unflatten(-3, (-1, side)).mean((-1, -3))


def repeated(images: Tensor, side: int) -> Tensor:
    return images.repeat_interleave(side, -1).repeat_interleave(side, -2)


def slopes_at_full_size(gan: PGGAN, images: Tensor, lod: float) -> Tensor:
    """Norms of the gradient of D(means over boxes) with respect to full-size images."""
    side = 2 ** int(lod)
    images = images.detach().requires_grad_()
    score = gan.discriminator(boxes(images, side), lod)
    (slope,) = torch.autograd.grad(score.sum(), images, create_graph=True)
    return slope.flatten(1).norm(dim=1)


@pytest.mark.parametrize("lod", [0.0, 0.3, 1.0, 1.75, 2.0])
@pytest.mark.parametrize(
    ("weights", "target"),
    [({"gradient_penalty": 10.0}, 1.0), ({"gradient_penalty": 3.0}, 750.0), ({"r1": 2.0}, 1.0),
     ({"r2": 2.0}, 1.0)],
)  # fmt: skip
def test_penalties_are_those_of_full_size_images(
    lod: float, weights: dict[str, float], target: float
) -> None:
    gan = doubled(target=target, drift=0.0, **{"gradient_penalty": 0.0, **weights})
    gan.discriminator.blocks[0][0] = torch.nn.Identity()  # each score is of one image
    gan.discriminator.blocks[0][1].weight = torch.nn.Parameter(
        gan.discriminator.blocks[0][1].weight[:, :-1].detach()
    )
    real, fake, mix = two_sided(gan, 8, lod)
    empty = torch.empty(8, 0)
    loss = gan._discriminator_loss(real, fake, None, empty, empty, mix, lod=lod)

    # The official codes enlarge reals and fakes, mix them, and begin the network with means.
    whole_real, whole_fake = (repeated(images, 2 ** int(lod)) for images in (real, fake))
    share = mix[:, None, None, None]
    between = (1 - share) * whole_real + share * whole_fake
    expected = gan.discriminator(fake, lod).mean() - gan.discriminator(real, lod).mean()
    penalty = (slopes_at_full_size(gan, between, lod) - target).pow(2).mean() / target**2
    expected = expected + weights.get("gradient_penalty", 0) * penalty
    for name, images in (("r1", whole_real), ("r2", whole_fake)):
        squared = slopes_at_full_size(gan, images, lod).pow(2).mean()
        expected = expected + weights.get(name, 0) / 2 * squared
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)

    parameters = list(gan.discriminator.parameters())
    ours = torch.autograd.grad(loss, parameters, allow_unused=True)
    theirs = torch.autograd.grad(expected, parameters, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("weights", [{"gradient_penalty": 10.0}, {"r1": 1.0, "r2": 1.0}])
def test_a_new_level_does_not_change_the_penalty(weights: dict[str, float]) -> None:
    """Just before a fade and at its start; penalties at the grown size do jump."""
    jumps = {}
    for size in ("full", "grown"):
        gan = doubled(drift=0.0, penalty_size=size, **{"gradient_penalty": 0.0, **weights})
        empty = torch.empty(8, 0)
        for lod in (2.0, 1.0):
            real, fake, mix = two_sided(gan, 8, lod)
            before = gan._discriminator_loss(real, fake, None, empty, empty, mix, lod=lod)
            real, fake = repeated(real, 2), repeated(fake, 2)
            after = gan._discriminator_loss(real, fake, None, empty, empty, mix, lod=lod - 1e-9)
            jumps[size, lod] = abs(after.item() - before.item())
    assert max(jumps["full", 2.0], jumps["full", 1.0]) < 1e-6
    assert min(jumps["grown", 2.0], jumps["grown", 1.0]) > 1e-3


def test_generators_loss_is_the_formula() -> None:
    gan = doubled(classes=3)
    z, y, empty = torch.randn(8, gan.generator.nz).double(), torch.arange(8) % 3, torch.empty(8, 0)
    loss = gan._generator_loss((z, y), torch.empty(0), empty, empty, lod=0.5)
    judged = gan.discriminator(gan.generator(z, y, lod=0.5), 0.5)
    expected = -judged[:, 0].mean() - judged[:, 1:].log_softmax(1)[torch.arange(8), y].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_reals_are_box_means_faded_like_fakes() -> None:
    images = torch.rand(2, 3, 16, 16).double() * 2 - 1
    assert torch.equal(shrunk(images, 0.0, (16, 16)), images)
    boxes = images.unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean((-1, -3))
    torch.testing.assert_close(shrunk(images, 1.0, (8, 8)), boxes)
    again = boxes.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean((-1, -3))
    enlarged = F.interpolate(again, scale_factor=2, mode="nearest")
    torch.testing.assert_close(shrunk(images, 1.25, (8, 8)), 0.75 * boxes + 0.25 * enlarged)


def test_growth_never_jumps() -> None:
    """Across every boundary, images and scores change as little as the step between two lods."""
    gan = doubled()
    z = torch.randn(4, gan.generator.nz).double()
    for lod in (1.0, 2.0):
        before, after = gan.generator(z, lod=lod), gan.generator(z, lod=lod - 1e-9)
        enlarged = F.interpolate(before, scale_factor=2, mode="nearest")
        torch.testing.assert_close(after, enlarged, rtol=0, atol=1e-6)
        scores = gan.discriminator(before, lod), gan.discriminator(enlarged, lod - 1e-9)
        torch.testing.assert_close(*scores, rtol=0, atol=1e-6)


# -- runs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("grown")
    ticks = "model.growth.ticks_kimg={4:0.032,8:0.032,16:0.032}"
    own = ("callbacks.ticks.every_kimg=null", "callbacks.grid.every_kimg=null", ticks)
    train(config(*GROWING, *own, f"run_dir={run_dir}", tiny=False))
    return run_dir


def test_a_run_grows(grown: Path) -> None:
    gan = ganzoo.load(grown)
    assert isinstance(gan, PGGAN)
    assert gan.lod == 0
    assert gan.sample([0, 1]).shape == (2, 3, 16, 16)
    coarse = gan.sample([0], lod=2.0)
    assert coarse.shape == (1, 3, 16, 16)
    tile = coarse[0, :, :4, :4]
    assert torch.equal(tile, tile[:, :1, :1].expand(3, 4, 4))
    log = (grown / "train.log").read_text()
    for stage in ("4x4 ", "8x8 fading in", "8x8 ", "16x16 fading in", "16x16 "):
        assert stage in log
    assert "in total, without metrics and pictures" in log


def test_a_run_that_ends_before_it_has_grown_says_so(tmp_path: Path) -> None:
    train(config(*GROWING, "total_kimg=0.1", f"run_dir={tmp_path}", "dry=true", tiny=False))
    assert (
        "ends at 8x8 fading in. Full-size images are reached after 0.256 kimg"
        in (tmp_path / "train.log").read_text()
    )


def test_a_run_that_ended_before_it_had_grown_says_so(tmp_path: Path) -> None:
    train(config(*GROWING, "total_kimg=0.048", f"run_dir={tmp_path}", tiny=False))
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [("ends" in line, "ended" in line) for line in lines if "at 4x4. Full-size" in line] == [
        (True, False),
        (False, True),
    ]


def test_without_a_recipe_the_schedule_follows_the_length_of_the_run(tmp_path: Path) -> None:
    keys = [key for key in GROWING if "train_kimg" not in key and "fade_kimg" not in key]
    keys += ["model.growth.repeats=1", f"run_dir={tmp_path}"]
    gan = train(config(*keys, "total_kimg=0.384", tiny=False))
    assert gan.growth.starts() == {0: 0, 1: 65, 2: 128, 3: 193, 4: 256}
    assert gan.lod == 0
    assert "Full-size images are reached after" not in (tmp_path / "train.log").read_text()
    # A longer run goes on at full size.
    gan = train(config(*keys, "total_kimg=0.448", tiny=False))
    assert gan.images_seen >= 448
    assert gan.lod == 0
    assert gan.growth.starts()[4] == 256


def test_weights_of_grown_networks_need_a_start_at_their_size(tmp_path: Path) -> None:
    grown_run = f"run_dir={tmp_path / 'a'}"
    full = ("model.growth.train_kimg=0", "model.growth.fade_kimg=0", "total_kimg=0.016")
    train(config(*GROWING, *full, grown_run, tiny=False))
    again = ("total_kimg=0.048", f"init_from={tmp_path / 'a'}")
    train(config(*GROWING, *again, f"run_dir={tmp_path / 'b'}", tiny=False))
    log = (tmp_path / "b" / "train.log").read_text()
    assert "have grown to 16 pixels, but this run starts with 4" in log
    remedy = "model.growth.initial_resolution=16"
    assert remedy in log
    gan = train(config(*GROWING, *again, remedy, f"run_dir={tmp_path / 'c'}", tiny=False))
    assert gan.lod == 0
    assert "have grown to" not in (tmp_path / "c" / "train.log").read_text()


def test_a_tick_reports_the_present_level_of_detail() -> None:
    gan = doubled()
    for lod in (1.75, 1.5):
        gan.report.show(lod=lod)
        gan.note(d_loss=torch.tensor(lod))
    assert gan.report.drain(gan.device) == {"lod": 1.5, "d_loss": 1.625}
    assert gan.report.drain(gan.device) == {}


def test_stages_shorter_than_the_time_between_two_evaluations_are_left_out() -> None:
    gan = pggan(total_kimg=1)
    for train_kimg, fade_kimg in ((0.064, 0.001), (0.001, 0.064), (0.005, 0.005), (0.1, 0.07)):
        gan.growth = Growth(16, train_kimg, fade_kimg, batch_size=16, repeats=2)
        stages = gan.stages()
        assert list(stages) == sorted(stages)
        assert len(set(stages.values())) == len(stages)
        assert stages[max(stages)] == "16x16"
        assert all(gan.moment(at) == at for at in stages)


def test_a_checkpoint_is_left_at_the_end_of_every_stage(grown: Path) -> None:
    names = sorted(path.stem for path in (grown / "stages").iterdir())
    gans = [ganzoo.load(grown / "stages" / f"{name}.ckpt") for name in names]
    # 64 images each of 4x4, of a fade, of 8x8, of a fade; fades begin with the batch after.
    assert [gan.images_seen for gan in gans] == [80, 128, 208, 256]
    assert [gan.lod for gan in gans] == [1.75, 1.0, 0.75, 0.0]


def test_growth_is_shown(grown: Path) -> None:
    with Image.open(grown / "growth.gif") as picture:
        frames = len(list((grown / "samples").glob("*.png")))
        assert picture.n_frames >= min(frames, 2)
        assert picture.size == (2 * 16 + 2, 2 * 16 + 2)
    assert frames == 1 + 10  # one at the start, ten ticks


def test_optimizers_start_anew_at_both_ends_of_a_fade(tmp_path: Path) -> None:
    gan = pggan()
    seen = []
    inner = gan.after_step

    def watched() -> None:
        inner()
        lods = [gan.growth.lod(at) for at in (gan.images_before, gan.images_seen)]
        seen.append((*lods, not gan.turns.optimizer("generator").optimizer.state))

    gan.after_step = watched  # type: ignore[method-assign]
    fit(tmp_path, gan, "data.source.num=64")
    for before, now, empty in seen:
        assert empty == (floor(before) != floor(now) or ceil(before) != ceil(now))
    run = seen[2 * len(gan.growth.starts()) :]  # behind the preflight
    assert [now for _, now, empty in run if empty] == [1.75, 1.0, 0.75, 0.0]


def test_optimizers_may_go_on(tmp_path: Path) -> None:
    gan = pggan()
    gan.reset_optimizers = False
    emptied = []
    inner = gan.after_step

    def watched() -> None:
        inner()
        emptied.append(not gan.turns.optimizer("generator").optimizer.state)

    gan.after_step = watched  # type: ignore[method-assign]
    fit(tmp_path, gan, "data.source.num=64")
    assert not any(emptied)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (0, "data has no labels"),
        (2, r"has 2 classes, but .* 3: set model\.generator\.classes=2"),
        (4, r"has 4 classes, but .* 3: set model\.generator\.classes=4"),
    ],
)
def test_data_of_other_classes_is_refused(tmp_path: Path, classes: int, sentence: str) -> None:
    keys = ["model.generator.classes=3", f"data.source.classes={classes}", f"run_dir={tmp_path}"]
    with pytest.raises(UserError, match=sentence):
        train(config(*GROWING, *keys, tiny=False))


def test_classes_are_learned_and_sampled(tmp_path: Path) -> None:
    keys = ["model.generator.classes=10", "total_kimg=0.032", f"run_dir={tmp_path}"]
    gan = train(config(*GROWING, *keys, tiny=False))
    one, other = gan.sample([3], label=0), gan.sample([3], label=1)
    assert not torch.equal(one, other)
    torch.testing.assert_close(gan.sample([3, 4])[1:], gan.sample([4]))
    with pytest.raises(UserError, match="There is no class 10"):
        gan.sample([0], label=10)


def test_a_stage_that_does_not_fit_is_split_or_named(tmp_path: Path, monkeypatch) -> None:
    inner = Discriminator.forward

    def small(self: Discriminator, x: Tensor, lod: float = 0.0) -> Tensor:
        if x.shape[-1] == 16 and len(x) > 4:
            raise torch.OutOfMemoryError("16 px are too much")
        return inner(self, x, lod)

    monkeypatch.setattr(Discriminator, "forward", small)
    with pytest.raises(UserError, match="at 16x16 fading in does not fit into the memory"):
        train(config(*GROWING, f"run_dir={tmp_path / 'a'}", tiny=False))
    train(config(*GROWING, "model.accumulate=auto", f"run_dir={tmp_path / 'b'}", tiny=False))
    log = (tmp_path / "b" / "train.log").read_text()
    rows = [line.split() for line in log.splitlines() if "GiB" in line and "16x16" in line]
    assert [row[row.index("GiB") - 2] for row in rows] == ["2", "2"]


def test_a_pack_with_levels_is_read_at_the_level_that_is_shown(tmp_path: Path) -> None:
    source = Synthetic(64, 16)
    write_pack(source, tmp_path / "pack", levels=True, workers=0)
    keys = ["data=pack", f"data.root={tmp_path / 'pack'}", f"run_dir={tmp_path / 'run'}"]
    shapes, inner = [], PGGAN.step

    def step(self: PGGAN, batch: dict[str, Tensor]) -> Any:
        size = self.generator.resolution(self.lod)
        shapes.append((tuple(batch["image"].shape[-2:]), size))
        whole = source.__getitems__(list(range(64)))["image"]
        means = shrunk(to_float(whole), 0.0, size)
        means = torch.cat([means, means.flip(-1)])
        for image in batch["image"]:
            assert (means - image).abs().flatten(1).amax(1).min() < 3 / 127.5  # rounded by level
        return inner(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PGGAN, "step", step)
        base = [o for o in GROWING if not o.startswith("data")]
        train(config(*base, *keys, tiny=False))
    assert {given for given, _ in shapes} == {(4, 4), (8, 8), (16, 16)}
    assert all(given == size for given, size in shapes)


# -- resume and processes --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Any]:
    names = "growing", "grown_straight", "grown_resumed"
    return in_worlds(tmp_path_factory.mktemp("grown"), SCRIPT, *names)


@pytest.mark.parametrize("world", [1, 2])
def test_resume_is_exact_in_a_fade_at_its_end_and_where_the_batch_changes(result, world) -> None:
    assert_same_tensors(result("grown_straight", world), result("grown_resumed", world))


def test_two_processes_equal_one(result: Callable[[str, int], Any]) -> None:
    assert_same_tensors(result("growing", 1), result("growing", 2), atol=1e-10)
