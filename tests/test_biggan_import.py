"""Files of BigGAN-PyTorch and of pytorch-pretrained-biggan, laid out here as those projects do, and
what their networks make of them, written down from their formulas."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ganzoo
from ganzoo import prepare
from ganzoo.engine.kinds import FromSeeds
from ganzoo.errors import UserError
from ganzoo.models.imports import import_checkpoint

State = dict[str, Tensor]


class File:
    """Random tensors by name, as they come up."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.state: State = {}

    def add(self, name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> None:
        value = torch.randn(shape, generator=self.generator).double()
        self.state[name] = value * scale + shift

    def positive(self, name: str, *shape: int) -> None:
        self.state[name] = torch.rand(shape, generator=self.generator).double() + 0.5


# -- BigGAN-PyTorch -------------------------------------------------------------------------------

G32, D32 = [4, 4, 4, 4], [4, 4, 4, 4]
G64, D64 = [16, 16, 8, 4, 2], [1, 2, 4, 8, 16]


class Ajbrock(File):
    """State dicts of its networks."""

    def sn(self, name: str, *shape: int, bias: bool = True) -> None:
        self.add(f"{name}.weight", *shape, scale=0.2)
        if bias:
            self.add(f"{name}.bias", shape[0], scale=0.1)
        self.add(f"{name}.u0", 1, shape[0])
        self.add(f"{name}.sv0", 1)

    def attention(self, name: str, ch: int) -> None:
        self.add(f"{name}.gamma", shift=0.5)
        for conv, (out, inputs) in {
            "theta": (ch // 8, ch), "phi": (ch // 8, ch), "g": (ch // 2, ch), "o": (ch, ch // 2)
        }.items():  # fmt: skip
            self.sn(f"{name}.{conv}", out, inputs, 1, 1, bias=False)

    def statistics(self, name: str, ch: int, mybn: bool = False) -> None:
        where = f"{name}.bn" if mybn else name
        self.add(f"{where}.stored_mean", ch, scale=0.3)
        self.positive(f"{where}.stored_var", ch)
        if mybn:
            self.state[f"{where}.accumulation_counter"] = torch.full((1,), 4.0).double()

    def ccbn(self, name: str, ch: int, classes: int, condition: int, mybn: bool) -> None:
        for part in ("gain", "bias"):
            if condition:
                self.sn(f"{name}.{part}", ch, condition, bias=False)
            else:
                self.add(f"{name}.{part}.weight", classes, ch, scale=0.2)
        self.statistics(name, ch, mybn)


def ajbrock_generator(
    widths: list[int], ch: int, classes: int, shared: int, hier: bool, attention: int | None = None,
    deep: bool = False, mybn: bool = False, seed: int = 0,
) -> State:  # fmt: skip
    file, blocks = Ajbrock(seed), len(widths) - 1
    piece = 3
    z = piece * (blocks + 1) if hier and not deep else 6
    if shared:
        file.add("shared.weight", classes, shared)
    first = z + shared if deep else piece if hier else z
    condition = shared + (z if deep else piece if hier else 0) if shared else 0
    file.sn("linear", widths[0] * ch * 16, first)
    for i in range(blocks):
        inputs, outputs = widths[i] * ch, widths[i + 1] * ch
        if not deep:
            name = f"blocks.{i}.0"
            file.sn(f"{name}.conv1", outputs, inputs, 3, 3)
            file.sn(f"{name}.conv2", outputs, outputs, 3, 3)
            file.sn(f"{name}.conv_sc", outputs, inputs, 1, 1)
            for n, maps in ((1, inputs), (2, outputs)):
                file.ccbn(f"{name}.bn{n}", maps, classes, condition, mybn)
            if i == attention:
                file.attention(f"blocks.{i}.1", outputs)
            continue
        hidden = inputs // 4
        for j in range(2):
            name, out = f"blocks.{2 * i + j}.0", outputs if j else inputs
            shapes = [
                (hidden, inputs, 1),
                (hidden, hidden, 3),
                (hidden, hidden, 3),
                (out, hidden, 1),
            ]
            for n, (a, b, k) in enumerate(shapes, 1):
                file.sn(f"{name}.conv{n}", a, b, k, k)
                file.ccbn(f"{name}.bn{n}", b, classes, condition, mybn)
        if i == attention:
            file.attention(f"blocks.{2 * i + 1}.1", outputs)
    file.add("output_layer.0.gain", widths[-1] * ch, scale=0.1, shift=1)
    file.add("output_layer.0.bias", widths[-1] * ch, scale=0.1)
    file.statistics("output_layer.0", widths[-1] * ch, mybn)
    file.sn("output_layer.2", 3, widths[-1] * ch, 3, 3)
    return file.state


def ajbrock_discriminator(
    widths: list[int], ch: int, classes: int, attention: int | None = None, deep: bool = False,
    wide: bool = True, seed: int = 1,
) -> State:  # fmt: skip
    file, maps = Ajbrock(seed), [w * ch for w in widths]
    if deep:
        file.sn("input_conv", maps[0], 3, 3, 3)
        maps = maps[1:]
    halvings = 2 if len(widths) < 5 else len(maps) - (not deep)
    for i, outputs in enumerate(maps):
        inputs = maps[i - 1] if i else (widths[0] * ch if deep else 3)
        for j in range(2 if deep else 1):
            name = f"blocks.{i}.{j}"
            if deep:
                from_, hidden = (outputs if j else inputs), outputs // 4
                for n, (a, b, k) in enumerate(
                    [(hidden, from_, 1), (hidden, hidden, 3), (hidden, hidden, 3),
                     (outputs, hidden, 1)], 1,
                ):  # fmt: skip
                    file.sn(f"{name}.conv{n}", a, b, k, k)
                if from_ != outputs:
                    file.sn(f"{name}.conv_sc", outputs - from_, from_, 1, 1)
            else:
                hidden = outputs if wide else inputs
                file.sn(f"{name}.conv1", hidden, inputs, 3, 3)
                file.sn(f"{name}.conv2", outputs, hidden, 3, 3)
                if inputs != outputs or i < halvings:
                    file.sn(f"{name}.conv_sc", outputs, inputs, 1, 1)
        if i == attention:
            file.attention(f"blocks.{i}.{2 if deep else 1}", outputs)
    file.sn("linear", 1, maps[-1])
    file.sn("embed", classes, maps[-1], bias=False)
    return file.state


def weight(state: State, name: str) -> Tensor:
    """A weight over its singular value, by one step of power iteration from u0."""
    w = state[f"{name}.weight"]
    if f"{name}.u0" not in state:
        return w
    v = F.normalize(state[f"{name}.u0"] @ w.flatten(1))
    u = F.normalize(v @ w.flatten(1).T)
    return w / (v @ w.flatten(1).T @ u.T)


def conv(state: State, name: str, x: Tensor) -> Tensor:
    w = weight(state, name)
    return F.conv2d(x, w, state.get(f"{name}.bias"), padding=w.shape[-1] // 2)


def attend(state: State, name: str, x: Tensor) -> Tensor:
    n, ch, height, width = x.shape
    theta = conv(state, f"{name}.theta", x).reshape(n, ch // 8, -1)
    phi = F.max_pool2d(conv(state, f"{name}.phi", x), 2).reshape(n, ch // 8, -1)
    g = F.max_pool2d(conv(state, f"{name}.g", x), 2).reshape(n, ch // 2, -1)
    beta = torch.einsum("ncq,nck->nqk", theta, phi).softmax(-1)
    seen = torch.einsum("nqk,nck->ncq", beta, g).reshape(n, ch // 2, height, width)
    return state[f"{name}.gamma"] * conv(state, f"{name}.o", seen) + x


def normed(state: State, name: str, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    where = f"{name}.bn" if f"{name}.bn.stored_mean" in state else name
    count = state.get(f"{where}.accumulation_counter", torch.ones(()).double())
    mean, var = (state[f"{where}.stored_{kind}"] / count for kind in ("mean", "var"))
    x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    return F.relu(x * gain[..., None, None] + bias[..., None, None])


def conditioned(state: State, name: str, x: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point():
        gain, bias = (y @ weight(state, f"{name}.{part}").T for part in ("gain", "bias"))
    else:
        gain, bias = (state[f"{name}.{part}.weight"][y] for part in ("gain", "bias"))
    return normed(state, name, x, 1 + gain, bias)


def up(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def ajbrock_images(state: State, z: Tensor, y: Tensor, hier: bool, deep: bool = False) -> Tensor:
    blocks = sorted({int(name.split(".")[1]) for name in state if name.startswith("blocks.")})
    c = state["shared.weight"][y] if "shared.weight" in state else y
    ys = [c] * len(blocks)
    if deep:
        z = torch.cat([c, z], 1)
        ys = [z] * len(blocks)
    elif hier:
        z, *rest = z.chunk(len(blocks) + 1, 1)
        ys = [torch.cat([c, piece], 1) for piece in rest]
    h = z @ weight(state, "linear").T + state["linear.bias"]
    h = h.reshape(len(z), -1, 4, 4)
    for i in blocks:
        name = f"blocks.{i}.0"
        x, h = h, conditioned(state, f"{name}.bn1", h, ys[i])
        if not deep:
            h = conv(state, f"{name}.conv1", up(h))
            h = conv(state, f"{name}.conv2", conditioned(state, f"{name}.bn2", h, ys[i]))
            h = h + conv(state, f"{name}.conv_sc", up(x))
        else:
            h = conditioned(state, f"{name}.bn2", conv(state, f"{name}.conv1", h), ys[i])
            if i % 2:
                h, x = up(h), up(x)
            h = conditioned(state, f"{name}.bn3", conv(state, f"{name}.conv2", h), ys[i])
            h = conditioned(state, f"{name}.bn4", conv(state, f"{name}.conv3", h), ys[i])
            h = conv(state, f"{name}.conv4", h)
            h = h + x[:, : h.shape[1]]
        if f"blocks.{i}.1.gamma" in state:
            h = attend(state, f"blocks.{i}.1", h)
    gain, bias = state["output_layer.0.gain"], state["output_layer.0.bias"]
    return torch.tanh(conv(state, "output_layer.2", normed(state, "output_layer.0", h, gain, bias)))


def ajbrock_logits(state: State, x: Tensor, y: Tensor, halvings: int, deep: bool) -> Tensor:
    blocks = sorted({int(name.split(".")[1]) for name in state if name.startswith("blocks.")})
    h = conv(state, "input_conv", x) if deep else x
    for i in blocks:
        halve = i < halvings
        for j in range(2 if deep else 1):
            name, x = f"blocks.{i}.{j}", h
            if deep:
                for n in (1, 2, 3):
                    h = conv(state, f"{name}.conv{n}", F.relu(h))
                h = F.relu(h)
                if halve and j == 0:
                    h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
                if f"{name}.conv_sc.weight" in state:
                    x = torch.cat([x, conv(state, f"{name}.conv_sc", x)], 1)
                h = conv(state, f"{name}.conv4", h) + x
                continue
            h = conv(state, f"{name}.conv1", F.relu(h) if i else h)
            h = conv(state, f"{name}.conv2", F.relu(h))
            if f"{name}.conv_sc.weight" in state:
                x = conv(state, f"{name}.conv_sc", x)
            h = F.avg_pool2d(h, 2) + F.avg_pool2d(x, 2) if halve else h + x
        if f"blocks.{i}.{2 if deep else 1}.gamma" in state:
            h = attend(state, f"blocks.{i}.{2 if deep else 1}", h)
    h = F.relu(h).sum((2, 3))
    out = h @ weight(state, "linear").T[:, 0] + state["linear.bias"]
    return out + (weight(state, "embed")[y] * h).sum(1)


def save(folder: Path, suffix: str = "", **states: State) -> Path:
    folder.mkdir(exist_ok=True)
    for name, state in states.items():
        torch.save({k: v.float() for k, v in state.items()}, folder / f"{name}{suffix}.pth")
    torch.save({"state": {}, "param_groups": []}, folder / f"G_optim{suffix}.pth")
    return folder


CASES = [  # widths of G and D, ch, options of G
    (G32, D32, 4, {"shared": 5, "hier": True}, {"attention": 1}, {"attention": 0}),
    (G32, D32, 4, {"shared": 5, "hier": False}, {"mybn": True}, {"wide": False}),
    (G32, D32, 4, {"shared": 0, "hier": False}, {}, {}),
    (G64, D64, 8, {"shared": 5, "hier": True}, {"attention": 2}, {"attention": 0}),
    (G32, D32, 4, {"shared": 5, "hier": True, "deep": True}, {"attention": 1}, {"attention": 0}),
    (G64, D64, 8, {"shared": 5, "hier": True, "deep": True}, {}, {"attention": 1}),
]


@pytest.mark.parametrize(("g_widths", "d_widths", "ch", "kind", "more_g", "more_d"), CASES)
def test_ajbrocks_networks_give_its_images_and_logits(
    g_widths, d_widths, ch, kind, more_g, more_d, tmp_path
) -> None:
    torch.manual_seed(0)  # images of some latents are too close to 1 and -1
    deep = kind.get("deep", False)
    first, second = (
        ajbrock_generator(g_widths, ch, 3, seed=seed, **kind, **more_g) for seed in (0, 7)
    )
    third = ajbrock_discriminator(d_widths, ch, 3, deep=deep, **more_d)
    source = save(tmp_path / "weights", G=first, G_ema=second, D=third)
    prepare.main(["import", str(source), str(tmp_path / "ours.ckpt")])
    gan = ganzoo.load(tmp_path / "ours.ckpt").double()
    z = torch.randn(2, gan.generator.nz).double()
    y = torch.tensor([2, 0])
    for state, raw in ((first, True), (second, False)):
        state = {k: v.float().double() for k, v in state.items()}
        expected = ajbrock_images(state, z, y, kind["hier"], deep)
        assert 0.1 < expected.abs().mean() < 0.95
        ours = gan.images(z, raw, labels=y)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    size = 8 * 2 ** (len(g_widths) - 2)
    x = torch.randn(2, 3, size, size).double()
    third = {k: v.float().double() for k, v in third.items()}
    halvings = 2 if size == 32 else 4
    expected = ajbrock_logits(third, x, y, halvings, deep)
    torch.testing.assert_close(gan.logits_of(x, y), expected, rtol=1e-6, atol=1e-6)


def test_one_state_of_several_is_chosen(tmp_path) -> None:
    kind = {"shared": 5, "hier": True}
    folder = tmp_path / "weights"
    names = ("_best0", "_copy1", "")
    states = [ajbrock_generator(G32, 4, 3, seed=i, **kind) for i in range(3)]
    judges = [ajbrock_discriminator(D32, 4, 3, seed=10 + i) for i in range(3)]

    def linear(source: Path) -> tuple[int, int]:
        """Which G and D were taken."""
        out = tmp_path / f"{source.stem}.ckpt"
        gan = import_checkpoint(source, out)
        out.unlink()
        found = [
            next(
                i
                for i, s in enumerate(group)
                if torch.allclose(net.linear.u, s["linear.u0"].float())
            )
            for net, group in ((gan.generator, states), (gan.discriminator, judges))
        ]
        return found[0], found[1]

    for i, name in enumerate(names[:2]):
        save(folder, name, G=states[i], D=judges[i])
    with pytest.raises(UserError, match=r"several states \(_best0, _copy1\): name.*G_best0.pth"):
        linear(folder)
    assert linear(folder / "G_copy1.pth") == (1, 1)
    save(folder, "", G=states[2], D=judges[2])
    assert linear(folder) == (2, 2)


def test_a_generator_alone_can_be_sampled_but_not_trained(tmp_path) -> None:
    state = ajbrock_generator(G32, 4, 3, shared=5, hier=True)
    torch.save({f"module.{k}": v.float() for k, v in state.items()}, tmp_path / "other.pt")
    torch.save({k: v.float() for k, v in state.items()}, tmp_path / "any.pt")
    gan = import_checkpoint(tmp_path / "any.pt", tmp_path / "ours.ckpt")
    assert gan.average is None
    assert ganzoo.load(tmp_path / "ours.ckpt").sample([0]).shape == (1, 3, 32, 32)
    with pytest.raises(UserError, match="no discriminator"):
        gan.logits_of(torch.zeros(1, 3, 32, 32), torch.tensor([0]))
    only = save(tmp_path / "only", G_ema=state)
    gan = import_checkpoint(only, tmp_path / "again.ckpt")
    torch.testing.assert_close(gan.generator.linear.weight, state["linear.weight"].float())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("blocks.1.0.conv2.bias"), "differ from ours in blocks.1.conv2.bias"),
        (lambda s: s.update({"blocks.9.0.extra": torch.ones(2)}), "conv1.weight' is missing"),
        (lambda s: s.update({"extra.weight": torch.ones(2)}), "differ from ours in extra.weight"),
        (
            lambda s: s.update({"output_layer.0.gain": torch.ones(7)}),
            r"norm.norm.weight has shape \[7\] there and \[16\] in our",
        ),
    ],
)
def test_what_ours_cannot_be_is_refused(change: Callable, sentence: str, tmp_path) -> None:
    state = ajbrock_generator(G32, 4, 3, shared=5, hier=True)
    change(state)
    with pytest.raises(UserError, match=sentence):
        import_checkpoint(save(tmp_path / "weights", G=state), tmp_path / "ours.ckpt")
    assert not (tmp_path / "ours.ckpt").exists()


# -- pytorch-pretrained-biggan --------------------------------------------------------------------


class Pretrained(File):
    def sn(self, name: str, *shape: int, bias: bool = True) -> None:
        self.add(f"{name}.weight_orig", *shape, scale=0.2)
        w = self.state[f"{name}.weight_orig"].flatten(1)
        # Not quite the singular vectors, as after training.
        left, _, right = torch.linalg.svd(w, full_matrices=False)
        for end, vector in (("u", left[:, 0]), ("v", right[0])):
            noise = 0.05 * torch.randn(len(vector), generator=self.generator).double()
            self.state[f"{name}.weight_{end}"] = F.normalize(vector + noise, dim=0)
        if bias:
            self.add(f"{name}.bias", shape[0], scale=0.1)

    def statistics(self, name: str, ch: int) -> None:
        self.add(f"{name}.running_means", 51, ch, scale=0.3)
        self.positive(f"{name}.running_vars", 51, ch)


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


# -- PyTorch-StudioGAN -----------------------------------------------------------------------------


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
