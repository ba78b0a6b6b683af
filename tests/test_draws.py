"""What is drawn depends on the key alone, and has the distribution it is named after."""

import pytest
import torch

from ganzoo.draws import (
    Draws,
    bernoulli,
    censored_normal,
    from_seeds,
    integers,
    normal,
    seed_of,
    uniform,
    unit,
)

PRIORS = {  # mean, variance, smallest and largest value
    normal: (0.0, 1.0, -7.0, 7.0),
    uniform: (0.0, 1 / 3, -1.0, 1.0),
    unit: (0.5, 1 / 12, 0.0, 1.0),
    bernoulli: (0.5, 0.25, 0.0, 1.0),
    # max(N, 0): mean 1 / sqrt(2 pi), second moment 1/2
    censored_normal: (0.398942, 0.5 - 0.398942**2, 0.0, 7.0),
}


def test_seeds_never_change() -> None:
    """Old runs have to go on: in every process, on every machine, in every version."""
    assert seed_of() == 2_847_183_694_713_211_083
    assert seed_of(0, "step", 64000) == 7_867_911_113_486_392_372
    assert 0 <= seed_of("x") < 2**63


def test_keys_do_not_run_together() -> None:
    keys = [(1, 23), (12, 3), (123,), ("1", 23), ("1, 23",), (1, 2, 3), (1,), ("1",)]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert len({seed_of(0, i) for i in range(10_000)}) == 10_000


@pytest.mark.parametrize("prior", PRIORS, ids=lambda p: p.__name__)
def test_moments(prior) -> None:
    mean, variance, low, high = PRIORS[prior]
    x = prior((200_000,), torch.Generator().manual_seed(1)).double()
    assert x.mean().item() == pytest.approx(mean, abs=5 * (variance / len(x)) ** 0.5)
    assert x.var().item() == pytest.approx(variance, rel=0.02)
    assert low <= x.min()
    assert x.max() <= high
    if prior is bernoulli:
        assert set(x.tolist()) == {0.0, 1.0}


def test_integers() -> None:
    x = integers(5)((10_000,), torch.Generator().manual_seed(1))
    assert x.dtype == torch.int64
    assert x.bincount().tolist() == pytest.approx([2000] * 5, abs=250)


def test_processes_hold_the_rows_of_one_draw() -> None:
    one = Draws(3, "step", 8)
    whole = [one.rows(6, 4), one.rows(6, of=unit), one.rows(6, 2, of=integers(100))]
    ranks = [Draws(3, "step", 8, rank=r, world=3) for r in range(3)]
    parts = [[d.rows(2, 4), d.rows(2, of=unit), d.rows(2, 2, of=integers(100))] for d in ranks]
    for i, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[i] for part in parts]), expected)
    assert not torch.equal(whole[0], Draws(3, "step", 9).rows(6, 4))


def test_draws_have_the_dtype_asked_for() -> None:
    draws = Draws(0, dtype=torch.float64)
    assert draws.rows(2, 3).dtype == torch.float64
    assert draws.rows(2, of=integers(3)).dtype == torch.int64


def test_draws_ignore_the_default_generator() -> None:
    torch.manual_seed(1)
    first = Draws(5).rows(4, 2)
    torch.manual_seed(2)
    assert torch.equal(Draws(5).rows(4, 2), first)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(2)))


def test_a_seed_has_its_row_whatever_the_others_are() -> None:
    rows = from_seeds([3, 1, 4, 1], (7,), normal)
    assert torch.equal(rows[1], rows[3])
    assert torch.equal(from_seeds([4], (7,), normal)[0], rows[2])
    assert len({tuple(row.tolist()) for row in from_seeds(range(100), (7,), normal)}) == 100
    assert from_seeds([], (7,), normal).shape == (0, 7)


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0])
def test_truncation_is_a_truncated_normal(limit: float) -> None:
    rows = from_seeds(range(400), (50,), normal, limit)
    assert rows.abs().max() <= limit
    # The variance of a normal that is cut off, not clamped, at +-limit.
    unit_normal = torch.distributions.Normal(0.0, 1.0)
    t = torch.tensor(limit)
    inside = 2 * unit_normal.cdf(t) - 1
    expected = 1 - 2 * t * unit_normal.log_prob(t).exp() / inside
    assert rows.var().item() == pytest.approx(expected.item(), rel=0.03)
    assert torch.equal(rows[7], from_seeds([7], (50,), normal, limit)[0])


def test_truncation_keeps_what_fits() -> None:
    free, cut = from_seeds(range(20), (50,), normal), from_seeds(range(20), (50,), normal, 1.5)
    fits = free.abs() <= 1.5
    assert torch.equal(cut[fits], free[fits])


def test_seeds_do_not_depend_on_the_default_dtype() -> None:
    one = from_seeds([3], (10,), normal)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(from_seeds([3], (10,), normal), one)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
