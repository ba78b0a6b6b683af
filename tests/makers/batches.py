"""Data without files, attached to a stand-in of the Trainer, and its first batches."""

from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from ganzoo.data import ImageData
from ganzoo.data.source import Source
from ganzoo.errors import UserError


class Numbered(Source):
    """Image i is filled with i at its left edge and 100 + i elsewhere."""

    name, classes, notes = "numbered", ["even", "odd"], ["A note."]

    def __init__(self, num: int = 6, side: int = 4, bad: int | None = None) -> None:
        self.num, self.shape, self.bad = num, (1, side, side), bad

    def prepare(self) -> None:
        self.prepared = True

    def labels(self) -> Tensor:
        return torch.arange(self.num) % 2

    def __len__(self) -> int:
        return self.num

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        if self.bad in indices:
            raise UserError(f"item {self.bad} is bad: remove it.")
        index = torch.tensor(indices, dtype=torch.uint8)
        image = (index + 100).view(-1, 1, 1, 1).repeat(1, *self.shape)
        image[..., 0] = index[:, None, None]
        return {"image": image, "label": (index % 2).long()}


class Positions(Numbered):
    """Every pixel says where it is: its row in channel 0, its column in channel 1."""

    def __init__(self, num: int, side: int) -> None:
        super().__init__(num, side)
        self.shape = (2, side, side)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        side = torch.arange(self.shape[1], dtype=torch.uint8)
        image = torch.stack(torch.meshgrid(side, side, indexing="ij"))
        return {"image": image.repeat(len(indices), 1, 1, 1)}


def attach(
    data, rank=0, world=1, seen=0, steps=1, dtype=torch.float32, domains: tuple[str, ...] = ("",)
):
    module = SimpleNamespace(
        images_seen=seen,
        domains=domains,
        discriminator_steps=steps,
        batch_size=None,
        shown_size=None,
        dtype=dtype,
        device=torch.device("cpu"),
    )
    data.trainer = SimpleNamespace(
        lightning_module=module,
        global_rank=rank,
        world_size=world,
        num_nodes=1,
        training=True,
        default_root_dir="runs",
    )
    return data


def make(source=None, image_size=4, channels=1, batch_size=4, **options) -> ImageData:
    return ImageData(
        Numbered() if source is None else source,
        image_size,
        channels,
        batch_size,
        seed=0,
        **options,
    )


def batches(data, count: int) -> list[dict[str, Tensor]]:
    """As the Trainer would hand them to the module that counts its images."""
    module, got = data.trainer.lightning_module, []
    for batch in islice(data.train_dataloader(), count):
        got.append(data.on_after_batch_transfer(batch, 0))
        module.images_seen += len(next(iter(got[-1].values()))) * data.trainer.world_size
    return got
