import math
from fractions import Fraction
from itertools import pairwise

import pytest

from ganzoo.errors import UserError
from ganzoo.schedules.growth import Growth

FP32 = {256: 16, 512: 8, 1024: 4}
V1 = {
    "train_kimg": 800,
    "fade_kimg": 800,
    "batch_size": 16,
    "batch_sizes": {256: 14, 512: 6, 1024: 3},
}
V2 = {
    1: {
        "batch_size": 4,
        "batch_sizes": {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4},
        "lr_factors": {1024: 1.5},
    },
    2: {
        "batch_size": 8,
        "batch_sizes": {4: 256, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8},
        "lr_factors": {512: 1.5, 1024: 2},
    },
    4: {
        "batch_size": 16,
        "batch_sizes": {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16},
        "lr_factors": {256: 1.5, 512: 2, 1024: 3},
    },
    8: {
        "batch_size": 32,
        "batch_sizes": {4: 512, 8: 256, 16: 128, 32: 64, 64: 32},
        "lr_factors": {128: 1.5, 256: 2, 512: 3, 1024: 3},
    },
}


def v2(processes=1, size=1024):
    return Growth(size, max_per_process=FP32, **V2[processes])


def kimg_and_steps(growth, total_kimg, processes=1):
    """For each resolution the time spent there and the iterations, exactly and rounded up."""
    edges = [*growth.starts().values(), 1000 * total_kimg]
    kimg, steps = {}, {}
    for begin, end in pairwise(edges):
        # A fade begins with the first image after its edge; round that away.
        begin, end = round(begin, -3), round(end, -3)
        r = growth.resolution(begin + 1)
        kimg[r] = kimg.get(r, 0) + (end - begin) // 1000
        steps[r] = steps.get(r, 0) + Fraction(end - begin, growth.batch(begin + 1, processes))
    return kimg, {r: math.ceil(n) for r, n in steps.items()}, math.ceil(sum(steps.values()))


@pytest.mark.parametrize(
    ("kimg", "lod", "resolution", "alpha", "batch"),
    [
        (0, 8, 4, 1, 128),
        (600, 8, 4, 1, 128),
        (900, 7.5, 8, 0.5, 128),
        (1200, 7, 8, 1, 128),
        (1500, 7, 8, 1, 128),
        (2100, 6.5, 16, 0.5, 128),
        (4500, 4.5, 64, 0.5, 32),
        (9000, 1, 512, 1, 4),
        (9600, 0, 1024, 1, 4),
        (12000, 0, 1024, 1, 4),
        (10**6, 0, 1024, 1, 4),
    ],
)
def test_the_worked_example(kimg, lod, resolution, alpha, batch):
    growth, images = v2(), 1000 * kimg
    assert growth.levels == 8
    assert growth.lod(images) == pytest.approx(lod, abs=1e-12)
    assert 1 - growth.lod(images) % 1 == pytest.approx(alpha, abs=1e-12)
    assert growth.resolution(images) == resolution
    assert growth.batch(images) == batch


def test_a_new_level_has_its_values_as_soon_as_it_begins_to_fade_in():
    growth = v2()
    before, now = 9_000_000, 9_000_001
    assert (growth.resolution(before), growth.resolution(now)) == (512, 1024)
    assert (growth.lr_factor(before), growth.lr_factor(now)) == (1, 1.5)
    assert (growth.tick_kimg(before), growth.tick_kimg(now)) == (20, 10)
    assert 1 - growth.lod(now) % 1 == pytest.approx(1 / 600_000)
    before, now = 3_000_000, 3_000_001
    assert (growth.batch(before), growth.batch(now)) == (128, 64)


def test_time_and_steps_of_the_preset_for_one_gpu():
    kimg, steps, total = kimg_and_steps(v2(), 12_000)
    assert kimg == {4: 600, **dict.fromkeys([8, 16, 32, 64, 128, 256, 512], 1200), 1024: 3000}
    assert list(steps.values()) == [
        4_688, 9_375, 9_375, 18_750, 37_500, 75_000, 150_000, 300_000, 750_000,
    ]  # fmt: skip
    assert total == 1_354_688


def test_steps_of_the_other_presets():
    assert kimg_and_steps(v2(8), 12_000, 8)[2] == 277_735  # 277,734.4: the sheet rounds down
    kimg, _, total = kimg_and_steps(Growth(1024, **V1), 19_000)
    assert kimg[1024] == 7000
    assert total == pytest.approx(3.26e6, rel=2e-3)
    kimg, _, total = kimg_and_steps(v2(size=128), 12_000)
    assert kimg[128] == 6600
    assert total == pytest.approx(492e3, rel=1e-3)


@pytest.mark.parametrize(
    ("processes", "batches", "factors"),
    [
        (1, [128, 128, 128, 64, 32, 16, 8, 4, 4], [1] * 8 + [1.5]),
        (2, [256, 256, 128, 64, 32, 16, 8, 8, 8], [1] * 7 + [1.5, 2]),
        (4, [512, 256, 128, 64, 32, 16, 16, 16, 16], [1] * 6 + [1.5, 2, 3]),
        (8, [512, 256, 128, 64, 32, 32, 32, 32, 32], [1] * 5 + [1.5, 2, 3, 3]),
    ],
)
def test_batches_and_rates_of_the_presets(processes, batches, factors):
    growth = v2(processes)
    times = [1_200_000 * level for level in range(9)]
    assert [growth.batch(n, processes) for n in times] == batches
    assert [growth.lr_factor(n) for n in times] == factors
    assert [growth.tick_kimg(n) for n in times] == [160, 140, 120, 100, 80, 60, 40, 20, 10]


def test_batches_are_equal_parts_below_the_cap():
    growth = Growth(256, batch_size=14, batch_sizes={4: 15}, max_per_process={128: 3, 256: 2})
    assert [growth.batch(0, n) for n in (1, 2, 4, 8)] == [15, 14, 12, 8]
    assert [growth.batch(1_200_000, n) for n in (1, 3, 4)] == [14, 12, 12]
    assert [growth.batch(6_000_000, n) for n in (1, 2, 4)] == [3, 6, 12]
    assert [growth.batch(10**8, n) for n in (1, 2, 7)] == [2, 4, 14]
    # The examples of the walk-through: 128 px on 2, 256 px on 4.
    example = Growth(256, batch_sizes={128: 16, 256: 8})
    assert (example.batch(6_000_000, 2), example.batch(10**8, 4)) == (16, 8)
    with pytest.raises(UserError, match=r"batch of 3 at 1024 px .* 4 processes: .*\.1024=4"):
        Growth(1024, **V1).batch(10**8, 4)


def test_the_presets_of_the_papers_data_sets():
    cifar = Growth(32, train_kimg=400, fade_kimg=400, repeats=1)
    assert [cifar.lod(n) for n in (400_000, 600_000, 800_000, 2_400_000)] == [3, 2.5, 2, 0]
    assert kimg_and_steps(cifar, 20_000)[2] == 1_250_000
    mnist = Growth(32, train_kimg=500, fade_kimg=2000, batch_size=64, repeats=1)
    assert mnist.starts() == {
        0: 0,
        1: 500_001,
        2: 2_500_000,
        3: 3_000_001,
        4: 5_000_000,
        5: 5_500_001,
        6: 7_500_000,
    }
    lsun = Growth(256, train_kimg=800, fade_kimg=800)
    assert lsun.lod(9_600_000) == 0 < lsun.lod(9_599_999)


def test_stages_and_resets_at_both_ends_of_a_fade():
    growth = Growth(16, train_kimg=1, fade_kimg=2)
    assert growth.starts() == {0: 0, 1: 1001, 2: 3000, 3: 4001, 4: 6000}
    for stage, start in growth.starts().items():
        assert growth.stage(start) == stage
        assert growth.stage(max(0, start - 1)) == max(0, stage - 1)
    changes = [n for n in range(1, 9000) if growth.stage(n - 1) != growth.stage(n)]
    assert changes == [1001, 3000, 4001, 6000]
    assert [growth.resolution(n) for n in (0, 1000, 1001, 3000, 4000, 4001)] == [4, 4, 8, 8, 8, 16]


def test_growth_without_fades_without_training_and_without_growth():
    jumping = Growth(16, train_kimg=1, fade_kimg=0)
    assert [jumping.lod(n) for n in (0, 999, 1000, 1999, 2000, 9000)] == [2, 2, 1, 1, 0, 0]
    assert jumping.starts() == {0: 0, 2: 1000, 4: 2000}
    fading = Growth(16, train_kimg=0, fade_kimg=1)
    assert [fading.lod(n) for n in (0, 500, 1000, 1500, 2000)] == [2, 1.5, 1, 0.5, 0]
    assert fading.starts() == {1: 1, 3: 1001, 4: 2000}
    still = Growth(1024, train_kimg=0, fade_kimg=0)
    assert (still.lod(0), still.resolution(0), still.stage(0)) == (0, 1024, 16)
    assert still.starts() == {16: 0}
    assert still.stage(0) == still.stage(10**7)


def test_rampup_of_the_papers_code():
    growth = Growth(1024, lr_factors={8: 2}, rampup_kimg=40)
    assert growth.lr_factor(0) == pytest.approx(math.exp(-5))
    assert growth.lr_factor(20_000) == pytest.approx(math.exp(-1.25))
    assert [growth.lr_factor(n) for n in (40_000, 600_000, 700_000)] == [1, 1, 2]


def test_rectangles_have_the_resolutions_of_squares():
    growth = Growth([48, 80], batch_sizes={4: 32, 8: 8})
    assert growth.levels == 3
    assert [growth.resolution(n) for n in (0, 600_001, 10**7)] == [4, 8, 32]
    assert [growth.batch(n) for n in (0, 600_001, 10**7)] == [32, 8, 16]


def test_tables_take_keys_of_a_command_line():
    tables = {"batch_sizes": {4: 32, "4": 8}, "lr_factors": {"4": 2}}
    growth = Growth(64, **tables)
    assert (growth.batch(0), growth.lr_factor(0)) == (8, 2)


@pytest.mark.parametrize(
    ("growth", "processes", "steps"),
    [
        (Growth(32, 1, 2, batch_sizes={4: 24, 8: 10, 16: 7}), 1, 1),
        (Growth(32, 1, 2, batch_sizes={4: 24, 8: 10, 16: 7}, repeats=3), 2, 5),
        (Growth(32, 1, 0, batch_sizes={4: 25, 8: 10, 16: 7}), 1, 1),
        (Growth(32, 0, 1, batch_sizes={8: 10}), 1, 1),
        (Growth(32, 0, 0, batch_sizes={32: 10}), 1, 1),
        (Growth(64, 0.1, 0.1, batch_size=90), 1, 1),  # looks that leap over levels
        (Growth(32, 1, 2, repeats=1), 1, 1),
        (Growth(32, 1, 2, batch_sizes={16: 24, 32: 10}, initial_resolution=16), 1, 1),
    ],
)
def test_moments_are_those_of_the_official_loop(growth, processes, steps):
    images = 0
    while images < 12_000:
        look = images
        batch = growth.batch(look, processes)
        for _ in range(growth.repeats * steps):
            assert growth.moment(images, processes, steps) == look
            images += batch
    assert growth.moment(images - 1, processes, steps) == look


def test_the_official_loop_takes_about_as_many_steps():
    growth, images, steps = v2(size=128), 0, 0
    while images < 12_000_000:
        images += 4 * growth.batch(images)
        steps += 4
    assert steps == pytest.approx(kimg_and_steps(growth, 12_000)[2], abs=4 * 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 100}, "96x96"),
        ({"train_kimg": -1}, "train_kimg=-1 is no length"),
        ({"fade_kimg": -1}, "fade_kimg=-1 is no length"),
        ({"rampup_kimg": -1}, "rampup_kimg=-1 is no length"),
        ({"fade_kimg": math.inf}, "is no length"),
        ({"repeats": 10**9}, "from 1 to 1000000"),
        ({"batch_size": 0}, "from 1 to"),
        ({"batch_sizes": {4: 0}}, "from 1 to"),
        ({"repeats": 0}, "from 1 to"),
        ({"batch_sizes": {5: 1}}, "batch_sizes has an entry for 5.*powers of two"),
        ({"lr_factors": {2: 1}}, "lr_factors has an entry for 2"),
        ({"ticks_kimg": {"6": 1}}, "ticks_kimg has an entry for 6"),
        ({"batch_sizes": {"all": 1}}, "batch_sizes has an entry for all"),
        ({"max_per_process": {96: 1}}, "max_per_process has an entry for 96"),
        ({"initial_resolution": 128}, "initial_resolution=128 is not the resolution of a level"),
        ({"initial_resolution": 12}, "initial_resolution=12 is not the resolution of a level"),
    ],
)
def test_bad_schedules_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Growth(**{"image_size": 64, **arguments})


@pytest.mark.parametrize(("train", "fade"), [(1, 2), (1, 0), (0, 2)])
def test_growth_that_begins_later_leaves_out_the_first_levels(train, fade):
    whole = Growth(64, train, fade)
    later = Growth(64, train, fade, initial_resolution=16)
    skipped = 2 * 1000 * (train + fade)
    for images in range(0, 20_000, 77):
        assert later.lod(images) == whole.lod(images + skipped)
        assert later.stage(images) == whole.stage(images + skipped)
    expected = {s: at - skipped for s, at in whole.starts().items() if at >= skipped}
    assert later.starts() == expected
    assert later.resolution(0) == 16
