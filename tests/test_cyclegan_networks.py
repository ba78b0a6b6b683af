"""The CycleGAN networks: layer tables, formulas, any size."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.errors import UserError
from ganzoo.models.cyclegan import (
    PatchDiscriminator,
    PixelDiscriminator,
    ResNetGenerator,
    SmallDiscriminator,
    SmallGenerator,
    UNetGenerator,
)
from ganzoo.models.cyclegan.networks import at_any_size

GENERATORS = [
    lambda i=3, o=3, **k: ResNetGenerator(i, o, ngf=2, blocks=1, **k),
    lambda i=3, o=3, **k: UNetGenerator(i, o, ngf=2, halvings=5, **k),
    lambda i=3, o=3, **k: SmallGenerator(i, o, ngf=2, blocks=1, **k),
]
DISCRIMINATORS = [
    lambda i=3, **k: PatchDiscriminator(i, ndf=2, layers=2, **k),
    lambda i=3, **k: PixelDiscriminator(i, ndf=2, **k),
    lambda i=3, **k: SmallDiscriminator(i, ndf=2, layers=3, **k),
]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("network", "published"),
    [
        (lambda: ResNetGenerator(blocks=9), 11_378_179),
        (lambda: ResNetGenerator(blocks=6), 7_837_699),
        (PatchDiscriminator, 2_764_737),
        (SmallGenerator, 8_402_176),
        (SmallDiscriminator, 2_765_568),
    ],
    ids=["resnet_9blocks", "resnet_6blocks", "patch", "small G", "small D"],
)
def test_parameter_counts_are_the_published_ones(network, published: int) -> None:
    with torch.device("meta"):
        assert count(network()) == published


@pytest.mark.parametrize("halvings", [7, 8])
def test_parameter_counts_of_unets(halvings: int) -> None:
    """Sixteen weights a pair of channels; a bias for every filter with instance norm."""
    widths = [3, 64, 128, 256, *[512] * (halvings - 3)]
    down = sum(16 * i * o + o for i, o in pairwise(widths))
    ups = [*pairwise(reversed(widths))]
    up = sum(16 * i * (1 if n == 0 else 2) * o + o for n, (i, o) in enumerate(ups))
    with torch.device("meta"):
        assert count(UNetGenerator(halvings=halvings)) == down + up


@pytest.mark.parametrize(
    ("network", "side", "shape"),
    [
        (lambda: ResNetGenerator(3, 3, 4), 256, (3, 256, 256)),
        (lambda: ResNetGenerator(1, 4, 4, blocks=6), 128, (4, 128, 128)),
        (lambda: UNetGenerator(3, 1, 4), 256, (1, 256, 256)),
        (lambda: UNetGenerator(3, 3, 4, halvings=7), 128, (3, 128, 128)),
        (lambda: PatchDiscriminator(3, 4), 256, (1, 30, 30)),
        (lambda: PatchDiscriminator(3, 4), 128, (1, 14, 14)),
        (lambda: PatchDiscriminator(3, 4, layers=5), 256, (1, 6, 6)),
        (lambda: PixelDiscriminator(3, 4), 64, (1, 64, 64)),
        (lambda: SmallGenerator(3, 3, 4), 128, (3, 128, 128)),
        (lambda: SmallDiscriminator(3, 4), 128, (1, 7, 7)),
    ],
)
def test_output_sizes(network, side: int, shape: tuple[int, ...]) -> None:
    net = network()
    first = next(net.parameters())
    assert net(torch.zeros(2, first.shape[1], side, side)).shape == (2, *shape)


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_judges_a_patch(layers: int, side: int) -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(1, 2, layers, norm="none").double()
    x = torch.rand(1, 1, 160, 160).double().requires_grad_()
    logits = network(x)
    (gradient,) = torch.autograd.grad(logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2], x)
    rows, columns = (gradient[0, 0] != 0).nonzero().T
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == side


def norm(x: Tensor) -> Tensor:
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def reflect(x: Tensor, n: int) -> Tensor:
    return torch.from_numpy(np.pad(x.detach().numpy(), [(0, 0)] * 2 + [(n, n)] * 2, "reflect"))


def randomized(network: nn.Module) -> nn.Module:
    for p in network.parameters():
        nn.init.normal_(p, 0.0, 0.3)
    return network.double()


def test_resnet_is_its_table() -> None:
    torch.manual_seed(0)
    network = randomized(ResNetGenerator(3, 2, ngf=2, blocks=2))
    wb = iter(network.parameters())
    images = x = torch.rand(2, 3, 12, 16).double()
    x = norm(F.conv2d(reflect(x, 3), next(wb), next(wb))).relu()
    for _ in range(2):
        x = norm(F.conv2d(x, next(wb), next(wb), stride=2, padding=1)).relu()
    for _ in range(2):
        y = norm(F.conv2d(reflect(x, 1), next(wb), next(wb))).relu()
        x = x + norm(F.conv2d(reflect(y, 1), next(wb), next(wb)))
    for _ in range(2):
        x = norm(F.conv_transpose2d(x, next(wb), next(wb), 2, 1, output_padding=1)).relu()
    x = F.conv2d(reflect(x, 3), next(wb), next(wb)).tanh()
    assert next(wb, None) is None
    torch.testing.assert_close(network(images), x)


def test_unet_is_its_table() -> None:
    torch.manual_seed(0)
    network = randomized(UNetGenerator(3, 2, ngf=2, halvings=4))
    wb = iter(network.parameters())
    images = torch.rand(2, 3, 16, 32).double()
    features = [F.conv2d(images, next(wb), next(wb), stride=2, padding=1)]
    for i in range(3):
        leaky = F.leaky_relu(features[-1], 0.2)
        x = F.conv2d(leaky, next(wb), next(wb), stride=2, padding=1)
        features.append(norm(x) if i < 2 else x)
    x = features.pop()
    while features:
        x = norm(F.conv_transpose2d(x.relu(), next(wb), next(wb), 2, 1))
        x = torch.cat([features.pop(), x], 1)
    x = F.conv_transpose2d(x.relu(), next(wb), next(wb), 2, 1).tanh()
    assert next(wb, None) is None
    torch.testing.assert_close(network(images), x)


def test_patch_discriminator_is_its_table() -> None:
    torch.manual_seed(0)
    network = randomized(PatchDiscriminator(3, ndf=2))
    wb = iter(network.parameters())
    images = torch.rand(2, 3, 32, 40).double()
    x = F.leaky_relu(F.conv2d(images, next(wb), next(wb), stride=2, padding=1), 0.2)
    for stride in (2, 2, 1):
        x = F.leaky_relu(norm(F.conv2d(x, next(wb), next(wb), stride, 1)), 0.2)
    x = F.conv2d(x, next(wb), next(wb), padding=1)
    torch.testing.assert_close(network(images), x)


@pytest.mark.parametrize("build", GENERATORS)
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 33), (32, 64), (45, 44)])
def test_generators_keep_any_size(build, size: tuple[int, int]) -> None:
    network = build(1, 2).eval()
    assert network(torch.rand(2, 1, *size)).shape == (2, 2, *size)


@pytest.mark.parametrize(
    ("size", "goal"), [((5, 8), (8, 8)), ((13, 3), (16, 8)), ((2, 9), (8, 12))]
)
def test_padding_is_reflection_and_is_cropped_again(size, goal) -> None:
    x = torch.rand(1, 2, *size)
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append(images)
        return images + 1

    assert torch.equal(at_any_size(network, x, 4, 8), x + 1)
    around = [((g - s) // 2, g - s - (g - s) // 2) for s, g in zip(size, goal, strict=True)]
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), *around], "reflect")
    assert torch.equal(seen[0], torch.from_numpy(expected))


@pytest.mark.parametrize("build", [*GENERATORS, *DISCRIMINATORS])
def test_every_parameter_matters(build) -> None:
    torch.manual_seed(0)
    network = build().double()
    (network(torch.rand(2, 3, 32, 32).double()) ** 2).sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        if not name.endswith("bias"):  # one before a normalization is taken away by it
            assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("build", [*GENERATORS, *DISCRIMINATORS])
def test_norms(build) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3, 32, 32)
    alone = build(norm="instance")
    torch.testing.assert_close(alone(x)[:1], alone(x[:1]))  # instances do not see each other
    batch = build(norm="batch")
    assert not torch.allclose(batch(x)[:1], batch(x[:1]), rtol=1e-2)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in build(norm="none").modules())
    with pytest.raises(UserError, match="norm must be one of instance, batch, none, not layer"):
        build(norm="layer")


@pytest.mark.parametrize("build", GENERATORS)
def test_dropout_is_for_training(build) -> None:
    network, x = build(dropout=0.5), torch.rand(1, 3, 64, 64)
    if isinstance(network, UNetGenerator):
        network = UNetGenerator(3, 3, ngf=2, halvings=6, dropout=0.5)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    network = ResNetGenerator(ngf=32, blocks=2, norm="batch")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.5)
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"16x40 are too small .* needs 24 .*discriminator\.layers"):
        PatchDiscriminator(3, 2)(torch.zeros(1, 3, 16, 40))
    assert PatchDiscriminator(3, 2)(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(UserError, match="U-Net of 1 halvings"):
        UNetGenerator(halvings=1)
