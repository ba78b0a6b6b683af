import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from makers.tiny import TINY

import ganzoo
from ganzoo.engine import precision
from ganzoo.engine.precision import choose_precision, is_measured, take_fastest


@pytest.fixture
def cpu(monkeypatch):
    """Makes the CPU say what it can do."""

    def says(amx=False, bf16=False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)

    monkeypatch.setattr(precision, "SECONDS", 0.0)
    return says


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_only_able_cpus_are_measured_and_only_if_asked(cpu, amx, bf16):
    cpu(amx, bf16)
    assert is_measured("fastest", on_gpu=False) == (amx or bf16)
    assert not is_measured("auto", on_gpu=False)
    assert not is_measured("fastest", on_gpu=True)
    assert choose_precision("auto", on_gpu=False)[0] == ("bf16-mixed" if amx else "32-true")


class Machine:
    """A run on a machine where iterations take as long as given."""

    def __init__(self, full, half, seed=0, width=8):
        self.strategy = SimpleNamespace(broadcast=lambda value: value, precision_plugin=None)
        self.world_size, self.is_global_zero = 1, True
        self.full, self.half, self.iterations = full, half, 0
        model = {"seed": seed, "total_kimg": 1, "width": width}
        self.config = {"model": model, "batch_size": 8, "precision": "fastest"}

    def iteration(self):
        self.iterations += 1
        mixed = isinstance(self.strategy.precision_plugin, MixedPrecision)
        # The first of each is slower.
        return (self.half if mixed else self.full) * (9 if self.iterations <= 2 else 1)

    def choose(self, cache):
        take_fastest(self, self, self.iteration, cache)
        mixed = isinstance(self.strategy.precision_plugin, MixedPrecision)
        assert self.config["precision"] == ("bf16-mixed" if mixed else "32-true")
        return self.config["precision"]


@pytest.mark.parametrize(
    ("full", "half", "choice"),
    [(1.0, 0.5, "bf16-mixed"), (1.2, 1.0, "bf16-mixed"), (1.1, 1.0, "32-true")],
)
def test_bf16_has_to_be_faster_by_a_margin(cpu, tmp_path, full, half, choice):
    cpu(bf16=True)
    machine = Machine(full, half)
    assert machine.choose(tmp_path) == choice
    assert machine.iterations == 8


def test_what_was_measured_is_kept_for_the_recipe(cpu, tmp_path):
    cpu(bf16=True)
    Machine(1.0, 0.5).choose(tmp_path / "new")
    again = Machine(1.0, 2.0, seed=1)
    assert (again.choose(tmp_path / "new"), again.iterations) == ("bf16-mixed", 0)
    other = Machine(1.0, 2.0, width=16)
    assert (other.choose(tmp_path / "new"), other.iterations) == ("32-true", 8)


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_a_cache_that_cannot_be_used_does_no_harm(cpu, tmp_path, content):
    cpu(bf16=True)
    if content is None:
        cache = tmp_path / "file"
        cache.write_text("not a folder")
    else:
        cache = tmp_path
        Machine(1.0, 2.0).choose(cache)
        (entry,) = cache.iterdir()
        entry.write_text(content)
    machine = Machine(1.0, 0.5)
    assert (machine.choose(cache), machine.iterations) == ("bf16-mixed", 8)


def test_a_resumed_run_keeps_its_precision(cpu, tmp_path, monkeypatch):
    cpu(bf16=True)
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "MARGIN", 0.0)  # bf16, however slow
    keys = (*TINY, "precision=fastest", f"run_dir={tmp_path / 'run'}")
    gan = ganzoo.train(*keys)
    assert gan.config["precision"] == gan.trainer.precision == "bf16-mixed"
    assert next(gan.parameters()).dtype == torch.float32
    (entry,) = (tmp_path / "cache" / "precision").iterdir()
    assert set(json.loads(entry.read_text())) == {"32-true", "bf16-mixed"}
    monkeypatch.setattr(precision, "MARGIN", 1e9)
    cpu()  # on another machine
    longer = ganzoo.train(*keys, f"total_kimg={2 * gan.total_images / 1000}")
    assert longer.trainer.precision == "bf16-mixed"
