"""State dicts of pytorch/examples' DCGAN, laid out here as that code does, in whatever wrapping."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import ganzoo
from ganzoo import prepare
from ganzoo.errors import UserError
from ganzoo.models.imports import import_checkpoint

State = dict[str, Tensor]


def batch_norm(state: State, place: int, width: int) -> None:
    name = f"main.{place}"
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(width) + 0.5, torch.randn(width)
    state[f"{name}.running_mean"] = torch.randn(width) * 0.1
    state[f"{name}.running_var"] = torch.rand(width) + 0.5
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def generator(nz: int = 5, ngf: int = 2, nc: int = 3, doublings: int = 4) -> State:
    """Its Generator: a list of transposed convolutions, BatchNorm and ReLU."""
    state: State = {}
    maps = [nz, *(ngf * 2**i for i in reversed(range(doublings))), nc]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(maps)):
        state[f"main.{3 * i}.weight"] = torch.randn(inputs, outputs, 4, 4) * 0.2
        if i < doublings:
            batch_norm(state, 3 * i + 1, outputs)
    return state


def discriminator(ndf: int = 2, nc: int = 3, halvings: int = 4) -> State:
    """Its Discriminator: the first convolution has no BatchNorm after it."""
    state: State = {}
    maps = [nc, *(ndf * 2**i for i in range(halvings)), 1]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(maps)):
        place = 3 * i - 1 if i else 0
        state[f"main.{place}.weight"] = torch.randn(outputs, inputs, 4, 4) * 0.2
        if 0 < i < halvings:
            batch_norm(state, place + 1, outputs)
    return state


def normal(state: State, place: int, x: Tensor) -> Tensor:
    kinds = ("running_mean", "running_var", "weight", "bias")
    mean, var, gain, bias = (state[f"main.{place}.{kind}"].view(1, -1, 1, 1) for kind in kinds)
    return (x - mean) / (var + 1e-5).sqrt() * gain + bias


def images(state: State, z: Tensor, doublings: int = 4) -> Tensor:
    state, x = {k: v.double() for k, v in state.items()}, z.double()[:, :, None, None]
    for i in range(doublings + 1):
        stride, padding = (2, 1) if i else (1, 0)
        x = F.conv_transpose2d(x, state[f"main.{3 * i}.weight"], None, stride, padding)
        x = normal(state, 3 * i + 1, x).relu() if i < doublings else x.tanh()
    return x


def logits(state: State, x: Tensor, halvings: int = 4) -> Tensor:
    """Without the sigmoid at its end, in training: BatchNorm uses the statistics of the batch."""
    state, x = {k: v.double() for k, v in state.items()}, x.double()
    for i in range(halvings + 1):
        place = 3 * i - 1 if i else 0
        stride, padding = (2, 1) if i < halvings else (1, 0)
        x = F.conv2d(x, state[f"main.{place}.weight"], None, stride, padding)
        if 0 < i < halvings:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
            gain, bias = (state[f"main.{place + 1}.{kind}"] for kind in ("weight", "bias"))
            x = x * gain[:, None, None] + bias[:, None, None]
        x = F.leaky_relu(x, 0.2) if i < halvings else x
    return x.flatten()


def module(state: State) -> State:
    return {f"module.{name}": value for name, value in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "of several devices": module,
    "state_dict": lambda state: {"state_dict": module(state), "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "netG": lambda state: {"netG": state, "args": [1, 2]},
    "g_ema": lambda state: {"g": generator(), "g_ema": state, "d": discriminator()},
    "two deep": lambda state: {"model": {"state_dict": state}},
    "backwards": lambda state: dict(reversed(state.items())),
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_a_generator_gives_its_images(wrapped: Callable, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = generator()
    torch.save(wrapped(state), tmp_path / "netG_epoch_24.pth")
    gan = check(tmp_path / "netG_epoch_24.pth", state, tmp_path)
    assert gan.config["image_size"] == 64
    with pytest.raises(UserError, match="no discriminator"):
        gan.logits_of(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("folder", [True, False])
def test_files_of_the_hub_are_read(name: str, folder: bool, tmp_path: Path) -> None:
    state, path = generator(nc=1, doublings=3), tmp_path / "repository" / name
    path.parent.mkdir()
    (path.parent / "config.json").write_text("{}")
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    check(path.parent if folder else path, state, tmp_path, doublings=3)


def check(path: Path, state: State, tmp_path: Path, doublings: int = 4) -> Any:
    prepare.main(["import", str(path), str(tmp_path / "ours.ckpt")])
    gan = ganzoo.load(tmp_path / "ours.ckpt").double()
    z = torch.randn(3, 5).double()
    torch.testing.assert_close(gan.images(z), images(state, z, doublings), rtol=0, atol=1e-10)
    return gan


def test_both_networks_of_the_last_epoch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "out"
    folder.mkdir()
    for epoch in (2, 10, 9):
        state, judge = generator(), discriminator()
        torch.save(state, folder / f"netG_epoch_{epoch}.pth")
        torch.save(judge, folder / f"netD_epoch_{epoch}.pth")
        if epoch == 10:
            last = state, judge
    gan = check(folder, last[0], tmp_path)
    x = torch.rand(4, 3, 64, 64).double() * 2 - 1
    torch.testing.assert_close(gan.logits_of(x), logits(last[1], x), rtol=0, atol=1e-10)


def test_networks_that_cannot_be(tmp_path: Path) -> None:
    for name, state in {
        "wide": {**generator(), "main.3.weight": torch.ones(16, 7, 4, 4)},
        "more": {**generator(), "main.13.bias": torch.ones(3)},
    }.items():
        torch.save(state, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match="filters halve with each doubling can be imported"):
            import_checkpoint(tmp_path / f"{name}.pth", tmp_path / "ours.ckpt")
