"""The engine: turns, clipping, the clock, learning rates, the average; options of the model."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same_tensors, checkpoint
from makers.tiny import QUIET, PlainDiscriminator, PlainGenerator, adam, attached, config
from torch import Tensor, nn

from ganzoo.config import make
from ganzoo.draws import bernoulli, censored_normal, normal, uniform
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.models.dcgan import DCGAN, Discriminator, Generator
from ganzoo.nn.losses import Hinge
from ganzoo.train import make_trainer


def sgd(lr: float = 1.0) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def plain(kind: type[DCGAN] = DCGAN, **options: Any) -> DCGAN:
    torch.manual_seed(0)
    options = {"optimizers": {"generator": adam(), "discriminator": adam()}, **options}
    options = {"nz": 8, "total_kimg": 1.0, **options}
    return attached(kind(PlainGenerator(), PlainDiscriminator(), **options))


def batch(n: int = 8, seed: int = 0) -> dict[str, Tensor]:
    return {
        "image": torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    }


def copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {
        key for key, value in module.state_dict().items() if not torch.equal(value, before[key])
    }


# -- turns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_updating_changes_the_named_network_only(name: str) -> None:
    gan = plain()
    before = copy(gan)
    seen = {}
    with gan.updating(name):
        seen = {key: p.requires_grad for key, p in gan.named_parameters()}
        gan.manual_backward(gan.discriminator(gan.generator(torch.randn(8, 8))).mean())
        assert all(
            (p.grad is not None) == key.startswith(name) for key, p in gan.named_parameters()
        )
    assert all(flag == key.startswith(name) for key, flag in seen.items())
    assert changed(gan, before) == {key for key in before if key.startswith(name)}
    assert all(p.grad is None for p in gan.parameters())
    assert all(p.requires_grad != key.startswith("average") for key, p in gan.named_parameters())


def test_updating_restores_after_an_exception_and_does_not_step() -> None:
    gan = plain()
    before = copy(gan)

    def fail() -> None:
        with gan.updating("generator"):
            gan.manual_backward(gan.discriminator(gan.generator(torch.randn(8, 8))).mean())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not changed(gan, before)
    assert all(p.grad is None for p in gan.parameters())
    assert all(p.requires_grad != key.startswith("average") for key, p in gan.named_parameters())
    assert not any(optimizer.state for optimizer in gan.trainer.optimizers)


def test_what_the_user_froze_stays_frozen() -> None:
    gan = plain()
    gan.generator.layers[0].requires_grad_(False)
    gan.discriminator.layers[0].requires_grad_(False)
    before = copy(gan)
    for _ in range(2):
        gan.training_step(batch())
    moved = changed(gan, before)
    assert not any("generator.layers.0" in k or "discriminator.layers.0" in k for k in moved)
    assert any(k.startswith("generator.layers.2") for k in moved)
    assert not any(p.requires_grad for p in gan.generator.layers[0].parameters())
    assert not any(p.requires_grad for p in gan.discriminator.layers[0].parameters())


def test_clipping_limits_the_step() -> None:
    """With SGD at a rate of 1 a step is as long as the gradient."""

    def steps(**options: Any) -> dict[str, float]:
        gan = plain(optimizers={"generator": sgd(), "discriminator": sgd()}, **options)
        before = copy(gan)
        gan.training_step(batch())
        return {
            name: sum(
                (v - before[k]).square().sum() for k, v in gan.state_dict().items() if name in k
            ).sqrt().item()
            for name in ("generator", "discriminator")
        }  # fmt: skip

    free = steps()
    assert free["discriminator"] > 0.2
    clipped = steps(clip={"discriminator": 0.05})
    assert clipped["discriminator"] == pytest.approx(0.05, rel=1e-3)
    assert clipped["generator"] > 1e-3
    assert steps(clip={"discriminator": 1e3})["discriminator"] == free["discriminator"]


def test_the_reported_norm_is_that_of_the_gradient_before_clipping() -> None:
    optimizers = {"generator": sgd(), "discriminator": sgd()}
    gan = plain(optimizers=optimizers)
    before = copy(gan.discriminator)
    gan.training_step(batch())
    length = torch.cat(
        [(v - before[k]).flatten() for k, v in gan.discriminator.state_dict().items()]
    )
    norm = gan.report.drain(gan.device)["gradient_norms/discriminator"]
    assert norm == pytest.approx(length.norm().item(), rel=1e-4)
    gan = plain(optimizers=optimizers, clip={"discriminator": 0.05})
    gan.training_step(batch())
    assert gan.report.drain(gan.device)["gradient_norms/discriminator"] == pytest.approx(
        norm, rel=1e-5
    )


# -- one iteration --------------------------------------------------------------------------------


class Watched(DCGAN):
    """Writes down who was updated, and on what."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.story: list[str] = []
        self.judged: list[Tensor] = []
        self.discriminator.register_forward_hook(lambda _, x, y: self.judged.append(x[0].detach()))
        self.generator.register_forward_hook(lambda *_: self.story.append("fakes"))

    def update(self, name: str, loss: Any, *parts: Any) -> Tensor:
        self.story.append(name)
        return super().update(name, loss, *parts)


def test_the_discriminator_comes_first_and_the_fakes_are_used_twice() -> None:
    gan = plain(Watched)
    real = batch()["image"]
    gan.training_step({"image": real})
    assert gan.story == ["fakes", "discriminator", "generator"]
    first, second, third = gan.judged
    assert torch.equal(first, real)
    assert torch.equal(second, third)
    assert not torch.equal(first, second)


def test_steps_an_iteration() -> None:
    gan = plain(Watched, discriminator_steps=3, generator_steps=2)
    real = batch(24)["image"]
    gan.training_step({"image": real})
    d_step = ["fakes", "discriminator"]
    assert gan.story == [*d_step * 3, "generator", "fakes", "generator"]
    assert torch.equal(torch.cat(gan.judged[0:6:2]), real), "each step has images of its own"
    fakes = [gan.judged[i] for i in (1, 3, 5, 7)]
    assert torch.equal(fakes[2], gan.judged[6]), "the generator's first step has the last fakes"
    assert len({tuple(fake.flatten().tolist()) for fake in fakes}) == 4
    steps = [
        optimizer.state_dict()["state"][0]["step"].item() for optimizer in gan.trainer.optimizers
    ]
    assert dict(zip(gan.turns.networks, steps, strict=True)) == {
        "generator": 2,
        "discriminator": 3,
    }
    assert gan.images_seen == 24
    assert gan.images_before == 0


def test_the_loop_counts_images_and_stops(tmp_path: Path) -> None:
    gan = plain(discriminator_steps=2, total_kimg=0.05)
    cfg = config(*QUIET)
    make_trainer(cfg, tmp_path, 0).fit(gan, datamodule=make(cfg.data))
    assert gan.images_seen == 64, "the first multiple of 2 x 8 that is not below 50"
    assert checkpoint(tmp_path)["ganzoo"]["images_seen"] == 64


def test_a_step_depends_on_seed_and_clock_alone() -> None:
    def weights(seed: int, start: int, noise: int) -> dict[str, Tensor]:
        gan = plain(seed=seed)
        gan.images_seen = start
        torch.manual_seed(noise)
        torch.randn(noise)
        gan.training_step(batch())
        return copy(gan)

    one = weights(0, 0, 1)
    assert_same_tensors(one, weights(0, 0, 2))
    for other in (weights(1, 0, 1), weights(0, 8, 1)):
        assert not torch.equal(one["generator.layers.0.weight"], other["generator.layers.0.weight"])


def test_layers_that_draw_for_themselves_repeat() -> None:
    def weights(noise: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        critic = nn.Sequential(nn.Dropout(0.5), PlainDiscriminator())
        optimizers = {"generator": adam(), "discriminator": adam()}
        gan = attached(DCGAN(PlainGenerator(), critic, nz=8, optimizers=optimizers, total_kimg=1))
        torch.manual_seed(noise)
        gan.training_step(batch())
        return copy(gan)

    assert_same_tensors(weights(1), weights(2))


@pytest.mark.parametrize("prior", [normal, uniform, bernoulli, censored_normal])
def test_priors_reach_training_and_sampling(prior: Any) -> None:
    gan = plain(Watched, prior=prior)
    seen: list[Tensor] = []
    gan.generator.register_forward_pre_hook(lambda _, z: seen.append(z[0]))
    gan.training_step(batch())
    for z in (*seen, gan.latents(range(8))):
        assert z.shape == (8, 8)
        if prior is uniform:
            assert 0.5 < z.abs().max() <= 1
        elif prior is bernoulli:
            assert set(z.flatten().tolist()) == {0.0, 1.0}
        else:
            assert (z.min() == 0) == (prior is censored_normal)
            assert z.max() > 1


def test_accumulation_has_to_divide() -> None:
    gan = plain(accumulate=3)
    with pytest.raises(UserError, match=r"8 images per device .*model\.accumulate=3"):
        gan.training_step(batch())


def test_what_is_not_finite_is_named() -> None:
    gan = plain()
    gan.training_step(batch())
    gan.note(odd=torch.tensor(float("nan")))
    with pytest.raises(UserError, match="odd became nan after 8 images"):
        gan.report.check_finite()


# -- functions of the clock -----------------------------------------------------------------------


def test_learning_rates_follow_the_images_seen() -> None:
    gan = plain(
        optimizers={"generator": sgd(0.5), "discriminator": sgd(0.25)},
        lr_factors={
            "generator": lambda n: min(1, (40 - n) / 32),
            "discriminator": lambda n: n / 32,
        },
    )
    rates = []
    for _ in range(6):
        before = copy(gan)
        gan.training_step(batch())
        rates.append(tuple(gan.turns.learning_rates().values()))
        still = {
            name for name in ("generator", "discriminator") if gan.turns.learning_rates()[name] == 0
        }
        moved = {key.split(".")[0] for key in changed(gan, before)} - {"average"}
        assert moved == {"generator", "discriminator"} - still
    expected = [(0.5 * min(1, (40 - seen) / 32), 0.25 * seen / 32) for seen in range(0, 48, 8)]
    assert sum(rates, ()) == pytest.approx(sum(expected, ()))


def averages(gan: GAN, betas: Callable[[int], float], iterations: int = 6) -> None:
    """The average follows its recursion, computed here in float64."""
    expected = {k: v.double() for k, v in gan.generator.named_parameters()}
    for i in range(iterations):
        gan.training_step(batch(seed=i))
        beta = betas(gan.images_seen)
        for key, value in gan.generator.named_parameters():
            expected[key] = beta * expected[key] + (1 - beta) * value.detach().double()
    assert gan.average is not None
    for key, value in gan.average.named_parameters():
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-7)
    moved = gan.generator.state_dict()
    assert any(not torch.equal(v, moved[k]) for k, v in gan.average.state_dict().items())


def test_average_by_half_life() -> None:
    averages(plain(ema_kimg=0.016, ema_rampup=None), lambda seen: 0.5 ** (8 / 16))


def test_average_ramps_up() -> None:
    averages(plain(ema_kimg=0.016, ema_rampup=0.5), lambda seen: 0.5 ** (8 / min(16, 0.5 * seen)))


def test_average_with_a_fixed_decay() -> None:
    averages(plain(ema_beta=0.9), lambda seen: 0.9)
    averages(plain(ema_beta=0.9, ema_kimg=0), lambda seen: 0.9)


def test_average_starts_late() -> None:
    averages(plain(ema_beta=0.9, ema_start_kimg=0.024), lambda seen: 0.0 if seen <= 24 else 0.9)


def test_without_an_average_the_generator_samples() -> None:
    gan = plain(ema_kimg=0)
    gan.training_step(batch())
    assert gan.average is None
    assert not any(key.startswith("average") for key in gan.state_dict())
    assert torch.equal(gan.sample([1, 2]), gan.sample([1, 2], raw=True))


def test_average_copies_buffers_and_stays_in_eval_mode() -> None:
    torch.manual_seed(0)
    optimizers = {"generator": adam(), "discriminator": adam()}
    networks = Generator(16, nz=8, ngf=4), Discriminator(16, ndf=4)
    gan = attached(DCGAN(*networks, nz=8, optimizers=optimizers, total_kimg=1, ema_beta=0.9))
    for _ in range(3):
        gan.train()
        gan.training_step(batch())
    assert gan.average is not None
    assert gan.generator.training
    assert not any(module.training for module in gan.average.modules())
    theirs = dict(gan.generator.named_buffers())
    assert any(key.endswith("running_mean") for key in theirs)
    for key, value in gan.average.named_buffers():
        assert torch.equal(value, theirs[key]), key
    assert not any(p.requires_grad for p in gan.average.parameters())


# -- options of the model -------------------------------------------------------------------------

LOSSES = [
    ("loss=nonsaturating",),
    ("loss=hinge",),
    ("loss=least_squares",),
    ("loss=wasserstein_gp", "model.discriminator.norm=layer"),
    ("loss=relativistic", "model.discriminator.norm=layer"),
    ("model.r1=1", "model.r2=1", "model.discriminator.norm=none"),
    ("model.augment=null", "model.accumulate=2", "model.clip={generator: 1.0}"),
]


@pytest.mark.parametrize("overrides", LOSSES, ids=lambda o: o[0])
def test_losses_train_every_parameter_of_both_networks(overrides: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    gan = attached(make(config(*overrides).model))
    before = copy(gan)
    for i in range(2):
        gan.training_step(batch(seed=i))
    still = {key for key, _ in gan.named_parameters()} - changed(gan, before)
    if "wasserstein" in overrides[0] or "relativistic" in overrides[0]:
        still -= {"discriminator.score.bias"}  # differences of scores do not see it
    assert not still
    assert set(gan.report.drain(gan.device)) >= {
        *("losses/d_loss", "losses/g_loss"),
        *("logits/real", "logits/fake"),
    }


def run_of(overrides: tuple[str, ...], iterations: int = 4) -> tuple[GAN, list[float]]:
    torch.manual_seed(0)
    gan = attached(make(config("model.augment=null", *overrides).model))
    gan.setup("fit")
    losses: list[float] = []
    for i in range(iterations):
        gan.training_step(batch(seed=i))
        losses += gan.report.drain(gan.device).values()
    return gan, losses


def test_channels_last_is_the_same_run() -> None:
    here, losses = run_of(("model.channels_last=true",))
    there, expected = run_of(("model.channels_last=false",))
    weight = "discriminator.stages.1.0.weight"
    last = torch.channels_last
    assert here.get_parameter(weight).is_contiguous(memory_format=last)
    assert not there.get_parameter(weight).is_contiguous(memory_format=last)
    assert losses == pytest.approx(expected, rel=1e-3)


def test_a_penalty_refuses_a_compiled_discriminator() -> None:
    penalty = ("model.r1=1", "model.discriminator.norm=none")
    with pytest.raises(UserError, match="leave the discriminator out"):
        make(config(*penalty, "model.compile=[generator,discriminator]").model)
    make(config(*penalty, "model.compile=[generator]").model)


@pytest.mark.slow
def test_compiling_changes_neither_results_nor_keys() -> None:
    here, losses = run_of(("model.compile=[generator,discriminator]",), iterations=2)
    there, expected = run_of((), iterations=2)
    assert list(here.state_dict()) == list(there.state_dict())
    assert losses == pytest.approx(expected, rel=1e-3)


def test_compiled_networks_keep_their_keys(monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled.append(self))
    gan, _ = run_of(("model.compile=[generator]",), iterations=1)
    assert compiled == [gan.generator]
    assert not any("_orig_mod" in key for key in gan.state_dict())


def test_the_loss_is_the_one_configured() -> None:
    gan, start = plain(Watched, loss=Hinge()), plain().discriminator
    gan.training_step(batch())
    told = gan.report.drain(gan.device)
    real, fake, _ = gan.judged
    with torch.no_grad():
        d_loss = (1 - start(real)).relu().mean() + (1 + start(fake)).relu().mean()
        g_loss = -gan.discriminator(fake).mean()
    assert told["losses/d_loss"] == pytest.approx(d_loss.item(), rel=1e-5)
    assert told["losses/g_loss"] == pytest.approx(g_loss.item(), rel=1e-5)


def test_dcgan_ignores_labels() -> None:
    trained = []
    for labels in ({}, {"label": torch.arange(8) * 1000}):
        gan = plain()
        gan.training_step(batch() | labels)
        trained.append(copy(gan))
    assert all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())
    assert gan.labels([0]) is None
