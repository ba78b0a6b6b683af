import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from ganzoo.errors import UserError
from ganzoo.nn.losses import (
    Hinge,
    LeastSquares,
    Loss,
    NonSaturating,
    Relativistic,
    Wasserstein,
    differentiable,
    gradient_penalty,
    zero_centered_penalty,
)

LOSSES: list[Loss] = [NonSaturating(), Hinge(), LeastSquares(), Wasserstein(), Relativistic()]


def logits(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def double(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def mlp(seed=0):
    """A smooth discriminator of 2x3x3 images that has a curvature, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(18, 5), nn.Tanh(), nn.Linear(5, 1)).double()


@pytest.mark.parametrize("shape", [(7,), (4, 1, 3, 3)])
def test_nonsaturating_is_binary_cross_entropy(shape):
    real, fake = logits(*shape), logits(*shape, seed=1)
    bce = F.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(shape), torch.zeros(shape)
    expected = bce(real, ones) + bce(fake, zeros)
    torch.testing.assert_close(NonSaturating().discriminator(real, fake), expected)
    torch.testing.assert_close(NonSaturating().generator(fake), bce(fake, ones))


def test_nonsaturating_survives_huge_logits():
    huge = torch.tensor([1e4, -1e4], requires_grad=True)
    NonSaturating().generator(huge).backward()
    torch.testing.assert_close(huge.grad, torch.tensor([0.0, -0.5]))


def test_hinge_is_zero_beyond_the_margins_only():
    beyond = torch.tensor([1.0, 1.5, 40.0])
    assert Hinge().discriminator(beyond, -beyond) == 0
    assert Hinge().discriminator(beyond - 0.75, -beyond) == pytest.approx((0.75 + 0.25) / 3)
    assert Hinge().discriminator(beyond, -beyond + 0.75) == pytest.approx((0.75 + 0.25) / 3)
    assert Hinge().generator(torch.tensor([2.0, -3.0])) == 0.5


def test_least_squares_is_mean_squared_error():
    real, fake = logits(6), logits(6, seed=1)
    expected = F.mse_loss(real, torch.ones(6)) + F.mse_loss(fake, torch.zeros(6))
    torch.testing.assert_close(LeastSquares().discriminator(real, fake), expected)
    torch.testing.assert_close(LeastSquares().generator(fake), F.mse_loss(fake, torch.ones(6)))


def test_wasserstein_is_the_difference_of_means():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([4.0, 8.0, 0.0])
    assert Wasserstein().discriminator(real, fake) == 2
    assert Wasserstein().generator(fake) == -4


def test_relativistic_pairs_each_real_with_its_fake():
    real, fake = logits(6), logits(6, seed=1)
    bce = F.binary_cross_entropy_with_logits
    loss = Relativistic()
    torch.testing.assert_close(loss.discriminator(real, fake), bce(real - fake, torch.ones(6)))
    torch.testing.assert_close(loss.generator(fake, real), bce(fake - real, torch.ones(6)))
    assert loss.discriminator(real, fake) != loss.discriminator(real, fake.flip(0))


def test_relativistic_refuses_what_cannot_be_paired():
    with pytest.raises(UserError, match="equal size"):
        Relativistic().discriminator(logits(4), logits(1))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_gradients(loss):
    real, fake = double(5).requires_grad_(), double(5, seed=1).requires_grad_()
    assert gradcheck(loss.discriminator, (real, fake))
    assert gradcheck(lambda fake, real: loss.generator(fake, real), (fake, real))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_step_of_either_player_moves_logits_its_way(loss):
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    up, down = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    assert (up < 0).all()
    assert (down >= 0).all()
    (wish,) = torch.autograd.grad(loss.generator(fake, real), fake)
    assert (wish < 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_only_relative_losses_depend_on_reals_in_the_generators_turn(loss):
    real, fake = logits(4).requires_grad_(), logits(4, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss.generator(fake, real), real, allow_unused=True)
    assert (gradient is not None) == loss.relative


@pytest.mark.parametrize("target", [1.0, 750.0])
def test_gradient_penalty_of_a_linear_discriminator(target):
    weight = double(2, 3, 3)
    real, fake, mix = double(4, 2, 3, 3, seed=1), double(4, 2, 3, 3, seed=2), torch.rand(4)
    penalty = gradient_penalty(lambda x: (x * weight).sum((1, 2, 3)), real, fake, mix, target)
    expected = (weight.square().sum().sqrt() - target) ** 2 / target**2
    torch.testing.assert_close(penalty, expected)


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1, 1)])
def test_gradient_penalty_looks_between_real_and_fake_image_by_image(shape):
    real, fake = torch.zeros(4, 1, 1, 1), torch.full((4, 1, 1, 1), 2.0)
    mix = torch.tensor([0.0, 0.25, 0.5, 0.75])
    seen = []

    def discriminator(images):  # its gradient is the image itself
        seen.append(images)
        return images.square().sum((1, 2, 3)) / 2

    penalty = gradient_penalty(discriminator, real, fake, mix.view(shape))
    torch.testing.assert_close(seen[0].flatten(), 2 * mix)
    torch.testing.assert_close(penalty, (2 * mix - 1).square().mean())


def input_gradients(discriminator, images, step=1e-6):
    """Central differences, [N, C*H*W]."""
    columns = []
    for i in range(images[0].numel()):
        nudge = torch.zeros_like(images).flatten(1)
        nudge[:, i] = step
        nudge = nudge.view_as(images)
        with torch.no_grad():
            up, down = discriminator(images + nudge), discriminator(images - nudge)
        columns.append((up - down).flatten() / (2 * step))
    return torch.stack(columns, 1)


def test_penalties_agree_with_finite_differences():
    net, real, fake = mlp(), double(3, 2, 3, 3), double(3, 2, 3, 3, seed=1)
    mix = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    middle = torch.stack([r + m * (f - r) for r, f, m in zip(real, fake, mix, strict=True)])
    norms = input_gradients(net, middle).square().sum(1).sqrt()
    expected = (norms - 2).square().mean() / 4
    torch.testing.assert_close(gradient_penalty(net, real, fake, mix, target=2.0), expected)
    expected = input_gradients(net, real).square().sum(1).mean()
    torch.testing.assert_close(zero_centered_penalty(*differentiable(net, real)), expected)


def test_penalties_can_be_differentiated_by_the_weights():
    net, real, fake, mix = mlp(), double(3, 2, 3, 3), double(3, 2, 3, 3, seed=1), torch.rand(3)
    names, weights = zip(*net.named_parameters(), strict=True)

    def discriminator(weights):
        return lambda images: functional_call(
            net, dict(zip(names, weights, strict=True)), (images,)
        )

    # All but the last bias, which the gradient by the image does not depend on.
    assert gradcheck(
        lambda *w: gradient_penalty(discriminator((*w, weights[-1])), real, fake, mix), weights[:-1]
    )
    assert gradcheck(
        lambda *w: zero_centered_penalty(*differentiable(discriminator((*w, weights[-1])), real)),
        weights[:-1],
    )


def test_zero_centered_penalty_of_a_quadratic():
    images = double(5, 2, 3, 3)
    penalty = zero_centered_penalty(
        *differentiable(lambda x: 3 * x.square().sum((1, 2, 3)), images)
    )
    torch.testing.assert_close(penalty, 36 * images.square().sum((1, 2, 3)).mean())


def test_penalties_sum_over_maps_of_patches():
    images = double(5, 1, 4, 4)
    penalty = zero_centered_penalty(*differentiable(lambda x: x.square() / 2, images))
    torch.testing.assert_close(penalty, images.square().sum((1, 2, 3)).mean())


def test_gradient_penalty_of_a_flat_discriminator_is_finite():
    weight = torch.zeros(1, requires_grad=True)
    images = torch.randn(2, 1, 2, 2)
    penalty = gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), images, -images, torch.rand(2)
    )
    penalty.backward()
    assert penalty == 1
    assert weight.grad.isfinite().all()


def test_penalties_leave_images_without_gradient_and_ignore_autocast():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 1))
    dtypes = []
    net.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    real, fake = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        low = gradient_penalty(net, real, fake, torch.tensor([0.5, 0.5]))
        low = low + zero_centered_penalty(*differentiable(net, fake.bfloat16()))
        low.backward()
    assert dtypes == [torch.float32, torch.float32]
    assert low.dtype == torch.float32
    assert fake.grad is None
    assert net[0].weight.grad.abs().sum() > 0


def test_gradient_penalty_needs_a_fake_for_each_real():
    images = torch.randn(2, 1, 2, 2)
    with pytest.raises(UserError, match="equal size"):
        gradient_penalty(mlp(), images, images[:1], torch.rand(2))
