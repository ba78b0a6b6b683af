"""The networks of BigGAN (Brock et al. 2019, appendix B), as in the authors' PyTorch code."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.config.values import Count, Natural, NotNegative, Share, Sides
from ganzoo.errors import UserError
from ganzoo.models.biggan.layers import ConditionalNorm, Conv2d, Init, Layers
from ganzoo.nn.layers import enlarged, halved_grid

# Widths in units of ch by the number of doublings between the first grid and the image: from the
# grid up in the generator (5 doublings: 4 to 128 pixels), from the image down in the discriminator.
GENERATOR = {
    2: (4, 4, 4),
    3: (4, 4, 4, 4),
    4: (16, 16, 8, 4, 2),
    5: (16, 16, 8, 4, 2, 1),
    6: (16, 16, 8, 8, 4, 2, 1),
    7: (16, 16, 8, 8, 4, 2, 1, 1),
}
DISCRIMINATOR = {
    2: (4, 4, 4),
    3: (4, 4, 4, 4),
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
    7: (1, 1, 2, 4, 8, 8, 16, 16),
}


class ConditionalGenerator(nn.Module):
    """Latents z [N, nz] and classes y -> images [N, channels, H, W] in [-1, 1].

    What BigGAN and BigGAN-deep have in common. y is int64 labels [N]; or class embeddings [N, D]
    from `embedded`, or interpolations of them; or None without classes.

    Args:
        image_size: H and W in pixels, or one number for both. Both are halved together as long as
            neither falls below `bottom_width`, which leads to the first grid.
        classes: number of classes; 0 for none.
        nz: length of z.
        ch: number of feature maps that `widths` are multiples of.
        widths: feature maps of the grid and of each block, in units of ch; None for the paper's at
            this size.
        shared: length of the class embeddings that all layers share (appendix B), which are not
            normalized spectrally; 0: each layer has a table of its own.
        bottom_width: smallest height or width of the first grid.
        attention: image heights after whose block there is attention; heights above the image's are
            ignored.
        spectral_norm, sn_eps, sn_iterations, bn_eps, bn_momentum, statistics, init, zero_biases:
            see `Layers`.
    """

    linear: nn.Module
    blocks: nn.ModuleList
    attentions: nn.ModuleList  # one after each block; most are the identity
    norm: ConditionalNorm
    image: Conv2d

    def __init__(
        self,
        image_size: Sides,
        channels: Count = 3,
        classes: Natural = 1000,
        nz: Count = 120,
        ch: Count = 96,
        widths: Sequence[float] | None = None,
        shared: Natural = 128,
        bottom_width: Count = 4,
        attention: Sequence[int] = (64,),
        spectral_norm: bool = True,
        sn_eps: NotNegative = 1e-6,
        sn_iterations: Count = 1,
        bn_eps: NotNegative = 1e-5,
        bn_momentum: Share = 0.1,
        statistics: Natural = 0,
        init: Init = "orthogonal",
        zero_biases: bool = False,
    ) -> None:
        super().__init__()
        self.nz, self.classes, self.channels = nz, classes, channels
        self.grid, doublings = halved_grid(image_size, least=bottom_width, times=2)
        # Feature maps of the grid and of each stage; whether attention follows each stage.
        self.maps = feature_maps(GENERATOR, doublings, ch, widths, doublings + 1, doublings + 1)
        self.attends = attends_at(attention, [self.grid[0] * 2**i for i in range(1, doublings + 1)])
        self.layers = Layers(
            *(spectral_norm, sn_eps, sn_iterations, bn_eps, bn_momentum),
            *(statistics, init, zero_biases),
        )
        self.shared: nn.Embedding | None = None
        if classes and shared:
            self.shared = self.layers.embedding(classes, shared, spectral=False)

    def finish(self, outputs: int, kernel: int = 3) -> None:
        """Add the last layers, and initialize all."""
        self.norm = ConditionalNorm(self.maps[-1], 0, False, self.layers)
        self.image = self.layers.conv(self.maps[-1], outputs, kernel)
        self.layers.initialize(self)

    def embedded(self, y: Tensor) -> Tensor:
        """Class embeddings of labels [N]: [N, shared], or one-hot [N, classes] if not shared."""
        if self.shared is not None:
            return self.shared(y)
        return F.one_hot(y, self.classes).to(self.image.weight.dtype)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if (y is None) != (self.classes == 0):
            raise UserError(
                f"This generator has {self.classes} classes: pass labels if there are any."
            )
        if y is not None and self.shared is not None and not y.is_floating_point():
            y = self.shared(y)
        first, conditions = self.conditions(z, y)
        x = self.linear(first).unflatten(1, (-1, *self.grid))
        for block, attention, c in zip(self.blocks, self.attentions, conditions, strict=True):
            x = attention(block(x, c))
        return torch.tanh(self.image(F.relu(self.norm(x, None))))

    def conditions(self, z: Tensor, c: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        """The input of the first layer, and the condition of each block."""
        raise NotImplementedError


class Generator(ConditionalGenerator):
    """BigGAN's generator: a residual block for each doubling.

    Args:
        image_size, options: see `ConditionalGenerator`.
        hierarchical: split z into one piece for the first layer and one for each block, which is
            conditioned on it (section 3, skip-z).
        shortcuts: put a 1x1 convolution on the shortcut of every block; False: only where widths
            change.
        image_kernel: kernel size of the last convolution.
        first_spectral: normalize the first layer spectrally like all others.
    """

    def __init__(
        self,
        image_size: Sides,
        hierarchical: bool = True,
        shortcuts: bool = True,
        image_kernel: Count = 3,
        first_spectral: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(image_size, **options)
        maps, layers, labels = self.maps, self.layers, bool(self.classes and self.shared is None)
        if hierarchical and labels:
            raise UserError(
                "A hierarchical latent joins the shared class vectors: set shared=128, or "
                "hierarchical=false."
            )
        self.hierarchical = hierarchical
        self.piece = _piece(self.nz, len(maps) if hierarchical else 1)
        embedded = self.shared.embedding_dim if self.shared is not None else 0
        condition = self.classes if labels else embedded + hierarchical * self.piece

        first = layers if first_spectral else Layers(spectral_norm=False)
        self.linear = first.linear(self.piece, maps[0] * math.prod(self.grid))
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        for inputs, outputs, attend in zip(maps, maps[1:], self.attends, strict=False):
            norms = [ConditionalNorm(n, condition, labels, layers) for n in (inputs, outputs)]
            shortcut = shortcuts or inputs != outputs
            block = GeneratorBlock(inputs, outputs, norms, shortcut, layers)
            self.blocks.append(block)
            self.attentions.append(self.layers.attention(outputs, attend))
        self.finish(self.channels, image_kernel)

    def conditions(self, z: Tensor, c: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        if not self.hierarchical:
            return z, [c] * len(self.blocks)
        first, *pieces = z.split(self.piece, 1)
        if c is None:
            return first, list(pieces)
        return first, [torch.cat([c, piece], 1) for piece in pieces]


class GeneratorBlock(nn.Module):
    """Doubles height and width: norm, ReLU, upsampling, 3x3, norm, ReLU, 3x3, plus a shortcut."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norms: Sequence[ConditionalNorm],
        shortcut: bool,
        layers: Layers,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norms
        self.conv1, self.conv2 = layers.conv(inputs, outputs), layers.conv(outputs, outputs)
        self.shortcut = layers.conv(inputs, outputs, 1) if shortcut else nn.Identity()

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        h = self.conv1.enlarging(F.relu(self.norm1(x, c)))
        h = self.conv2(F.relu(self.norm2(h, c)))
        # A 1x1 convolution and repeating pixels may change places; here it has a quarter to do.
        return h + enlarged(self.shortcut(x))


class ProjectionDiscriminator(nn.Module):
    """Images [N, channels, H, W] in [-1, 1] and labels y [N] -> logits [N], in float32 at least:
    what BigGAN and BigGAN-deep have in common.

    logit = w'h + b + e_y'h, with h the sum over all places of the last features and e the table of
    classes (Miyato and Koyama 2018), which is normalized spectrally, too.

    Args:
        image_size: H and W in pixels, or one number for both; see `ConditionalGenerator`.
        channels, classes, ch: see `ConditionalGenerator`.
        widths: feature maps of the stem, if there is one, and of each block or stage, in units of
            ch; None for the paper's at this size. Beyond the number of halvings the size stays.
        bottom_width: smallest height or width of the last grid (twice that up to 32 pixels).
        attention: heights of feature maps after whose first block or stage there is attention;
            heights above the image's are ignored.
        stem: whether a convolution comes before the blocks.
        spectral_norm, sn_eps, sn_iterations, init, zero_biases: see `Layers`.
    """

    linear: nn.Module
    embedding: nn.Module

    def __init__(
        self,
        image_size: Sides,
        channels: Count = 3,
        classes: Natural = 1000,
        ch: Count = 96,
        widths: Sequence[float] | None = None,
        bottom_width: Count = 4,
        attention: Sequence[int] = (64,),
        stem: bool = False,
        spectral_norm: bool = True,
        sn_eps: NotNegative = 1e-6,
        sn_iterations: Count = 1,
        init: Init = "orthogonal",
        zero_biases: bool = False,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.layers = Layers(
            spectral_norm, sn_eps, sn_iterations, init=init, zero_biases=zero_biases
        )
        # The stages that halve the size, feature maps of the image or stem and of each stage, and
        # whether attention follows each stage.
        height, doublings, self.halvings = halved(image_size, bottom_width)
        maps = feature_maps(DISCRIMINATOR, doublings, ch, widths, self.halvings + stem)
        self.maps = maps if stem else [channels, *maps]
        sides = [height // 2 ** min(i, self.halvings) for i in range(len(self.maps))]
        self.attends = attends_at(attention, sides)[1:]
        self.stem = self.layers.conv(channels, maps[0]) if stem else nn.Identity()
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()  # one after each block

    def finish(self) -> None:
        """Add the last layers, and initialize all."""
        layers, maps = self.layers, self.maps[-1]
        self.linear = layers.linear(maps, 1)
        self.embedding = layers.embedding(self.classes, maps) if self.classes else nn.Identity()
        layers.initialize(self)

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        if (y is None) != (self.classes == 0):
            raise UserError(
                f"This discriminator has {self.classes} classes: give it labels if there are any."
            )
        h = self.stem(images)
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h))
        with torch.autocast(images.device.type, enabled=False):
            h = F.relu(h.to(torch.promote_types(h.dtype, torch.float32))).sum((2, 3))
            logits = self.linear(h).squeeze(1)
            return logits if y is None else logits + (self.embedding(y) * h).sum(1)


class Discriminator(ProjectionDiscriminator):
    """BigGAN's discriminator: a residual block for each halving, and one (two at 32 pixels) more.

    Args:
        image_size, options: see `ProjectionDiscriminator`.
        wide: widen in a block's first convolution, not in its second.
        shortcut_relu: apply the ReLU at the start of a block to its shortcut as well, as
            PyTorch-StudioGAN does, whose ReLU overwrites its input.
    """

    def __init__(
        self,
        image_size: Sides,
        wide: bool = True,
        shortcut_relu: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(image_size, **options)
        for i, (inputs, outputs) in enumerate(pairwise(self.maps)):
            hidden, halve = outputs if wide else inputs, i < self.halvings
            block = DiscriminatorBlock(inputs, hidden, outputs, halve, i > 0, self.layers)
            block.shortcut_relu = shortcut_relu and i > 0
            self.blocks.append(block)
            self.attentions.append(self.layers.attention(outputs, self.attends[i]))
        self.finish()


class DiscriminatorBlock(nn.Module):
    """ReLU (not in the first block), 3x3, ReLU, 3x3, means over 2x2 (if `halve`), plus a shortcut
    with a 1x1 convolution where size or width change.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, halve: bool, relu: bool, layers: Layers
    ) -> None:
        super().__init__()
        self.halve, self.relu, self.shortcut_relu = halve, relu, False
        self.conv1, self.conv2 = layers.conv(inputs, hidden), layers.conv(hidden, outputs)
        plain = inputs == outputs and not halve
        self.shortcut = nn.Identity() if plain else layers.conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut_relu:
            x = F.relu(x)
        h = F.relu(self.conv1(F.relu(x) if self.relu else x))
        h = self.conv2.halving(h) if self.halve else self.conv2(h)
        # Means and a 1x1 convolution may change places; here it has a quarter to do.
        return h + self.shortcut(F.avg_pool2d(x, 2) if self.halve else x)


def _piece(nz: int, pieces: int) -> int:
    """The length of each of the equal pieces of a hierarchical latent."""
    if nz % pieces:
        raise UserError(
            f"nz={nz} cannot be split into {pieces} equal pieces for a hierarchical latent: use "
            f"{max(1, round(nz / pieces)) * pieces}, or hierarchical=false."
        )
    return nz // pieces


def feature_maps(
    known: dict[int, tuple[int, ...]],
    doublings: int,
    ch: int,
    widths: Sequence[float] | None,
    least: int,
    most: int | None = None,
) -> list[int]:
    """Feature maps from widths in units of ch; from those known for a size, if none are given."""
    if widths is None and doublings not in known:
        raise UserError(
            f"There are no published widths for {doublings} doublings: give `widths` of your own, "
            f"or an image_size of 16 to 512 (doublings of 4 to 7)."
        )
    maps = [round(ch * width) for width in widths or known[doublings]]
    if not least <= len(maps) <= (most or len(maps)) or min(maps) < 1:
        raise UserError(
            f"widths={list(widths or known[doublings])} with ch={ch} do not make a network of "
            f"{doublings} doublings: give {'' if most else 'at least '}{least} numbers, in units "
            f"of ch."
        )
    return maps


def halved(image_size: int | Sequence[int], bottom_width: int) -> tuple[int, int, int]:
    """Height of the images, doublings of a generator and halvings of a discriminator of them."""
    grid, doublings = halved_grid(image_size, least=bottom_width, times=2)
    # Small images are halved once less (both of the codes that have 32 pixels do so).
    return grid[0] * 2**doublings, doublings, doublings if doublings > 3 else doublings - 1


def attends_at(asked: Sequence[int], sides: Sequence[int]) -> list[bool]:
    """For feature maps of these heights, which follow each other, whether attention is applied.

    It is at the first of each height that is asked for. Heights beyond the largest are left out, as
    64 is in a network of 32 pixels; UserError for one below that does not occur.
    """
    found = {side for side in asked if side <= max(sides)}
    if missing := found - set(sides):
        raise UserError(
            f"There are no feature maps of height {min(missing)} for attention: choose among "
            f"{', '.join(map(str, sorted(set(sides))))}."
        )
    return [side in found and side not in sides[:i] for i, side in enumerate(sides)]
