"""Files of BigGAN-PyTorch: images and logits after an import, against formulas written out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from makers.biggan_files import File, State, up
from torch import Tensor

import ganzoo
from ganzoo import prepare
from ganzoo.errors import UserError
from ganzoo.models.imports import import_checkpoint

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
