"""BigGAN's iteration against its formulae; sampling; several processes; what data it takes."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_same_tensors, in_worlds
from makers.tiny import TINY, adam, attached, config
from makers.worlds import biggan
from torch import Tensor, nn

import ganzoo
from ganzoo.config import make
from ganzoo.data.sources.synthetic import Synthetic
from ganzoo.draws import Draws, bernoulli, integers, unit
from ganzoo.engine.kinds import STANDING
from ganzoo.engine.sampling import class_counts
from ganzoo.errors import UserError
from ganzoo.models.biggan import BigGAN, Discriminator, Generator
from ganzoo.nn.augment import DiffAugment
from ganzoo.nn.losses import Hinge, Relativistic
from ganzoo.train import train_config as train

SCRIPT = str(Path(__file__).parent / "makers" / "worlds.py")
SMALL = [o for o in TINY if not o.startswith("model.")]
NARROW = ("model=biggan", "model.generator.ch=4", "model.generator.nz=12")


def batch(n: int, classes: int = 3, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(n, 3, 16, 16, generator=generator).double() * 2 - 1,
        "label": torch.randint(classes, (n,), generator=generator),
    }


def by_hand(gan: BigGAN, given: dict[str, Tensor], optimizers: dict[str, Any]) -> None:
    """One iteration in the order of the authors' PyTorch code, from its formulae.

    D: for each step the gradients of `accumulate` micro-batches add up, each mean over its part
    divided by their number; reals and fakes are judged in one pass. G alike, with new latents and
    labels. Orthogonal regularization adds to the gradients before the optimizer steps. The average
    takes over parameters and float buffers.
    """
    g, d, parts = gan.generator, gan.discriminator, gan.fitting.fixed
    draws = Draws(gan.seed, "step", gan.images_seen, dtype=torch.float64)
    steps = gan.discriminator_steps
    for real, y in zip(given["image"].chunk(steps), given["label"].chunk(steps), strict=True):
        n = len(real)
        z = draws.rows(n, g.nz)
        y_fake = draws.rows(n, of=integers(gan.classes))
        draws.rows(n, of=unit)  # where a gradient penalty would be taken
        for p in d.parameters():
            p.grad = None
        for x, c, z_, c_ in zip(*(t.chunk(parts) for t in (real, y, z, y_fake)), strict=True):
            fake = g(z_, c_).detach()
            out = d(torch.cat([fake, x]), torch.cat([c_, c]))
            low, high = out[: len(fake)], out[len(fake) :]
            loss = F.relu(1 - high).mean() + F.relu(1 + low).mean()
            gradients = torch.autograd.grad(loss / parts, list(d.parameters()))
            for p, gradient in zip(d.parameters(), gradients, strict=True):
                p.grad = gradient if p.grad is None else p.grad + gradient
        optimizers["discriminator"].step()
    z, y = draws.rows(n, g.nz), draws.rows(n, of=integers(gan.classes))
    total = [torch.zeros_like(p) for p in g.parameters()]
    for z_, c_ in zip(z.chunk(parts), y.chunk(parts), strict=True):
        loss = -d(g(z_, c_), c_).mean()
        for t, gradient in zip(
            total, torch.autograd.grad(loss / parts, list(g.parameters())), strict=True
        ):
            t += gradient
    for (name, p), gradient in zip(g.named_parameters(), total, strict=True):
        if p.dim() > 1 and name != "shared.weight":
            w = p.detach().flatten(1)
            off = w @ w.T * (1 - torch.eye(len(w)).double())
            gradient += gan.orthogonal["generator"] * 2 * (off @ w).view(p.shape)
        p.grad = gradient
    optimizers["generator"].step()
    theirs, ours = g.state_dict(), gan.average.state_dict()
    for name, value in ours.items():
        if value.is_floating_point():
            value.mul_(gan.averaging.beta).add_(theirs[name], alpha=1 - gan.averaging.beta)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_iterations_are_those_of_the_official_code(accumulate: int) -> None:
    gan = attached(biggan(accumulate=accumulate, ema_start_kimg=0.0).double())
    reference = copy.deepcopy(gan)
    optimizers = {
        "generator": adam(0.001, 1e-6)(reference.generator.parameters()),
        "discriminator": adam(0.001, 1e-6)(reference.discriminator.parameters()),
    }
    for i in range(3):
        gan.training_step(batch(16, seed=i))
        by_hand(reference, batch(16, seed=i), optimizers)
        reference.images_seen += 16
    for part in ("generator", "discriminator", "average"):
        ours, theirs = (m.get_submodule(part).state_dict() for m in (gan, reference))
        counted = {k: v for k, v in ours.items() if not k.endswith("num_batches_tracked")}
        assert_same_tensors(counted, {k: theirs[k] for k in counted}, atol=1e-11)


def test_the_average_is_a_copy_until_its_start() -> None:
    gan = attached(biggan(ema_start_kimg=0.016).double())
    gan.training_step(batch(16))
    assert_same_tensors(gan.average.state_dict(), gan.generator.state_dict())
    gan.training_step(batch(16, seed=1))
    first = {k: v.clone() for k, v in gan.average.state_dict().items()}
    assert not torch.equal(first["shared.weight"], gan.generator.state_dict()["shared.weight"])
    assert not torch.equal(first["linear.u"], gan.generator.state_dict()["linear.u"])


def test_buffers_of_the_average_are_copied_unless_averaged() -> None:
    gan = attached(biggan(ema_start_kimg=0.0, ema_buffers=False).double())
    for i in range(2):
        gan.training_step(batch(16, seed=i))
    averaged, own = gan.average.state_dict(), gan.generator.state_dict()
    assert torch.equal(averaged["linear.u"], own["linear.u"])
    assert not torch.equal(averaged["linear.weight"], own["linear.weight"])


def test_hinge_is_zero_beyond_the_margin() -> None:
    hinge = Hinge()
    assert hinge.discriminator(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -9.0])) == 0
    assert hinge.discriminator(torch.tensor([0.5]), torch.tensor([-0.5])) == 1.0
    assert hinge.generator(torch.tensor([2.0, 4.0])) == -3.0


class Recorder(nn.Module):
    """A discriminator that keeps what it was shown."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.classes = inner, inner.classes
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        self.seen.append((images.detach(), y))
        return self.inner(images, y)


def recorded(**options: Any) -> tuple[BigGAN, Recorder]:
    gan = biggan(**options).double()
    recorder = Recorder(gan.discriminator)
    gan.discriminator = recorder
    return attached(gan), recorder


def test_fakes_have_labels_of_their_own_or_those_of_the_reals() -> None:
    given = batch(32)
    halves = [y.tolist() for y in given["label"].chunk(2)]
    gan, recorder = recorded(labels="data")
    gan.training_step(given)
    shown = [y.tolist() for _, y in recorder.seen]
    assert shown == [halves[0] * 2, halves[1] * 2, halves[1]]
    gan, recorder = recorded()
    gan.training_step(given)
    first, second, third = (y.tolist() for _, y in recorder.seen)
    assert [first[16:], second[16:]] == halves
    assert len({tuple(first[:16]), tuple(second[:16]), tuple(third), *map(tuple, halves)}) == 5
    assert set(first[:16]) == {0, 1, 2}


def test_augmentation_is_of_everything_that_is_judged() -> None:
    plain, before = recorded()
    plain.training_step(batch(32))
    gan, recorder = recorded(augment=DiffAugment(color=False, translation=False))
    gan.training_step(batch(32))
    for images, _ in recorder.seen:  # a rectangle of half the sides is cut out of every image
        assert (images == 0).all(1).flatten(1).sum(1).ge(16).all()
    assert not any((images == 0).any() for images, _ in before.seen)


def test_penalties_and_relative_losses_train(recwarn) -> None:
    for options in ({"r1": 1.0}, {"r2": 1.0}, {"gradient_penalty": 10.0}, {"loss": Relativistic()}):
        gan, plain = (attached(biggan(**o).double()) for o in (options, {}))
        for each in (gan, plain):
            each.training_step(batch(16))
        pairs = zip(gan.discriminator.parameters(), plain.discriminator.parameters(), strict=True)
        assert not all(torch.equal(a, b) for a, b in pairs), options


def test_r1_is_of_reals_with_their_labels() -> None:
    gan = biggan(r1=3.0).double().eval()  # so that u does not move between two forwards
    given = batch(4)
    part = (given["image"], given["label"])
    fake = (torch.randn(4, gan.generator.nz).double(), torch.tensor([2, 2, 1, 0]))
    empty = torch.empty(4, 0)
    loss = gan._discriminator_loss(part, fake, empty, empty, torch.rand(4))
    gan.objective.r1 = 0.0
    without = gan._discriminator_loss(part, fake, empty, empty, torch.rand(4))
    x = part[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(gan.discriminator(x, part[1]).sum(), x)
    expected = without + 1.5 * slope.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)


# -- sampling -------------------------------------------------------------------------------------


def settled(**options: Any) -> BigGAN:
    """A model whose BatchNorm has seen a few batches."""
    gan = attached(biggan(**options))
    for i in range(5):
        gan.training_step(
            {k: v.float() if k == "image" else v for k, v in batch(16, seed=i).items()}
        )
    return gan.eval()


def test_each_seed_has_its_image_and_its_class() -> None:
    gan = settled()
    together = gan.sample([5, 6, 7])
    for i, seed in enumerate([5, 6, 7]):
        torch.testing.assert_close(gan.sample([seed])[0], together[i], rtol=0, atol=1e-5)
    labels = gan.labels(range(300))
    assert torch.equal(labels[5:8], gan.labels([5, 6, 7]))
    assert torch.bincount(labels, minlength=3).min() > 80
    y = gan.labels([5])
    assert torch.equal(gan.sample([5], label=int(y)), gan.sample([5]))
    others = [gan.sample([5], label=c) for c in range(3)]
    assert not torch.equal(others[0], others[1])
    z = gan.latents([5])
    assert torch.equal(gan.images(z, labels=y), gan.sample([5]))
    vectors = gan.network().embedded(y)
    assert torch.equal(gan.images(z, labels=vectors), gan.sample([5]))
    assert not torch.equal(gan.sample([5], raw=True), gan.sample([5]))


@pytest.mark.parametrize(
    ("truncate", "largest"), [("resample", 0.5), ("truncated_normal", 1.0), ("scale", None)]
)
def test_truncations(truncate: str, largest: float | None) -> None:
    gan = biggan(truncate=truncate)
    z = torch.cat([gan.latents(range(2000)), gan.latents(range(2000), 0.5)], 1).double()
    free, limited = z.flatten(0).view(2000, 2, -1).unbind(1)
    if largest:
        assert limited.abs().max() <= largest
        assert limited.abs().max() > 0.99 * largest
    expected = {  # standard deviations of the normal cut at 0.5, half that cut at 2, half of all
        "resample": 0.2841,
        "truncated_normal": 0.5 * 0.8796,
        "scale": 0.5,
    }[truncate]
    assert abs(limited.std().item() - expected) < 0.005
    assert abs(free.std().item() - 1) < 0.01
    if truncate == "scale":
        torch.testing.assert_close(limited, free / 2)
    with pytest.raises(UserError, match="above 0"):
        gan.latents([0], 0.0)


def test_priors() -> None:
    gan = biggan(prior=bernoulli)
    assert set(gan.latents(range(10)).unique().tolist()) == {0.0, 1.0}


def test_standing_statistics_are_those_of_the_batches_and_pass() -> None:
    gan = settled()
    before = {k: v.clone() for k, v in gan.state_dict().items()}
    plain = gan.sample([0, 1], truncation=0.3)
    with gan.standing_statistics(0.3, batches=4, size=8):
        standing = gan.sample([0, 1], truncation=0.3)
        again = gan.average.state_dict()
        inside = {k: v.clone() for k, v in again.items() if "running" in k}
    assert not torch.equal(plain, standing)
    assert_same_tensors(gan.state_dict(), before)
    assert not gan.training
    assert torch.equal(gan.sample([0, 1], truncation=0.3), plain)
    with gan.standing_statistics(0.3, batches=4, size=8):
        assert_same_tensors({k: gan.average.state_dict()[k] for k in inside}, inside)

    # The first BatchNorm sees what the first layer makes of the latents: its mean is known.
    seeds = range(STANDING, STANDING + 32)
    network = gan.average
    h = network.linear(gan.latents(seeds, 0.3)[:, : network.piece]).unflatten(1, (-1, 4, 4))
    name = "blocks.0.norm1.norm.running_"
    torch.testing.assert_close(inside[f"{name}mean"], h.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    parts = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in h.split(8)])
    torch.testing.assert_close(inside[f"{name}var"], parts.mean(0), rtol=1e-4, atol=1e-5)


def test_standing_statistics_leave_a_model_in_training_as_it_was() -> None:
    gan = attached(biggan())
    gan.train()
    with pytest.raises(ZeroDivisionError), gan.standing_statistics(raw=True, batches=2, size=4):
        raise ZeroDivisionError
    assert gan.generator.training
    assert all(m.momentum == 0.1 for m in gan.generator.modules() if hasattr(m, "momentum"))


def test_judge_needs_the_label_and_changes_nothing() -> None:
    gan = settled()
    before = {k: v.clone() for k, v in gan.state_dict().items()}
    images = torch.rand(4, 3, 16, 16)
    y = torch.tensor([0, 1, 2, 0])
    logits = gan.logits_of(images, y)
    assert logits.shape == (4,)
    torch.testing.assert_close(
        gan.logits_of(images[2:3], y[2:3])[0], logits[2], rtol=1e-4, atol=1e-4
    )
    assert not torch.equal(gan.logits_of(images, y.flip(0)), logits)
    assert_same_tensors(gan.state_dict(), before)
    with pytest.raises(UserError, match="give labels"):
        gan.logits_of(images)


def test_classes_that_are_not_there_are_refused() -> None:
    gan = biggan()
    for label in (3, -1):
        with pytest.raises(UserError, match=f"no class {label}: this model has 3, from 0 to 2"):
            gan.sample([0], label=label)
    torch.manual_seed(0)
    options = {"classes": 0, "ch": 4, "attention": []}
    free = BigGAN(
        Generator(16, nz=12, **options), Discriminator(16, **options), classes=0,
        optimizers={}, total_kimg=1,
    )  # fmt: skip
    assert free.sample([0, 1]).shape == (2, 3, 16, 16)
    assert free.labels([0]) is None
    with pytest.raises(UserError, match="no classes: sample without a label"):
        free.sample([0], label=0)


def test_power_iteration_takes_a_step_at_least() -> None:
    with pytest.raises(UserError, match="sn_iterations must be a whole number from 1"):
        make(config("model=biggan", "model.generator.sn_iterations=0", tiny=False).model)


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data.source.classes=1", "model.classes=1"], "All images are of one class, 'class 0'"),
        (
            ["data.source.classes=5", "model.classes=10"],
            "The data has 5 classes, but the model has 10: set model.classes=5",
        ),
        (
            ["data.source.classes=5", "model.classes=3"],
            "The data has 5 classes, but the model has 3: set model.classes=5",
        ),
        (["data.source.classes=0", "model.classes=10"], "the data has no labels.*model.classes=0"),
        (["data.source.classes=0"], "synthetic has no labels.*model.classes=0"),
    ],
)
def test_data_that_does_not_fit_is_refused(overrides, sentence, tmp_path) -> None:
    cfg = config(*SMALL, *NARROW, *overrides, f"run_dir={tmp_path}", tiny=False)
    with pytest.raises(UserError, match=sentence):
        train(cfg)


def test_the_number_of_classes_is_the_datas() -> None:
    for given in ("data.source.classes=3", "data.source.classes=7"):
        cfg = config(*SMALL, *NARROW, given, "data.source.num=70", tiny=False)
        assert cfg.model.classes == cfg.model.generator.classes == int(given[-1])
    cfg = config(*SMALL, *NARROW, "data.only=[class 1,class 4]", tiny=False)
    assert cfg.model.classes == 2


def test_one_class_in_a_folder_names_it() -> None:
    with pytest.raises(UserError, match=r"one class, 'cats': .*the folder above them"):
        class_counts(torch.zeros(5, dtype=torch.long), ["cats", "dogs"], 2)


def test_shares_of_classes_follow_the_data(tmp_path) -> None:
    options = ["model.labels=data", "data.source.num=24", "data.source.classes=10"]
    gan = train(config(*SMALL, *NARROW, *options, f"run_dir={tmp_path}", tiny=False))
    counts = torch.bincount(Synthetic(24, 16).labels(), minlength=10)
    torch.testing.assert_close(gan.class_shares, counts / 24)
    loaded = ganzoo.load(tmp_path)
    assert loaded.class_names == [f"class {i}" for i in range(10)]
    drawn = torch.bincount(loaded.labels(range(3000)), minlength=10) / 3000
    torch.testing.assert_close(drawn, counts / 24, rtol=0, atol=0.02)
    expected = gan.cpu().eval().sample([0, 1])
    torch.testing.assert_close(loaded.sample([0, 1]), expected, rtol=0, atol=1e-5)


# -- several processes, resume --------------------------------------------------------------------

WORLDS = ("biggan_float64", "biggan_vectors", "biggan_straight", "biggan_resumed")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Results of BigGAN's scenarios in `worlds.py`, by world size and rank."""
    return in_worlds(tmp_path_factory.mktemp("worlds"), SCRIPT, *WORLDS)


def test_two_processes_equal_one(result) -> None:
    assert_same_tensors(result("biggan_float64", 1), result("biggan_float64", 2), atol=1e-11)


def test_vectors_are_equal_on_all_ranks_without_being_averaged(result) -> None:
    first, second = (result("biggan_vectors", 2, rank) for rank in (0, 1))
    assert len(first) > 20
    assert_same_tensors(first, second)


@pytest.mark.parametrize("world", [1, 2])
def test_resume_is_exact(result, world: int) -> None:
    assert_same_tensors(result("biggan_straight", world), result("biggan_resumed", world))
