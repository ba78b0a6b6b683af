"""PGGAN's optional layers and the networks of its mode test against their definitions."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_same_tensors, run
from makers.worlds import discriminated, fit, pggan
from torch import Tensor, nn

from ganzoo.data.sources.synthetic import Synthetic
from ganzoo.engine.checkpoint import initialize_from
from ganzoo.engine.saving import FORMAT
from ganzoo.errors import UserError
from ganzoo.models.pggan import Discriminator, Generator
from ganzoo.models.pggan.diagram import describe
from ganzoo.models.pggan.layers import LayerNorm, MinibatchDiscrimination
from ganzoo.models.pggan.mnist import MNISTDiscriminator, MNISTGenerator

NARROW = {"fmap_base": 64, "fmap_max": 8}
GULRAJANI = {"normalize_latents": False, "leaky": False, "batchnorm": True, "tanh": True}
SCRIPT = str(Path(__file__).parent / "makers" / "worlds.py")


def stirred(network: nn.Module) -> Any:
    """In float64, with gains and biases that are not those of the start."""
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.double()


def leaky(h: Tensor, slope: float = 0.2) -> Tensor:
    return torch.maximum(h, slope * h)


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def halved(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3))


def over_batch(h: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Lasagne's batch normalization: the epsilon of 1e-4 inside the root, the biased variance."""
    mean = h.mean((0, 2, 3), keepdim=True)
    var = ((h - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (h - mean) / (var + 1e-4).sqrt() * gain[:, None, None] + bias[:, None, None]


def over_image(h: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Layer normalization of the paper's code: one gain for all features, a bias for each map."""
    flat = h.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    flat = flat / ((flat**2).mean(1, keepdim=True) + 1e-4).sqrt()
    return (flat * gain).reshape(h.shape) + bias.reshape(-1, *[1] * (h.dim() - 2))


def layers(network: nn.Module) -> Callable[..., Tensor]:
    """A layer by its name: scaled weights, then its bias or its normalization."""
    state = network.state_dict()

    def layer(name: str, x: Tensor, grid: tuple[int, ...] = ()) -> Tensor:
        weight = state[f"{name}.weight"] * network.get_submodule(name).scale
        h = (
            F.conv2d(x, weight, padding=weight.shape[-1] // 2)
            if weight.dim() == 4
            else x @ weight.T
        )
        h = h.reshape(len(h), -1, *grid) if grid else h
        if f"{name}.norm.weight" in state:
            return over_batch(h, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
        if f"{name}.norm.gain" in state:
            return over_image(h, state[f"{name}.norm.gain"], state[f"{name}.norm.bias"])
        bias = state[f"{name}.bias"]
        return h + bias.reshape(-1, *[1] * (h.dim() - 2))

    return layer


# -- layers against their definitions --------------------------------------------------------------


def test_generator_with_batchnorm_relu_and_tanh_is_the_formula() -> None:
    torch.manual_seed(0)
    network = stirred(Generator(8, wscale=False, pixelnorm=False, nz=5, **GULRAJANI, **NARROW))
    z, layer = 3 * torch.randn(6, 5).double(), layers(network)
    h = layer("blocks.0.0", z, (4, 4)).clamp(min=0)
    below = layer("blocks.0.3", h).clamp(min=0)
    h = layer("blocks.1.0", doubled(below)).clamp(min=0)
    h = layer("blocks.1.3", h).clamp(min=0)
    new, old = layer("to_rgb.1", h), doubled(layer("to_rgb.0", below))
    torch.testing.assert_close(network(z, lod=0.25), (0.75 * new + 0.25 * old).tanh())
    torch.testing.assert_close(network(z, lod=0.0), new.tanh())


def test_batchnorm_keeps_a_tenth_of_each_batch() -> None:
    torch.manual_seed(0)
    network = stirred(Generator(8, batchnorm=True, **NARROW))
    z = torch.randn(6, 8).double()
    network(z, lod=1.0)
    weight = network.blocks[0][0].weight * network.blocks[0][0].scale
    z = z / (z**2).mean(1, keepdim=True).sqrt()
    h = (z @ weight.T).reshape(6, 8, 16).transpose(0, 1).reshape(8, -1)
    norm = network.blocks[0][0].norm
    torch.testing.assert_close(norm.running_mean, 0.1 * h.mean(1))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * h.var(1, correction=1))
    network.eval()
    torch.testing.assert_close(network(z[:2]), network(z)[:2])  # not of the batch any more


def test_discriminator_with_layernorm_is_the_formula() -> None:
    torch.manual_seed(0)
    network = stirred(
        Discriminator(8, layernorm=True, fused_scale=False, wscale=False, group_size=0, **NARROW)
    )
    x, layer = torch.randn(3, 3, 8, 8).double(), layers(network)
    h = leaky(layer("from_rgb.1.0", x))
    h = leaky(layer("blocks.1.0", h))
    new = halved(leaky(layer("blocks.1.2", h)))
    h = 0.75 * new + 0.25 * leaky(layer("from_rgb.0.0", halved(x)))
    h = leaky(layer("blocks.0.1", h))
    h = leaky(layer("blocks.0.4", h.flatten(1)))
    torch.testing.assert_close(network(x, 0.25), layer("blocks.0.6", h).squeeze(1))
    torch.testing.assert_close(network(x[:1], 0.25), network(x, 0.25)[:1])


def added(layer: MinibatchDiscrimination, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of exp(-distance) to the others, [N, kernels], and distances to the nearest."""
    theta, log_scale = layer.direction.detach(), layer.log_length.detach()
    n, kernels = len(x), theta.shape[1]
    sums, nearest = torch.zeros(n, kernels).double(), torch.full((n, kernels), torch.inf).double()
    for k in range(kernels):
        columns = theta[:, k] / (theta[:, k] ** 2).sum(0).sqrt() * log_scale[k].exp()
        maps = x @ columns
        for i in range(n):
            for j in set(range(n)) - {i}:
                distance = (maps[i] - maps[j]).abs().sum()
                sums[i, k] += math.exp(-distance)
                nearest[i, k] = min(nearest[i, k], distance)
    return sums, nearest


def test_minibatch_discrimination_is_the_formula() -> None:
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(7, 4)
    assert layer.direction.shape == (7, 4, 5)
    assert (layer.log_length == 0).all()
    assert (layer.bias == -1).all()
    assert MinibatchDiscrimination(200, 50).direction.std().item() == pytest.approx(0.05, rel=0.05)
    layer, x = stirred(layer), torch.randn(6, 7).double()
    expected = torch.cat([x, added(layer, x)[0] + layer.bias], 1)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[:1]), torch.cat([x[:1], layer.bias[None]], 1))  # no others


def test_minibatch_discrimination_starts_from_data() -> None:
    """Half the mean distance to the nearest becomes 1, and the mean of what is added 0."""
    torch.manual_seed(0)
    layer, x = stirred(MinibatchDiscrimination(7, 4)), 20 * torch.randn(9, 7).double()
    before, (_, nearest) = layer.log_length.detach().clone(), added(layer, x)
    layer.fit(x)
    torch.testing.assert_close(
        layer.log_length.detach(), before - (0.5 * nearest.mean(0)).log()[:, None]
    )
    sums, nearest = added(layer, x)
    torch.testing.assert_close(nearest.mean(0), torch.full((4,), 2.0).double())
    torch.testing.assert_close(layer.bias.detach(), -sums.mean(0))
    assert layer.fitted


def test_discriminator_fits_what_is_behind_all_its_layers() -> None:
    torch.manual_seed(0)
    network = stirred(Discriminator(8, group_size=0, minibatch_kernels=4, **NARROW))
    x, layer = torch.randn(6, 3, 4, 4).double(), layers(network)
    network.fit(x, 1.0)
    h = leaky(layer("blocks.0.1", leaky(layer("from_rgb.0.0", x))))
    h = leaky(layer("blocks.0.4", h.flatten(1)))
    discrimination = network.blocks[0][6]
    sums, nearest = added(discrimination, h)
    torch.testing.assert_close(nearest.mean(0), torch.full((4,), 2.0).double())
    h = torch.cat([h, sums - sums.mean(0)], 1)
    torch.testing.assert_close(network(x, 1.0), layer("blocks.0.7", h).squeeze(1))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(LayerNorm(3), (2, 3, 2, 2)), (LayerNorm(3), (2, 3)), (MinibatchDiscrimination(3, 2), (3, 3))],
)
def test_normalizations_can_be_differentiated_twice(layer: nn.Module, shape: Any) -> None:
    torch.manual_seed(0)
    layer = stirred(layer)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_describe_shows_them() -> None:
    text = describe(Generator(16, pixelnorm=False, **GULRAJANI, **NARROW), 0.5)
    assert f"  {'dense 8 -> 128, batch norm, ReLU':<64}8 x 4 x 4" in text
    blend, last = text.splitlines()[-2:]
    assert blend.startswith("  blend")
    assert last == f"  {'tanh':<64}3 x 16 x 16"
    text = describe(Discriminator(16, layernorm=True, minibatch_kernels=5, **NARROW))
    assert "\n  convolution 1x1 3 -> 8, leaky ReLU " in text
    assert "\n  convolution 3x3 8 -> 8, layer norm, leaky ReLU " in text
    assert text.endswith(
        f"  {'minibatch discrimination of 5 kernels':<64}13\n  {'dense 13 -> 1':<64}1"
    )


# -- the networks of the mode test -----------------------------------------------------------------

MNIST = {"image_size": 32, "fmap_base": 64, "fmap_max": 256, "fused_scale": False}
HALF = MNIST | {"fmap_base": 32}


@pytest.mark.parametrize("lod", [0.0, 0.25, 1.0, 2.75, 3.0])
@pytest.mark.parametrize("own", [True, False])
def test_generator_of_the_mode_test(lod: float, own: bool) -> None:
    torch.manual_seed(0)
    network = stirred(
        MNISTGenerator(**MNIST, wscale=own, pixelnorm=own, batchnorm=not own, tanh=True)
    )
    assert [b[0].weight.shape[0] for b in network.blocks] == [64 * 16, 32, 16, 8]
    z, layer = torch.randn(5, 64).double(), layers(network)

    def normalized(h: Tensor) -> Tensor:
        return h / ((h**2).mean(1, keepdim=True) + 1e-8).sqrt()

    def block(h: Tensor) -> Tensor:
        return normalized(leaky(h, 0.3)) if own else leaky(h, 0.3)

    h = block(layer("blocks.0.0", normalized(z), (4, 4)))
    image = layer("to_rgb.0", h)
    for level in range(1, 4 - int(lod)):
        h, old = block(layer(f"blocks.{level}.0", doubled(h))), doubled(image)
        image = layer(f"to_rgb.{level}", h)
    if rest := lod - int(lod):
        image = (1 - rest) * image + rest * old
    torch.testing.assert_close(network(z, lod=lod), image.tanh())


@pytest.mark.parametrize("lod", [0.0, 0.25, 1.0, 2.75, 3.0])
@pytest.mark.parametrize("own", [True, False])
def test_discriminator_of_the_mode_test(lod: float, own: bool) -> None:
    torch.manual_seed(0)
    group = 4 if own else 0
    network = stirred(MNISTDiscriminator(**HALF, wscale=own, batchnorm=not own, group_size=group))
    assert [b[0].weight.shape[0] for b in network.blocks[1:]] == [16, 8, 4]
    side = 4 * 2 ** (3 - int(lod))
    x, layer = torch.randn(4, 3, side, side).double(), layers(network)

    def from_rgb(level: int, image: Tensor) -> Tensor:
        return image if level == 3 else leaky(layer(f"from_rgb.{level}.0", image))

    top = 3 - int(lod)
    h, rest = from_rgb(top, x), lod - int(lod)
    for level in range(top, 0, -1):
        h = halved(leaky(layer(f"blocks.{level}.0", h)))
        if rest and level == top:
            h = (1 - rest) * h + rest * from_rgb(level - 1, halved(x))
    if own:
        spread = ((h - h.mean(0)).pow(2).mean(0) + 1e-8).sqrt().mean()
        h = torch.cat([h, spread.expand(4, 1, 4, 4)], 1)
    scores = layer("blocks.0.2", h.flatten(1)).squeeze(1)
    torch.testing.assert_close(network(x, lod), scores)


def test_options_of_the_discriminator_of_the_mode_test() -> None:
    text = describe(
        MNISTDiscriminator(**MNIST | {"fmap_base": 16}, layernorm=True, classes=3, group_size=0)
    )
    assert "convolution 3x3 3 -> 2, layer norm, leaky ReLU, pool" in text
    assert text.endswith(f"{'dense 128 -> 4':<64}4")
    fused = MNISTDiscriminator(**HALF | {"fused_scale": True}, minibatch_kernels=2, group_size=0)
    assert fused(torch.randn(3, 3, 32, 32)).shape == (3,)
    with pytest.raises(UserError, match="batchnorm and layernorm are both true"):
        MNISTDiscriminator(**HALF, layernorm=True, batchnorm=True)
    with pytest.raises(UserError, match="no feature maps"):
        MNISTDiscriminator(**MNIST | {"fmap_base": 1})


# -- minibatch discrimination in runs --------------------------------------------------------------


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The weights of one process, and those of both where there are two."""
    folder = tmp_path_factory.mktemp("discriminated")
    done = run([sys.executable, SCRIPT, str(folder), "discriminated"], processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    two = [torch.load(folder / f"discriminated-{i}.pt", weights_only=True) for i in (0, 1)]
    return [result["state_dict"] for result in (discriminated(folder / "one"), *two)]


def test_two_processes_start_from_the_same_reals(started: list[Any]) -> None:
    one, first, second = started
    assert_same_tensors(one, first)
    assert_same_tensors(one, second)


def test_discrimination_starts_from_the_reals_of_the_run(started: list[Any]) -> None:
    """Fewer than 500 here: all of them, in whatever order, as the first level sees them."""
    gan = pggan(group_size=0, minibatch_kernels=6)
    gan.load_state_dict(started[0])
    network = gan.discriminator.double()
    images = Synthetic(64, 16).__getitems__(list(range(64)))["image"].double() / 127.5 - 1
    layer = layers(network)
    h = leaky(layer("from_rgb.0.0", halved(halved(images))))
    h = leaky(layer("blocks.0.1", h))
    h = leaky(layer("blocks.0.4", h.flatten(1)))
    sums, nearest = added(network.blocks[0][6], h)
    near = {"rtol": 1e-4, "atol": 1e-4}  # the run is in float32
    torch.testing.assert_close(nearest.mean(0), torch.full((6,), 2.0).double(), **near)
    torch.testing.assert_close(network.blocks[0][6].bias.detach(), -sums.mean(0), **near)


def test_discrimination_starts_once(tmp_path: Path) -> None:
    """Neither a run that goes on nor one from its weights starts it again."""
    options: dict[str, Any] = {"group_size": 0, "minibatch_kernels": 6}
    straight = fit(tmp_path / "straight", pggan(0.064, **options), "data.source.num=64")
    folder = tmp_path / "resumed"
    fit(folder, pggan(0.032, **options), "data.source.num=64")
    resumed = fit(folder, pggan(0.064, **options), "data.source.num=64", resume=True)
    assert_same_tensors(straight, resumed)

    other = pggan(0.016, lr=0.0, **options)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    torch.save(
        checkpoint | {"ganzoo": {"config": None, "format": FORMAT}}, tmp_path / "weights.ckpt"
    )
    assert not initialize_from(other, tmp_path / "weights.ckpt")
    begun = fit(tmp_path / "other", other, "data.source.num=64")["state_dict"]
    key = "discriminator.blocks.0.6.log_length"
    assert torch.equal(begun[key], resumed["state_dict"][key])
