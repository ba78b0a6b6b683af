"""Iterations on a device that holds no numbers, in place of a GPU.

On the meta device, an operation on tensors of two devices raises, and so does reading a number,
which on a GPU would wait for everything before it. So what passes here neither mixes devices nor
waits, whatever the sizes: nothing is computed.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from makers.tiny import config
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from ganzoo.config import CONF, make
from ganzoo.data.source import pair
from ganzoo.engine.gan import GAN, Batch
from ganzoo.nn import losses

META = torch.device("meta")

# Together all losses, penalties, augmentations, normalizations, and kinds of growth.
QUICK = (
    "biggan_emoji", "biggan_imagenet128", "cyclegan_growing", "dcgan_64", "dcgan_capacity16",
    "pggan_ablation_e_star", "pggan_emoji", "pggan_mnist_rgb",
)  # fmt: skip
OTHERS = sorted({path.stem for path in (CONF / "experiment").glob("*.yaml")} - set(QUICK))
EXPERIMENTS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


class Copies(TorchDispatchMode):
    """Counts the tensors that travel from the CPU to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if "copy" in function.__name__ and isinstance(result, Tensor) and result.device == META:
            self.count += any(isinstance(a, Tensor) and a.device != META for a in args)
        return result


class Stepped:
    """An optimizer with the hook that Lightning calls before a step."""

    def __init__(self, gan: GAN, optimizer: Optimizer) -> None:
        self.gan, self.optimizer = gan, optimizer
        self.param_groups, self.zero_grad = optimizer.param_groups, optimizer.zero_grad

    def step(self) -> None:
        self.gan.on_before_optimizer_step(self.optimizer)
        self.optimizer.step()


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[DictConfig], GAN]:
    """Makes a model on the device, ready for training steps without a trainer."""

    def build(cfg: DictConfig) -> GAN:
        for optimizer in cfg.model.optimizers.values():
            optimizer.fused = None  # for kinds of device that PyTorch lists
        with META:
            gan: GAN = make(cfg.model)
        gan.to(META)
        optimizers = [Stepped(gan, optimizer) for optimizer in gan.configure_optimizers()]
        monkeypatch.setattr(gan, "optimizers", lambda: optimizers)
        monkeypatch.setattr(gan, "manual_backward", lambda loss: loss.backward())
        monkeypatch.setattr(type(gan), "global_rank", 0)
        return gan

    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it has none
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    return build


def batch_of(gan: GAN, cfg: DictConfig) -> Batch:
    """A batch as it arrives on the device."""
    size = gan.batch_size(gan.images_seen) if gan.batch_size else cfg.batch_size
    shape = (size * gan.discriminator_steps, cfg.channels, *pair(cfg.image_size))
    if gan.domains != ("",):
        return {domain: torch.empty(shape, device=META) for domain in gan.domains}
    labels = {"label": torch.empty(shape[:1], dtype=torch.int64, device=META)}
    return {"image": torch.empty(shape, device=META)} | (labels if gan.classes else {})


STEERED = ("biggan_emoji augment=ada", "dcgan_64 augment=ada", "pggan_emoji augment=ada")
R1_R2 = "dcgan_64 loss=relativistic model.discriminator.norm=none model.r1=1 model.r2=1"


@pytest.mark.parametrize("experiment", [*EXPERIMENTS, *STEERED, R1_R2])
def test_an_iteration_never_waits_for_the_device(experiment: str, on_device: Any) -> None:
    cfg = config(*f"experiment={experiment}".split(), tiny=False)
    if isinstance(cfg.model.accumulate, int):
        cfg.model.accumulate = min(cfg.model.accumulate, 2)  # more micro-batches are no different
    gan = on_device(cfg)
    stages = list(gan.stages())
    for images in {stages[len(stages) // 4 * 2 - 1], stages[-1]}:  # if it grows: a fade, the end
        gan.images_seen = gan.images_before = images
        batch = batch_of(gan, cfg)
        with Copies() as copies:
            gan.training_step(batch)
        assert gan.images_seen > images
        print(f"{experiment} at {images}: {copies.count} copies to the device")


@pytest.mark.parametrize("experiment", ["biggan_emoji", "dcgan_64", "pggan_emoji"])
def test_images_from_seeds_never_wait_for_the_device(experiment: str, on_device: Any) -> None:
    cfg = config(f"experiment={experiment}", tiny=False)
    gan = on_device(cfg)
    images = gan.images(gan.latents([1, 2, 3]))
    assert images.device == META
    assert images.shape == (3, cfg.channels, *pair(cfg.image_size))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda logits: logits * float(logits.mean().item()), id="reads a number"),
        pytest.param(lambda logits: logits + torch.zeros(len(logits)), id="another device"),
        pytest.param(lambda logits: logits if logits.mean() > 0 else -logits, id="branches"),
    ],
)
def test_what_waits_is_found(wrong: Any, on_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config("experiment=dcgan_64", tiny=False)
    gan = on_device(cfg)
    discriminator = losses.NonSaturating.discriminator
    monkeypatch.setattr(
        losses.NonSaturating,
        "discriminator",
        lambda self, real, fake: discriminator(self, wrong(real), fake),
    )
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        gan.training_step(batch_of(gan, cfg))
