"""BigGAN's networks against published counts, closed forms and plainly written references."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.errors import UserError
from ganzoo.models.biggan import DeepDiscriminator, DeepGenerator, Discriminator, Generator
from ganzoo.models.biggan.layers import (
    Attention,
    ConditionalNorm,
    Conv2d,
    Layers,
    choose_statistics,
)

CIFAR = {"image_size": 32, "classes": 10, "attention": []}
STUDIO = {"image_size": 32, "classes": 10, "attention": [16], "ch": 96}


@pytest.mark.parametrize(
    ("network", "options", "count"),
    [
        (Generator, {"image_size": 128}, 70_433_988),
        (Generator, {"image_size": 128, "nz": 128, "hierarchical": False}, 72_792_516),
        (Generator, {"image_size": 128, "nz": 128, "hierarchical": False, "shared": 0}, 85_556_164),
        (Generator, {"image_size": 128, "ch": 64}, 31_978_628),
        (
            Generator,
            {"image_size": 128, "ch": 64, "nz": 128, "hierarchical": False, "shared": 0},
            42_017_412,
        ),
        (Generator, {"image_size": 256, "nz": 140}, 82_235_844),
        (Generator, {"image_size": 256, "nz": 140, "attention": [128]}, 82_097_604),
        (Generator, {"image_size": 512, "nz": 160}, 82_468_068),
        (Generator, {"image_size": 64, "ch": 64}, 31_908_100),
        (Generator, {**CIFAR, "ch": 64, "nz": 128, "shared": 0, "hierarchical": False}, 4_304_387),
        (Generator, {**STUDIO, "nz": 80}, 9_416_196),
        # Document 004: shortcuts only where widths change, a last convolution of 1x1.
        (
            Generator,
            {"image_size": 128, "shortcuts": False, "image_kernel": 1, "first_spectral": False},
            68_070_852,
        ),
        (Discriminator, {"image_size": 128}, 87_982_370),
        (Discriminator, {"image_size": 128, "ch": 64}, 39_448_258),
        (Discriminator, {"image_size": 256}, 99_225_890),
        (Discriminator, {"image_size": 512}, 99_401_282),
        (Discriminator, {"image_size": 64, "ch": 64}, 20_566_721),
        (Discriminator, {**CIFAR, "ch": 64}, 4_207_361),
        (Discriminator, {**STUDIO, "widths": [2, 2, 2, 2]}, 2_415_170),
        (DeepGenerator, {"image_size": 128, "image_maps": 128}, 50_388_609),
        (DeepGenerator, {"image_size": 128}, 50_244_484),
        (DeepGenerator, {"image_size": 256, "image_maps": 128}, 55_880_833),
        (DeepGenerator, {"image_size": 512, "image_maps": 128}, 56_163_905),
        (DeepDiscriminator, {"image_size": 128}, 34_590_210),
        (DeepDiscriminator, {"image_size": 256}, 38_247_426),
        (DeepDiscriminator, {"image_size": 512}, 38_301_122),
    ],
)
def test_parameter_counts_are_the_published_ones(network, options, count) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in network(**options).parameters()) == count


# -- merged forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (2, 6)])
def test_merged_convolutions_equal_the_plain_ones(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = Layers().conv(5, 7).double().eval()
    x = torch.randn(2, 5, *size).double()
    plain = conv(F.interpolate(x, scale_factor=2))
    torch.testing.assert_close(conv.enlarging(x), plain, rtol=1e-12, atol=1e-13)
    x = torch.randn(2, 5, 2 * size[0], 2 * size[1]).double()
    torch.testing.assert_close(conv.halving(x), F.avg_pool2d(conv(x), 2), rtol=1e-12, atol=1e-13)


def test_merged_convolutions_in_float32_are_within_rounding() -> None:
    torch.manual_seed(0)
    conv = Layers().conv(64, 64).eval()
    x = torch.randn(2, 64, 16, 16)
    torch.testing.assert_close(
        conv.enlarging(x), conv(F.interpolate(x, scale_factor=2)), rtol=0, atol=6e-6
    )
    torch.testing.assert_close(conv.halving(x), F.avg_pool2d(conv(x), 2), rtol=0, atol=6e-6)


def plain(conv: Conv2d, x: Tensor) -> Tensor:
    w = conv.weight
    v = F.normalize(w.flatten(1).T @ conv.u, dim=0)
    sigma = (w.flatten(1) @ v).norm()
    return F.conv2d(x, w / sigma, conv.bias, padding=w.shape[-1] // 2)


def test_blocks_are_the_ones_of_the_paper() -> None:
    """In the order of its figure 15: upsampling before the first convolution, pooling last."""
    torch.manual_seed(0)
    generator = Generator(32, classes=5, ch=8, nz=16, attention=[]).double().eval()
    block, c = generator.blocks[1], torch.randn(2, 132).double()
    x = torch.randn(2, 32, 8, 8).double()
    h = F.relu(block.norm1(x, c))
    up = F.interpolate(h, scale_factor=2)
    h = plain(block.conv2, F.relu(block.norm2(plain(block.conv1, up), c)))
    expected = h + plain(block.shortcut, F.interpolate(x, scale_factor=2))
    torch.testing.assert_close(block(x, c), expected, rtol=1e-11, atol=1e-12)

    discriminator = Discriminator(128, classes=5, ch=8).double().eval()
    first, second, *_, last = discriminator.blocks
    x = torch.randn(2, 3, 16, 16).double()
    h = plain(first.conv2, F.relu(plain(first.conv1, x)))
    expected = F.avg_pool2d(h, 2) + plain(first.shortcut, F.avg_pool2d(x, 2))
    torch.testing.assert_close(first(x), expected, rtol=1e-11, atol=1e-12)
    x = torch.randn(2, 8, 16, 16).double()
    h = plain(second.conv2, F.relu(plain(second.conv1, F.relu(x))))
    expected = F.avg_pool2d(h + plain(second.shortcut, x), 2)
    torch.testing.assert_close(second(x), expected, rtol=1e-11, atol=1e-12)
    x = torch.randn(2, 128, 4, 4).double()
    expected = x + plain(last.conv2, F.relu(plain(last.conv1, F.relu(x))))
    torch.testing.assert_close(last(x), expected, rtol=1e-11, atol=1e-12)


# -- conditional BatchNorm, attention, projection -------------------------------------------------


def test_conditional_norm_at_zero_is_plain_normalization() -> None:
    torch.manual_seed(0)
    norm = ConditionalNorm(6, 4, False, Layers()).double()
    x = torch.randn(8, 6, 3, 3).double()
    y = norm(x, torch.zeros(8, 4).double())
    torch.testing.assert_close(y, F.batch_norm(x, None, None, training=True), rtol=1e-12, atol=0)
    assert abs(y.mean().item()) < 1e-12


def test_conditional_norm_is_one_plus_gain() -> None:
    torch.manual_seed(0)
    norm = ConditionalNorm(6, 4, False, Layers()).double().eval()
    x, c = torch.randn(2, 6, 3, 3).double(), torch.randn(2, 4).double()
    gain = 1 + c @ norm.gain.normalized().T
    bias = c @ norm.bias.normalized().T
    expected = x / math.sqrt(1 + 1e-5) * gain[:, :, None, None] + bias[:, :, None, None]
    torch.testing.assert_close(norm(x, c), expected, rtol=1e-12, atol=1e-12)


def test_attention_is_the_identity_at_first_and_then_the_formula() -> None:
    torch.manual_seed(0)
    attention = Attention(16, Layers()).double().eval()
    x = torch.randn(2, 16, 4, 6).double()
    assert torch.equal(attention(x), x)
    with torch.no_grad():
        attention.gamma.fill_(0.5)
    theta, phi, g = (plain(conv, x) for conv in (attention.theta, attention.phi, attention.g))
    expected = torch.empty_like(x)
    for n in range(2):
        seen = torch.zeros(8, 4, 6).double()
        for i in range(4):
            for j in range(6):
                boxes = [
                    (phi[n, :, a : a + 2, b : b + 2].amax((1, 2)),
                     g[n, :, a : a + 2, b : b + 2].amax((1, 2)))
                    for a in (0, 2) for b in (0, 2, 4)
                ]  # fmt: skip
                weights = torch.stack([theta[n, :, i, j] @ key for key, _ in boxes]).softmax(0)
                seen[:, i, j] = sum(w * value for w, (_, value) in zip(weights, boxes, strict=True))
        expected[n] = x[n] + 0.5 * plain(attention.o, seen[None])[0]
    torch.testing.assert_close(attention(x), expected, rtol=1e-11, atol=1e-12)


def test_logits_are_the_projection_of_the_sum() -> None:
    torch.manual_seed(0)
    network = Discriminator(32, classes=5, ch=8, attention=[16]).double().eval()
    images, y = torch.randn(3, 3, 32, 32).double(), torch.tensor([4, 0, 4])
    features = []
    network.blocks[-1].register_forward_hook(lambda *args: features.append(args[-1]))
    logits = network(images, y)
    h = F.relu(features[0]).sum((2, 3))
    table = network.embedding.normalized()
    for i in range(3):
        expected = (
            h[i] @ network.linear.normalized()[0] + network.linear.bias[0] + h[i] @ table[y[i]]
        )
        torch.testing.assert_close(logits[i], expected, rtol=1e-12, atol=1e-12)


def test_pieces_of_the_latent_go_where_they_belong() -> None:
    with torch.device("meta"):
        generator = Generator(128)
        first, conditions = generator.conditions(torch.empty(2, 120), torch.empty(2, 128))
    assert first.shape == (2, 20)
    assert [tuple(c.shape) for c in conditions] == [(2, 148)] * 5
    generator = Generator(32, classes=5, ch=8, nz=16)
    z, c = torch.arange(16.0)[None], torch.zeros(1, 128)
    first, conditions = generator.conditions(z, c)
    assert first.tolist() == [[0, 1, 2, 3]]
    assert [c[0, 128:].tolist() for c in conditions] == [
        [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]
    ]  # fmt: skip


def where(network: nn.Module) -> list[int]:
    return [i for i, m in enumerate(network.attentions) if isinstance(m, Attention)]


def test_attention_is_after_the_block_of_that_height() -> None:
    with torch.device("meta"):
        assert where(Generator(128)) == [3]
        assert where(Discriminator(128)) == [0]
        assert where(Generator(256, nz=140)) == [3]
        assert where(Generator(256, nz=140, attention=[128])) == [4]
        assert where(Discriminator(256)) == [1]
        assert where(DeepGenerator(128)) == [7]
        assert where(DeepDiscriminator(128)) == [1]
        assert where(DeepDiscriminator(256)) == [3]
        assert where(Generator(32, nz=80)) == []
        assert where(Discriminator(32, attention=[8])) == [1]  # the first of three


@pytest.mark.parametrize("kind", [Generator, DeepGenerator])
@pytest.mark.parametrize(
    ("size", "bottom", "grid"),
    [(16, 4, (4, 4)), (48, 4, (6, 6)), ([48, 80], 4, (6, 10)), (32, 2, (2, 2)), (64, 8, (8, 8))],
)
def test_other_sizes(kind, size, bottom, grid) -> None:
    options = {"classes": 3, "ch": 8, "bottom_width": bottom, "attention": []}
    network = kind(size, nz=60, **options)
    assert network.grid == grid
    images = network(torch.randn(2, 60), torch.tensor([0, 2]))
    height, width = (size, size) if isinstance(size, int) else size
    assert images.shape == (2, 3, height, width)
    judge = Discriminator if kind is Generator else DeepDiscriminator
    assert judge(size, **options)(images, torch.tensor([0, 2])).shape == (2,)


@pytest.mark.parametrize("kind", [Generator, DeepGenerator])
def test_class_vectors_stand_for_classes_and_may_be_mixed(kind) -> None:
    torch.manual_seed(0)
    network = kind(16, classes=4, ch=8, nz=12, attention=[]).eval()
    z, y = torch.randn(3, 12), torch.tensor([3, 0, 1])
    vectors = network.embedded(y)
    assert vectors.shape == (3, 128)
    assert torch.equal(network(z, y), network(z, vectors))
    assert not torch.equal(network(z, vectors.mean(0, keepdim=True).expand(3, -1)), network(z, y))


def test_tables_in_each_layer_take_labels_and_mixtures() -> None:
    torch.manual_seed(0)
    network = Generator(16, classes=4, ch=8, nz=12, shared=0, hierarchical=False, attention=[])
    network.double().eval()
    z, y = torch.randn(3, 12).double(), torch.tensor([3, 0, 1])
    expected = network(z, y)
    torch.testing.assert_close(network(z, network.embedded(y)), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", [(Generator, Discriminator), (DeepGenerator, DeepDiscriminator)])
def test_without_classes_nothing_is_conditioned_on_one(kind) -> None:
    generator, discriminator = (k(16, classes=0, ch=8, attention=[]) for k in kind)
    assert not any("shared" in n or "embedding" in n for n, _ in generator.named_parameters())
    images = generator(torch.randn(2, generator.nz))
    assert discriminator(images).shape == (2,)
    with pytest.raises(UserError, match="0 classes"):
        generator(torch.randn(2, generator.nz), torch.zeros(2, dtype=torch.long))
    with pytest.raises(UserError, match="5 classes"):
        kind[1](16, classes=5, ch=8, attention=[])(images)


def test_deep_shortcut_keeps_the_first_maps() -> None:
    torch.manual_seed(0)
    network = DeepGenerator(128, classes=3, ch=8, nz=8, attention=[]).double().eval()
    block = network.blocks[3]  # 128 to 64 maps, enlarging
    with torch.no_grad():
        block.conv4.weight.mul_(0)
        block.conv4.bias.fill_(0)
        block.conv4.iterations = 0
    x, c = torch.randn(1, 128, 3, 3).double(), torch.randn(1, 136).double()
    assert torch.equal(block(x, c), F.interpolate(x[:, :64], scale_factor=2))


def test_statistics_are_chosen_by_truncation() -> None:
    network = DeepGenerator(16, classes=3, ch=8, nz=8, attention=[], statistics=51)
    norm = network.norm.norm
    with torch.no_grad():
        norm.means.copy_(torch.arange(51.0)[:, None])
        norm.variances.copy_(100 + torch.arange(51.0)[:, None])
    for truncation, expected in ((None, 50), (1.0, 50), (0.4, 20), (0.02, 1)):
        choose_statistics(network, truncation)
        assert norm.running_mean[0] == expected
        assert norm.running_var[0] == 100 + expected
    # Between 0.5 and 0.52, a quarter of the way: the package's weights are exchanged.
    choose_statistics(network, 0.505)
    assert abs(norm.running_mean[0].item() - 25.75) < 1e-4
    with pytest.raises(UserError, match=r"up to 1, not 1\.5"):
        choose_statistics(network, 1.5)


# -- what a user may get wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Generator(128, nz=128), "nz=128 cannot be split into 6 equal pieces.*use 126"),
        (lambda: Generator(32, nz=80, shared=0), "hierarchical=false"),
        (lambda: Generator(128, attention=[48]), "of height 48.*choose among 8, 16, 32, 64, 128"),
        (lambda: Discriminator(128, attention=[2]), "of height 2.*choose among 4, 8"),
        (lambda: Generator(1024, nz=180), "no published widths for 8 doublings"),
        (lambda: Generator(32, nz=80, widths=[4, 4]), "give 4 numbers"),
        (lambda: Discriminator(32, widths=[4]), "give at least 2 numbers"),
        (lambda: Generator(30, nz=80), "Images of 30x30 cannot be halved"),
        (lambda: Generator(32, nz=80, ch=1, attention=[16]), "multiple of 8 feature maps, not 4"),
    ],
)
def test_what_cannot_be_is_said(make, sentence: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=sentence):
        make()
