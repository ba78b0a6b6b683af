"""In which order the images of two domains are shown: epochs, resume, processes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from makers.unpaired import assert_same, attach, batches
from torch import Tensor

from ganzoo.data import Unpaired
from ganzoo.data.pixels import to_uint8
from ganzoo.data.source import Source


class Numbered(Source):
    """Image i of so many is filled with i."""

    split = "train"

    def __init__(self, num: int, image_size: Sequence[int] = (4, 4), channels: int = 1) -> None:
        self.name, self.num, self.shape = "numbered", num, (channels, *image_size)

    def __len__(self) -> int:
        return self.num

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        index = torch.tensor(indices, dtype=torch.uint8)
        return {"image": index.view(-1, 1, 1, 1).expand(-1, *self.shape)}


def numbered(a: int = 6, b: int = 10, batch_size: int = 4, **options: Any) -> Unpaired:
    given = {"crop": None, "mirror": False, "image_size": 4, "channels": 1, **options}
    return Unpaired(
        partial(Numbered, a), partial(Numbered, b), batch_size=batch_size, seed=0, **given
    )


def shown(some: list[dict[str, Tensor]], domain: str) -> list[int]:
    """The numbers of the images of a domain in their order."""
    return [int(n) for batch in some for n in to_uint8(batch[domain])[:, 0, 0, 0]]


def test_every_domain_has_epochs_of_its_own() -> None:
    got = batches(attach(numbered(6, 10)), 15)  # 60 images of each
    a, b = shown(got, "A"), shown(got, "B")
    for numbers, length in ((a, 6), (b, 10)):
        for start in range(0, 60, length):
            assert sorted(numbers[start : start + length]) == list(range(length))
    assert len({tuple(a[i : i + 6]) for i in range(0, 60, 6)}) > 1, "an order anew each time"


def test_neither_order_depends_on_the_other_domain() -> None:
    got, others = batches(attach(numbered(6, 10)), 5), batches(attach(numbered(6, 3)), 5)
    assert shown(got, "A") == shown(others, "A")
    assert shown(got, "B") != shown(others, "B")


def test_equal_domains_are_not_shown_in_step() -> None:
    got = batches(attach(numbered(100, 100, batch_size=20)), 10)
    met = list(zip(shown(got, "A"), shown(got, "B"), strict=True))
    assert sum(a == b for a, b in met) < 20, "about two of two hundred by chance"
    assert len(set(met)) > 180


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("crop", [None, "random"])
def test_a_resumed_run_sees_what_a_straight_one_does(crop, workers: int) -> None:
    options = {"crop": crop, "mirror": True, "load_size": 5, "workers": workers}
    straight = batches(attach(numbered(**options)), 8)
    assert_same(straight[5:], batches(attach(numbered(**options), seen=20), 3))


@pytest.mark.parametrize("steps", [1, 2])
def test_processes_share_what_one_is_shown(steps: int) -> None:
    options = {"crop": "random", "mirror": True, "load_size": 5}
    one = batches(attach(numbered(**options), steps=steps), 6)
    two = [
        batches(attach(numbered(**options), rank=rank, world=2, steps=steps), 6) for rank in (0, 1)
    ]
    for i, whole in enumerate(one):
        for name in ("A", "B"):
            shares = [part[i][name].chunk(steps) for part in two]
            joined = [share for step in zip(*shares, strict=True) for share in step]
            assert torch.equal(whole[name], torch.cat(joined))


def test_the_first_batch_is_that_of_the_loader() -> None:
    data = attach(numbered(crop="random", load_size=6))
    tried = data.on_after_batch_transfer(data.first_batch(), 0)
    assert_same([tried], batches(data, 1))


def test_subsets_and_unlike_channels() -> None:
    data = Unpaired(
        partial(Numbered, 9, channels=1), partial(Numbered, 9, channels=2), image_size=[4, 6],
        channels=1, channels_b=2, batch_size=4, seed=0, crop=None, mirror=False, subset=3,
    )  # fmt: skip
    got = batches(attach(data), 3)
    assert got[0]["A"].shape == (4, 1, 4, 6)
    assert got[0]["B"].shape == (4, 2, 4, 6)
    assert len(set(shown(got, "A"))) == len(set(shown(got, "B"))) == 3
    data.trainer.lightning_module.images_seen = 0
    data.setup("fit")
