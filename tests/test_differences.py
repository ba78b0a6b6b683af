"""In which keys runs differ, and the shortest names of these keys."""

from pathlib import Path
from typing import Any

from ganzoo.runs.differences import differences, flatten, short_names
from ganzoo.runs.folder import Run


def differing(*configs: dict[str, Any], keys: Any = None, **about: list[Any]) -> list[dict]:
    """Of runs with such configs; `about` and `keys` are lists of what each run tells."""
    if keys is not None:
        about["keys"] = keys
    told = [{name: some[i] for name, some in about.items()} for i in range(len(configs))]
    runs = [Run(Path(str(i)), about=some) for i, some in enumerate(told)]
    return differences(runs, [flatten(c) for c in configs])


def test_given_keys_that_differ_are_shown() -> None:
    configs = [
        {"seed": i, "model": {"lr": lr, "seed": i}} for i, lr in ((0, 0.1), (1, 0.1), (0, 1e-5))
    ]
    keys = [["seed=0"], ["seed=1"], ["model.lr=1e-5", "logger=csv", "data.workers=7"]]
    assert differing(*configs, keys=keys) == [
        {"seed": "0", "model.lr": "0.1"},
        {"seed": "1", "model.lr": "0.1"},
        {"seed": "0", "model.lr": "1e-05"},
    ], "values that were not given are those of the config; model.seed follows from seed"


def test_choices_are_shown_by_name() -> None:
    keys = [["loss=hinge", "seed=1"], ["loss=wasserstein_gp", "seed=1"], ["seed=1"]]
    models = ["dcgan", "biggan", "dcgan"]
    assert differing({}, {}, {}, model=models, keys=keys) == [
        {"model": "dcgan", "loss": "hinge"},
        {"model": "biggan", "loss": "wasserstein_gp"},
        {"model": "dcgan", "loss": "-"},
    ]


def test_runs_without_config_or_keys() -> None:
    keys = [["a=1"], [], ["a=null"]]
    assert differing({"a": 1}, {}, {"a": None}, keys=keys) == [
        {"a": "1"},
        {"a": "-"},
        {"a": "null"},
    ]
    assert differing({}) == [{}]
    assert differing({"a": 1}, {"a": 2}) == [{}, {}]
    assert differing({"a": 1}, {"a": 1}, keys=[["a=1"], ["a=1"]]) == [{}, {}]


def test_names_as_short_as_can_be() -> None:
    keys = ["seed", "model.generator.ngf", "a.g.lr", "a.d.lr"]
    assert list(short_names(keys).values()) == ["seed", "ngf", "g.lr", "d.lr"]
