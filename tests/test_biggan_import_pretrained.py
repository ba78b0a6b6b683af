"""Files of pytorch-pretrained-biggan: images after an import, against formulas written out."""

import math

import torch
import torch.nn.functional as F
from makers.biggan_files import Pretrained, State, up
from torch import Tensor

import ganzoo
from ganzoo import prepare
from ganzoo.models.imports import import_checkpoint


def pretrained(widths: list[int], ch: int, classes: int, nz: int, attention: int) -> State:
    file = Pretrained(0)
    file.add("embeddings.weight", nz, classes)
    file.sn("generator.gen_z", 16 * widths[0] * ch, 2 * nz)
    layer = 0
    for i in range(len(widths) - 1):
        for last in (False, True):
            inputs, outputs = widths[i] * ch, widths[i + last] * ch
            if layer == attention:
                name = f"generator.layers.{layer}"
                file.add(f"{name}.gamma", 1)
                for part, (a, b) in {
                    "theta": (inputs // 8, inputs), "phi": (inputs // 8, inputs),
                    "g": (inputs // 2, inputs), "o_conv": (inputs, inputs // 2),
                }.items():  # fmt: skip
                    file.sn(f"{name}.snconv1x1_{part}", a, b, 1, 1, bias=False)
                layer += 1
            name, hidden = f"generator.layers.{layer}", inputs // 4
            for n, (a, b, k) in enumerate(
                [
                    (hidden, inputs, 1),
                    (hidden, hidden, 3),
                    (hidden, hidden, 3),
                    (outputs, hidden, 1),
                ]
            ):
                file.sn(f"{name}.conv_{n}", a, b, k, k)
                file.sn(f"{name}.bn_{n}.scale", b, 2 * nz, bias=False)
                file.sn(f"{name}.bn_{n}.offset", b, 2 * nz, bias=False)
                file.statistics(f"{name}.bn_{n}", b)
            layer += 1
    file.add("generator.bn.weight", widths[-1] * ch, scale=0.1, shift=1)
    file.add("generator.bn.bias", widths[-1] * ch, scale=0.1)
    file.statistics("generator.bn", widths[-1] * ch)
    file.sn("generator.conv_to_rgb", widths[-1] * ch, widths[-1] * ch, 3, 3)
    return file.state


def pretrained_images(state: State, z: Tensor, y: Tensor, truncation: float) -> Tensor:
    def used(name: str) -> Tensor:
        w = state[f"{name}.weight_orig"]
        return w / (state[f"{name}.weight_u"] @ w.flatten(1) @ state[f"{name}.weight_v"])

    def convolved(name: str, x: Tensor) -> Tensor:
        w = used(name)
        return F.conv2d(x, w, state.get(f"{name}.bias"), padding=w.shape[-1] // 2)

    def normal(name: str, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        rest, start = math.modf(truncation / (1.0 / 50))
        mean, var = (state[f"{name}.running_{k}"] for k in ("means", "vars"))
        mean, var = (
            s[int(start)] * rest + s[int(start) + 1] * (1 - rest) if rest else s[int(start)]
            for s in (mean, var)
        )
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-4).sqrt()
        return F.relu(x * gain[..., None, None] + bias[..., None, None])

    c = torch.cat([z, state["embeddings.weight"].T[y]], 1)
    h = c @ used("generator.gen_z").T + state["generator.gen_z.bias"]
    h = h.view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
    layers = sorted({int(n.split(".")[2]) for n in state if n.startswith("generator.layers")})
    block = 0
    for i in layers:
        name = f"generator.layers.{i}"
        if f"{name}.gamma" in state:
            n, ch, height, width = h.shape
            theta = convolved(f"{name}.snconv1x1_theta", h).reshape(n, ch // 8, -1)
            phi = F.max_pool2d(convolved(f"{name}.snconv1x1_phi", h), 2).reshape(n, ch // 8, -1)
            g = F.max_pool2d(convolved(f"{name}.snconv1x1_g", h), 2).reshape(n, ch // 2, -1)
            seen = g @ (theta.mT @ phi).softmax(-1).mT
            seen = seen.reshape(n, ch // 2, height, width)
            h = h + state[f"{name}.gamma"] * convolved(f"{name}.snconv1x1_o_conv", seen)
            continue
        x, enlarge = h, block % 2
        for n in range(4):
            gain, bias = (c @ used(f"{name}.bn_{n}.{part}").T for part in ("scale", "offset"))
            h = normal(f"{name}.bn_{n}", h, 1 + gain, bias)
            if n == 1 and enlarge:
                h = up(h)
            h = convolved(f"{name}.conv_{n}", h)
        x = x[:, : h.shape[1]]
        h = h + (up(x) if enlarge else x)
        block += 1
    h = normal("generator.bn", h, state["generator.bn.weight"], state["generator.bn.bias"])
    return torch.tanh(convolved("generator.conv_to_rgb", h)[:, :3])


def test_pretrained_generators_give_the_packages_images(tmp_path) -> None:
    state = pretrained([16, 16, 8, 4, 2], 4, 5, nz=6, attention=6)  # 64 pixels, attention at 32
    state = {k: v.float() for k, v in state.items()}
    folder = tmp_path / "biggan-deep"
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text("{}")
    prepare.main(["import", str(folder), str(tmp_path / "ours.ckpt")])
    gan = ganzoo.load(tmp_path / "ours.ckpt").double()
    state = {k: v.double() for k, v in state.items()}
    z, y = torch.randn(2, 6).double(), torch.tensor([4, 1])
    seen = []
    for truncation in (1.0, 0.4, 0.5, 0.57, 0.02):
        expected = pretrained_images(state, z, y, truncation)
        ours = gan.images(z, labels=y, truncation=truncation)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        seen.append(expected)
    assert torch.equal(gan.images(z, labels=y), gan.images(z, labels=y, truncation=1.0))
    assert (seen[0] - seen[1]).abs().mean() > 0.01
    latents = gan.latents(range(200), 0.4)
    assert 0.75 < latents.abs().max() <= 0.8  # the package's: 0.4 times a normal cut at 2
    expected = pretrained_images(state, gan.latents([3], 0.4), gan.labels([3]), 0.4)
    torch.testing.assert_close(gan.sample([3], truncation=0.4), expected, rtol=0, atol=1e-5)


def test_a_thousand_classes_are_imagenets(tmp_path) -> None:
    state = pretrained([4, 4, 4], 2, 1000, nz=3, attention=-1)
    torch.save({k: v.float() for k, v in state.items()}, tmp_path / "pytorch_model.bin")
    import_checkpoint(tmp_path / "pytorch_model.bin", tmp_path / "ours.ckpt")
    names = ganzoo.load(tmp_path / "ours.ckpt").class_names
    assert [names[i] for i in (0, 207, 999)] == ["tench", "golden retriever", "toilet tissue"]


def test_standing_statistics_replace_the_stored_ones(tmp_path) -> None:
    state = pretrained([4, 4, 4], 2, 3, nz=3, attention=-1)
    torch.save({k: v.float() for k, v in state.items()}, tmp_path / "model.bin")
    import_checkpoint(tmp_path / "model.bin", tmp_path / "ours.ckpt")
    gan = ganzoo.load(tmp_path / "ours.ckpt")
    stored = gan.sample([0], truncation=0.5)
    with gan.standing_statistics(0.5, batches=2, size=8):
        assert not torch.equal(gan.sample([0], truncation=0.5), stored)
    assert torch.equal(gan.sample([0], truncation=0.5), stored)
