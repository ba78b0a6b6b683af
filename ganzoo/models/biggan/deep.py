"""The networks of BigGAN-deep (Brock et al. 2019, appendix B): two bottleneck blocks a stage."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.models.biggan.layers import Attention, ConditionalNorm, Init, Layers, initialize
from ganzoo.models.biggan.networks import (
    DISCRIMINATOR,
    GENERATOR,
    ConditionalGenerator,
    ProjectionDiscriminator,
    attends_at,
    feature_maps,
    halved,
)
from ganzoo.nn.layers import enlarged, halved_grid


class DeepGenerator(ConditionalGenerator):
    """BigGAN-deep's generator: class embedding and all of z condition every block.

    Args:
        image_size, channels, classes, nz, ch, widths, shared, bottom_width, attention: see
            `Generator`.
        depth: number of blocks in a stage, the last of which doubles the size.
        reduction: a block's 3x3 convolutions have this many times fewer maps than its input.
        image_maps: outputs of the last convolution, the first `channels` of which are the image;
            None: no others. The published weights have `ch`.
        statistics: number of sets of BatchNorm statistics for truncations from 0 to 1, which the
            published weights come with; 0 for none. See `StoredBatchNorm`.
        spectral_norm, sn_eps, sn_iterations, bn_eps, bn_momentum, init, zero_biases: see
            `Generator`.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        channels: int = 3,
        classes: int = 1000,
        nz: int = 128,
        ch: int = 128,
        widths: Sequence[float] | None = None,
        shared: int = 128,
        depth: int = 2,
        reduction: int = 4,
        bottom_width: int = 4,
        attention: Sequence[int] = (64,),
        image_maps: int | None = None,
        statistics: int = 0,
        spectral_norm: bool = True,
        sn_eps: float = 1e-6,
        sn_iterations: int = 1,
        bn_eps: float = 1e-4,
        bn_momentum: float = 0.1,
        init: Init = "orthogonal",
        zero_biases: bool = False,
    ) -> None:
        super().__init__()
        self.grid, doublings = halved_grid(image_size, least=bottom_width, times=2)
        maps = feature_maps(GENERATOR, doublings, ch, widths, doublings + 1, doublings + 1)
        attends = attends_at(attention, [self.grid[0] * 2**i for i in range(1, doublings + 1)])
        self.nz, self.classes, self.channels = nz, classes, channels
        layers = Layers(spectral_norm, sn_eps, sn_iterations, bn_eps, bn_momentum, statistics)
        self.shared = layers.embedding(classes, shared, spectral=False) if classes else None
        condition = nz + (shared if classes else 0)

        height, width = self.grid
        self.linear = layers.linear(condition, maps[0] * height * width)
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        for inputs, widened, attend in zip(maps, maps[1:], attends, strict=False):
            for last in [False] * (depth - 1) + [True]:
                outputs = widened if last else inputs
                self.blocks.append(
                    DeepGeneratorBlock(inputs, outputs, condition, reduction, last, layers)
                )
                here = last and attend
                self.attentions.append(Attention(outputs, layers) if here else nn.Identity())
        self.norm = ConditionalNorm(maps[-1], 0, False, layers)
        self.image = layers.conv(maps[-1], image_maps or channels)
        initialize(self, init, zero_biases)

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
        reduction: int,
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
    """BigGAN-deep's discriminator.

    Args:
        image_size, channels, classes, ch, bottom_width, attention: see `Discriminator`.
        widths: feature maps of the stem and of each stage, in units of ch; None for the paper's.
        depth: number of blocks in a stage; the first one halves the size and changes the width.
        reduction: a block's 3x3 convolutions have this many times fewer maps than its output.
        spectral_norm, sn_eps, sn_iterations, init, zero_biases: see `Discriminator`.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        channels: int = 3,
        classes: int = 1000,
        ch: int = 128,
        widths: Sequence[float] | None = None,
        depth: int = 2,
        reduction: int = 4,
        bottom_width: int = 4,
        attention: Sequence[int] = (64,),
        spectral_norm: bool = True,
        sn_eps: float = 1e-6,
        sn_iterations: int = 1,
        init: Init = "orthogonal",
        zero_biases: bool = False,
    ) -> None:
        super().__init__()
        self.classes = classes
        layers = Layers(spectral_norm, sn_eps, sn_iterations)
        height, doublings, halvings = halved(image_size, bottom_width)
        stem, *maps = feature_maps(DISCRIMINATOR, doublings, ch, widths, halvings + 1)
        sides = [height // 2 ** min(i, halvings) for i in range(len(maps) + 1)]
        _, *attends = attends_at(attention, sides)
        self.stem = layers.conv(channels, stem)
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip([stem, *maps], maps, strict=False)):
            for j in range(depth):
                block_inputs, halve = (outputs, False) if j else (inputs, i < halvings)
                self.blocks.append(
                    DeepDiscriminatorBlock(block_inputs, outputs, reduction, halve, layers)
                )
                here = j == depth - 1 and attends[i]
                self.attentions.append(Attention(outputs, layers) if here else nn.Identity())
        self.linear = layers.linear(maps[-1], 1)
        self.embedding = layers.embedding(classes, maps[-1]) if classes else nn.Identity()
        initialize(self, init, zero_biases)


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
