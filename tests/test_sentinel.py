"""Runs that fail are named for what they are, healthy ones left alone, and going back is exact."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same_tensors, checkpoint, run, train_command
from makers.memorizer import Memorizer
from makers.photos import write_crops
from makers.tiny import TINY, config
from makers.worlds import cyclegan, pairs
from torch import Tensor

from ganzoo.callbacks.sentinel import Sentinel
from ganzoo.config import make
from ganzoo.engine.gan import GAN
from ganzoo.errors import NotFinite, UserError
from ganzoo.loggers.csv import read_rows
from ganzoo.models.dcgan import DCGAN
from ganzoo.nn.losses import (
    Hinge,
    LeastSquares,
    NonSaturating,
    Relativistic,
    Wasserstein,
    loss_at_chance,
)
from ganzoo.train import make_trainer
from ganzoo.train import train_config as train

pytestmark = pytest.mark.usefixtures("no_curves")
LRS = tuple(f"model.optimizers.{name}.lr" for name in ("generator", "discriminator"))
HEALTHY = (0.0005, 0.0005)
SPECTRA = "_target_:ganzoo.callbacks.spectra.Spectra,every_kimg:0.04"
ONCE = {"target": "test_sentinel.Once", "every_kimg": 0.04}

DCGAN_KEYS = ("data=emoji", "model.generator.ngf=16", "model.discriminator.ndf=16", "total_kimg=8")
BIGGAN = (
    *("data=emoji", "image_size=32", "batch_size=16", "model.classes=9", "total_kimg=16"),
    *("model.generator.ch=4", "model.generator.nz=16", "model.generator.shared=16"),
    "model.generator.attention=[16]",
)
PGGAN = (
    *("data=emoji", "image_size=16", "loss=nonsaturating", "total_kimg=16"),
    *(
        "model.growth.train_kimg=3",
        "model.growth.fade_kimg=2",
        "model.growth.batch_sizes={4:16,8:16,16:16}",
    ),
    *("model.generator.fmap_base=256", "model.generator.fmap_max=32"),
    *("model.discriminator.fmap_base=256", "model.discriminator.fmap_max=32"),
)


class Breaks(NonSaturating):
    """A loss that is NaN once, at the generator's step number `at`."""

    calls, at = 0, 70

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        Breaks.calls += 1
        return super().generator(fake) * (math.nan if Breaks.calls == self.at else 1)


class Once(Sentinel):
    """Sees a collapse after 400 images, unless the run has gone back."""

    def find(self, gan: GAN, *_: Any) -> dict[str, str]:
        healthy = gan.rollbacks or gan.images_seen < 400
        return {"collapse": "" if healthy else "seen"}


def keys_of(*keys: str, lrs: tuple[float, float] = HEALTHY, **options: Any) -> list[str]:
    """Of a run of 2,000 images through small networks without BatchNorm."""
    target = options.pop("target", "ganzoo.callbacks.sentinel.Sentinel")
    given = ",".join([f"_target_:{target}", *(f"{key}:{value}" for key, value in options.items())])
    return [
        "total_kimg=2",
        "~callbacks.grid",
        "~callbacks.ticks",
        "callbacks.save.every_kimg=1",
        *(f"{key}={lr}" for key, lr in zip(LRS, lrs, strict=True)),
        f"callbacks.spectra={{{SPECTRA}}}",
        f"callbacks.sentinel={{{given}}}",
        *keys,
    ]


def trained(run_dir: Path, *keys: str, **options: Any) -> GAN:
    cfg = config(f"run_dir={run_dir}", *keys_of(*keys, **options))
    cfg.model.generator = {"_target_": "makers.tiny.PlainGenerator"}
    cfg.model.discriminator = {"_target_": "makers.tiny.PlainDiscriminator"}
    return train(cfg)


def told(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "warnings.json"
    return json.loads(path.read_text()) if path.is_file() else []


# -- what is named ---------------------------------------------------------------------------------

FAST = ((), (0.05, 0.05), "spectrum explodes")  # a hundred times the learning rates of HEALTHY
STRONG = (("model.augment=null",), (0.000005, 0.01), "discriminator wins")


@pytest.mark.parametrize("loss", ["nonsaturating", "hinge", "least_squares"])
@pytest.mark.parametrize("failure", ["fast", "strong"])
def test_failures_are_named_rightly_within_a_fifth_of_the_run(loss, failure, tmp_path) -> None:
    keys, lrs, name = {"fast": FAST, "strong": STRONG}[failure]
    with pytest.raises(UserError, match=f"Stopped by the sentinel after .* {name}: ") as stopped:
        trained(tmp_path, f"loss={loss}", *keys, lrs=lrs, action="stop")
    (alarm,) = told(tmp_path)
    assert alarm["alarm"] == name
    assert alarm["images_seen"] <= 0.2 * 2000
    assert alarm["action"] == "stop"
    log = (tmp_path / "train.log").read_text()
    assert f"sentinel at {alarm['images_seen'] / 1000:.1f} kimg: {name}: {alarm['saw']}" in log
    assert "action=warn" in str(stopped.value)
    assert not (tmp_path / "done").exists()
    rows = read_rows(tmp_path / "metrics.csv")
    assert float(rows[-1]["sentinel/alarms"]) == 1


def test_penalties_are_no_part_of_what_a_discriminator_loses(tmp_path, monkeypatch) -> None:
    losses = []

    def discriminator_loss(self: GAN, *logits: Tensor) -> Tensor:
        losses.append(loss_of(self, *logits))
        return losses[-1]

    loss_of = GAN.discriminator_loss
    monkeypatch.setattr(GAN, "discriminator_loss", discriminator_loss)
    gan = trained(tmp_path, "model.r1=1000", "total_kimg=0.2", every_kimg=0.2)
    (row,) = read_rows(tmp_path / "metrics.csv")
    mean = (
        torch.stack(losses[1:]).detach().mean() / gan.loss_at_chance
    )  # the first is the preflight's
    assert float(row["sentinel/d_loss"]) == pytest.approx(float(mean), rel=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_healthy_runs_raise_no_alarm(seed, tmp_path) -> None:
    loss = ["nonsaturating", "hinge", "least_squares", "relativistic", "wasserstein_gp"][seed % 5]
    penalty = ["loss.gradient_penalty=10"] if loss == "wasserstein_gp" else []
    trained(tmp_path, f"seed={seed}", f"loss={loss}", "total_kimg=1", *penalty)
    assert told(tmp_path) == []
    assert "sentinel" not in (tmp_path / "train.log").read_text()
    rows = [row for row in read_rows(tmp_path / "metrics.csv") if row.get("sentinel/growth")]
    assert len(rows) == 25, "each time that singular values were logged"
    assert (tmp_path / "done").exists()


def test_a_generator_that_stops_varying_is_seen(tmp_path, monkeypatch) -> None:
    images_of = DCGAN.images

    def same(self: GAN, *given: Any) -> Tensor:
        images = images_of(self, *given)
        return images[:1].expand_as(images) if self.images_seen >= 1000 else images

    monkeypatch.setattr(DCGAN, "images", same)
    trained(tmp_path, "total_kimg=1.2", every_kimg=0.04)
    (alarm,) = told(tmp_path)
    assert alarm["alarm"] == "diversity gone"
    assert alarm["images_seen"] == 1080  # the third look


def test_memorization_is_reported_and_does_not_stop_the_run(tmp_path) -> None:
    photos = write_crops(tmp_path / "photos")
    data = ("data=folder", f"data.root={photos}", "data.source.held_out=0.5")
    keys = [key for key in (*TINY, *keys_of(*data, "data.workers=0", action="stop"))]
    unwanted = ("data=synthetic", "data.source.num=40", "callbacks.accuracy=null")
    keys = [key for key in keys if key not in unwanted]
    often = ("callbacks.accuracy.every_kimg=0.08", "callbacks.accuracy.num=20")
    cfg = config(f"run_dir={tmp_path / 'run'}", *keys, *often, "total_kimg=0.2", tiny=False)
    cfg.model.generator = {"_target_": "makers.tiny.PlainGenerator"}
    cfg.model.discriminator = {"_target_": "makers.memorizer.Memorizer"}
    Memorizer.known = make(cfg.data).source.__getitems__(list(range(12)))["image"]
    train(cfg)
    assert [(a["alarm"], a["action"]) for a in told(tmp_path / "run")] == [("memorization", "warn")]
    assert (tmp_path / "run" / "done").exists()


def test_an_alarm_is_raised_again_only_when_it_was_over(tmp_path, monkeypatch) -> None:
    bad = [*range(3, 9), *range(12, 14), *range(20, 25)]  # looks
    sentences = ({"collapse": "seen" if look in bad else ""} for look in range(50))
    monkeypatch.setattr(Sentinel, "find", lambda *_: next(sentences))
    trained(tmp_path, every_kimg=0.04)
    assert [alarm["images_seen"] for alarm in told(tmp_path)] == [6 * 40, 23 * 40]


def test_both_discriminators_of_a_cyclegan_are_watched(tmp_path) -> None:
    cfg = config(f"run_dir={tmp_path}", *keys_of(every_kimg=0.02))
    gan = cyclegan(total_kimg=0.2, loss=LeastSquares(), lr=0.001)
    trainer = make_trainer(cfg, tmp_path, 0)
    trainer.fit(gan, datamodule=pairs())
    sentinel = next(c for c in trainer.callbacks if isinstance(c, Sentinel))
    assert sentinel.history.least_shares.keys() == {"A", "B"}
    row = read_rows(tmp_path / "metrics.csv")[-1]
    assert "sentinel/d_loss" in row
    assert "sentinel/diversity" not in row
    assert gan.loss_at_chance == 0.25, "halved, as the loss is"


WIDE = {  # discriminators that a generator of the sizes above has no chance against
    "dcgan": (),
    "biggan": ("model.discriminator.ch=16", "total_kimg=32"),
    "pggan": (
        *("model.discriminator.fmap_base=1024", "model.discriminator.fmap_max=128"),
        "total_kimg=32",
    ),
}
REAL = [
    ("dcgan", DCGAN_KEYS, (2e-4, 2e-4)),
    ("biggan", BIGGAN, (2e-4, 2e-4)),
    ("pggan", PGGAN, (1e-3, 1e-3)),
]


def watched(run_dir: Path, model: str, *keys: str, **options: Any) -> Any:
    """The config of a run of real networks."""
    base = [key for key in TINY if key.startswith(("callbacks", "logger", "trainer"))]
    given = keys_of("callbacks.spectra.every_kimg=0.16", *keys, **options)
    return config(f"run_dir={run_dir}", f"model={model}", *base, *given, tiny=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_ten_healthy_runs_of_real_networks(seed, tmp_path) -> None:
    model, keys, lrs = REAL[seed % 3]
    train(watched(tmp_path, model, *keys, f"seed={seed}", lrs=lrs))
    assert told(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "failure", "name", "share"),
    [
        ("dcgan", "fast", "spectrum explodes", 0.2),
        ("pggan", "fast", "diversity gone", 0.3),  # its equalized weights do not explode
        # Nor do those of a BigGAN, under spectral norm: its failure by speed has no name.
        ("dcgan", "strong", "discriminator wins", 0.2),
        ("biggan", "strong", "discriminator wins", 0.2),
        ("pggan", "strong", "discriminator wins", 0.2),
    ],
)
def test_failures_of_real_networks(model, failure, name, share, tmp_path) -> None:
    """On emoji: a hundred times the learning rates, or a discriminator that is far too strong."""
    keys, lrs = next((keys, lrs) for known, keys, lrs in REAL if known == model)
    if failure == "fast":
        rates: tuple[float, float] = (100 * lrs[0], 100 * lrs[1])
    else:
        keys = (*keys, "model.augment=null", "model.discriminator_steps=4", *WIDE[model])
        rates = (lrs[0] / 1000, lrs[1] * 5)
    cfg = watched(tmp_path, model, *keys, lrs=rates, action="stop")
    with pytest.raises(UserError, match="Stopped by the sentinel"):
        train(cfg)
    alarm = told(tmp_path)[0]
    assert alarm["alarm"] == name, alarm
    assert alarm["images_seen"] <= share * 1000 * cfg.total_kimg


# -- going back ------------------------------------------------------------------------------------


def test_a_run_that_goes_back_has_other_draws_from_there_on(tmp_path) -> None:
    gan = trained(tmp_path / "back", "total_kimg=1", **ONCE, action="rollback")
    assert gan.rollbacks == 1
    (alarm,) = told(tmp_path / "back")
    assert (alarm["images_seen"], alarm["action"], alarm["rollbacks"]) == (480, "rollback", 0)
    log = (tmp_path / "back" / "train.log").read_text()
    assert "rollback 1: back to 0.3 kimg, with other random numbers" in log
    assert (tmp_path / "back" / "done").exists()
    seen = [int(row["images_seen"]) for row in read_rows(tmp_path / "back" / "metrics.csv")]
    assert seen == sorted(seen)
    assert len(seen) == len(set(seen)) == 25, "what came before going back is dropped"

    trained(tmp_path / "plain", "total_kimg=1", **ONCE)
    before, after = (checkpoint(tmp_path / name) for name in ("plain", "back"))
    assert not torch.equal(*(c["state_dict"]["generator.layers.0.weight"] for c in (before, after)))


@pytest.mark.parametrize("stops", [(0.44, 0.6), (0.32, 0.36, 0.84)])
def test_resume_is_exact_before_and_after_going_back(stops, tmp_path) -> None:
    options = {**ONCE, "action": "rollback"}
    trained(tmp_path / "straight", "total_kimg=1", **options)
    for total in (*stops, 1):
        trained(tmp_path / "resumed", f"total_kimg={total}", **options)
    straight, resumed = (checkpoint(tmp_path / name) for name in ("straight", "resumed"))
    assert straight["ganzoo"]["rollbacks"] == resumed["ganzoo"]["rollbacks"] == 1
    for part in ("state_dict", "optimizer_states"):
        assert_same_tensors(straight[part], resumed[part])
    assert told(tmp_path / "straight") == told(tmp_path / "resumed")


def test_the_good_checkpoint_is_of_before_the_first_sign(tmp_path) -> None:
    with pytest.raises(UserError, match=r"good\.ckpt was written before that"):
        trained(tmp_path, **ONCE, action="stop")
    good = torch.load(tmp_path / "good.ckpt", weights_only=True)["ganzoo"]["images_seen"]
    assert good == 320  # looks were fine at 320 and 360
    assert checkpoint(tmp_path)["ganzoo"]["images_seen"] == 480


def test_after_the_last_rollback_the_run_stops(tmp_path) -> None:
    with pytest.raises(UserError, match="Stopped by the sentinel"):
        trained(tmp_path, lrs=(0.05, 0.05), action="rollback", rollbacks=2)
    alarms = told(tmp_path)
    assert [a["rollbacks"] for a in alarms] == [0, 1, 2]
    assert [a["action"] for a in alarms] == ["rollback", "rollback", "stop"]


def test_going_back_from_nan(tmp_path) -> None:
    Breaks.calls = 0
    options = {"every_kimg": 0.04, "action": "rollback"}
    loss = "loss.function._target_=test_sentinel.Breaks"
    gan = trained(tmp_path / "back", loss, "total_kimg=1", **options)
    assert gan.rollbacks == 1
    (alarm,) = told(tmp_path / "back")
    assert alarm["alarm"] == "not finite"
    assert (
        alarm["saw"] == "gradient_norms/generator became nan after 544 images"
    )  # 69 steps, and one of the preflight
    Breaks.calls = 0
    with pytest.raises(NotFinite, match="gradient_norms/generator became nan"):
        trained(tmp_path / "warned", loss, "total_kimg=1", every_kimg=0.04)
    assert told(tmp_path / "warned")[0]["alarm"] == "not finite"


def test_two_processes_go_back_together(tmp_path) -> None:
    keys = keys_of("total_kimg=0.6", **ONCE, action="rollback")
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "sync_batchnorm=true")
    done = run(train_command(tmp_path, *keys, *ddp), processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("back to 0.3 kimg") == 1
    assert checkpoint(tmp_path)["ganzoo"]["rollbacks"] == 1
    assert (tmp_path / "done").exists()


# -- what is measured ------------------------------------------------------------------------------


def test_watching_does_not_change_the_run(tmp_path) -> None:
    trained(tmp_path / "with", "total_kimg=0.2", action="stop")
    trained(tmp_path / "without", "total_kimg=0.2", "callbacks.sentinel=null")
    one, other = checkpoint(tmp_path / "with"), checkpoint(tmp_path / "without")
    for part in ("state_dict", "optimizer_states"):
        assert_same_tensors(one[part], other[part])


def test_a_resumed_run_sees_what_a_straight_one_does(tmp_path) -> None:
    options = {"every_kimg": 0.04}
    trained(tmp_path / "straight", "total_kimg=0.6", **options)
    for total in (0.16, 0.184, 0.6):  # at a look, and between two
        trained(tmp_path / "resumed", f"total_kimg={total}", **options)
    straight, resumed = (
        read_rows(tmp_path / name / "metrics.csv") for name in ("straight", "resumed")
    )
    assert len(straight) == 15
    assert straight == resumed


def test_loss_at_chance_by_hand() -> None:
    two = 2 * math.log(2)
    for loss, value in ((NonSaturating(), two), (Hinge(), 2), (LeastSquares(), 0.5)):
        assert loss_at_chance(loss) == pytest.approx(value)
    assert loss_at_chance(Relativistic()) == pytest.approx(math.log(2))
    assert loss_at_chance(Wasserstein()) is None


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(UserError, match="action must be one of warn, stop, rollback"):
        make(
            config(
                "callbacks.sentinel={_target_:ganzoo.callbacks.sentinel.Sentinel,action:panic}"
            ).callbacks.sentinel,
            "action",
        )
