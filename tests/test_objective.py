"""The objective against its formula: penalties, their scale, augmentation, and its checks."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from makers.shared import KINDS
from torch import Tensor, nn

from ganzoo import train
from ganzoo.draws import Draws
from ganzoo.errors import UserError
from ganzoo.nn.augment import DiffAugment
from ganzoo.nn.losses import Hinge, LeastSquares, Relativistic, Wasserstein
from ganzoo.nn.objective import Judged, Objective

MORE = {
    "dcgan": ["model.discriminator.norm=none"],
    "biggan": ["model.discriminator_steps=1"],
    "cyclegan": ["model.discriminator.layers=1", "model.lr_factors=null"],
    "pggan": ["++model.growth.batch_sizes={4: 2, 8: 2, 16: 2}"],
}


def scores(weight: float) -> Callable[[Tensor], Tensor]:
    """A discriminator w/2 |x|^2 of each image, whose gradient is w x."""
    return lambda images: weight / 2 * images.square().sum((1, 2, 3))


def penalized(objective: Objective, real: Tensor, fake: Tensor, *given: object) -> Tensor:
    """7 and penalties of a discriminator, which is 2/2 |x|^2 of reals and -3/2 |x|^2 of fakes."""
    strength = given[1] if len(given) > 1 else 1.0
    reals = objective.reals(scores(2.0), real, strength)
    fakes = objective.fakes(scores(-3.0), fake, strength)
    loss = torch.tensor(7.0, dtype=torch.float64)
    return objective.penalized(loss, reals, fakes, *given)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_penalties_are_added_with_their_weights(scale: float) -> None:
    real, fake = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    mix = torch.rand(4, dtype=torch.float64)
    objective = Objective(
        Wasserstein(), gradient_penalty=10.0, r1=3.0, r2=5.0, target=2.0, scale=scale
    )
    found = penalized(objective, real, fake, mix)

    between = real + mix[:, None, None, None] * (fake - real)
    norms = 2 * between.flatten(1).norm(dim=1)
    expected = 10 * ((norms - 2) ** 2).mean() / 4
    expected += 3 / 2 * (2 * real).flatten(1).norm(dim=1).square().mean()
    expected += 5 / 2 * (3 * fake).flatten(1).norm(dim=1).square().mean()
    torch.testing.assert_close(found, 7 + scale * expected)


def test_without_penalties_no_gradient_is_taken() -> None:
    def never(images: Tensor) -> Tensor:
        raise AssertionError

    loss, images = torch.tensor(1.0), torch.zeros(2, 3, 2, 2)
    judged = Judged(images, loss, never)
    assert Objective(Hinge()).penalized(loss, judged, judged, loss) is loss


@pytest.mark.parametrize("autocast", [False, True])
def test_zero_centered_penalties_share_the_pass_of_the_loss(autocast: bool) -> None:
    """In float32; the gradients of all weights are those of passes of their own."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.GroupNorm(1, 4), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 1),
    )  # fmt: skip
    real, fake, mix = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.rand(4)
    objective = Objective(Relativistic(), r1=3.0, r2=5.0)
    passes = []
    counting = network.register_forward_hook(lambda *_: passes.append(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        reals, fakes = objective.reals(network, real), objective.fakes(network, fake)
        loss = objective.loss.discriminator(reals.logits, fakes.logits)
        objective.penalized(loss, reals, fakes, mix).backward()
    counting.remove()
    assert len(passes) == (4 if autocast else 2)
    if autocast:
        return  # gradients of bf16 are rounded differently each time
    found = [p.grad.clone() for p in network.parameters()]

    network.zero_grad()
    torch.nn.functional.softplus(network(fake) - network(real)).mean().backward()
    for images, gamma in ((real, 3.0), (fake, 5.0)):
        images = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        (gamma / 2 * slope.square().sum() / len(images)).backward()
    for ours, plain in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(ours, plain.grad)


def test_reals_are_asked_for_by_relative_losses_only() -> None:
    weight = torch.ones((), requires_grad=True)
    logits = Objective(Relativistic()).real_logits(lambda: weight * 2)
    assert logits == 2
    assert not logits.requires_grad
    assert Objective(Hinge()).real_logits(lambda: 1 / 0) is None


def test_loss_at_chance_has_the_scale_of_the_loss() -> None:
    assert Objective(LeastSquares(), scale=0.5).at_chance == 0.25
    assert Objective(Wasserstein()).at_chance is None


def test_augmentation_draws_and_applies() -> None:
    images = torch.randn(3, 3, 8, 8)
    plain, augmented = Objective(Hinge()), Objective(Hinge(), augment=DiffAugment())
    assert plain.draw(Draws(0), 3).shape == (3, 0)
    assert plain.augmented(images, plain.draw(Draws(0), 3)) is images
    u = augmented.draw(Draws(0), 3)
    assert torch.equal(u, DiffAugment().draw(Draws(0), 3))
    assert torch.equal(augmented.augmented(images, u), DiffAugment()(images, u))


@pytest.mark.parametrize("penalty", ["gradient_penalty", "r1", "r2"])
def test_penalties_refuse_batchnorm_and_compilation(penalty: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    objective = Objective(Hinge(), **{penalty: 1.0})
    with pytest.raises(UserError, match="BatchNorm mixes"):
        objective.check_batchnorm(network)
    for name in ("discriminator", "discriminator.A"):
        with pytest.raises(UserError, match="cannot differentiate a network twice"):
            objective.check_compiled(["generator", name])
    objective.check_batchnorm(network[0])
    objective.check_compiled(["generator"])
    Objective(Hinge()).check_batchnorm(network)
    Objective(Hinge()).check_compiled(["discriminator"])


def test_a_penalty_has_the_strength_of_the_moment() -> None:
    real, fake = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    mix = torch.rand(4, dtype=torch.float64)
    weights = {"gradient_penalty": 10.0, "r1": 3.0, "r2": 5.0, "scale": 0.5}
    objective = Objective(Wasserstein(), **weights)
    always, thrice, never = (penalized(objective, real, fake, mix, s) for s in (1, 3, 0))
    torch.testing.assert_close(thrice - 7, 3 * (always - 7))
    assert never == 7


@pytest.mark.parametrize("model", ["dcgan", "pggan", "biggan", "cyclegan"])
def test_penalties_come_every_third_iteration_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """A resumed run goes on counting."""
    strengths = {}

    def penalized(self: Objective, *given: object) -> object:
        gan = sys._getframe(1).f_locals["self"]
        strengths[gan.images_seen] = given[4]
        return given[0]

    monkeypatch.setattr(Objective, "penalized", penalized)
    keys = [*KINDS[model], *MORE.get(model, []), "model.r1=1", "model.penalty_every=3",
            "batch_size=2", "image_size=16", "trainer=cpu", "logger=none", f"run_dir={tmp_path}",
            *(f"callbacks.{name}=null" for name in ("grid", "logits", "metrics", "accuracy",
                                                    "spectra", "sentinel", "page"))]  # fmt: skip
    train(*keys, total_kimg=0.006)
    assert strengths == {0: 3, 2: 0, 4: 0}
    train(*keys, total_kimg=0.01)
    assert strengths == {0: 3, 2: 0, 4: 0, 6: 3, 8: 0}
