"""The networks of BigGAN-deep (Brock et al. 2019, appendix B): two bottleneck blocks a stage."""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.config.values import Count, NotNegative, Sides
from ganzoo.models.biggan.layers import ConditionalNorm, Layers
from ganzoo.models.biggan.networks import ConditionalGenerator, ProjectionDiscriminator
from ganzoo.nn.layers import enlarged


class DeepGenerator(ConditionalGenerator):
    """BigGAN-deep's generator: class embedding and all of z condition every block.

    Args:
        image_size, nz, ch, bn_eps, options: see `ConditionalGenerator`.
        depth: number of blocks in a stage, the last of which doubles the size.
        reduction: a block's 3x3 convolutions have this many times fewer maps than its input.
        image_maps: outputs of the last convolution, the first `channels` of which are the image;
            None: no others. The published weights have `ch`.
    """

    def __init__(
        self,
        image_size: Sides,
        nz: Count = 128,
        ch: Count = 128,
        depth: Count = 2,
        reduction: Count = 4,
        image_maps: Count | None = None,
        bn_eps: NotNegative = 1e-4,
        **options: Any,
    ) -> None:
        super().__init__(image_size, nz=nz, ch=ch, bn_eps=bn_eps, **options)
        maps, layers = self.maps, self.layers
        condition = nz + (self.shared.embedding_dim if self.shared is not None else 0)
        self.linear = layers.linear(condition, maps[0] * math.prod(self.grid))
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        for inputs, widened, attend in zip(maps, maps[1:], self.attends, strict=False):
            for last in [False] * (depth - 1) + [True]:
                outputs = widened if last else inputs
                block = DeepGeneratorBlock(inputs, outputs, condition, reduction, last, layers)
                self.blocks.append(block)
                self.attentions.append(self.layers.attention(outputs, last and attend))
        self.finish(image_maps or self.channels)

    def conditions(self, z: Tensor, c: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        condition = z if c is None else torch.cat([c, z], 1)
        return condition, [condition] * len(self.blocks)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(z, y)[:, : self.channels]


class DeepGeneratorBlock(nn.Module):
    """1x1, 3x3, 3x3, 1x1, each after norm and ReLU. The shortcut is the first of the input's maps,
    as many as there are outputs. Both are doubled in size if `enlarge`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        condition: int,
        reduction: Count,
        enlarge: bool,
        layers: Layers,
    ) -> None:
        super().__init__()
        hidden = inputs // reduction
        self.outputs, self.enlarge = outputs, enlarge
        self.norm1 = ConditionalNorm(inputs, condition, False, layers)
        self.norm2, self.norm3, self.norm4 = (
            ConditionalNorm(hidden, condition, False, layers) for _ in range(3)
        )
        self.conv1 = layers.conv(inputs, hidden, 1)
        self.conv2 = layers.conv(hidden, hidden)
        self.conv3 = layers.conv(hidden, hidden)
        self.conv4 = layers.conv(hidden, outputs, 1)

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, c)))
        h = F.relu(self.norm2(h, c))
        h = self.conv2.enlarging(h) if self.enlarge else self.conv2(h)
        h = self.conv3(F.relu(self.norm3(h, c)))
        h = self.conv4(F.relu(self.norm4(h, c)))
        x = x[:, : self.outputs]
        return h + (enlarged(x) if self.enlarge else x)


class DeepDiscriminator(ProjectionDiscriminator):
    """BigGAN-deep's discriminator: a stem, and stages of bottleneck blocks.

    Args:
        image_size, ch, options: see `ProjectionDiscriminator`.
        depth: number of blocks in a stage; the first one halves the size and changes the width.
        reduction: a block's 3x3 convolutions have this many times fewer maps than its output.
    """

    def __init__(
        self,
        image_size: Sides,
        ch: Count = 128,
        depth: Count = 2,
        reduction: Count = 4,
        **options: Any,
    ) -> None:
        super().__init__(image_size, ch=ch, stem=True, **options)
        for i, (inputs, outputs) in enumerate(pairwise(self.maps)):
            for j in range(depth):
                given, halve = (outputs, False) if j else (inputs, i < self.halvings)
                block = DeepDiscriminatorBlock(given, outputs, reduction, halve, self.layers)
                self.blocks.append(block)
                self.attentions.append(
                    self.layers.attention(outputs, j == depth - 1 and self.attends[i])
                )
        self.finish()


class DeepDiscriminatorBlock(nn.Module):
    """1x1, 3x3, 3x3, means over 2x2 (if `halve`), 1x1, each convolution after a ReLU. The shortcut
    is the input, reduced alike, and where there are more outputs, a 1x1 convolution of it for them.
    """

    def __init__(
        self, inputs: int, outputs: int, reduction: int, halve: bool, layers: Layers
    ) -> None:
        super().__init__()
        hidden = outputs // reduction
        self.halve = halve
        self.conv1 = layers.conv(inputs, hidden, 1)
        self.conv2 = layers.conv(hidden, hidden)
        self.conv3 = layers.conv(hidden, hidden)
        self.conv4 = layers.conv(hidden, outputs, 1)
        self.more = layers.conv(inputs, outputs - inputs, 1) if outputs > inputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv3(F.relu(self.conv2(F.relu(self.conv1(F.relu(x))))))
        h = F.relu(h)
        if self.halve:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.more is not None:
            x = torch.cat([x, self.more(x)], 1)
        return x + self.conv4(h)
