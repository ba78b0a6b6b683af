import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganzoo.errors import UserError
from ganzoo.models.pggan.diagram import describe
from ganzoo.models.pggan.layers import Layer, MinibatchStddev, PixelNorm
from ganzoo.models.pggan.networks import Discriminator, Generator
from ganzoo.nn.layers import convolution, fused_down, fused_up
from ganzoo.nn.losses import gradient_penalty
from ganzoo.schedules.growth import base_grid

NARROW = {"fmap_base": 64, "fmap_max": 8}
LODS = (0, 0.3, 1, 1.5, 2, 2.9, 3)


def count(net):
    return sum(p.numel() for p in net.parameters())


def stirred(net):
    """In float64, with biases that are not zero."""
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net.double()


@pytest.mark.parametrize(
    ("size", "options", "published"),
    [
        (32, {}, (20_719_628, 20_726_785)),
        (64, {}, (22_490_383, 22_498_049)),
        (128, {}, (22_933_394, 22_941_313)),
        (256, {}, (23_044_309, 23_052_353)),
        (512, {}, (23_072_120, 23_080_225)),
        (1024, {}, (23_079_115, 23_087_249)),
        (128, {"fmap_base": 2048}, (13_629_810, 13_636_897)),
        (32, {"fmap_base": 4096, "fmap_max": 128}, (1_296_908, 1_298_689)),
    ],
)
def test_parameter_counts_are_those_of_the_official_code(size, options, published):
    with torch.device("meta"):
        generator, discriminator = Generator(size, **options), Discriminator(size, **options)
    assert (count(generator), count(discriminator)) == published


def test_parameter_counts_of_each_block_of_1024():
    with torch.device("meta"):
        generator, discriminator = Generator(1024), Discriminator(1024)

    def layers(block):
        return [count(m) for m in block.modules() if isinstance(m, Layer)]

    assert [layers(b) for b in generator.blocks] == [
        [4_194_816, 2_359_808],
        *[[2_359_808, 2_359_808]] * 3,
        [1_179_904, 590_080],
        [295_040, 147_584],
        [73_792, 36_928],
        [18_464, 9_248],
        [4_624, 2_320],
    ]
    assert [layers(b) for b in discriminator.blocks] == [
        [2_364_416, 4_194_816, 513],
        *[[2_359_808, 2_359_808]] * 3,
        [590_080, 1_180_160],
        [147_584, 295_168],
        [36_928, 73_856],
        [9_248, 18_496],
        [2_320, 4_640],
    ]
    rgb = [1_539] * 4 + [771, 387, 195, 99, 51]
    assert [count(m) for m in generator.to_rgb] == rgb
    rgb = [2_048] * 4 + [1_024, 512, 256, 128, 64]
    assert [count(m) for m in discriminator.from_rgb] == rgb


def test_runtime_scales_of_the_weights():
    with torch.device("meta"):
        generator, discriminator = Generator(1024), Discriminator(1024)
    convolutions = [generator.blocks[i][3].scale for i in (3, 4, 5, 6, 7, 8)]
    assert convolutions == pytest.approx(
        [0.0208333, 0.0294628, 0.0416667, 0.0589256, 0.0833333, 0.1178511], abs=1e-7
    )
    assert generator.blocks[4][0].scale == pytest.approx(0.0208333, abs=1e-7)  # 512 -> 256
    assert generator.blocks[0][0].scale == 0.015625
    assert generator.to_rgb[0].scale == pytest.approx(0.0441942, abs=1e-7)
    assert generator.to_rgb[8].scale == 0.25
    for from_rgb in discriminator.from_rgb:
        assert from_rgb[0].scale == pytest.approx(0.8164966, abs=1e-7)
    _, conv, _, _, hidden, _, last = discriminator.blocks[0]
    assert conv.scale == pytest.approx(0.0208130, abs=1e-7)
    assert hidden.scale == 0.015625
    assert last.scale == pytest.approx(0.0441942, abs=1e-7)


@pytest.mark.parametrize("batch", [1, 50])  # the input is scaled, or the weights
def test_weights_are_scaled_and_biases_are_not(batch):
    layer = Layer(convolution, (6, 4, 3, 3))
    assert layer.weight.std().item() == pytest.approx(1, rel=0.2)
    assert not layer.bias.any()
    layer.bias.data.normal_()
    x = torch.randn(batch, 4, 5, 5)
    expected = F.conv2d(x, layer.weight * math.sqrt(2 / 36), layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_without_equalized_rates_the_same_scale_is_in_the_initial_weights():
    for build, options in ((Generator, {"nz": 64}), (Discriminator, {})):
        torch.manual_seed(0)
        scaled = build(16, fmap_base=256, fmap_max=64, **options)
        torch.manual_seed(0)
        plain = build(16, fmap_base=256, fmap_max=64, wscale=False, **options)
        x = torch.randn(4, 64) if build is Generator else torch.randn(4, 3, 16, 16)
        torch.testing.assert_close(plain(x), scaled(x), rtol=1e-4, atol=1e-5)
        assert plain.blocks[1][0].weight.std() < 0.1 < scaled.blocks[1][0].weight.std()


@pytest.mark.parametrize("size", [32, [48, 80], 28])
def test_fused_scaling_equals_the_two_steps(size):
    torch.manual_seed(0)
    fused = stirred(Generator(size, **NARROW))
    unfused = Generator(size, fused_scale=False, **NARROW).double()
    unfused.load_state_dict(fused.state_dict())
    z = torch.randn(3, 8).double()
    for lod in range(fused.levels):
        torch.testing.assert_close(fused(z, lod=lod), unfused(z, lod=lod))
    weight, bias, x = torch.randn(4, 3, 3, 3), torch.randn(4), torch.randn(2, 3, 6, 10)
    pooled = F.avg_pool2d(F.conv2d(x, weight, padding=1), 2) + bias[:, None, None]
    torch.testing.assert_close(fused_down(x, weight, bias), pooled, rtol=1e-5, atol=1e-5)
    large = F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)
    torch.testing.assert_close(fused_up(x, weight, bias), large, rtol=1e-5, atol=1e-5)


def test_activation_comes_after_fused_and_before_unfused_pooling():
    def reference(net, x, pool_first):
        w = {k: v * m.scale for k, m in net.named_modules() if isinstance(m, Layer)
             for v in [m.weight]}  # fmt: skip
        b = {k: m.bias for k, m in net.named_modules() if isinstance(m, Layer)}

        def act(h):
            return torch.maximum(h, 0.2 * h)

        h = act(F.conv2d(x, w["from_rgb.1.0"], b["from_rgb.1.0"]))
        h = act(F.conv2d(h, w["blocks.1.0"], b["blocks.1.0"], padding=1))
        h = F.conv2d(h, w["blocks.1.2"], b["blocks.1.2"], padding=1)
        h = act(F.avg_pool2d(h, 2)) if pool_first else F.avg_pool2d(act(h), 2)
        h = act(F.conv2d(h, w["blocks.0.1"], b["blocks.0.1"], padding=1))
        h = act(h.flatten(1) @ w["blocks.0.4"].T + b["blocks.0.4"])
        return h @ w["blocks.0.6"][0] + b["blocks.0.6"]

    x = torch.randn(3, 3, 8, 8).double()
    for fused in (True, False):
        net = stirred(Discriminator(8, fused_scale=fused, group_size=0, **NARROW))
        torch.testing.assert_close(net(x), reference(net, x, pool_first=fused))
        assert not torch.allclose(net(x), reference(net, x, pool_first=not fused))


@pytest.mark.parametrize("size", [32, [48, 80]])
@pytest.mark.parametrize("fused", [True, False])
def test_growth_never_jumps(size, fused):
    torch.manual_seed(0)
    generator = stirred(Generator(size, fused_scale=fused, **NARROW))
    discriminator = stirred(Discriminator(size, fused_scale=fused, **NARROW))
    z, near = torch.randn(4, 8).double(), {"rtol": 1e-7, "atol": 1e-7}
    for lod in range(1, generator.levels + 1):
        old = generator(z, lod=lod)
        large = F.interpolate(old, scale_factor=2)
        # The new level begins with no weight, and ends with all of it.
        torch.testing.assert_close(generator(z, lod=lod - 1e-9), large, **near)
        torch.testing.assert_close(
            generator(z, lod=lod - 1 + 1e-9), generator(z, lod=lod - 1), **near
        )
        score = discriminator(old, lod)
        torch.testing.assert_close(discriminator(large, lod - 1e-9), score, **near)
        noise = torch.randn_like(large)
        torch.testing.assert_close(
            discriminator(noise, lod - 1 + 1e-9), discriminator(noise, lod - 1), **near
        )


def test_images_are_blended_not_features():
    generator = stirred(Generator(16, **NARROW))
    z = torch.randn(3, 8).double()
    old = F.interpolate(generator(z, lod=1), scale_factor=2)
    expected = 0.25 * old + 0.75 * generator(z, lod=0)
    torch.testing.assert_close(generator(z, lod=0.25), expected)


def test_features_are_blended_after_the_new_level():
    discriminator = stirred(Discriminator(16, **NARROW))
    x = torch.randn(4, 3, 16, 16).double()
    new = discriminator.blocks[2](discriminator.from_rgb[2](x))
    old = discriminator.from_rgb[1](F.avg_pool2d(x, 2))
    expected = discriminator.blocks[0](discriminator.blocks[1](0.75 * new + 0.25 * old))
    torch.testing.assert_close(discriminator(x, 0.25), expected.squeeze(1))


@pytest.mark.parametrize("lod", LODS)
def test_levels_that_are_not_active_have_no_gradient(lod):
    generator, discriminator = Generator(32, **NARROW), Discriminator(32, **NARROW)
    discriminator(generator(torch.randn(4, 8), lod=lod), lod).sum().backward()
    level = 3 - math.floor(lod)
    rgb = {level, level - 1} if lod != math.floor(lod) else {level}
    for net in (generator, discriminator):
        for name, parameter in net.named_parameters():
            kind, i, *_ = name.split(".")
            active = int(i) <= level if kind == "blocks" else int(i) in rgb
            assert (parameter.grad is not None) == active, name


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (8, [(8, 8), (4, 4)]),
        (28, [(28, 28), (14, 14), (7, 7)]),
        ([48, 80], [(48, 80), (24, 40), (12, 20), (6, 10)]),
        ([64, 16], [(64, 16), (32, 8), (16, 4)]),
    ],
)
@pytest.mark.parametrize("channels", [1, 4])
def test_sizes_at_every_lod(size, sizes, channels):
    generator = Generator(size, channels, **NARROW)
    discriminator = Discriminator(size, channels, **NARROW)
    assert generator.levels == discriminator.levels == len(sizes) - 1
    for lod, expected in enumerate(sizes):
        assert generator.resolution(lod) == discriminator.resolution(lod) == expected
        images = generator(torch.randn(4, 8), lod=lod)
        assert images.shape == (4, channels, *expected)
        assert discriminator(images, lod).shape == (4,)
    assert generator(torch.randn(4, 8), lod=0.5).shape == (4, channels, *sizes[0])


def test_images_are_linear_and_latents_normalized():
    generator = Generator(8, **NARROW)
    z = torch.randn(4, 8)
    torch.testing.assert_close(generator(100 * z), generator(z))
    generator.to_rgb[1].bias.data += 100
    assert generator(z).min() > 50
    plain = Generator(8, normalize_latents=False, pixelnorm=False, **NARROW)
    torch.testing.assert_close(plain(100 * z), 100 * plain(z), rtol=1e-4, atol=1e-4)


def test_labels_are_normalized_with_the_latents():
    generator = Generator(8, classes=3, **NARROW)
    plain = Generator(8, nz=11, **NARROW)
    plain.load_state_dict(generator.state_dict())
    z = torch.randn(4, 8)
    y = torch.tensor([0, 2, 1, 2])
    torch.testing.assert_close(generator(z, y), plain(torch.cat([z, torch.eye(3)[y]], 1)))
    assert Discriminator(8, classes=3, **NARROW)(torch.randn(4, 3, 8, 8)).shape == (4, 4)


def test_pixel_norm():
    x = torch.randn(5, 16, 3, 3) * torch.logspace(-2, 3, 5)[:, None, None, None]
    squares = PixelNorm()(x).square().mean(1)
    torch.testing.assert_close(squares[1:], torch.ones(4, 3, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(PixelNorm(1.0)(torch.ones(1, 2)), torch.full((1, 2), 0.5**0.5))
    norms = [m.eps for m in Generator(8, pixelnorm_eps=1e-4).modules() if isinstance(m, PixelNorm)]
    assert norms == [1e-4] * 5
    # It is the last thing before the image.
    generator = Generator(8, **NARROW)
    generator.to_rgb[1] = nn.Identity()
    squares = generator(torch.randn(4, 8)).square().mean(1)
    torch.testing.assert_close(squares, torch.ones(4, 8, 8), rtol=0, atol=1e-4)


def test_activations():
    def of(net):
        return {(type(m), getattr(m, "negative_slope", 0)) for m in net.modules()
                if isinstance(m, nn.LeakyReLU | nn.ReLU)}  # fmt: skip

    for build in (Generator, Discriminator):
        assert of(build(8, **NARROW)) == {(nn.LeakyReLU, 0.2)}
        assert of(build(8, leaky=False, **NARROW)) == {(nn.ReLU, 0)}


def test_minibatch_stddev_of_strided_groups():
    x = torch.randn(8, 3, 2, 2)
    y = MinibatchStddev()(x)
    assert torch.equal(y[:, :3], x)
    for group in ([0, 2, 4, 6], [1, 3, 5, 7]):
        expected = x[group].var(0, correction=0).sqrt().mean()
        torch.testing.assert_close(y[group, 3], expected.expand(4, 2, 2))
    assert not torch.isclose(y[0, 3, 0, 0], y[1, 3, 0, 0])
    # A batch below the group size is one group.
    expected = x[:3].var(0, correction=0).sqrt().mean()
    torch.testing.assert_close(MinibatchStddev(16)(x[:3])[:, 3], expected.expand(3, 2, 2))


def test_minibatch_stddev_of_neighbors():
    x = torch.randn(8, 3, 2, 2)
    y = MinibatchStddev(neighbors=True)(x)
    for group in ([0, 1, 2, 3], [4, 5, 6, 7]):
        torch.testing.assert_close(y[group, 3], x[group].std(0).mean().expand(4, 2, 2))
    assert MinibatchStddev(neighbors=True)(x[:1]).isfinite().all()


def test_minibatch_stddev_of_equal_images_and_its_precision():
    x = torch.randn(1, 3, 2, 2).expand(4, 3, 2, 2)
    torch.testing.assert_close(MinibatchStddev()(x)[:, 3], torch.full((4, 2, 2), 1e-4))
    half = torch.randn(4, 3, 2, 2).half() / 10_000  # its square is none in half precision
    assert MinibatchStddev()(half).dtype == torch.float16
    assert torch.equal(MinibatchStddev()(half), MinibatchStddev()(half.float()).half())
    assert MinibatchStddev()(half)[0, 3, 0, 0] > 0
    assert MinibatchStddev()(half.double()).dtype == torch.float64


@pytest.mark.parametrize("lod", [0, 0.5])
def test_penalty_can_be_differentiated_twice(lod):
    torch.manual_seed(0)
    net = stirred(Discriminator(8, fmap_base=16, fmap_max=4))
    real, fake = torch.randn(2, 4, 3, 8, 8).double().unbind()
    mix = torch.rand(4).double()

    def penalty():
        return gradient_penalty(lambda x: net(x, lod), real, fake, mix)

    penalty().backward()
    for name in ("from_rgb.1.0", "blocks.1.2", "blocks.0.4"):
        weight = net.get_submodule(name).weight
        weight.data.view(-1)[0] += 1e-6
        above = penalty().item()
        weight.data.view(-1)[0] -= 2e-6
        slope = (above - penalty().item()) / 2e-6
        weight.data.view(-1)[0] += 1e-6
        assert weight.grad.view(-1)[0].item() == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_describe_shows_what_is_active():
    generator, discriminator = Generator(32, **NARROW), Discriminator(32, **NARROW)
    assert describe(generator, 1.25).splitlines() == [
        "Generator at lod 1.25: 16x16",
        f"  {'z, norm':<64}8",
        f"  {'dense 8 -> 128, leaky ReLU, norm':<64}8 x 4 x 4",
        f"  {'convolution 3x3 8 -> 8, leaky ReLU, norm':<64}8 x 4 x 4",
        f"  {'fused up 3x3 8 -> 8, leaky ReLU, norm':<64}8 x 8 x 8",
        f"  {'convolution 3x3 8 -> 8, leaky ReLU, norm':<64}8 x 8 x 8",
        f"  {'fused up 3x3 8 -> 8, leaky ReLU, norm':<64}8 x 16 x 16",
        f"  {'convolution 3x3 8 -> 8, leaky ReLU, norm':<64}8 x 16 x 16",
        f"  {'convolution 1x1 8 -> 3':<64}3 x 16 x 16",
        f"  {'of the level below: convolution 1x1 8 -> 3':<64}3 x 8 x 8",
        "  blend: 0.75 of the new level + 0.25 of the level below",
    ]
    assert describe(discriminator, 1.25).splitlines()[1:7] == [
        f"  {'image':<64}3 x 16 x 16",
        f"  {'convolution 1x1 3 -> 8, leaky ReLU':<64}8 x 16 x 16",
        f"  {'convolution 3x3 8 -> 8, leaky ReLU':<64}8 x 16 x 16",
        f"  {'fused down 3x3 8 -> 8, leaky ReLU':<64}8 x 8 x 8",
        f"  {'of the level below: convolution 1x1 3 -> 8, leaky ReLU':<64}8 x 8 x 8",
        "  blend: 0.75 of the new level + 0.25 of the level below",
    ]
    text = describe(Discriminator(32, classes=2, fused_scale=False, **NARROW))
    assert "convolution 3x3 4 -> 8, leaky ReLU, pool" in text
    assert "stddev over groups of 4" in text
    assert text.endswith("dense 8 -> 3".ljust(64) + "3")
    assert "blend" not in text
    assert "z, label" in describe(Generator(8, classes=2, **NARROW), 0.5)
    assert all(p.device.type == "cpu" for p in generator.parameters())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (8, ((4, 4), 1)),
        (1024, ((4, 4), 8)),
        (28, ((7, 7), 2)),
        ([48, 80], ((6, 10), 3)),
        ((16, 64), ((4, 16), 2)),
    ],
)
def test_base_grid(size, expected):
    assert base_grid(size) == expected


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        (4, "8x8"),
        (100, "96x96"),
        ([50, 81], "48x80"),
        ([64, 64, 3], "height, width"),
        (0, "height, width"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_sizes_that_can(size, remedy):
    for build in (Generator, Discriminator):
        with pytest.raises(UserError, match=remedy):
            build(size)


def test_wrong_use_is_refused():
    generator, discriminator = Generator(16, **NARROW), Discriminator(16, **NARROW)
    z, y, x = torch.randn(6, 8), torch.zeros(6, dtype=torch.long), torch.randn(6, 3, 16, 16)
    for lod in (-0.1, 2.1):
        with pytest.raises(UserError, match=r"from 0 \(full size\) to 2 \(4x4\)"):
            generator(z, lod=lod)
    with pytest.raises(UserError, match="leave labels out"):
        generator(z, y)
    with pytest.raises(UserError, match="3 classes: give a label"):
        Generator(16, classes=3, **NARROW)(z)
    with pytest.raises(UserError, match=r"\[3, 8, 8\], but these have \[3, 16, 16\]"):
        discriminator(x, 1.5)
    with pytest.raises(UserError, match=r"batch of 6 .* groups of 4.* of 4 or 8"):
        discriminator(x)
    with pytest.raises(UserError, match="increase them"):
        Generator(64, fmap_base=16)
