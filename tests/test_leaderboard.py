"""Runs ranked side by side: what compares with what, the order, groups of seeds."""

import csv
import json
import math
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers.tiny import TINY_METRICS, config
from omegaconf import OmegaConf
from PIL import Image

from ganzoo.errors import UserError
from ganzoo.metrics.protocol import best_of, monitored
from ganzoo.pictures.thumbnails import MARGIN, samples_of
from ganzoo.runs.__main__ import main
from ganzoo.runs.folder import runs_under
from ganzoo.runs.leaderboard import leaderboard
from ganzoo.runs.ranking import tables_of
from ganzoo.runs.record import recorded
from ganzoo.train import train_config as train

EVALUATE = (
    "callbacks.metrics={_target_:ganzoo.callbacks.evaluation.Evaluate,"
    "suite:${metrics},every_kimg:0.016}"
)
SHORT = (*TINY_METRICS, EVALUATE, "total_kimg=0.032", "metrics.cache=false")


def trained(folder: Path, name: str, *keys: str, tiny: bool = True) -> Path:
    """A real run, recorded as one from the command line is."""
    path = folder / name
    path.mkdir(parents=True)
    about = {"name": name, "model": "dcgan", "data": "synthetic", "keys": list(keys)}
    try:
        with recorded(path, about):
            train(config(*(SHORT if tiny else ()), *keys, f"run_dir={path}", tiny=tiny))
    except UserError:
        pass
    return path


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of one protocol, two of them the same but for the seed, and one of another."""
    folder = tmp_path_factory.mktemp("sweep")
    trained(folder, "ngf-4_seed-0", "model.generator.ngf=4", "seed=0")
    trained(folder, "ngf-4_seed-1", "model.generator.ngf=4", "seed=1")
    trained(folder, "ngf-6_seed-0", "model.generator.ngf=6", "seed=0")
    trained(folder, "fewer", "metrics.num_fake=20", "seed=0")
    trained(folder, "broken", "data.source.num=1", "seed=0")
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def told(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "metrics.json").read_text())


def write(folder: Path, *values: float | None, state: str = "done", **more: Any) -> Path:
    """A run by hand whose evaluations gave `values`; None leaves the name out.

    Args:
        more: `monitor`, `protocol`, `fakes`, `floor`, `up`, `sentence`, `keys`; all else is config.
    """
    folder.mkdir(parents=True)
    monitor, protocol = more.pop("monitor", "fd_tiny"), more.pop("protocol", "aaaaaaaa")
    facts = {
        "metrics": {"fd": {"class": "FrechetDistance"}},
        "extractor": None,
        "real": {"data": "d", "split": "train", "images": 9, "shape": [3, 8, 8], "mirror": False,
                 "fingerprint": "0123456789"},
        "fake": {"images": more.pop("fakes", 50)},
        "floor": [4, 5],
        "ganzoo": "0.1.0",
    }  # fmt: skip
    floor, up = more.pop("floor", None), more.pop("up", None)
    about = {"name": folder.name, "keys": more.pop("keys", [])}
    state_ = {"state": state, "sentence": more.pop("sentence", ""), "about": about}
    (folder / "state.json").write_text(json.dumps(state_))
    nested = OmegaConf.create({"total_kimg": 80})
    for key, value in more.items():
        OmegaConf.update(nested, key, value, force_add=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(nested))
    evaluations = [
        {
            "images_seen": 1000 * (i + 1),
            "values": {} if value is None else {monitor: value},
            "floors": {} if floor is None else {monitor: floor},
            "protocol": protocol,
        }
        for i, value in enumerate(values)
    ]
    if evaluations:
        file = {
            "monitor": monitor,
            "higher_is_better": monitor.startswith("is") if up is None else up,
            "best": {"images_seen": 1000, "value": values[0]},
            "evaluations": evaluations,
            "protocols": {protocol: facts},
        }
        (folder / "metrics.json").write_text(json.dumps(file))
    return folder


def add_evaluation(run_dir: Path, at_kimg: float, protocol: str, up: tuple = (), **values) -> None:
    """An evaluation of `last.ckpt`, as `ganzoo.evaluate` adds it to its file."""
    path = run_dir / "last.metrics.json"
    facts = json.loads((run_dir / "metrics.json").read_text())["protocols"]["aaaaaaaa"]
    entries = json.loads(path.read_text()) if path.is_file() else []
    entries.append(
        {"values": values, "floors": {}, "protocol": {**facts, "fake": {"images": 50_000}},
         "subject": {"model": "DCGAN", "images_seen": int(1000 * at_kimg)}, "up": list(up),
         "protocol_id": protocol}
    )  # fmt: skip
    path.write_text(json.dumps(entries))


# -- real runs -------------------------------------------------------------------------------------


def test_real_runs_are_ranked_by_their_best_values(sweep) -> None:
    text = leaderboard(sweep)
    rows = {row["run"]: row for row in rows_of(sweep)}
    same = ["ngf-4_seed-0", "ngf-4_seed-1", "ngf-6_seed-0"]
    values = {name: [e["values"]["fd_tiny"] for e in told(sweep / name)["evaluations"]]
              for name in [*same, "fewer"]}  # fmt: skip
    for place, name in enumerate(sorted(same, key=lambda name: min(values[name])), 1):
        row = rows[name]
        assert (row["rank"], row["state"]) == (str(place), "done")
        assert float(row["best"]) == min(values[name])
        assert float(row["final"]) == values[name][-1]
        assert float(row["at_kimg"]) == (1 + int(np.argmin(values[name]))) * 0.016
        assert float(row["floor"]) == told(sweep / name)["evaluations"][0]["floors"]["fd_tiny"]
        assert (row["kimg"], row["of_kimg"]) == ("0.032", "0.032")
        assert float(row["images_per_second"]) > 0
        assert row["protocol"] == rows[same[0]]["protocol"]
    assert [row["run"] for row in rows_of(sweep)[:3]] == sorted(same, key=lambda n: min(values[n]))
    # Only what was asked for differs: neither `model.seed` nor the run's folder.
    given = [key for key in rows["fewer"] if key in ("seed", "model.generator.ngf") or "." in key]
    assert sorted(given) == ["data.source.num", "metrics.num_fake", "model.generator.ngf", "seed"]
    assert [rows[name]["seed"] for name in same] == ["0", "1", "0"]
    assert (sweep / "leaderboard.md").read_text() == text


def test_a_real_run_of_another_protocol_is_ranked_by_itself(sweep) -> None:
    text = leaderboard(sweep)
    rows = {row["run"]: row for row in rows_of(sweep)}
    assert rows["fewer"]["rank"] == "1"
    assert rows["fewer"]["protocol"] != rows["ngf-4_seed-0"]["protocol"]
    first, second = text.split("\n## ")[1:3]
    assert "fewer" not in first
    assert "ngf-4" not in second.partition("| rank")[2]
    assert "Not comparable with the first table: fake.images is 20 here, 24 there; " in second
    assert f"Protocol {rows['fewer']['protocol']}: tiny (weights 00000000" in second


def test_a_real_failure_is_listed_with_its_sentence(sweep) -> None:
    text = leaderboard(sweep)
    (row,) = [row for row in rows_of(sweep) if row["run"] == "broken"]
    assert (row["rank"], row["best"], row["state"]) == ("", "", "failed")
    assert row["sentence"]
    last = text.rpartition("## Incomplete, or without a value\n")[2]
    assert f"- broken: failed: {row['sentence']}" in last.replace("\\|", "|").replace("&lt;", "<")
    assert last.count("\n- ") == 1


def test_seeds_of_one_config_have_a_mean(sweep) -> None:
    text = leaderboard(sweep)
    table = text.partition("Complete runs that differ only in the seed:")[2].partition("##")[0]
    best = [min(e["values"]["fd_tiny"] for e in told(sweep / f"ngf-4_seed-{i}")["evaluations"])
            for i in (0, 1)]  # fmt: skip
    spread = f"{statistics.fmean(best):.5g} ± {statistics.stdev(best):.2g}"
    lines = [line for line in table.splitlines() if spread in line]
    assert len(lines) == 1
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert "4" in cells
    assert cells[cells.index(spread) - 1] == "2"


def test_the_command_writes_and_shows_it(sweep, tmp_path, capsys) -> None:
    folder = shutil.copytree(sweep, tmp_path / "copy")
    for path in folder.glob("leaderboard.*"):
        path.unlink()
    main([str(folder), "--leaderboard"])
    out = capsys.readouterr().out
    assert out == (folder / "leaderboard.md").read_text()
    assert {p.name for p in folder.glob("leaderboard.*")} == {
        "leaderboard.csv", "leaderboard.md", "leaderboard.png",
    }  # fmt: skip
    assert len(runs_under(folder)) == 5  # and they do not make a run of the folder


def test_the_picture_has_a_row_for_each_run(sweep) -> None:
    leaderboard(sweep)
    with Image.open(sweep / "leaderboard.png") as picture:
        sheet = np.asarray(picture.convert("RGB"))
    strips = [
        np.asarray(strip[0]) for row in rows_of(sweep) if (strip := samples_of(Path(row["path"])))
    ]
    assert len(strips) == 5  # the broken one has those of its start
    top = 0
    for strip in strips:  # in the order of the ranks
        height, width = strip.shape[:2]
        below = range(top, sheet.shape[0] - height + 1)
        place = sheet[:, MARGIN : MARGIN + width]
        top = next(y for y in below if np.array_equal(place[y : y + height], strip)) + height


# -- the order -------------------------------------------------------------------------------------


def ranks(folder: Path) -> dict[str, str]:
    leaderboard(folder)
    return {row["run"]: row["rank"] for row in rows_of(folder)}


def test_ties_share_a_rank(tmp_path) -> None:
    for name, values in {"a": [3, 2], "b": [2.0], "c": [5, 1.5], "d": [4]}.items():
        write(tmp_path / name, *values)
    assert ranks(tmp_path) == {"c": "1", "a": "2", "b": "2", "d": "4"}
    assert [row["run"] for row in rows_of(tmp_path)] == ["c", "a", "b", "d"]


@pytest.mark.parametrize("up", [None, True])
def test_more_is_better_for_an_inception_score(tmp_path, up) -> None:
    for name, values in {"a": [3, 2], "b": [7.0, 8, 6], "c": [5]}.items():
        write(tmp_path / name, *values, monitor="is_tiny", up=up)
    assert ranks(tmp_path) == {"b": "1", "c": "2", "a": "3"}
    row = rows_of(tmp_path)[0]
    assert (row["best"], row["at_kimg"], row["final"]) == ("8.0", "2.0", "6.0")
    assert "## is_tiny, higher is better" in (tmp_path / "leaderboard.md").read_text()


def test_the_file_says_what_is_better_than_the_name(tmp_path) -> None:
    for name, value in {"a": 1.0, "b": 2.0}.items():
        write(tmp_path / "up" / name, value, up=True)
        write(tmp_path / "down" / name, value, monitor="is", up=False)
    assert ranks(tmp_path / "up") == {"b": "1", "a": "2"}
    assert ranks(tmp_path / "down") == {"a": "1", "b": "2"}


def test_not_a_number_is_never_the_best(tmp_path) -> None:
    nan = math.nan
    for name, values in {"a": [nan, 3, 4], "b": [nan, nan], "c": [2, nan], "d": [math.inf]}.items():
        write(tmp_path / name, *values)
    assert ranks(tmp_path) == {"c": "1", "a": "2", "b": "", "d": ""}
    rows = {row["run"]: row for row in rows_of(tmp_path)}
    assert (rows["a"]["best"], rows["a"]["at_kimg"], rows["c"]["final"]) == ("3.0", "2.0", "")
    text = (tmp_path / "leaderboard.md").read_text()
    assert "- b: done at 80 of 80 kimg: its fd_tiny is nan" in text
    assert "- d: done at 80 of 80 kimg: its fd_tiny is inf" in text


def test_best_of_is_of_the_last_protocol_and_the_mean_of_directions() -> None:
    told = [
        {"values": {"AtoB/fd": a, "BtoA/fd": b, "fd_std": 0}, "protocol": p}
        for a, b, p in ((0, 0, "x"), (9, 1, "y"), (2, 4, "y"), (3, 3, "y"), (math.nan, 0, "y"))
    ]
    assert best_of(told, "fd", False) is told[2]
    assert best_of(told, "fd", True) is told[1]
    assert best_of(told, "AtoB/fd", True) is told[1]
    assert best_of(told[:1], "fd", False) is told[0]
    assert monitored("fd", told[1]["values"]) == 5
    assert monitored("kid", told[1]["values"]) is None


def test_what_is_unfinished_is_marked_and_what_has_no_number_is_listed(tmp_path) -> None:
    write(tmp_path / "going", 2.0, state="stopped", sentence="stopped by SIGTERM", floor=0.5)
    write(tmp_path / "whole", 3.0, floor=0.5)
    write(tmp_path / "lost", state="failed", sentence="a | b <c>\nd")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.yaml").write_text("a: [")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "train.log").touch()
    (tmp_path / "odd" / "metrics.json").write_text('{"monitor": 1}')
    assert ranks(tmp_path) == {"going": "1", "whole": "2", "lost": "", "odd": "", "strange": ""}
    text = (tmp_path / "leaderboard.md").read_text()
    assert re.search(r"\| 1 +\| going \\\* \|", text)
    assert re.search(r"\| 2 +\| whole +\|", text)
    assert "| 0.5 " in text
    last = text.rpartition("## Incomplete, or without a value\n")[2]
    assert "- going: stopped: stopped by SIGTERM" in last
    assert "- lost: failed: a \\| b &lt;c>\\nd" in last
    assert "- odd: " in last
    assert "metrics.json cannot be read (" in last
    assert "- strange: state unknown: " in last
    assert "whole" not in last
    assert all(line.count("|") == text.partition("| rank")[2].partition("\n")[0].count("|") + 1
               for line in text.splitlines() if line.startswith("| "))  # fmt: skip


def test_a_single_run_and_runs_without_numbers(tmp_path) -> None:
    write(tmp_path / "one" / "alone", 2.0)
    assert ranks(tmp_path / "one") == {"alone": "1"}
    assert not (tmp_path / "one" / "leaderboard.png").exists()
    assert "![" not in (tmp_path / "one" / "leaderboard.md").read_text()
    write(tmp_path / "none" / "a")
    write(tmp_path / "none" / "b", state="failed", sentence="why")
    assert ranks(tmp_path / "none") == {"a": "", "b": ""}
    assert "No run has a value yet" in (tmp_path / "none" / "leaderboard.md").read_text()


def test_no_runs_and_no_room(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match="no runs in"):
        leaderboard(tmp_path)
    write(tmp_path / "a", 1.0)
    (tmp_path / "leaderboard.csv").mkdir()  # in the way
    with pytest.raises(UserError, match=r"leaderboard\.csv is not a regular file"):
        leaderboard(tmp_path)


# -- what compares ---------------------------------------------------------------------------------


def test_other_protocols_and_metrics_have_tables_of_their_own(tmp_path) -> None:
    write(tmp_path / "a", 5.0)
    write(tmp_path / "b", 6.0)
    write(tmp_path / "c", 1.0, protocol="bbbbbbbb", fakes=51)
    write(tmp_path / "d", 2.0, monitor="kid_tiny")
    assert ranks(tmp_path) == {"a": "1", "b": "2", "c": "1", "d": "1"}
    text = (tmp_path / "leaderboard.md").read_text()
    tables = text.split("\n## ")[1:]
    assert [table.partition(",")[0] for table in tables] == ["fd_tiny", "fd_tiny", "kid_tiny"]
    assert "compared" not in tables[0]
    unlike = "Not comparable with the first table: fake.images is 51 here, 50 there."
    assert unlike in tables[1]
    assert "but these runs monitor kid_tiny" in tables[2]
    assert "51 fakes; 9 real of d, train split, 3x8x8, 01234567; ganzoo 0.1.0." in tables[1]


def test_translations_do_not_compare_with_samples(tmp_path) -> None:
    write(tmp_path / "a", 5.0)
    write(tmp_path / "b", 6.0)
    path = write(tmp_path / "c", 1.0, protocol="cccccccc") / "metrics.json"
    file = json.loads(path.read_text())
    facts = file["protocols"]["cccccccc"]
    file["protocols"]["cccccccc"] = {"AtoB": facts, "BtoA": facts}
    path.write_text(json.dumps(file))
    text = leaderboard(tmp_path)
    assert "translations are scored here, but not there" in text
    assert "Protocol cccccccc, BtoA: 50 fakes" in text


def test_evaluations_after_training_are_ranked_by_their_own_protocol(tmp_path) -> None:
    for name, training, after in (("a", 5.0, 30.0), ("b", 6.0, 20.0), ("c", 7.0, None)):
        run = write(tmp_path / name, training)
        if after is not None:
            add_evaluation(run, 80, "eeeeeeee", ("is", "is_std"), **{"is": after, "fid": 1.0})
    add_evaluation(tmp_path / "a", 40, "eeeeeeee", ("is",), **{"is": 35.0, "fid": 2.0})
    text = leaderboard(tmp_path)
    ranks = {(row["run"], row["protocol"]): row["rank"] for row in rows_of(tmp_path)}
    assert ranks == {
        ("a", "aaaaaaaa"): "1", ("b", "aaaaaaaa"): "2", ("c", "aaaaaaaa"): "3",
        ("a", "eeeeeeee"): "1", ("b", "eeeeeeee"): "2",
    }  # fmt: skip
    a = next(row for row in rows_of(tmp_path) if row["protocol"] == "eeeeeeee")
    assert (a["metric"], a["best"], a["at_kimg"], a["final"]) == ("is", "35.0", "40.0", "30.0")
    assert "3 of 3 runs are complete" in text
    assert "## is, higher is better, protocol eeeeeeee" in text
    assert "fake.images is 50000 here, 50 there" in text
    shown = runs_under(tmp_path)[0]
    assert [(s.metric, s.best) for s in shown.scores] == [("fd_tiny", 5.0), ("is", 35.0)]


def test_an_evaluation_by_the_protocol_of_the_training_counts_with_it(tmp_path) -> None:
    run = write(tmp_path / "a", 5.0, 4.0)
    write(tmp_path / "b", 3.0)
    add_evaluation(run, 7, "aaaaaaaa", fd_tiny=2.5, is_tiny=9.0)
    add_evaluation(run, 7, "bbbbbbbb", fd_tiny=0.5)
    leaderboard(tmp_path)
    found = [(row["run"], row["best"]) for row in rows_of(tmp_path)]
    assert found == [("a", "2.5"), ("b", "3.0"), ("a", "0.5")]


def test_evaluations_of_a_run_that_measured_nothing_and_damaged_ones(tmp_path) -> None:
    other = write(tmp_path / "other", 5.0)
    add_evaluation(other, 80, "eeeeeeee", ("AtoB/psnr",), **{"AtoB/psnr": 9.0, "BtoA/psnr": 11.0})
    bare = write(tmp_path / "bare")
    shutil.copy(other / "last.metrics.json", bare / "best.metrics.json")
    (bare / "last.metrics.json").write_text('[{"values": ')
    leaderboard(tmp_path)
    row = next(row for row in rows_of(tmp_path) if row["run"] == "bare")
    assert (row["metric"], row["best"], row["higher_is_better"]) == ("psnr", "10.0", "True")
    assert row["sentence"].startswith("last.metrics.json cannot be read (JSONDecodeError: ")


# -- groups of seeds -------------------------------------------------------------------------------


def test_groups_are_of_complete_runs_that_differ_in_the_seed_alone(tmp_path) -> None:
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        write(tmp_path / f"a{seed}", value + 1, value, seed=seed, n=4, keys=[f"seed={seed}"])
        write(tmp_path / f"b{seed}", 0.5, seed=0, n=5 + seed, keys=[f"n={5 + seed}"])
    write(tmp_path / "a3", 100.0, seed=3, n=4, state="failed", keys=["seed=3"])
    text = leaderboard(tmp_path)
    table = text.partition("differ only in the seed:\n\n")[2].partition("\n\n")[0]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["n", "n", "best fd_tiny", "last"]
    assert sorted(rows[2:5]) == [[str(n), "1", "0.5", "0.5"] for n in (5, 6, 7)]
    assert rows[5:] == [["4", "3", "3 ± 2.6", "3 ± 2.6"]]


def test_without_seeds_there_are_no_groups(tmp_path) -> None:
    for name, n in {"a": 1, "b": 2}.items():
        write(tmp_path / name, 1.0, n=n, keys=[f"n={n}"])
    assert "only in the seed" not in leaderboard(tmp_path)


def test_tables_are_of_metric_and_protocol() -> None:
    assert tables_of([]) == ([], [])
