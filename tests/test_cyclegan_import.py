"""State dicts of the authors' code: their names and their formulas, written down anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ganzoo
from ganzoo import prepare
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.models.cyclegan.imports import authors_model, discriminator, generator
from ganzoo.models.imports import import_checkpoint

State = dict[str, Tensor]  # files hold float32; formulas are computed in float64


def convolution(state: State, name: str, i: int, o: int, k: int, turned: bool = False) -> None:
    state[f"{name}.weight"] = torch.randn(*((i, o) if turned else (o, i)), k, k) * 0.3
    state[f"{name}.bias"] = torch.randn(o) * 0.3


def batch_norm(state: State, name: str, width: int) -> None:
    """In place of the bias of the layer before."""
    before = f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) - 1}"
    del state[f"{before}.bias"]
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(width) + 0.5, torch.randn(width)
    state[f"{name}.running_mean"], state[f"{name}.running_var"] = (
        torch.randn(width),
        torch.rand(width) + 0.5,
    )
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def resnet(
    blocks: int = 2,
    inputs: int = 3,
    outputs: int = 3,
    dropout: bool = False,
    batch: bool = False,
) -> State:
    """A ResnetGenerator of its code with two filters at full size."""
    state: State = {}

    def layer(place: str, *shape: int, turned: bool = False) -> None:
        convolution(state, f"model.{place}", *shape, turned=turned)
        if batch:
            head, _, tail = f"model.{place}".rpartition(".")
            batch_norm(state, f"{head}.{int(tail) + 1}", shape[1])

    layer("1", inputs, 2, 7)
    layer("4", 2, 4, 3)
    layer("7", 4, 8, 3)
    for n in range(blocks):
        layer(f"{10 + n}.conv_block.1", 8, 8, 3)
        layer(f"{10 + n}.conv_block.{6 if dropout else 5}", 8, 8, 3)
    layer(f"{10 + blocks}", 8, 4, 3, turned=True)
    layer(f"{13 + blocks}", 4, 2, 3, turned=True)
    convolution(state, f"model.{17 + blocks}", 2, outputs, 7)
    return state


def doubled(state: State) -> State:
    return {k: v.double() for k, v in state.items()}


def normalized(state: State, name: str, x: Tensor) -> Tensor:
    """After the layer `name`: with the statistics that are there, or those of each instance."""
    head, _, tail = name.rpartition(".")
    after = f"{head}.{int(tail) + 1}"
    if f"{after}.weight" in state and state[f"{after}.weight"].dim() == 1:
        kinds = ("running_mean", "running_var", "weight", "bias")
        mean, var, gain, bias = (state[f"{after}.{k}"].view(1, -1, 1, 1) for k in kinds)
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def resnet_images(state: State, x: Tensor, blocks: int = 2, dropout: bool = False) -> Tensor:
    state, x = doubled(state), x.double()

    def conv(place: str, x: Tensor, pad: int = 0, norm: bool = True, **options: Any) -> Tensor:
        name = f"model.{place}"
        x = F.pad(x, [pad] * 4, mode="reflect")
        x = F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)
        return normalized(state, name, x) if norm else x

    x = conv("1", x, 3).relu()
    for place in ("4", "7"):
        x = conv(place, x, stride=2, padding=1).relu()
    for n in range(blocks):
        y = conv(f"{10 + n}.conv_block.1", x, 1).relu()
        x = x + conv(f"{10 + n}.conv_block.{6 if dropout else 5}", y, 1)
    for place in (10 + blocks, 13 + blocks):
        name = f"model.{place}"
        x = F.conv_transpose2d(
            x, state[f"{name}.weight"], state.get(f"{name}.bias"), 2, 1, output_padding=1
        )
        x = normalized(state, name, x).relu()
    return conv(f"{17 + blocks}", x, 3, norm=False).tanh()


def unet(halvings: int = 5) -> State:
    """A UnetGenerator of its code: each level lies in the one around it."""
    state: State = {}
    widths = [3, *(2 * min(2**i, 8) for i in range(halvings))]

    def level(prefix: str, n: int) -> None:
        outermost, innermost = n == 0, n == halvings - 1
        down = 0 if outermost else 1
        convolution(state, f"{prefix}.model.{down}", widths[n], widths[n + 1], 4)
        inner = widths[n + 1] * (1 if innermost else 2)
        if not innermost:
            level(f"{prefix}.model.{1 if outermost else 3}", n + 1)
        up = 3 if outermost or innermost else 5
        convolution(state, f"{prefix}.model.{up}", inner, widths[n], 4, turned=True)

    level("model", 0)
    return state


def unet_images(state: State, x: Tensor, halvings: int = 5) -> Tensor:
    state = doubled(state)

    def level(prefix: str, n: int, x: Tensor) -> Tensor:
        outermost, innermost = n == 0, n == halvings - 1
        down, up = (0 if outermost else 1), (3 if outermost or innermost else 5)
        w, b = (state[f"{prefix}.model.{down}.{kind}"] for kind in ("weight", "bias"))
        y = F.conv2d(x if outermost else F.leaky_relu(x, 0.2), w, b, stride=2, padding=1)
        if not innermost:
            if not outermost:
                y = normalized(state, f"{prefix}.model.{down}", y)
            y = level(f"{prefix}.model.{1 if outermost else 3}", n + 1, y)
        w, b = (state[f"{prefix}.model.{up}.{kind}"] for kind in ("weight", "bias"))
        y = F.conv_transpose2d(y.relu(), w, b, stride=2, padding=1)
        if outermost:
            return y.tanh()
        return torch.cat([x, normalized(state, f"{prefix}.model.{up}", y)], 1)

    return level("model", 0, x.double())


def patch(layers: int = 3, inputs: int = 3) -> State:
    state: State = {}
    width = 2
    convolution(state, "model.0", inputs, width, 4)
    for n in range(1, layers + 1):
        wide = 2 * min(2**n, 8)
        convolution(state, f"model.{3 * n - 1}", width, wide, 4)
        width = wide
    convolution(state, f"model.{3 * layers + 2}", width, 1, 4)
    return state


def patch_logits(state: State, x: Tensor, layers: int = 3) -> Tensor:
    state, x = doubled(state), x.double()
    for n in range(layers + 2):
        place = 3 * n - 1 if n else 0
        w, b = state[f"model.{place}.weight"], state[f"model.{place}.bias"]
        x = F.conv2d(x, w, b, stride=2 if n < layers else 1, padding=1)
        if 0 < n <= layers:
            x = normalized(state, f"model.{place}", x)
        if n <= layers:
            x = F.leaky_relu(x, 0.2)
    return x


def pixel() -> State:
    state: State = {}
    for place, (i, o) in {0: (3, 2), 2: (2, 4), 5: (4, 1)}.items():
        convolution(state, f"net.{place}", i, o, 1)
    return state


def pixel_logits(state: State, x: Tensor) -> Tensor:
    state, y = doubled(state), x.double()
    y = F.leaky_relu(F.conv2d(y, state["net.0.weight"], state["net.0.bias"]), 0.2)
    y = normalized(state, "net.2", F.conv2d(y, state["net.2.weight"], state["net.2.bias"]))
    return F.conv2d(F.leaky_relu(y, 0.2), state["net.5.weight"], state["net.5.bias"])


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., GAN]:
    def of(contents: State, name: str = "latest_net_G.pth", **options: Any) -> GAN:
        torch.save(contents, tmp_path / name, **options)
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.ckpt"
        import_checkpoint(tmp_path / name, out)
        return ganzoo.load(out).double()

    return of


@pytest.mark.parametrize("blocks", [0, 2, 6])
@pytest.mark.parametrize(("dropout", "batch"), [(False, False), (True, False), (False, True)])
def test_a_resnet_is_taken_over(imported, blocks: int, dropout: bool, batch: bool) -> None:
    torch.manual_seed(0)
    state = resnet(blocks, 1, 4, dropout, batch)
    gan, x = imported(state), torch.rand(2, 1, 24, 32) * 2 - 1
    assert gan.directions == ("AtoB",)
    assert gan.channels == {"A": 1, "B": 4}
    expected = resnet_images(state, x, blocks, dropout)
    torch.testing.assert_close(gan.translate(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("halvings", [5, 7])
def test_a_unet_is_taken_over(imported, halvings: int) -> None:
    torch.manual_seed(0)
    state = unet(halvings)
    gan, x = imported(state), torch.rand(1, 3, 128, 256) * 2 - 1
    expected = unet_images(state, x, halvings)
    torch.testing.assert_close(gan.translate(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_a_patch_discriminator_is_taken_over(layers: int) -> None:
    torch.manual_seed(0)
    state, x = patch(layers), torch.rand(2, 3, 64, 80) * 2 - 1
    found = discriminator(state)
    network = ganzoo.config.make(found.config)(found.inputs)
    network.load_state_dict(found.state)
    torch.testing.assert_close(
        network.double()(x.double()), patch_logits(state, x, layers), rtol=0, atol=1e-10
    )


def test_files_may_be_old(imported) -> None:
    """Of several devices, with statistics that no one reads, in any order, of old torch."""
    torch.manual_seed(0)
    state = resnet()
    old = {f"module.{name}": value for name, value in reversed(state.items())}
    for name in ("model.2", "model.10.conv_block.2"):
        for kind in ("running_mean", "running_var"):
            old[f"module.{name}.{kind}"] = torch.rand(2)
    old["module.model.2.num_batches_tracked"] = torch.tensor(3)
    gan = imported(old, "horse2zebra.pth", _use_new_zipfile_serialization=False)
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(gan.translate(x), resnet_images(state, x), rtol=0, atol=1e-10)
    batch = resnet(batch=True)
    older = {k: v for k, v in batch.items() if not k.endswith("num_batches_tracked")}
    gan = imported(older, "older.pth")
    torch.testing.assert_close(gan.translate(x), resnet_images(batch, x), rtol=0, atol=1e-10)


def folder_of(tmp_path: Path, **networks: State) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name, state in networks.items():
        torch.save(state, folder / f"latest_net_{name}.pth")
        torch.save(patch(), folder / f"5_net_{name}.pth")  # of an earlier epoch
    return folder


def test_a_folder_has_both_directions(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    states = {
        "G_A": resnet(2, 1, 3),
        "G_B": resnet(2, 3, 1),
        "D_A": patch(3, 3),
        "D_B": patch(3, 1),
    }
    out = tmp_path / "ours.ckpt"
    prepare.main(["import", str(folder_of(tmp_path, **states)), str(out)])
    assert f"python -m ganzoo.translate {out}" in capsys.readouterr().out
    gan = ganzoo.load(out)
    assert gan.directions == ("AtoB", "BtoA")
    gan.double()
    a, b = torch.rand(1, 1, 32, 32).double(), torch.rand(1, 3, 32, 32).double()
    for ours, theirs in (
        (gan.translate(a), resnet_images(states["G_A"], a)),
        (gan.translate(b, "BtoA"), resnet_images(states["G_B"], b)),
        (gan.discriminator["B"](b), patch_logits(states["D_A"], b)),  # their D_A judges B
        (gan.discriminator["A"](a), patch_logits(states["D_B"], a)),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_generators_need_no_discriminators(tmp_path: Path) -> None:
    import_checkpoint(folder_of(tmp_path, G_A=resnet(), G_B=resnet()), tmp_path / "ours.ckpt")
    gan = ganzoo.load(tmp_path / "ours.ckpt")
    assert gan.directions == ("AtoB", "BtoA")
    assert not len(gan.discriminator)
    with pytest.raises(UserError, match="no discriminator"):
        gan.logits_of(torch.rand(1, 3, 32, 32), domain="A")


def test_one_direction_of_a_folder_keeps_its_name(tmp_path: Path) -> None:
    state = resnet(2, 3, 1)
    import_checkpoint(folder_of(tmp_path, G_B=state, D_B=patch(3, 1)), tmp_path / "ours.ckpt")
    gan = ganzoo.load(tmp_path / "ours.ckpt")
    assert gan.directions == ("BtoA",)
    assert gan.channels == {"A": 1, "B": 3}
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(gan.double().translate(x, "BtoA"), resnet_images(state, x))
    with pytest.raises(UserError, match="does not translate AtoB: use BtoA"):
        gan.translate(x)


def test_what_cannot_be_taken_over_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="differ in their layers"):
        authors_model({"latest_net_G_A": resnet(1), "latest_net_G_B": resnet(2)})
    antialiased = resnet() | {"model.5.filt": torch.ones(4, 1, 3, 3)}
    with pytest.raises(UserError, match=r"a layer model\.5\.filt .* without antialiasing"):
        generator(antialiased)
    less = resnet()
    del less["model.15.bias"]
    with pytest.raises(UserError, match="can be imported"):
        generator(less)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no file that can be imported.*latest_net_G_A\.pth"):
        import_checkpoint(tmp_path / "empty", tmp_path / "ours.ckpt")


@pytest.mark.parametrize("make", [patch, pixel])
@pytest.mark.parametrize("name", ["latest_net_D_A.pth", "40_net_D_B.pth", "any.pth"])
def test_a_discriminator_alone_is_taken_over(imported, make: Callable, name: str) -> None:
    torch.manual_seed(0)
    state, x = make(), (torch.rand(2, 3, 40, 48) * 2 - 1).double()
    gan = imported(state, name)
    domain = "A" if "D_B" in name else "B"  # their D_A judges B
    logits = patch_logits if make is patch else pixel_logits
    expected = logits(state, x).flatten(1).mean(1)
    torch.testing.assert_close(gan.logits_of(x, domain=domain), expected, rtol=0, atol=1e-10)
    assert gan.directions == ()
    with pytest.raises(UserError, match="does not translate AtoB"):
        gan.translate(x)


def test_one_of_two_discriminators_is_kept(tmp_path: Path) -> None:
    states = {"G_A": resnet(), "G_B": resnet(), "D_A": patch()}
    import_checkpoint(folder_of(tmp_path, **states), tmp_path / "ours.ckpt")
    gan, x = ganzoo.load(tmp_path / "ours.ckpt").double(), torch.rand(1, 3, 40, 40).double()
    expected = patch_logits(states["D_A"], x).flatten(1).mean(1)
    torch.testing.assert_close(gan.logits_of(x, domain="B"), expected, rtol=0, atol=1e-10)
    with pytest.raises(UserError, match="no discriminator of A"):
        gan.logits_of(x, domain="A")


def test_a_file_called_g_b_translates_to_a(imported) -> None:
    state, x = resnet(2, 3, 1), torch.rand(1, 3, 32, 32)
    gan = imported(state, "latest_net_G_B.pth")
    torch.testing.assert_close(gan.translate(x, "BtoA"), resnet_images(state, x))
