"""Some classes, some images, all classes alike."""

from collections import Counter

import pytest
import torch
from makers.batches import attach, batches, make

from ganzoo.data.sources.emoji import Emoji
from ganzoo.data.sources.synthetic import Synthetic
from ganzoo.data.subset import Subset
from ganzoo.errors import UserError


def test_classes_are_numbered_in_the_order_that_was_asked_for() -> None:
    whole = Emoji(variants=False)
    chosen = ["Flags", "Food & Drink"]
    part = Subset(whole, classes=chosen)
    counts = torch.bincount(whole.labels())
    assert part.classes == chosen
    assert torch.bincount(part.labels()).tolist() == [counts[8], counts[3]]
    batch = part.__getitems__([0, len(part) - 1])
    first_food = int((whole.labels() == 3).nonzero()[0])
    assert torch.equal(batch["image"][0], whole.__getitems__([first_food])["image"][0])
    assert batch["label"].tolist() == [1, 0]
    assert part.name_of(0) == whole.name_of(first_food)
    assert part.notes[0] == f"{len(part)} of the {len(whole)} images of {whole.name} are used."


def test_a_smaller_number_is_part_of_a_larger_one() -> None:
    source = Synthetic(100, 8)
    names = [
        {Subset(source, count=count).name_of(i) for i in range(count)} for count in (10, 30, 100)
    ]
    assert [len(n) for n in names] == [10, 30, 100]
    assert names[0] < names[1] < names[2]
    assert names[0] != {str(i) for i in range(10)}, "not merely the first ones"
    part = Subset(source, count=30)
    expected = source.__getitems__([int(part.name_of(i)) for i in range(30)])
    got = part.__getitems__(list(range(30)))
    assert torch.equal(got["image"], expected["image"])
    assert torch.equal(got["label"], expected["label"])
    assert torch.equal(part.labels(), expected["label"])


def test_number_and_classes_together_without_labels_too() -> None:
    part = Subset(Synthetic(100, 8), classes=["class 3", "class 5"], count=7)
    assert len(part) == 7
    assert set(part.labels().tolist()) == {0, 1}
    plain = Subset(Synthetic(10, 8, classes=0), count=3)
    assert plain.labels() is plain.classes is None
    assert plain.__getitems__([0]).keys() == {"image"}


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        (Synthetic(10, 8), {"count": 11}, "more than the 10 images"),
        (Synthetic(10, 8), {"classes": []}, "is empty"),
        (Synthetic(10, 8), {"classes": ["cat"]}, "no class cat: data.only may name class 0,"),
        (Synthetic(10, 8, classes=0), {"classes": ["cat"]}, "has no classes to choose from"),
    ],
)
def test_what_there_is_not(source, options, says) -> None:
    with pytest.raises(UserError, match=says):
        len(Subset(source, **options))


def test_keys_of_the_data_module(caplog) -> None:
    source = Synthetic(30, 4, 1, classes=3)
    data = make(source, only=["class 2", "class 0"], subset=15, balanced=True, batch_size=6)
    attach(data)
    with caplog.at_level("INFO"):
        data.setup("fit")
    assert "15 of the 30 images of synthetic are used." in caplog.messages
    assert "Every class is shown equally often." in caplog.messages
    assert data.source.classes == ["class 2", "class 0"]
    counts = torch.bincount(data.source.labels()).tolist()
    largest = max(counts)
    assert min(counts) < largest, "else there is nothing to balance"
    epoch = 2 * 2 * largest  # two classes, each image also mirrored
    shown = Counter()
    for batch in batches(data, epoch):
        shown.update(batch["label"].tolist())
    assert shown[0] == shown[1] == 3 * epoch


def test_balance_needs_labels() -> None:
    data = make(Synthetic(10, 4, 1, classes=0), balanced=True)
    with pytest.raises(UserError, match=r"no labels to balance: set data\.balanced=false"):
        attach(data).setup("fit")
