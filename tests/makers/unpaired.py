"""Batches of two domains, as the Trainer would ask for them."""

from functools import partial

import torch
from makers import batches as shared
from torch import Tensor

attach = partial(shared.attach, domains=("A", "B"))
batches = shared.batches


def assert_same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a["A"], b["A"])
        assert torch.equal(a["B"], b["B"])
