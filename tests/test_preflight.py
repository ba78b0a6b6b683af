"""The preflight and the dry run: nothing of a run is changed by rehearsing it."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from conftest import assert_same_tensors, tensors
from lightning.pytorch.callbacks import Callback as LightningCallback
from makers.tiny import QUIET, config

from ganzoo.config import make
from ganzoo.engine.gan import GAN
from ganzoo.engine.preflight import Preflight
from ganzoo.models.dcgan import DCGAN
from ganzoo.train import make_trainer
from ganzoo.train import train_config as train


class Snapshot(LightningCallback):
    """All there is to know of a run when `on_train_start` reaches this callback."""

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
        self.state = {k: v.clone() for k, v in tensors([gan.state_dict(), optimizers]).items()}
        self.groups = [[dict(g) for g in o["param_groups"]] for o in optimizers]
        self.pointers = [p.data_ptr() for p in gan.parameters()]
        self.rest = (
            (gan.images_seen, gan.images_before, trainer.global_step, trainer.should_stop),
            [p.requires_grad for p in gan.parameters()],
            [p.grad for p in gan.parameters()],
            [module.training for module in gan.modules()],
        )


def test_the_preflight_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    steps = []
    step = DCGAN.step

    def counted(self: DCGAN, real: Any) -> Any:
        steps.append(self.images_seen)
        return step(self, real)

    monkeypatch.setattr(DCGAN, "step", counted)
    for total_kimg, start in ((0.024, 0), (0.048, 24)):
        cfg = config(*QUIET, f"total_kimg={total_kimg}", "model.augment=null")
        torch.manual_seed(0)
        gan = make(cfg.model)
        trainer = make_trainer(cfg, tmp_path, 0)
        before, after = Snapshot(), Snapshot()
        at = next(i for i, c in enumerate(trainer.callbacks) if isinstance(c, Preflight))
        trainer.callbacks[at : at + 1] = [before, trainer.callbacks[at], after]
        last = tmp_path / "last.ckpt" if start else None
        trainer.fit(gan, datamodule=make(cfg.data), ckpt_path=last)
        assert before.rest == after.rest
        assert before.rest[0][0] == start
        assert before.groups == after.groups
        assert before.pointers == after.pointers
        assert before.state.keys() == after.state.keys()
        assert any("exp_avg" in key for key in before.state) == bool(start)
        for key, value in before.state.items():
            assert torch.equal(value, after.state[key]), key
        assert steps == [start, start, start + 8, start + 16], "it is rehearsed, then done"
        steps.clear()


def test_a_dry_run_trains_nothing_and_writes_no_checkpoint(tmp_path: Path) -> None:
    cfg = config(f"run_dir={tmp_path}", "dry=true")
    torch.manual_seed(0)
    before = make(cfg.model).state_dict()
    gan = train(cfg)
    assert gan.images_seen == 0
    assert_same_tensors(dict(gan.state_dict()), dict(before))
    assert not {"last.ckpt", "done", "samples"} & {path.name for path in tmp_path.iterdir()}
    assert "everything is ready" in (tmp_path / "train.log").read_text()


def test_a_dry_run_leaves_a_finished_one_alone(tmp_path: Path) -> None:
    train(config(f"run_dir={tmp_path}", *QUIET))
    before = (tmp_path / "last.ckpt").read_bytes()
    train(config(f"run_dir={tmp_path}", *QUIET, "dry=true"))
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert (tmp_path / "done").exists()
