"""The embedded emoji: counts and hashes of the pack's own documentation, sizes, channels."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from ganzoo.data.sources.emoji import PACK, Emoji
from ganzoo.errors import UserError

BASE = [169, 386, 159, 131, 218, 85, 264, 224, 270]
WITH_VARIANTS = [169, 2261, 159, 131, 218, 85, 264, 224, 270]
TEST_BASE = [17, 39, 16, 13, 22, 8, 26, 22, 27]
TEST_WITH_VARIANTS = [17, 209, 16, 13, 22, 8, 26, 22, 27]


@pytest.mark.parametrize(
    ("split", "variants", "counts"),
    [
        ("all", False, BASE),
        ("all", True, WITH_VARIANTS),
        ("test", False, TEST_BASE),
        ("test", True, TEST_WITH_VARIANTS),
        ("train", True, [a - b for a, b in zip(WITH_VARIANTS, TEST_WITH_VARIANTS, strict=True)]),
    ],
)
def test_emoji_counts(split, variants, counts) -> None:
    source = Emoji(split=split, variants=variants)
    assert torch.bincount(source.labels()).tolist() == counts
    assert len(source) == sum(counts)
    assert len(source.classes) == len(counts)


@pytest.fixture(scope="module")
def pack() -> dict[str, np.ndarray]:
    with np.load(PACK) as arrays:
        return {name: arrays[name] for name in ("noto", "twemoji", "label")}


def test_emoji_pixels(pack) -> None:
    hashes = {name: hashlib.sha256(pack[name].tobytes()).hexdigest() for name in pack}
    assert hashes["noto"] == "b45d799c9d3b9e19c8607438ac43c360d20ff232d9cd32ee11866af979319dc4"
    assert hashes["twemoji"] == "20f50d5837640097ea8a3c382ccc518f5e16cc5672cbb20ec3b2ba42c4708060"


def test_both_vendors_follow_each_other(pack) -> None:
    source = Emoji("both", split="all")
    each = int((pack["label"] < 9).sum())
    first, last = each - 1, each
    batch = source.__getitems__([0, first, last, 2 * each - 1])
    labeled = {name: pack[name][pack["label"] < 9] for name in ("noto", "twemoji")}
    expected = [
        labeled[v][i] for v, i in [("noto", 0), ("noto", -1), ("twemoji", 0), ("twemoji", -1)]
    ]
    assert np.array_equal(batch["image"].numpy(), np.stack(expected).transpose(0, 3, 1, 2))
    assert batch["label"].tolist() == [0, 8, 0, 8]


def test_smaller_emoji_are_box_means(pack) -> None:
    source = Emoji(split="all", image_size=32)
    noto = pack["noto"]
    small = (noto.reshape(-1, 32, 2, 32, 2, 3).astype(np.uint16).sum((2, 4)) + 2) // 4
    got = source.__getitems__(list(range(len(source))))["image"].numpy()
    assert np.array_equal(got, small[pack["label"] < 9].transpose(0, 3, 1, 2))


def test_gray_emoji_are_pillows_gray(pack) -> None:
    got = Emoji(split="all", channels=1).__getitems__(list(range(0, 3000, 300)))["image"]
    for image, pixels in zip(got, pack["noto"][0:3000:300], strict=True):
        assert np.array_equal(image[0].numpy(), np.asarray(Image.fromarray(pixels).convert("L")))


@pytest.mark.parametrize(
    "options",
    [
        {"vendor": "apple"},
        {"split": "val"},
        {"image_size": 48},
        {"image_size": 128},
        {"image_size": [64, 32]},
        {"channels": 4},
    ],
)
def test_emoji_refuses(options) -> None:
    with pytest.raises(UserError):
        Emoji(**options)
