"""What all sources have in common: configs that deliver what is asked for, held-out images."""

import pytest
import torch
from makers.files import gray, save, write_fashion
from makers.tiny import config

from ganzoo.config import make
from ganzoo.data import ImageData
from ganzoo.data.sources.emoji import Emoji
from ganzoo.errors import UserError

# -- configs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["emoji", "fashion_mnist", "folder", "synthetic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_configs_deliver_what_the_top_level_asks_for(name, channels, tmp_path) -> None:
    overrides = [f"data={name}", f"channels={channels}", "batch_size=4", "seed=7"]
    if name == "fashion_mnist":
        write_fashion(tmp_path)
        overrides.append(f"data.root={tmp_path}")
    if name == "folder":
        save(tmp_path / "a.png", gray(0))
        overrides.append(f"data.root={tmp_path}")
    data = make(config(*overrides, tiny=False).data)
    assert isinstance(data, ImageData)
    assert (data.image_size, data.batch_size, data.seed) == ((32, 32), 4, 7)
    assert data.source.shape == (channels, 32, 32)
    assert data.source.__getitems__([0])["image"].shape == (1, channels, 32, 32)


# -- held-out images -------------------------------------------------------------------------------

TESTS = {"imagenet": "val", "lsun": "val"}  # what the held-out split is called
UNUSUAL = {
    "emoji": {"variants": False, "image_size": 32, "channels": 1, "vendor": "both"},
    "fashion_mnist": {"pad": 0, "channels": 3},
    "mnist_rgb": {"pad": 0, "num": 100, "seed": 1},
    "celeba": {"held_out": 0.2, "crop": "center108", "attributes": ["Male"], "filter": "bilinear"},
    "folder": {"held_out": 0.2, "labels": True, "resize": "none", "filter": "bilinear"},
    "huggingface": {"held_out": 0.2, "config": "c", "image": "i", "label": "l", "data_files": "f"},
    "imagenet": {"resize": "stretch", "filter": "bicubic"},
    "lsun": {"category": ["bedroom", "kitchen"], "resize": "stretch", "filter": "bilinear"},
    "pack": {"held_out": 0.2},
}


@pytest.mark.parametrize(
    "data",
    ["celeba", "celeba_hq", "cifar10", "emoji", "fashion_mnist", "folder", "huggingface",
     "imagenet", "lsun", "mnist", "mnist_rgb", "pack"],
)  # fmt: skip
def test_held_out_images_are_read_like_those_of_training(data) -> None:
    node = config(f"data={data}", tiny=False).data.source
    node.update({key: "x" for key in ("root", "path") if key in node.keys()})  # noqa: SIM118
    node.update({"held_out": 0.1} if "held_out" in node else {})
    node.update(UNUSUAL.get(data, {}))

    def facts(source) -> dict:
        of = {k: v for k, v in vars(source).items() if k not in ("download", "unpack")}
        return of | ({"digits": facts(of["digits"])} if "digits" in of else {})

    expected = make({**node, "split": TESTS.get(data, "test")})
    source = make({**node, "split": "train"})
    assert facts(source.held_out()) == facts(expected)
    with pytest.raises(UserError, match="held out"):
        expected.held_out()


def test_held_out_images_of_some_classes() -> None:
    data = ImageData(Emoji(), 64, 3, 8, seed=0, only=["Flags", "Objects"], subset=10)
    assert list(data.domains) == [""]
    test = data.held_out()[""]
    labels = Emoji(split="test").labels()
    assert torch.bincount(test.source.labels()).tolist() == [(labels == n).sum() for n in (8, 6)]
    assert test.source.split == "test"
    assert (test.image_size, test.mirror) == (data.image_size, data.mirror)
