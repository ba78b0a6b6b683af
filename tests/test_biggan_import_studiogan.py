"""Files of PyTorch-StudioGAN: images and logits after an import, against formulas written out."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from makers.biggan_files import Pretrained, State, up
from torch import Tensor

import ganzoo
from ganzoo import prepare
from ganzoo.engine.kinds import FromSeeds


def studio_attention(file: Pretrained, name: str, ch: int) -> None:
    file.add(f"{name}.sigma", 1, shift=0.5)
    for part, (a, b) in {
        "theta": (ch // 8, ch), "phi": (ch // 8, ch), "g": (ch // 2, ch), "attn": (ch, ch // 2)
    }.items():  # fmt: skip
        file.sn(f"{name}.conv1x1_{part}", a, b, 1, 1, bias=False)


def studio(widths: list[int], classes: int, shared: int, piece: int, attention: int) -> State:
    """A generator of its big_resnet backbone; attention comes after that many blocks."""
    file = Pretrained(3)
    file.sn("linear0", widths[0] * 16, piece)
    file.add("shared.weight", classes, shared)
    entry = 0
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        name = f"blocks.{entry}.0"
        for n, maps in ((1, inputs), (2, outputs)):
            for part in ("gain", "bias"):
                file.sn(f"{name}.bn{n}.{part}", maps, shared + piece, bias=False)
            file.add(f"{name}.bn{n}.bn.running_mean", maps, scale=0.3)
            file.positive(f"{name}.bn{n}.bn.running_var", maps)
        file.sn(f"{name}.conv2d0", outputs, inputs, 1, 1)
        file.sn(f"{name}.conv2d1", outputs, inputs, 3, 3)
        file.sn(f"{name}.conv2d2", outputs, outputs, 3, 3)
        entry += 1
        if i + 1 == attention:
            studio_attention(file, f"blocks.{entry}.0", outputs)
            entry += 1
    file.add("bn4.weight", widths[-1], scale=0.1, shift=1)
    file.add("bn4.bias", widths[-1], scale=0.1)
    file.add("bn4.running_mean", widths[-1], scale=0.3)
    file.positive("bn4.running_var", widths[-1])
    file.sn("conv2d5", 3, widths[-1], 3, 3)
    return file.state


def studio_layers(state: State) -> tuple[Callable, Callable, Callable]:
    """A normalized weight by its name, a convolution, and attention."""

    def used(name: str) -> Tensor:
        w = state[f"{name}.weight_orig"]
        return w / (state[f"{name}.weight_u"] @ w.flatten(1) @ state[f"{name}.weight_v"])

    def convolved(name: str, x: Tensor) -> Tensor:
        w = used(name)
        return F.conv2d(x, w, state.get(f"{name}.bias"), padding=w.shape[-1] // 2)

    def attended(name: str, h: Tensor) -> Tensor:
        n, ch, height, width = h.shape
        theta = convolved(f"{name}.conv1x1_theta", h).reshape(n, ch // 8, -1)
        phi = F.max_pool2d(convolved(f"{name}.conv1x1_phi", h), 2).reshape(n, ch // 8, -1)
        g = F.max_pool2d(convolved(f"{name}.conv1x1_g", h), 2).reshape(n, ch // 2, -1)
        seen = g @ (theta.mT @ phi).softmax(-1).mT
        seen = convolved(f"{name}.conv1x1_attn", seen.reshape(n, ch // 2, height, width))
        return h + state[f"{name}.sigma"] * seen

    return used, convolved, attended


def studio_images(state: State, z: Tensor, y: Tensor, piece: int) -> Tensor:
    used, convolved, attended = studio_layers(state)

    def normal(name: str, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-4).sqrt()
        return F.relu(x * gain[..., None, None] + bias[..., None, None])

    def conditional(name: str, x: Tensor, c: Tensor) -> Tensor:
        gain, bias = (c @ used(f"{name}.{part}").T for part in ("gain", "bias"))
        return normal(f"{name}.bn", x, 1 + gain, bias)

    first, *pieces = z.split(piece, 1)
    h = (first @ used("linear0").T + state["linear0.bias"]).reshape(len(z), -1, 4, 4)
    rest = iter(pieces)
    for i in sorted({int(name.split(".")[1]) for name in state if name.startswith("blocks.")}):
        name = f"blocks.{i}.0"
        if f"{name}.sigma" in state:
            h = attended(name, h)
            continue
        c = torch.cat([state["shared.weight"][y], next(rest)], 1)
        x = convolved(f"{name}.conv2d1", up(conditional(f"{name}.bn1", h, c)))
        x = convolved(f"{name}.conv2d2", conditional(f"{name}.bn2", x, c))
        h = x + convolved(f"{name}.conv2d0", up(h))
    return torch.tanh(
        convolved("conv2d5", normal("bn4", h, state["bn4.weight"], state["bn4.bias"]))
    )


def studio_discriminator(ch: int, classes: int, attention: int) -> State:
    """The discriminator of 32 pixels; attention comes after that many blocks."""
    file = Pretrained(4)
    entry = 0
    for i, inputs in enumerate((3, ch, ch, ch)):
        name = f"blocks.{entry}.0"
        if i < 2:
            file.sn(f"{name}.conv2d0", ch, inputs, 1, 1)
        file.sn(f"{name}.conv2d1", ch, inputs, 3, 3)
        file.sn(f"{name}.conv2d2", ch, ch, 3, 3)
        entry += 1
        if i + 1 == attention:
            studio_attention(file, f"blocks.{entry}.0", ch)
            entry += 1
    file.sn("linear1", 1, ch)
    file.sn("embedding", classes, ch, bias=False)
    return file.state


def studio_logits(state: State, x: Tensor, y: Tensor) -> Tensor:
    used, convolved, attended = studio_layers(state)
    block = 0
    for i in sorted({int(name.split(".")[1]) for name in state if name.startswith("blocks.")}):
        name = f"blocks.{i}.0"
        if f"{name}.sigma" in state:
            x = attended(name, x)
            continue
        if block:
            x = F.relu(x)  # in place there, so that the shortcut has it, too
        h = convolved(f"{name}.conv2d2", F.relu(convolved(f"{name}.conv2d1", x)))
        if block < 2:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(convolved(f"{name}.conv2d0", x), 2)
        x, block = h + x, block + 1
    h = F.relu(x).sum((2, 3))
    return h @ used("linear1")[0] + state["linear1.bias"] + (used("embedding")[y] * h).sum(1)


@pytest.mark.parametrize("attention", [0, 2])
def test_studiogans_networks_give_its_images_and_logits(attention: int, tmp_path) -> None:
    torch.manual_seed(0)
    state = studio([16, 16, 16, 16], 5, shared=4, piece=3, attention=attention)
    judge = studio_discriminator(16, 5, attention // 2)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    shifted = {k: v + 0.5 if k == "linear0.bias" else v for k, v in state.items()}
    for name, weights in (("G", shifted), ("G_ema", state), ("D", judge)):
        file = folder / f"model={name}-best-weights-step=2000.pth"
        kept = {k: v.float() for k, v in weights.items()}
        torch.save({"state_dict": kept, "step": 2000, "seed": 1}, file)

    def taken(source: Path) -> FromSeeds:
        (tmp_path / "ours.ckpt").unlink(missing_ok=True)
        prepare.main(["import", str(source), str(tmp_path / "ours.ckpt")])
        return ganzoo.load(tmp_path / "ours.ckpt").double()

    exact, other, theirs = (
        {k: v.float().double() for k, v in weights.items()} for weights in (state, shifted, judge)
    )
    z, y = torch.randn(3, 12).double(), torch.tensor([4, 0, 2])
    expected = studio_images(exact, z, y, 3)
    assert 0.1 < expected.abs().mean() < 0.95
    gan = taken(folder)
    torch.testing.assert_close(gan.images(z, labels=y), expected, rtol=0, atol=1e-6)
    raw = studio_images(other, z, y, 3)
    torch.testing.assert_close(gan.images(z, True, y), raw, rtol=0, atol=1e-6)
    x = torch.randn(3, 3, 32, 32).double()
    logits = studio_logits(theirs, x, y)
    torch.testing.assert_close(gan.logits_of(x, y), logits, rtol=1e-6, atol=1e-6)
    alone = taken(folder / "model=G_ema-best-weights-step=2000.pth")
    torch.testing.assert_close(alone.images(z, labels=y), expected, rtol=0, atol=1e-6)
    with pytest.raises(SystemExit, match="this discriminator needs its generator"):
        taken(folder / "model=D-best-weights-step=2000.pth")
