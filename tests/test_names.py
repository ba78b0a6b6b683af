"""Names of runs from what was given."""

import re
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from ganzoo.runs.names import run_name
from ganzoo.runs.record import about


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model=biggan", "seed=1"], "biggan_seed-1"),
        (["seed=1", "model=biggan"], "biggan_seed-1"),
        (["model.optimizers.generator.lr=0.0002"], "lr-0.0002"),
        (
            ["model.optimizers.generator.lr=1e-4", "model.optimizers.discriminator.lr=4e-4"],
            "discriminator.lr-0.0004_generator.lr-0.0001",
        ),
        (["model.optimizers.generator.lr=-1"], "lr--1"),
        (["image_size=[64,48]"], "image_size-64-48"),
        (["experiment=pggan_emoji", "+data.only=[cat,dog]"], "pggan_emoji_only-cat-dog"),
        (["~model.augment"], "without-augment"),
        (["model.augment=null"], "augment-null"),
        # What does not make it another run.
        (["seed=3", "total_kimg=5", "logger=csv", "trainer.devices=2", "dry=true"], "seed-3"),
        ([], ""),
    ],
)
def test_a_name_tells_what_was_given(overrides: list[str], name: str) -> None:
    assert run_name(overrides) == name


def test_only_some_keys_are_told() -> None:
    given = ["model=dcgan", "seed=1", "batch_size=8", "total_kimg=3"]
    assert run_name(given, ["seed", "total_kimg"]) == "seed-1_total_kimg-3"


def test_names_are_those_of_folders() -> None:
    """Hydra could not read `=` back, and what was cut off still tells runs apart."""
    odd = [
        "data.root='/photos/my cats & dogs'",
        "data.root=/other/my",
        "data.root=/another/my",
        f"data.root=/a/{'x' * 300}",
        "data.root='a=b'",
    ]
    names = [run_name([o]) for o in odd]
    assert len(set(names)) == len(odd)
    for name in names:
        assert re.fullmatch(r"[\w.+-]+", name)
        assert len(name) <= 100
    assert names[1].startswith("root-my-")
    long = [
        run_name([f"model.a{i}.b=0.123456789" for i in range(40)] + [f"seed={s}"]) for s in (1, 2)
    ]
    assert long[0] != long[1]
    assert {len(name) for name in long} == {100}


def test_a_run_tells_what_it_is_without_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    config = {
        "model": {"_target_": "ganzoo.models.dcgan.DCGAN"},
        "data": {"source": {"_target_": "ganzoo.data.sources.synthetic.Synthetic"}},
    }
    assert about(Path("runs/x/y"), config) == {
        "name": "y",
        "model": "DCGAN",
        "data": "Synthetic",
        "experiment": None,
        "keys": [],
    }
