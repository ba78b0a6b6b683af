"""The active network at a level of detail, as text."""

from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from ganzoo.models.pggan.layers import (
    Layer,
    LayerNorm,
    MinibatchDiscrimination,
    MinibatchStddev,
    PixelNorm,
)
from ganzoo.models.pggan.networks import Discriminator, Generator

ROWS = (Layer, MinibatchStddev, MinibatchDiscrimination, nn.Tanh)  # others go with the one before


def describe(network: Generator | Discriminator, lod: float = 0.0) -> str:
    """Active layers and the shapes that leave them, in their order; UserError for a lod outside."""
    level, fade = network.active(lod)
    height, width = network.resolution(lod)
    if isinstance(network, Generator):
        first, inputs = "z", [torch.empty(1, network.nz)]
        if network.classes:
            first, inputs = "z, label", [*inputs, torch.empty(1, dtype=torch.long)]
    else:
        first, inputs = "image", [torch.empty(1, network.channels, height, width)]
    rows = [(first, inputs[0].shape)]
    old = "of the level below: "

    def note(prefix: str, module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        what = prefix + _name(module)
        if not isinstance(module, ROWS):
            what = f"{rows.pop()[0]}, {_name(module)}"
        rows.append((what, output.shape))

    copy = deepcopy(network).to("meta")  # where nothing but shapes is computed
    for path, module in copy.named_modules():
        if _name(module):
            below = fade and path.startswith((f"to_rgb.{level - 1}", f"from_rgb.{level - 1}"))
            module.register_forward_hook(partial(note, old if below else ""))
    copy(*(x.to("meta") for x in inputs), lod=lod)
    lines = [f"{type(network).__name__} at lod {lod:g}: {height}x{width}"]
    for what, shape in rows:
        lines.append(f"  {what:<64}{' x '.join(str(n) for n in shape[1:])}")
        if what.startswith(old):
            lines.append(
                f"  blend: {1 - fade:.2f} of the new level + {fade:.2f} of the level below"
            )
    return "\n".join(lines)


def _name(module: nn.Module) -> str:
    """What a layer does; nothing for containers."""
    if isinstance(module, Layer):
        outputs, inputs, *kernel = module.weight.shape
        side = f" {kernel[0]}x{kernel[1]}" if kernel else ""
        norm = ", layer norm" if isinstance(module.norm, LayerNorm) else ", batch norm"
        return f"{module.name}{side} {inputs} -> {outputs}{norm if module.norm else ''}"
    if isinstance(module, MinibatchStddev):
        return f"stddev over groups of {module.group_size}"
    if isinstance(module, MinibatchDiscrimination):
        return f"minibatch discrimination of {len(module.bias)} kernels"
    kinds = {
        nn.LeakyReLU: "leaky ReLU",
        nn.ReLU: "ReLU",
        PixelNorm: "norm",
        nn.AvgPool2d: "pool",
        nn.Tanh: "tanh",
    }
    return kinds.get(type(module), "")
