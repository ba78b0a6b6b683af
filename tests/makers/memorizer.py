"""A discriminator that has memorized the training images."""

import torch
from torch import Tensor, nn


class Memorizer(nn.Module):
    """Logits above 0 for the images that it knows, below 0 for all others."""

    known: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round()
        same = (pixels[:, None] == self.known.float()).flatten(2).all(2).any(1)
        nothing = 0 * images.flatten(1).sum(1)  # G's gradient
        return self.weight * (2 * same.float() - 1) + nothing
