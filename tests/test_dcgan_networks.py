import pytest
import torch
from torch import nn

from ganzoo.errors import UserError
from ganzoo.models.dcgan.capacity import CapacityDiscriminator, CapacityGenerator
from ganzoo.models.dcgan.deep import DeepDiscriminator, DeepGenerator
from ganzoo.models.dcgan.networks import Discriminator, Generator, base_grid
from ganzoo.nn.losses import differentiable, zero_centered_penalty

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)

# Narrow networks of every kind, by image size and channels.
GENERATORS = [
    lambda size, nc: Generator(size, nc, nz=8, ngf=2),
    lambda size, nc: Generator(size, nc, nz=8, ngf=2, kernel=5, projection=True),
    lambda size, nc: DeepGenerator(size, nc, nz=8, ngf=2),
    lambda size, nc: CapacityGenerator(size, nc, nz=8, ngf=2),
]
DISCRIMINATORS = [
    lambda size, nc: Discriminator(size, nc, ndf=2),
    lambda size, nc: Discriminator(size, nc, ndf=2, kernel=5),
    lambda size, nc: DeepDiscriminator(size, nc, ndf=2),
    lambda size, nc: CapacityDiscriminator(size, nc, ndf=2),
]
SIZES = [(16, 1), (28, 1), (32, 4), (64, 3), (128, 1), ([48, 80], 3), ([80, 48], 4)]


def count(net):
    return sum(p.numel() for p in net.parameters())


def floats_in_buffers(net):
    return sum(b.numel() for b in net.buffers() if b.is_floating_point())


@pytest.mark.parametrize(
    ("generator", "discriminator", "published"),
    [
        (lambda: Generator(64), lambda: Discriminator(64), (3_576_704, 2_765_568)),
        (lambda: Generator(64, nc=1), lambda: Discriminator(64, nc=1), (3_574_656, 2_763_520)),
        (
            lambda: Generator(64, ngf=128),
            lambda: Discriminator(64, ndf=128),
            (12_658_432, 11_036_160),
        ),
        (
            lambda: Generator(64, ngf=128, kernel=5, projection=True, eps=1e-8),
            lambda: Discriminator(64, ndf=128, kernel=5, eps=1e-8),
            (18_885_760, 17_232_768),
        ),
        (DeepGenerator, DeepDiscriminator, (3_812_355, 2_931_009)),
        (CapacityGenerator, CapacityDiscriminator, (487_731, 815_569)),
    ],
    ids=["example", "gray", "wide", "paper", "deep", "capacity"],
)
def test_parameter_counts_are_the_published_ones(generator, discriminator, published):
    with torch.device("meta"):
        assert (count(generator()), count(discriminator())) == published


def test_keras_counts_of_running_statistics():
    assert floats_in_buffers(CapacityGenerator()) == 4_352
    assert floats_in_buffers(CapacityDiscriminator()) == 960


@pytest.mark.parametrize(("size", "nc"), SIZES, ids=str)
@pytest.mark.parametrize("build", GENERATORS, ids=["example", "paper", "deep", "capacity"])
def test_generators_make_images(build, size, nc):
    generator = build(size, nc)
    height, width = (size, size) if isinstance(size, int) else size
    images = generator(100 * torch.randn(2, 8))
    assert images.shape == (2, nc, height, width)
    assert images.abs().max() <= 1
    z = torch.randn(2, 8)
    generator.eval()
    assert torch.equal(generator(z[:, :, None, None]), generator(z))


@pytest.mark.parametrize(("size", "nc"), SIZES, ids=str)
@pytest.mark.parametrize("build", DISCRIMINATORS, ids=["example", "paper", "deep", "capacity"])
def test_discriminators_give_one_logit_per_image(build, size, nc):
    height, width = (size, size) if isinstance(size, int) else size
    discriminator = build(size, nc)
    assert discriminator(torch.randn(3, nc, height, width)).shape == (3,)
    discriminator.eval()
    assert discriminator(torch.randn(1, nc, height, width)).shape == (1,)


def test_logits_are_not_squashed():
    discriminator = Discriminator(16, ndf=2, norm="none")
    images = torch.randn(4, 3, 16, 16)
    logits = discriminator(images)
    # Without biases (they start at 0) the network is homogeneous: no sigmoid at its end.
    torch.testing.assert_close(discriminator(1000 * images), 1000 * logits)


def shapes(net, x, kinds):
    """(channels, height, width) after every layer of the given kinds, in order."""
    seen = []
    for module in net.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape[1:])))
    net(x)
    return seen


def test_layer_table_of_the_64_pixel_networks():
    up = [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]
    down = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (1, 1, 1)]
    generator, discriminator = Generator(64), Discriminator(64)
    assert shapes(generator, torch.randn(2, 100), CONVOLUTIONS) == up
    assert shapes(discriminator, torch.randn(2, 3, 64, 64), CONVOLUTIONS) == down
    convolutions = [m for m in generator.modules() if isinstance(m, CONVOLUTIONS)]
    assert [(m.kernel_size, m.stride, m.padding) for m in convolutions] == [
        ((4, 4), (1, 1), (0, 0)),
        *[((4, 4), (2, 2), (1, 1))] * 4,
    ]
    convolutions = [m for m in discriminator.modules() if isinstance(m, CONVOLUTIONS)]
    assert [(m.kernel_size, m.stride, m.padding) for m in convolutions] == [
        *[((4, 4), (2, 2), (1, 1))] * 4,
        ((4, 4), (1, 1), (0, 0)),
    ]
    for net in (generator, discriminator):
        assert all(m.bias is None for m in net.modules() if isinstance(m, CONVOLUTIONS))
    # No BatchNorm on the generator's image nor on the discriminator's first layer.
    norms = shapes(Generator(64, ngf=2), torch.randn(2, 100), nn.BatchNorm2d)
    assert [s[1] for s in norms] == [4, 8, 16, 32]
    norms = shapes(Discriminator(64, ndf=2), torch.randn(2, 3, 64, 64), nn.BatchNorm2d)
    assert [s[1] for s in norms] == [16, 8, 4]


def test_layer_tables_of_the_deep_and_capacity_networks():
    with_linear = (*CONVOLUTIONS, nn.Linear)
    assert shapes(DeepGenerator(), torch.randn(2, 128), with_linear) == [
        (8192,),
        (256, 8, 8),
        (128, 16, 16),
        (64, 32, 32),
        (3, 32, 32),
    ]
    assert shapes(DeepDiscriminator(), torch.randn(2, 3, 32, 32), with_linear) == [
        (64, 32, 32),
        (64, 16, 16),
        (128, 16, 16),
        (128, 8, 8),
        (256, 8, 8),
        (256, 4, 4),
        (512, 4, 4),
        (1,),
    ]
    assert shapes(CapacityGenerator(), torch.randn(2, 100), with_linear) == [
        (2048,),
        (64, 8, 8),
        (32, 16, 16),
        (16, 32, 32),
        (16, 64, 64),
        (3, 64, 64),
    ]
    assert shapes(CapacityDiscriminator(), torch.randn(2, 3, 64, 64), with_linear) == [
        (16, 64, 64),
        (16, 32, 32),
        (32, 32, 32),
        (32, 16, 16),
        (64, 16, 16),
        (64, 8, 8),
        (128, 8, 8),
        (128, 4, 4),
        (1,),
    ]


def test_activations():
    def of(net):
        kinds = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)
        return [str(m).replace("inplace=True", "") for m in net.modules() if isinstance(m, kinds)]

    relu, tanh = "ReLU()", "Tanh()"
    assert (
        of(Generator(16, ngf=2)) == of(Generator(16, ngf=2, projection=True)) == [relu] * 2 + [tanh]
    )
    assert of(Discriminator(16, ndf=2)) == ["LeakyReLU(negative_slope=0.2, )"] * 2
    assert of(DeepGenerator(16, ngf=2)) == [relu] * 2 + [tanh]
    assert of(DeepDiscriminator(16, ndf=2)) == [relu] * 5
    leaky = "LeakyReLU(negative_slope=0.3, )"
    assert of(CapacityGenerator(16, ngf=2)) == [leaky] * 2 + [tanh]
    assert of(CapacityDiscriminator(16, ndf=2)) == [leaky] * 2


def test_pooling_is_a_sum_in_the_deep_and_a_mean_in_the_capacity_network():
    deep, capacity = (
        DeepDiscriminator(16, ndf=2).eval(),
        CapacityDiscriminator(16, ndf=2).eval(),
    )
    for net, pooled in ((deep, 16.0), (capacity, 1.0)):
        net.stages = nn.Identity()
        net.score = nn.Identity()
        torch.testing.assert_close(net(torch.ones(2, 1, 4, 4)), torch.full((2,), pooled))


@pytest.mark.parametrize(
    "net",
    [
        Generator(32, ngf=32),
        Generator(32, ngf=32, kernel=5, projection=True),
        Discriminator(32, ndf=32),
    ],
    ids=["generator", "projection", "discriminator"],
)
def test_initial_weights_of_the_paper(net):
    gains = []
    for module in net.modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and module.weight.numel() > 2000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert module.weight.mean().abs() < 0.002
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            gains.append(module.weight.detach())
            assert not module.bias.any()
    assert torch.cat(gains).mean().item() == pytest.approx(1, abs=0.01)
    assert torch.cat(gains).std().item() == pytest.approx(0.02, rel=0.25)


def test_initial_weights_of_the_others():
    weight = DeepDiscriminator(ndf=8).stages[1][0].weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(16), rtol=0, atol=1e-5)
    layer = CapacityDiscriminator(ndf=8).stages[1][0]
    bound = (6 / (25 * (8 + 16))) ** 0.5
    assert 0.95 * bound < layer.weight.abs().max() <= bound
    for net in (DeepGenerator(ngf=2), CapacityGenerator(ngf=2)):
        assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))


def test_eps_and_momentum_reach_every_norm():
    def of(net):
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
        return {(m.eps, m.momentum) for m in net.modules() if isinstance(m, kinds)}

    assert of(Generator(16, ngf=2)) == of(Discriminator(16, ndf=2)) == {(1e-5, 0.1)}
    paper = Generator(16, ngf=2, projection=True, eps=1e-8)
    assert of(paper) == of(Discriminator(16, ndf=2, eps=1e-8)) == {(1e-8, 0.1)}
    assert of(DeepGenerator(ngf=2)) == of(DeepDiscriminator(ndf=2)) == {(1e-4, 0.1)}
    keras = {(1e-3, 0.01)}
    assert of(CapacityGenerator(ngf=2)) == of(CapacityDiscriminator(ndf=2)) == keras


@pytest.mark.parametrize("build", [Discriminator, DeepDiscriminator])
@pytest.mark.parametrize(("norm", "independent"), [("batch", 0), ("layer", 1), ("none", 1)])
def test_images_are_judged_alone_unless_normalized_by_batch(build, norm, independent):
    torch.manual_seed(0)
    discriminator = build(16, ndf=4, norm=norm)
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(images)[0], images)
    assert gradient[0].any()
    assert gradient[1:].any() == (not independent)


def test_convolutions_have_biases_exactly_where_nothing_normalizes():
    plain, layered = Discriminator(16, ndf=2, norm="none"), Discriminator(16, ndf=2, norm="layer")
    assert all(m.bias is not None for m in plain.modules() if isinstance(m, nn.Conv2d))
    assert all(m.bias is None for m in layered.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_penalty_can_be_differentiated_twice(norm):
    discriminator = Discriminator(16, ndf=2, norm=norm)
    images = torch.randn(2, 3, 16, 16)
    zero_centered_penalty(*differentiable(discriminator, images)).backward()
    assert all(m.weight.grad.any() for m in discriminator.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (16, ((4, 4), 2)),
        (64, ((4, 4), 4)),
        (1024, ((4, 4), 8)),
        (28, ((7, 7), 2)),
        ([48, 80], ((3, 5), 4)),
        ((16, 64), ((4, 16), 2)),
    ],
)
def test_base_grid(size, expected):
    assert base_grid(size) == expected


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        (100, "96x96"),
        (30, "28x28"),
        (8, "12x12"),
        ([50, 81], "48x80"),
        ([36, 64], "32x64"),
        ([64, 64, 3], "height, width"),
        (0, "height, width"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_sizes_that_can(size, remedy):
    for build in (Generator, Discriminator, DeepGenerator, CapacityDiscriminator):
        with pytest.raises(UserError, match=remedy):
            build(size)


def test_unknown_norm_is_refused():
    with pytest.raises(UserError, match="one of batch, layer, none"):
        Discriminator(16, norm="instance")


def test_wrong_image_size_does_not_pass_unseen():
    with pytest.raises(RuntimeError):
        Discriminator(16, ndf=2)(torch.randn(2, 3, 32, 32))
