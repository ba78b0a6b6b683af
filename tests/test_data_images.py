"""From sources to training batches."""

import logging
from itertools import islice

import lightning as L
import pytest
import torch
from makers.batches import Numbered, Positions, attach, batches, make
from torch import Tensor

from ganzoo.data import ImageData
from ganzoo.data.pixels import resize, to_float, to_uint8
from ganzoo.data.sources.synthetic import Synthetic
from ganzoo.errors import UserError


def test_float_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every)
    assert floats.dtype == torch.float32
    assert floats[0] == -1
    assert floats[255] == 1
    torch.testing.assert_close(floats[51], torch.tensor(-0.6))
    assert torch.equal(to_uint8(floats), every)
    assert to_uint8(torch.tensor([-3.0, 3.0, 0.4 / 127.5])).tolist() == [0, 255, 128]


def test_an_epoch_shows_every_item_plain_and_mirrored() -> None:
    (batch,) = batches(attach(make(batch_size=12)), 1)
    pixels = to_uint8(batch["image"])
    left, right = pixels[:, 0, 0, 0], pixels[:, 0, 0, -1]
    assert sorted(torch.minimum(left, right).tolist()) == sorted([*range(6), *range(6)])
    assert sorted(left[left < 100].tolist()) == list(range(6))
    assert sorted(right[right < 100].tolist()) == list(range(6))
    assert torch.equal(batch["label"], torch.minimum(left, right).long() % 2)
    assert batch.keys() == {"image", "label"}


def test_without_mirror_nothing_is_flipped() -> None:
    (batch,) = batches(attach(make(batch_size=12, mirror=False)), 1)
    assert sorted(to_uint8(batch["image"])[:, 0, 0, 0].tolist()) == sorted([*range(6)] * 2)


def test_dtype_is_the_modules() -> None:
    (batch,) = batches(attach(make(), dtype=torch.bfloat16), 1)
    assert batch["image"].dtype == torch.bfloat16
    assert batch["label"].dtype == torch.int64


def test_batches_of_other_stages_are_left_alone() -> None:
    data = attach(make())
    data.trainer.training = False
    seeds = [1, 2, 3]
    assert data.on_after_batch_transfer(seeds, 0) is seeds


def test_workers_and_resume_change_nothing() -> None:
    def options(workers=0, seen=0) -> ImageData:
        return attach(make(Synthetic(20, 8, 1), 6, crop="random", workers=workers), seen=seen)

    alone, workers = batches(options(), 7), batches(options(workers=2), 7)
    resumed = batches(options(seen=3 * 4), 4)
    for one, other in zip(alone + alone[3:], workers + resumed, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])


@pytest.mark.parametrize("steps", [1, 2])
def test_random_crops_do_not_depend_on_the_device_count(steps) -> None:
    def images(rank: int, world: int) -> list[Tensor]:
        data = make(Synthetic(9, 12, 3), [8, 5], 3, batch_size=8, crop="random")
        got = batches(attach(data, rank, world, steps=steps), 3)
        return [part for batch in got for part in batch["image"].chunk(steps)]

    pairs = zip(images(0, 2), images(1, 2), strict=True)
    assert all(
        torch.equal(alone, torch.cat(shares))
        for alone, shares in zip(images(0, 1), pairs, strict=True)
    )


def test_random_crops_are_windows_from_everywhere() -> None:
    data = attach(make(Positions(64, 6), [4, 5], 2, 64, crop="random", mirror=False))
    corners = []
    for batch in batches(data, 2):
        pixels = to_uint8(batch["image"]).int()
        corner = pixels[:, :, :1, :1]
        rows = torch.arange(4).view(4, 1).expand(4, 5)
        columns = torch.arange(5).expand(4, 5)
        assert torch.equal(pixels - corner, torch.stack([rows, columns]).expand(64, 2, 4, 5).int())
        corners.append(corner.flatten(1))
    assert {tuple(corner) for corner in corners[0].tolist()} == {
        (top, left) for top in range(3) for left in range(2)
    }
    assert not torch.equal(*corners)


def test_center_crop() -> None:
    (batch,) = batches(attach(make(Positions(4, 8), 4, 2, 4, crop="center", mirror=False)), 1)
    pixels = to_uint8(batch["image"])
    assert pixels[0, 0, :, 0].tolist() == pixels[0, 1, 0].tolist() == [2, 3, 4, 5]


def test_resize_by_whole_factors_is_the_mean_over_boxes() -> None:
    images = torch.arange(32.0).view(1, 1, 4, 8)
    expected = [[(0 + 1 + 2 + 3 + 8 + 9 + 10 + 11) / 8, 9.5], [21.5, 25.5]]
    assert resize(images, (2, 2))[0, 0].tolist() == expected


def test_resize_keeps_a_constant_and_the_mean_of_a_ramp() -> None:
    ramp = torch.linspace(-1, 1, 10).expand(1, 1, 10, 10)
    small = resize(ramp, (7, 7))
    torch.testing.assert_close(small.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert (small.diff(dim=-1) > 0).all()
    torch.testing.assert_close(resize(torch.full((1, 1, 5, 5), 0.3), (9, 9)).std(), torch.zeros(()))


def test_delivered_size_is_resized_in_floats() -> None:
    (batch,) = batches(attach(make(image_size=2, mirror=False)), 1)
    image = batch["image"][:, 0, 0]
    index = (image[:, 1] * 127.5 + 127.5).round() - 100
    torch.testing.assert_close(image[:, 0], (index + 50) / 127.5 - 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_error_arrives_as_the_one_sentence(workers) -> None:
    data = attach(make(Numbered(bad=3), workers=workers))
    with pytest.raises(UserError) as caught:
        list(islice(data.train_dataloader(), 10))
    assert str(caught.value) == "item 3 is bad: remove it."


def test_first_batch_is_the_first_of_the_loader() -> None:
    data = attach(make(), seen=8, steps=2)
    first = data.first_batch()
    for key, value in next(iter(data.train_dataloader())).items():
        assert torch.equal(first[key], value)
    with pytest.raises(UserError, match="item 0 is bad"):
        attach(make(Numbered(bad=0), batch_size=12)).first_batch()


def test_setup_says_what_the_data_is_once(caplog) -> None:
    data = attach(make(image_size=[2, 4]))
    with caplog.at_level(logging.INFO, "ganzoo.data.module"):
        data.setup("fit")
        data.setup("validate")
    assert caplog.messages == [
        "numbered: 6 images of 4x4, 1 channel, 2 classes: even 3, odd 3.",
        "A note.",
        "Images are resized from 4x4 to 2x4, which changes their proportions.",
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO, "ganzoo.data.module"):
        attach(make(), rank=1, world=2).setup("fit")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("data", "world", "sentence"),
    [
        (lambda: make(batch_size=5), 2, "multiple of 2"),
        (lambda: make(batch_size=lambda images_seen: 5), 2, "multiple of 2"),
        (lambda: make(channels=3), 1, "set channels=1"),
        (lambda: make(image_size=8, crop="random"), 1, "too small to crop 8x8"),
        (lambda: make(Numbered(num=0)), 1, "no images"),
        (lambda: make(crop="middle"), 1, "data.crop must be one of None, random, center"),
        (lambda: make(image_size=[1, 2, 3]), 1, "image_size must be"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_start(data, world, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        attach(data(), world=world).setup("fit")


def test_synthetic_images_differ_and_repeat() -> None:
    source = Synthetic(40, [6, 9], channels=2, classes=4)
    batch = source.__getitems__(list(range(40)))
    assert batch["image"].shape == (40, 2, 6, 9)
    assert batch["image"].dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in batch["image"]}) == 40
    assert torch.equal(batch["label"], source.labels())
    assert torch.equal(source.__getitems__([7, 31])["image"], batch["image"][[7, 31]])


class Seen(L.LightningModule):
    """Stands for a GAN: keeps the batches."""

    discriminator_steps = 1
    batch_size = None
    shown_size = None
    domains = ("",)

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.images_seen, self.images = 0, []

    def configure_optimizers(self) -> None:
        return None

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.images_seen += len(batch["image"])
        self.images.append(batch["image"])


def test_in_a_real_trainer(tmp_path) -> None:
    source = Numbered(side=6)
    data, module = make(source, crop="random"), Seen()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)
    expected = batches(attach(make(source, crop="random")), 5)
    assert source.prepared
    assert len(module.images) == 5
    for image, batch in zip(module.images, expected, strict=True):
        assert torch.equal(image, batch["image"])


def test_synthetic_images_do_not_depend_on_the_default_dtype() -> None:
    source, indices = Synthetic(500, 16), list(range(500))
    expected = source.__getitems__(indices)["image"]
    torch.set_default_dtype(torch.float64)  # as a training step does beside the thread that reads
    try:
        assert torch.equal(source.__getitems__(indices)["image"], expected)
    finally:
        torch.set_default_dtype(torch.float32)
