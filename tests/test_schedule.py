import math

import pytest

from ganzoo.errors import UserError
from ganzoo.schedules.images import EpochDecay, crossed, ema_beta


def test_crossed_fires_once_per_multiple_whatever_the_batch():
    for batch in (1, 64, 300, 1000):
        steps = range(0, 10_000, batch)
        fired = [s + batch for s in steps if crossed(s, s + batch, 1)]
        assert len(fired) == (steps[-1] + batch) // 1000
        assert all(0 <= now - 1000 * (i + 1) < batch for i, now in enumerate(fired))


def test_crossed_includes_now_and_excludes_before():
    assert crossed(999, 1000, 1)
    assert not crossed(1000, 1001, 1)
    assert not crossed(0, 999, 1)
    assert crossed(0, 5000, 1)
    assert not crossed(5, 5, 1)


def test_crossed_takes_fractions_of_a_kimg():
    assert [n for n in range(1, 1001) if crossed(n - 1, n, 0.29)] == [290, 580, 870]


@pytest.mark.parametrize("never", [None, 0, -1])
def test_crossed_never(never):
    assert not crossed(0, 10**9, never)


def test_ema_halves_in_a_half_life_whatever_the_batch():
    for batch in (1, 32, 1000):
        assert ema_beta(batch, 10, None, 0) ** (10_000 / batch) == pytest.approx(0.5)


def test_ema_rampup_bounds_the_half_life():
    assert ema_beta(64, 10, 0.05, 0) == 0
    assert ema_beta(50, 10, 0.05, 1000) == pytest.approx(0.5)
    assert ema_beta(64, 10, 0.05, 200_000) == ema_beta(64, 10, None, 0)
    assert ema_beta(64, 10, 0.05, 10**9) == ema_beta(64, 10, None, 0)
    assert ema_beta(64, 0, None, 1000) == 0
    assert ema_beta(10**6, 1e-9, None, 1000) == 0


def test_a_decay_without_end_is_refused():
    with pytest.raises(UserError, match="total_kimg=inf of a decay is no length"):
        EpochDecay(math.inf)
