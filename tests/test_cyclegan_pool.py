"""CycleGAN's pool of fakes: what it shows, what it keeps, who sees it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from makers.worlds import cyclegan, fit, pairs
from torch import Tensor

from ganzoo.draws import Draws, integers, unit
from ganzoo.models.cyclegan import ImagePool


def numbered(start: int, n: int) -> Tensor:
    return torch.arange(start, start + n).float().view(-1, 1, 1, 1).expand(n, 1, 2, 2)


def test_the_pool_shows_the_first_fakes_and_then_old_ones_half_of_the_time() -> None:
    pool, draws, shown = ImagePool(50, 1, 2, 2), Draws("pool"), []
    for i in range(4050):
        shown.append(float(pool.exchange(numbered(i, 1), i, draws)[0, 0, 0, 0]))
    assert shown[:50] == list(range(50))
    old = [s != i for i, s in enumerate(shown)][50:]
    assert sum(old) / len(old) == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)
    # Nothing is lost and nothing doubled: what was not shown at once is kept or shown once later.
    later = [s for i, s in enumerate(shown) if s != i]
    waiting = [i for i, s in enumerate(shown) if s != i] + list(range(50))
    assert sorted(later + pool.images[:, 0, 0, 0].tolist()) == sorted(waiting)
    # A kept one goes with a chance of 1 in 100 an image.
    ages = torch.tensor([i - s for i, s in enumerate(shown) if s != i])
    assert ages.mean().item() == pytest.approx(100, rel=0.1)


def test_a_batch_goes_through_the_pool_image_by_image() -> None:
    together, alone = ImagePool(5, 1, 2, 2), ImagePool(5, 1, 2, 2)
    rows: list[Tensor] = []

    class Kept(Draws):
        """Draws of one image each that continue those of a batch."""

        def rows(self, n: int, *shape: int, **options: Any) -> Tensor:
            return rows.pop(0)

    for start in range(0, 40, 4):
        key = ("batch", start)
        first = Draws(*key)
        p, place = first.rows(4, 1, 1, 1, of=unit), first.rows(4, of=integers(5))
        batch = together.exchange(numbered(start, 4), start, Draws(*key))
        for i in range(4):
            rows[:] = [p[i : i + 1], place[i : i + 1]]
            one = alone.exchange(numbered(start + i, 1), start + i, Kept())
            assert torch.equal(one, batch[i : i + 1])
    assert torch.equal(together.images, alone.images)


def test_fakes_in_the_pool_have_no_history_and_are_not_changed_by_what_is_shown() -> None:
    pool = ImagePool(2, 1, 2, 2)
    fake = numbered(1, 1).clone().requires_grad_() * 2
    shown = pool.exchange(fake, 0, Draws(0))
    assert not shown.requires_grad
    assert not pool.images.requires_grad
    shown.zero_()
    assert pool.images[0, 0, 0, 0] == 2


def test_only_discriminators_see_the_pool(tmp_path: Path) -> None:
    """The generators of a first update are the same whatever the pool."""
    ends = {}
    for pool in (0, 1, 20):
        gan = cyclegan(0.004, pool=pool, lr=0.01)
        fit(tmp_path / str(pool), gan, data=pairs())
        ends[pool] = gan.state_dict()
    changed = {
        pool: [name for name, v in ends[0].items() if not torch.equal(v, end[name])]
        for pool, end in ends.items()
    }
    assert not changed[20]  # it is not yet full
    assert changed[1]
    assert all(name.startswith("discriminator") for name in changed[1])
