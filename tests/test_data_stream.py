"""The order of the images: complete, repeatable, resumable, independent of the device count."""

from collections import Counter
from itertools import islice

import pytest
import torch

from ganzoo.data.stream import Stream
from ganzoo.errors import UserError


def growing(images_seen: int) -> int:
    return 4 if images_seen < 24 else 8


def flat(stream: Stream, batches: int) -> list[int]:
    return [index for batch in islice(stream, batches) for index in batch]


def test_each_epoch_visits_each_item_once_in_another_order() -> None:
    shown = flat(Stream(10, 4, seed=0), 15)  # batches reach over the ends of epochs
    epochs = [shown[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_order_depends_on_seed_alone() -> None:
    assert flat(Stream(50, 5, seed=1), 20) == flat(Stream(50, 5, seed=1), 20)
    assert flat(Stream(50, 5, seed=1), 20) != flat(Stream(50, 5, seed=2), 20)


def test_batch_larger_than_the_data() -> None:
    (batch,) = islice(Stream(3, 10, seed=0), 1)
    assert len(batch) == 10
    assert set(Counter(batch[:9]).values()) == {3}


@pytest.mark.parametrize("batch_size", [8, growing])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_each_step_of_what_one_device_sees(batch_size, steps, world) -> None:
    def steps_of(rank: int, world: int) -> list[list[int]]:
        batches = islice(Stream(7, batch_size, 0, rank=rank, world=world, steps=steps), 6)
        return [
            batch[i * len(batch) // steps : (i + 1) * len(batch) // steps]
            for batch in batches
            for i in range(steps)
        ]

    alone = steps_of(0, 1)
    ranks = [steps_of(rank, world) for rank in range(world)]
    assert [[i for share in shares for i in share] for shares in zip(*ranks, strict=True)] == alone


def test_start_continues_exactly() -> None:
    whole = list(islice(Stream(11, growing, seed=3, steps=2), 12))
    seen = 0
    for done, batch in enumerate(whole):
        rest = list(islice(Stream(11, growing, seed=3, start=seen, steps=2), 12 - done))
        assert rest == whole[done:]
        seen += len(batch)


def test_a_function_is_asked_at_the_samplers_own_position() -> None:
    sizes = [len(batch) for batch in islice(Stream(5, growing, seed=0), 9)]
    assert sizes == [4] * 6 + [8] * 3


@pytest.mark.parametrize("batch_size", [0, 6, lambda images_seen: 6])
def test_batch_that_does_not_divide(batch_size) -> None:
    with pytest.raises(UserError, match=r"batch of \d images .* 4 device.*multiple of 4"):
        next(iter(Stream(10, batch_size, seed=0, world=4)))


# -- balanced --------------------------------------------------------------------------------------

LABELS = torch.tensor([0] * 7 + [1] * 2 + [2] * 3)


def test_groups_are_shown_equally_often() -> None:
    stream = Stream(12, 4, seed=0, groups=LABELS)
    shown = torch.tensor(flat(stream, 21 * 30 // 4 + 1))[: 21 * 30]
    for epoch in shown.split(21):
        assert torch.bincount(LABELS[epoch]).tolist() == [7, 7, 7]
        assert sorted(epoch[epoch < 7].tolist()) == list(range(7)), "the largest: each once"
        counts = torch.bincount(epoch, minlength=12)
        assert set(counts[7:9].tolist()) <= {3, 4}
        assert set(counts[9:].tolist()) <= {2, 3}
    # Over many epochs no image of a group is preferred, whichever it is.
    share = torch.bincount(shown, minlength=12).double() / 30
    torch.testing.assert_close(share[7:9], torch.full((2,), 3.5).double(), atol=0.35, rtol=0)
    torch.testing.assert_close(share[9:], torch.full((3,), 7 / 3).double(), atol=0.35, rtol=0)


def test_balance_starts_anywhere_and_on_any_number_of_devices() -> None:
    def make(**options) -> Stream:
        return Stream(12, 6, seed=1, groups=LABELS, **options)

    whole = list(islice(make(), 12))
    assert list(islice(make(start=30), 7)) == whole[5:]
    halves = zip(islice(make(rank=0, world=2), 12), islice(make(rank=1, world=2), 12), strict=True)
    assert [a + b for a, b in halves] == whole
