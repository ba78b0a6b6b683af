"""CycleGAN's iteration against its formulae; growing images; translation and options."""

from functools import partial
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from makers.tiny import config
from makers.worlds import cyclegan, fit, pairs
from torch import Tensor, nn

from ganzoo.config import make
from ganzoo.engine.kinds import only_from_seeds
from ganzoo.errors import UserError
from ganzoo.models.cyclegan import CycleGAN, PatchDiscriminator, ResNetGenerator
from ganzoo.nn.losses import NonSaturating, Relativistic, Wasserstein
from ganzoo.schedules.growth import Growth
from ganzoo.schedules.images import EpochDecay

IN_TURN = ["generator.AtoB", "discriminator.B", "generator.BtoA", "discriminator.A"]
D_FIRST = ["discriminator.A", "discriminator.B", "generator"]


# -- one iteration, written down anew -------------------------------------------------------------


class Reference:
    """The authors' iteration, their names: G_A makes B, D_A judges B; G_B and D_B the converse."""

    def __init__(self, gan: CycleGAN) -> None:
        self.modules = {
            "G_A": gan.generator["AtoB"],
            "G_B": gan.generator["BtoA"],
            "D_A": gan.discriminator["B"],
            "D_B": gan.discriminator["A"],
        }
        self.weights = {
            name: {k: v.detach().clone().requires_grad_() for k, v in m.named_parameters()}
            for name, m in self.modules.items()
        }
        self.moments: dict[tuple[str, str], tuple[Tensor, Tensor, int]] = {}

    def net(self, name: str, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.modules[name], self.weights[name], x)

    def adam(self, loss: Tensor, *names: str, lr: float = 2e-4) -> None:
        """Kingma and Ba 2015, algorithm 1, with beta 0.5 and 0.999 and an epsilon of 1e-8."""
        keys = [(name, key) for name in names for key in self.weights[name]]
        gradients = torch.autograd.grad(loss, [self.weights[n][k] for n, k in keys])
        with torch.no_grad():
            for (name, key), g in zip(keys, gradients, strict=True):
                m, v, t = self.moments.get((name, key), (torch.zeros(()), torch.zeros(()), 0))
                m, v, t = 0.5 * m + 0.5 * g, 0.999 * v + 0.001 * g**2, t + 1
                self.moments[name, key] = m, v, t
                step = lr * (m / (1 - 0.5**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                self.weights[name][key] -= step

    def generator_loss(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fake_b, fake_a = self.net("G_A", a), self.net("G_B", b)
        loss = ((self.net("D_A", fake_b) - 1) ** 2).mean() + (
            (self.net("D_B", fake_a) - 1) ** 2
        ).mean()
        loss = loss + 10 * (self.net("G_B", fake_b) - a).abs().mean()
        loss = loss + 10 * (self.net("G_A", fake_a) - b).abs().mean()
        loss = loss + 5 * (self.net("G_A", b) - b).abs().mean()
        loss = loss + 5 * (self.net("G_B", a) - a).abs().mean()
        return loss, fake_b.detach(), fake_a.detach()

    def discriminator_loss(self, name: str, real: Tensor, fake: Tensor) -> Tensor:
        real_loss = ((self.net(name, real) - 1) ** 2).mean()
        return 0.5 * (real_loss + (self.net(name, fake) ** 2).mean())

    def step(self, a: Tensor, b: Tensor, order: list[str]) -> list[float]:
        losses = []
        if order == D_FIRST:
            fake_b, fake_a = self.net("G_A", a).detach(), self.net("G_B", b).detach()
            for name, real, fake in (("D_B", a, fake_a), ("D_A", b, fake_b)):
                losses.append(self.discriminator_loss(name, real, fake))
                self.adam(losses[-1], name)
            losses.append(self.generator_loss(a, b)[0])
            self.adam(losses[-1], "G_A", "G_B")
        elif order == IN_TURN:
            _, fake_b, _ = self.update_one(a, b, "G_A", losses)
            losses.append(self.discriminator_loss("D_A", b, fake_b))
            self.adam(losses[-1], "D_A")
            _, _, fake_a = self.update_one(a, b, "G_B", losses)
            losses.append(self.discriminator_loss("D_B", a, fake_a))
            self.adam(losses[-1], "D_B")
        else:
            loss, fake_b, fake_a = self.generator_loss(a, b)
            self.adam(loss, "G_A", "G_B")
            d_loss = self.discriminator_loss("D_A", b, fake_b)
            d_loss = d_loss + self.discriminator_loss("D_B", a, fake_a)
            self.adam(d_loss, "D_A", "D_B")
            losses += [loss, d_loss]
        return [loss.item() for loss in losses]

    def update_one(self, a: Tensor, b: Tensor, name: str, losses: list[Tensor]) -> Any:
        found = self.generator_loss(a, b)
        self.adam(found[0], name)
        losses.append(found[0])
        return found


@pytest.mark.parametrize("order", [["generator", "discriminator"], D_FIRST, IN_TURN])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_iterations_are_the_authors(order: list[str], accumulate: int, tmp_path: Path) -> None:
    """Three iterations: losses and every weight, pool off, in float64."""
    gan = cyclegan(0.012, order=order, pool=0, accumulate=accumulate).double()
    reference = Reference(gan)
    batches, losses = watch(gan)
    fit(tmp_path, gan, "precision=64-true", data=pairs())
    expected = [reference.step(batch["A"], batch["B"], order) for batch in batches[1:]]
    assert len(expected) == 3
    for name, module in reference.modules.items():
        for key, value in module.named_parameters():
            ours, theirs = value.detach(), reference.weights[name][key].detach()
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, msg=f"{name} {key}")
    for ours, theirs in zip(losses[1:], expected, strict=True):
        assert list(ours) == [f"{name}_loss" for name in order]
        for (name, value), other in zip(ours.items(), theirs, strict=True):
            if not name.startswith("generator."):  # by itself it leaves out what it cannot change
                assert float(value) == pytest.approx(other, rel=1e-10)


def watch(gan: CycleGAN) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """The batches and losses of each iteration to come; the preflight's is the first."""
    batches, losses, step = [], [], gan.step

    def watched(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batches.append({k: v.clone() for k, v in batch.items()})
        losses.append(step(batch))
        return losses[-1]

    gan.step = watched  # type: ignore[method-assign]
    return batches, losses


class Constant(nn.Module):
    """A discriminator of one opinion."""

    def __init__(self, channels: int = 3, value: float = 0.5) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, images: Tensor) -> Tensor:
        return self.value.expand(len(images), 1, 3, 3)


class Tint(nn.Module):
    """A generator that adds a number."""

    def __init__(self, inputs: int = 3, outputs: int = 3, value: float = 0.25) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.value


def noted(gan: CycleGAN, tmp_path: Path) -> dict[str, float]:
    """What the first iteration reports."""
    reported = {}
    check = gan.report.check_finite

    def remember() -> None:
        for _, values in gan.report._unread:
            for name, value in values.items():
                reported.setdefault(name.removeprefix("losses/"), float(value))
        check()

    gan.report.check_finite = remember  # type: ignore[method-assign]
    fit(tmp_path, gan, data=pairs())
    return reported


def known(**options: Any) -> CycleGAN:
    adam = partial(torch.optim.Adam, lr=1e-3)
    return CycleGAN(
        Tint,
        Constant,
        optimizers={"generator": adam, "discriminator": adam},
        image_size=16,
        total_kimg=0.004,
        ema_kimg=0,
        **options,
    )


def test_losses_have_their_weights(tmp_path: Path) -> None:
    seen = noted(known(lambda_a=10.0, lambda_b=4.0, order=["discriminator", "generator"]), tmp_path)
    assert seen["A_loss"] == seen["B_loss"] == pytest.approx(0.25)  # (0.25 + 0.25) / 2
    assert seen["discriminator_loss"] == pytest.approx(0.5)
    assert seen["cycle_A_loss"] == pytest.approx(10 * 0.5)
    assert seen["cycle_B_loss"] == pytest.approx(4 * 0.5)
    assert seen["identity_A_loss"] == pytest.approx(0.5 * 10 * 0.25)
    assert seen["identity_B_loss"] == pytest.approx(0.5 * 4 * 0.25)
    assert seen["AtoB_loss"] == pytest.approx(0.25, abs=0.01)  # D has made a step by then
    parts = [v for k, v in seen.items() if k.startswith(("cycle", "identity", "AtoB", "BtoA"))]
    assert seen["generator_loss"] == pytest.approx(sum(parts), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "d_loss", "g_loss"),
    [
        (NonSaturating(), 0.5 * (log(1 + exp(0.5)) + log(1 + exp(-0.5))), log(1 + exp(-0.5))),
        (Wasserstein(), 0.0, -0.5),
        (Relativistic(), 0.5 * log(2), log(2)),
    ],
)
def test_other_losses(loss, d_loss, g_loss, tmp_path: Path) -> None:
    seen = noted(known(loss=loss, lambda_identity=0.0), tmp_path)
    assert seen["A_loss"] == pytest.approx(d_loss)
    assert seen["BtoA_loss"] == pytest.approx(g_loss)
    assert not any(name.startswith("identity") for name in seen)


def test_a_gradient_penalty_is_halved_like_the_loss(tmp_path: Path) -> None:
    """Where scores are flat, the penalty is (0 - 1)^2."""

    class Flat(Constant):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + 0 * images.mean()

    gan = known(loss=Wasserstein(), gradient_penalty=10.0)
    gan.discriminator["A"], gan.discriminator["B"] = Flat(), Flat()
    seen = noted(gan, tmp_path)
    assert seen["discriminator_loss"] == pytest.approx(0.5 * 10 + 0.5 * 10)
    assert seen["A_loss"] == seen["B_loss"] == 0


# -- growing images -------------------------------------------------------------------------------


def growing(total_kimg: float = 0.08) -> CycleGAN:
    """8x8 over 16 images, 16x16 fading in over 32, then whole; batches of 8, then of 4."""
    growth = Growth(16, 0.016, 0.032, batch_size=4, batch_sizes={8: 8}, initial_resolution=8)
    return cyclegan(total_kimg, growth=growth, pool=6)


def test_images_grow(tmp_path: Path) -> None:
    gan, shown = growing(), []
    batches, _ = watch(gan)
    gan.generator["AtoB"].register_forward_pre_hook(
        lambda _, given: shown.append((gan.images_seen, given[0].detach().clone()))
    )
    fit(tmp_path, gan, data=pairs())
    stages = [0, 17, 48]  # tried twice each before the run
    assert [seen for seen, _ in shown[: 3 * 2 * 3]] == [n for n in stages for _ in range(2 * 3)]
    run, batches = shown[3 * 2 * 3 :: 3], batches[6:]  # images of A; then fakes of A, and B
    assert [seen for seen, _ in run] == [0, 8, 16, *range(24, 80, 4)]
    for (seen, images), batch in zip(run, batches, strict=True):
        small = F.avg_pool2d(batch["A"], 2)
        if seen <= 16:
            expected = small
        else:
            weight = min(1.0, (seen - 16) / 32)
            coarse = F.interpolate(small, scale_factor=2, mode="nearest")
            expected = weight * batch["A"] + (1 - weight) * coarse
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)
    assert gan.lod == 0
    assert gan.stages() == {80: "16x16"}


def test_penalties_are_those_of_full_size_images() -> None:
    growth = Growth(16, 0.016, 0.032, initial_resolution=8)
    gan = cyclegan(growth=growth, pool=0, r1=2.0).double()
    gan.report.note = lambda *_: None  # type: ignore[method-assign]
    assert gan.lod == 1
    real, fake = torch.rand(3, 3, 8, 8).double(), torch.rand(3, 3, 8, 8).double()
    given = (["A"], {"A": real}, {"A": fake}, torch.rand(3, 1).double())
    loss = gan._discriminator_loss(*given)
    gan.objective.r1 = 0.0
    penalty = loss - gan._discriminator_loss(*given)
    large = F.interpolate(real, scale_factor=2, mode="nearest").requires_grad_()
    (slope,) = torch.autograd.grad(gan.discriminator["A"](F.avg_pool2d(large, 2)).sum(), large)
    expected = 0.5 * slope.square().sum((1, 2, 3)).mean()  # r1 / 2, halved like the loss
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)


def test_what_grows_translates_and_judges_at_its_size() -> None:
    gan = growing()
    assert gan.stages() == {0: "8x8", 17: "16x16 fading in", 48: "16x16"}
    images = torch.rand(2, 3, 17, 20)
    large = gan.translate(images)
    assert large.shape == images.shape
    whole = torch.rand(1, 3, 16, 16)
    boxes = gan.translate(whole)[..., ::2, ::2]
    torch.testing.assert_close(boxes, gan.generator["AtoB"](F.avg_pool2d(whole, 2)))
    expected = gan.discriminator["B"](F.avg_pool2d(whole, 2)).mean().reshape(1)
    torch.testing.assert_close(gan.logits_of(whole, domain="B"), expected)


# -- the rest of the contract ---------------------------------------------------------------------


def test_translation_and_judgement() -> None:
    torch.manual_seed(0)
    gan = CycleGAN(
        partial(ResNetGenerator, ngf=2, blocks=1, dropout=0.5),
        partial(PatchDiscriminator, ndf=2, layers=1),
        optimizers={},
        channels_a=1,
        channels_b=4,
        image_size=[16, 24],
        lambda_identity=0.0,
        total_kimg=1,
        ema_kimg=0,
    ).train()
    assert gan.directions == ("AtoB", "BtoA")
    assert gan.pools["A"].images.shape == (50, 1, 16, 24)
    assert gan.pools["B"].images.shape == (50, 4, 16, 24)
    gray, colors = torch.rand(2, 1, 33, 18), torch.rand(2, 4, 20, 16)
    assert gan.translate(gray).shape == (2, 4, 33, 18)
    assert gan.translate(colors, "BtoA").shape == (2, 1, 20, 16)
    assert torch.equal(gan.translate(gray), gan.translate(gray))  # without dropout
    assert gan.generator["AtoB"].training
    torch.testing.assert_close(gan.translate(gray)[:1], gan.translate(gray[:1]))
    expected = gan.discriminator["A"](gray).mean((1, 2, 3))
    torch.testing.assert_close(gan.logits_of(gray, domain="A"), expected)
    assert gan.logits_of(colors, domain="B").shape == (2,)
    with pytest.raises(UserError, match="does not translate BtoC: use AtoB or BtoA"):
        gan.translate(gray, "BtoC")
    with pytest.raises(UserError, match=r"BtoA takes images with 4 channel\(s\), not 1"):
        gan.translate(gray, "BtoA")
    with pytest.raises(UserError, match=r"python -m ganzoo\.translate"):
        only_from_seeds(gan)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"order": ["generator"]}, "does not update every network exactly once"),
        ({"order": ["generator", "discriminator", "discriminator.A"]}, "exactly once"),
        ({"channels_b": 1}, r"set model\.lambda_identity=0"),
        ({"discriminator_steps": 2}, "once per iteration"),
        ({"order": ["generator", "critic"]}, "every network exactly once|names a network 'critic'"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        cyclegan(**options)


def test_other_networks_are_chosen_by_name() -> None:
    """As the documentation says."""
    networks = "ganzoo.models.cyclegan"
    cfg = config(
        "model=cyclegan",
        f"model.generator._target_={networks}.UNetGenerator",
        "~model.generator.blocks",
        "model.generator.halvings=5",
        "model.generator.ngf=2",
        f"model.discriminator._target_={networks}.PixelDiscriminator",
        "~model.discriminator.layers",
        "loss=wasserstein_gp",
        "channels=1",
        "model.channels_b=4",
        "model.lambda_identity=0",
        "image_size=[32,64]",
        tiny=False,
    )
    gan = make(cfg.model)
    assert gan.translate(torch.rand(1, 1, 32, 64)).shape == (1, 4, 32, 64)
    assert gan.logits_of(torch.rand(1, 4, 32, 64), domain="B").shape == (1,)
    assert gan.objective.gradient_penalty == 10


def test_penalties_want_images_judged_alone() -> None:
    with pytest.raises(UserError, match=r"discriminator\.norm to none .* instance"):
        CycleGAN(
            partial(ResNetGenerator, ngf=2, blocks=1),
            partial(PatchDiscriminator, ndf=2, norm="batch"),
            optimizers={},
            gradient_penalty=10.0,
            total_kimg=1,
        )


def test_parts_have_the_options_of_the_whole() -> None:
    gan = cyclegan(order=IN_TURN, clip={"generator": 1.0, "discriminator.A": 2.0})
    assert list(gan.turns.networks) == IN_TURN
    assert gan.turns.clip == {"generator.AtoB": 1.0, "generator.BtoA": 1.0, "discriminator.A": 2.0}
    assert len(gan.configure_optimizers()) == 4


@pytest.mark.parametrize(
    ("early", "rates"),
    [
        (False, {1: 2, 100: 2, 101: 1.98020, 150: 1.00990, 199: 0.0396040, 200: 0.0198020}),
        (True, {1: 2, 99: 2, 100: 1.98020, 149: 1.00990, 199: 0.0198020, 200: 0}),
    ],
)
def test_the_learning_rate_of_the_authors(early: bool, rates: dict[int, float]) -> None:
    """In units of 1e-4; of horse2zebra, 200 epochs of 1334 images."""
    factor = EpochDecay(266.8, early=early)
    for epoch, rate in rates.items():
        first, last = (epoch - 1) * 1334, epoch * 1334 - 1
        for images in (first, last):
            assert 2 * factor(images) == pytest.approx(rate, rel=1e-5, abs=1e-12)
    with pytest.raises(UserError, match="no length"):
        EpochDecay(1, epochs=100)
