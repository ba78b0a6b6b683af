"""CycleGAN trained: resume and several processes, pool included; precision, compiling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same_tensors, in_worlds
from makers.tiny import config
from makers.worlds import cyclegan, fit, pairs
from torch import Tensor, nn

from ganzoo.models.cyclegan import CycleGAN
from ganzoo.nn.losses import Wasserstein
from ganzoo.train import make_trainer

SCRIPT = str(Path(__file__).parent / "makers" / "worlds.py")


def test_the_preflight_leaves_the_pool_as_it_was(tmp_path: Path) -> None:
    gan = cyclegan()
    fit_dry(tmp_path, gan)
    assert all(torch.equal(p.images, torch.zeros_like(p.images)) for p in gan.pools.values())


def fit_dry(folder: Path, gan: CycleGAN) -> None:
    cfg = config("~callbacks.ticks", "~callbacks.grid", "~callbacks.bar", "~callbacks.save")
    gan.control.dry = True
    make_trainer(cfg, folder, 0).fit(gan, datamodule=pairs())


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Any]:
    names = "translating", "translated_straight", "translated_resumed"
    return in_worlds(tmp_path_factory.mktemp("translated"), SCRIPT, *names)


@pytest.mark.parametrize("world", [1, 2])
def test_resume_is_exact_with_the_pool_half_full(result, world: int) -> None:
    straight, resumed = result("translated_straight", world), result("translated_resumed", world)
    assert_same_tensors(straight, resumed)
    assert straight["state_dict"]["pools.A.images"].abs().sum() > 0


def test_two_processes_equal_one_pool_included(result) -> None:
    assert_same_tensors(result("translating", 1), result("translating", 2), atol=1e-10)


def test_an_average_is_kept_where_it_is_asked_for(result) -> None:
    end = result("translating", 1)["state_dict"]
    for direction in ("AtoB", "BtoA"):
        name = f"{direction}.layers.0.weight"
        assert not torch.equal(end[f"average.{name}"], end[f"generator.{name}"])
    gan = cyclegan(ema_kimg=1)
    with torch.no_grad():
        for p in gan.generator.parameters():
            p.add_(1)
    images = torch.rand(2, 3, 16, 16)
    assert not torch.equal(gan.translate(images), gan.translate(images, raw=True))


def test_half_precision_leaves_losses_in_float32(tmp_path: Path) -> None:
    gan = cyclegan(0.012, pool=4, loss=Wasserstein(), gradient_penalty=10.0)
    seen = {}
    note = gan.note

    def watched(**values: Tensor) -> None:
        seen.update(values)
        note(**values)

    gan.note = watched  # type: ignore[method-assign]
    fit(tmp_path, gan, "precision=bf16-mixed", data=pairs())
    assert {value.dtype for value in seen.values()} == {torch.float32}
    assert gan.pools["A"].images.dtype == torch.float32
    assert all(value.isfinite() for value in seen.values())


def test_compiling_the_generators_compiles_each(tmp_path: Path, monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    gan = cyclegan(0.004, compile=["generator", "discriminator.A"])
    fit(tmp_path, gan, data=pairs())
    assert compiled == [*gan.generator.values(), gan.discriminator["A"]]
