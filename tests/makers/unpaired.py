"""Batches of two domains, as the Trainer would ask for them."""

from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from ganzoo.data import Unpaired


def attach(
    data: Unpaired, rank: int = 0, world: int = 1, seen: int = 0, steps: int = 1
) -> Unpaired:
    module = SimpleNamespace(
        images_seen=seen,
        discriminator_steps=steps,
        batch_size=None,
        shown_size=None,
        domains=("A", "B"),
        dtype=torch.float32,
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


def batches(data: Unpaired, count: int) -> list[dict[str, Tensor]]:
    """As the Trainer would hand them to the module that counts its images."""
    module, got = data.trainer.lightning_module, []
    for batch in islice(data.train_dataloader(), count):
        got.append(data.on_after_batch_transfer(batch, 0))
        module.images_seen += len(got[-1]["A"]) * data.trainer.world_size
    return got


def assert_same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a["A"], b["A"])
        assert torch.equal(a["B"], b["B"])
