"""Values of the wrong type are refused in one sentence that names the key and what it must be."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from conftest import run, train_command
from makers.tiny import config, evaluated
from omegaconf import OmegaConf

from ganzoo import cli
from ganzoo.config import check_types, make, resolved
from ganzoo.config.values import Count, Range, check_call, described, fits, parameters
from ganzoo.errors import UserError
from ganzoo.train import train_config

NODE = {"_target_": "somewhere.Something"}


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (bool, [True, False], ["abc", 1, None]),
        (int, [3, -1], [2.5, 16.0, "abc", True, None]),
        (float, [3, 2.5, float("inf")], ["abc", True, float("nan"), [1.0]]),
        (str, ["abc"], [1, None, ["a"], ""]),
        (int | None, [3, None], ["abc"]),
        (Count, [1], [0, -1, 1.0]),
        (Annotated[float, Range(0, 1)], [0, 0.5, 1], [-0.1, 1.5]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (Sequence[int], [[1, 2], []], ["12", [1, "a"], 3]),
        (tuple[float, float], [[0.5, 0.9]], [[0.5], [0.5, "a"], 0.5]),
        (Mapping[str, float], [{"a": 1.0}], [{"a": "b"}, 1.0, [1.0]]),
        (Mapping[str, Callable[[int], float]], [{"a": NODE}], [{"a": 0.5}, 0.5]),
        (Callable[[int], float], [NODE], [0.5, "abc", {"a": 1}]),
        (torch.nn.Module, [NODE], ["abc", None]),
        (torch.nn.Module | None, [NODE, None], ["abc", True]),
        (Path, ["a"], [1]),
        (Any, ["a", 1, None], []),
        (bytes, ["what cannot be decided"], []),
    ],
)
def test_what_fits_a_type(kind, right, wrong) -> None:
    assert [value for value in right if not fits(value, kind)] == []
    assert [value for value in wrong if fits(value, kind)] == []
    assert described(kind)


class Base:
    def __init__(self, size: int, name: str = "x") -> None: ...


class Derived(Base):
    def __init__(self, size: float, **options: Any) -> None: ...


def test_a_class_has_the_parameters_that_it_passes_on() -> None:
    assert parameters(Derived) == ({"size": float, "name": str}, True)
    check_call(Derived, {"size": 0.5, "name": "a"}, "here")
    with pytest.raises(UserError, match=r"^here\.name must be text, not 3\.$"):
        check_call(Derived, {"name": 3}, "here")
    with pytest.raises(UserError, match=r"^here\.nmae is not a key of Derived: did you mean name"):
        check_call(Derived, {"nmae": "a"}, "here")
    assert not parameters(dict)[1]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=abc", "seed must be a whole number from 0 to 4294967295, not 'abc'."),
        ("seed=-1", "seed must be a whole number from 0"),
        ("seed=99999999999999999999", "seed must be a whole number from 0"),
        ("~seed", "seed is needed: leave out ~seed."),
        ("seed=${oc.env:GANZOO_NO_SUCH}", "seed: Environment variable 'GANZOO_NO_SUCH' not found"),
        ("total_kimg=abc", "total_kimg must be a number"),
        ("batch_size=2.5", "batch_size must be a whole number from 1 to 1000000, not 2.5."),
        ("batch_size=0", "batch_size must be a whole number from 1 to 1000000, not 0."),
        ("image_size=1000000", "image_size must be a whole number from 1 to 16384 or a list"),
        ("dry=abc", "dry must be true or false, not 'abc'."),
        ("sync_batchnorm=abc", "sync_batchnorm must be true or false"),
        ("tf32=1.5", "tf32 must be true or false"),
        ("init_from=[a]", "init_from must be text or null"),
        ("init_from=", "init_from must be text or null, not ''."),
        ("trainer.profiler=0.5", "trainer.profiler must be one of None, simple, advanced"),
        ("+callbacks.mine=1", "callbacks.mine must be a config with _target_, not 1."),
        ("+model.optimizers.mine.lr=1", "model.optimizers.mine must be a config with _target_"),
        ("+trainer.overfit_batches=1", "trainer.overfit_batches has no effect on a run here: use"),
        ("trainer._partial_=1", "_partial_ flag must be a bool"),
        ("trainer.accelerator=abc", "Lightning refuses trainer"),
        ("trainer.devices=abc", "Lightning refuses trainer.devices=abc"),
        ("trainer.num_nodes=abc", "trainer.num_nodes must be a whole number"),
        ("data.balanced=abc", "data.balanced must be true or false, not 'abc'."),
        ("data.workers=-1", "data.workers must be a whole number from 0 to 256"),
        ("data.workers=abc", "data.workers must be a whole number"),
        ("model.seed=abc", "model.seed must be a whole number"),
        ("model.nz=0", "model.nz must be a whole number from 1 to 1000000, not 0."),
        ("model.ema_beta=-1", "model.ema_beta must be a number from 0 to 1 or null, not -1."),
        ("+model.generator.eps=-1", "model.generator.eps must be a number of at least 0, not -1."),
        ("model.r1=-1", "model.r1 must be a number of at least 0, not -1."),
        ("callbacks.grid.seeds=100000000000000000000", "callbacks.grid.seeds must be a list ("),
        ("callbacks.grid.seeds=[-1]", "callbacks.grid.seeds must be a list (a whole number from"),
        ("model.discriminator_steps=0", "model.discriminator_steps must be"),
        ("model.generator_steps=0", "model.generator_steps must be"),
        ("model.augment=abc", "model.augment must be a config with _target_ or null, not 'abc'."),
        ("model.lr_factors={generator: 0.5}", "model.lr_factors.generator must be a config"),
        ("trainer.accelerator=tpu", "Lightning refuses trainer"),
        ("model.optimizers.generator.lr=abc", "model.optimizers.generator.lr must be a number"),
        ("model.optimizers.generator.betas=[0.5]", "model.optimizers.generator.betas must be"),
        ("model.loss=hinge", "model.loss=hinge is not the value of a key: use loss=hinge."),
        ("+model.generator.nfg=3", "model.generator.nfg is not a key of Generator: did you mean"),
    ],
)
def test_training_names_the_key(override, sentence, tmp_path) -> None:
    if override == "~seed":
        cfg = config(f"run_dir={tmp_path / 'run'}")
        OmegaConf.set_struct(cfg, False)
        del cfg["seed"]
    else:
        cfg = config(f"run_dir={tmp_path / 'run'}", override)
    with pytest.raises(UserError) as said:
        train_config(cfg)
    assert sentence in str(said.value)
    assert "\n" not in str(said.value)
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["raw=abc"], "raw must be true or false"),
        (["batch_size=0"], "batch_size must be a whole number from 1 to 1000000"),
        (["trust=mypackage"], "trust must be a list (text), not 'mypackage'."),
        (["truncation=-1"], "truncation must be a number of at least 0 or null"),
        (["image_size=32"], "image_size would have no effect without fake=FOLDER or data=NAME"),
        (["real=here"], "real would have no effect without"),
        (["truncations=[]", "seed=1"], "seed would have no effect"),
        (["ckpt=null", "fake=a", "real=b", "truncation=1", "raw=true"], "raw and truncation would"),
    ],
)
def test_evaluation_names_the_key(overrides, sentence) -> None:
    with pytest.raises(UserError) as said:
        evaluated("ckpt=nowhere.ckpt", *overrides)
    assert sentence in str(said.value)


def test_a_value_that_must_be_given_is_named() -> None:
    with pytest.raises(UserError, match=r"^data\.root must be given"):
        make(config("data=folder", tiny=False).data)


def test_an_option_of_a_nested_group_is_named() -> None:
    cfg = config("metrics.network=inception", tiny=False)
    with pytest.raises(UserError, match="use metrics/network=inception"):
        make(cfg.metrics)


@pytest.mark.parametrize("model", ["dcgan", "pggan", "cyclegan"])
def test_configs_of_our_own_fit(model) -> None:
    cfg = config(f"model={model}", tiny=False)
    for part in ("model", "data", "metrics", "trainer"):
        check_types(resolved(cfg[part]), part)


def test_the_nearest_key_is_suggested(tmp_path, monkeypatch, capsys) -> None:
    done = run(train_command(tmp_path / "run", "model.ngf=8"))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == "There is no key model.ngf: did you mean model.generator.ngf?"

    monkeypatch.setattr(sys, "argv", ["", "batchsize=4", "lr=1", "model.nzz=1", "seed=1"])
    with pytest.raises(SystemExit), cli.key_hints("train"):
        sys.exit(1)
    said = capsys.readouterr().err
    assert "did you mean batch_size?" in said
    assert "did you mean model.nz?" in said
    lr = "model.optimizers.generator.lr or model.optimizers.discriminator.lr"
    assert f"There is no key lr: did you mean {lr}?" in said
    assert len(said.splitlines()) == 3
    with pytest.raises(SystemExit), cli.key_hints("train"):
        sys.exit("a sentence")
    assert not capsys.readouterr().err
