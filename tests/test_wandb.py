"""Real wandb, on disk and on the wire: what it is told, and that nothing it does fails a run."""

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from conftest import checkpoint, run, train_command
from makers.tiny import TINY, TINY_METRICS, config
from makers.wandb_world import KEY, NOWHERE, Server, kept
from PIL import Image

from ganzoo.callbacks.evaluation import Evaluate
from ganzoo.loggers.csv import read_rows
from ganzoo.loggers.wandb import Wandb
from ganzoo.train import train_config as train
from ganzoo.workspace import CURVES, SYSTEM, workspace
from ganzoo.workspace import main as save_view

pytestmark = pytest.mark.usefixtures("no_curves")
EVERYTHING = (
    *(key for key in TINY if not (key.startswith("callbacks.") and key.endswith("=null"))),
    *TINY_METRICS,
    "augment=ada",
    *("callbacks.metrics.every_kimg=0.04", "callbacks.accuracy.every_kimg=0.04"),
    *("callbacks.sentinel.every_kimg=0.04", "callbacks.spectra.every_kimg=0.04"),
    *("callbacks.accuracy.num=16", "callbacks.sentinel.num=16", "callbacks.logits.every_kimg=0.04"),
)
SHORT = ("total_kimg=0.016", "callbacks.ticks.every_kimg=0.008", "callbacks.grid.every_kimg=0.008")


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all callbacks."""
    wandb.teardown()  # it remembers that another test was online
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(config(*EVERYTHING, f"run_dir={folder}", "logger=wandb", tiny=False))
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with TensorBoard."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    train(config(*EVERYTHING, f"run_dir={folder}", "logger=tensorboard", tiny=False))
    return folder


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Sets the address of a server; wandb reads the environment as a new process would."""

    def begin(address: str) -> None:
        wandb.teardown()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", address)

    yield begin
    wandb.teardown()


@pytest.fixture
def server(online: Callable[[str], None]) -> Iterator[Server]:
    server = Server()
    online(server.url)
    yield server
    server.shutdown()


def seconds_lost(said: str) -> float:
    found = re.search(r"wandb: offline, because it could not start \(.*; (\d+) s\)", said)
    assert found, said
    return float(found[1])


# -- on disk ---------------------------------------------------------------------------------------


def test_every_name_and_x_is_that_of_metrics_csv(offline: Path) -> None:
    (told,) = kept(offline)
    spectra = [row for row in told.rows if any(name.startswith("spectra/") for name in row)]
    pictures = [row for row in told.rows if any(name.startswith("pictures/") for name in row)]
    numbers = [row for row in told.rows if row not in spectra and row not in pictures]
    rows = [
        {k: float(v) for k, v in row.items() if v} for row in read_rows(offline / "metrics.csv")
    ]
    assert len(numbers) == len(rows) > 6
    for ours, theirs in zip(rows, numbers, strict=True):
        assert ours == pytest.approx({k: float(v) for k, v in theirs.items()}, rel=1e-6)
    groups = {name.partition("/")[0] for row in rows for name in row} - {"images_seen"}
    assert groups == {
        *(
            "losses",
            "logits",
            "gradient_norms",
            "weight_norms",
            "lr",
            "speed",
            "metrics",
            "accuracy",
            "augment",
            "sentinel",
        ),
    }
    assert [row["images_seen"] for row in spectra] == [0, 40, 80]


def test_tensorboard_has_the_same_names_axes_and_values(offline: Path, both: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    seen = events.EventAccumulator(str(both / "tensorboard"), {"scalars": 0, "images": 0}).Reload()
    (told,) = kept(offline)
    names = {name for row in told.rows for name in row} - {"images_seen"}
    pictures = {name for name in names if name.startswith("pictures/")}
    # TensorBoard has no tables, and notes "hp_metric" for itself.
    assert set(seen.Tags()["scalars"]) - {"hp_metric"} == names - pictures
    assert set(seen.Tags()["images"]) == pictures
    for name in names - pictures:
        ours = {row["images_seen"]: row[name] for row in told.rows if name in row}
        theirs = {scalar.step: scalar.value for scalar in seen.Scalars(name)}
        assert list(ours) == list(theirs), name
        if not name.startswith(("speed/", "metrics/s")):  # times are those of another run
            assert list(theirs.values()) == pytest.approx(list(ours.values()), rel=1e-5), name
    rows = read_rows(both / "metrics.csv")
    for name in {name for row in rows for name in row} - {"images_seen"}:
        ours = {int(row["images_seen"]): float(row[name]) for row in rows if row[name]}
        theirs = {scalar.step: scalar.value for scalar in seen.Scalars(name)}
        assert theirs == pytest.approx(ours, rel=1e-5), name
    for name in pictures:
        assert [image.step for image in seen.Images(name)] == [0, 40, 80]


def test_pictures_are_those_of_the_run_folder(offline: Path) -> None:
    (told,) = kept(offline)
    seen = {}
    for row in told.rows:
        for name, entry in row.items():
            if name.startswith("pictures/"):
                file = told.file.parent / "files" / entry["path"]
                seen[name.partition("/")[2], row["images_seen"]] = np.asarray(Image.open(file))
    assert set(seen) == {(name, at) for name in ("samples", "logits") for at in (0, 40, 80)}
    for (name, images), picture in seen.items():
        ours = Image.open(offline / name / f"000000.{images:03d}.png")
        assert (np.asarray(ours) == picture).all()


def test_images_seen_is_the_axis_of_everything(offline: Path) -> None:
    (told,) = kept(offline)
    axes = {metric.glob_name: metric.step_metric for metric in told.metrics if metric.glob_name}
    assert axes == {"*": "images_seen"}
    assert any(metric.name == "images_seen" for metric in told.metrics)
    assert all("images_seen" in row for row in told.rows)


def test_config_protocols_and_the_best_value_are_there(offline: Path) -> None:
    (told,) = kept(offline)
    config_kept = checkpoint(offline)["ganzoo"]["config"]
    assert {key: told.config[key] for key in config_kept} == json.loads(json.dumps(config_kept))
    written = json.loads((offline / "metrics.json").read_text())
    (identity,) = written["protocols"]
    assert told.config["protocols"] == {
        identity: {"since_images_seen": 40, **written["protocols"][identity]}
    }
    assert told.summary["best"] == {
        "metric": "fd_tiny",
        "protocol": identity,
        **written["best"],
    }


def alike(a: Image.Image, b: Image.Image) -> bool:
    """But for rounding."""
    pixels = [np.asarray(picture).astype(int) for picture in (a, b)]
    return pixels[0].shape == pixels[1].shape and bool(abs(pixels[0] - pixels[1]).max() <= 1)


@pytest.mark.parametrize(
    ("which", "aliases"),
    [
        ("last", [{"latest", "last", "kimg-0.048"}]),
        ("best", [{"latest", "best", f"kimg-{at}"} for at in ("0.016", "0.032", "0.048")]),
        (
            "all",
            [
                {"latest", name, f"kimg-{at}"}
                for at in ("0.016", "0.032", "0.048")
                for name in ("best", "last")
            ],
        ),
    ],
)
def test_checkpoints_are_versions_of_an_artifact(which, aliases, tmp_path: Path) -> None:
    keys = (
        *("total_kimg=0.048", "callbacks.grid=null", "callbacks.save.every_kimg=0.016"),
        *("callbacks.metrics.every_kimg=0.016", "logger=wandb", f"logger.checkpoints={which}"),
        "callbacks.metrics._target_=test_wandb.EverBetter",
    )
    train(config(*EVERYTHING, *keys, f"run_dir={tmp_path}", tiny=False))
    (told,) = kept(tmp_path)
    uploads = [artifact for artifact in told.artifacts if artifact.type == "model"]
    assert sorted(sorted(a.aliases) for a in uploads) == sorted(map(sorted, aliases))
    assert {artifact.name for artifact in uploads} == {"-".join(tmp_path.parts[-3:])}
    for artifact in uploads:
        (content,) = artifact.manifest.contents
        digest = base64.b64encode(hashlib.md5(Path(content.local_path).read_bytes()).digest())
        assert content.digest == digest.decode()
        assert content.path in {f"{name}.ckpt" for name in artifact.aliases}
        kimg = torch.load(content.local_path, weights_only=True)["ganzoo"]["images_seen"] / 1000
        assert f"kimg-{kimg:g}" in artifact.aliases
        assert Path(content.local_path).is_relative_to(tmp_path / "wandb")


class EverBetter(Evaluate):
    """Takes every evaluation for the best."""

    def best(self) -> dict[str, Any] | None:
        return self.evaluations[-1] if self.evaluations else None


def test_no_checkpoint_is_uploaded_unless_asked_for(offline: Path) -> None:
    (told,) = kept(offline)
    assert [artifact.type for artifact in told.artifacts if artifact.type == "model"] == []


def test_two_runs_in_one_process_are_two_of_a_group(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(config(*SHORT, f"run_dir={tmp_path / name}", "logger=wandb", "logger.group=sweep"))
    (a,), (b,) = kept(tmp_path / "a"), kept(tmp_path / "b")
    assert a.runs[0].run_id != b.runs[0].run_id
    assert a.runs[0].run_group == b.runs[0].run_group == "sweep"
    assert (a.runs[0].display_name, b.runs[0].display_name) == ("a", "b")
    for one, name in ((a, "a"), (b, "b")):
        losses = [row["losses/d_loss"] for row in one.rows if "losses/d_loss" in row]
        rows = read_rows(tmp_path / name / "metrics.csv")
        assert losses == pytest.approx([float(row["losses/d_loss"]) for row in rows], rel=1e-6)


def test_a_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    for total in (0.016, 0.032):
        train(config(*SHORT, f"run_dir={tmp_path}", "logger=wandb", f"total_kimg={total}"))
    first, second = kept(tmp_path)
    assert first.runs[0].run_id == second.runs[0].run_id
    assert first.runs[0].run_id == (tmp_path / "wandb" / "id.txt").read_text()
    seen = [
        [row["images_seen"] for row in part.rows if "lr/generator" in row]
        for part in (first, second)
    ]
    assert seen == [[8, 16], [24, 32]]


def test_only_the_first_process_has_a_run_and_an_id(tmp_path: Path) -> None:
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    command = train_command(tmp_path / "run", *SHORT, *two, "logger=wandb")
    result = run(command, processes=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (told,) = kept(tmp_path / "run")
    assert told.runs[0].run_id == (tmp_path / "run" / "wandb" / "id.txt").read_text()
    assert len(list(tmp_path.rglob("id.txt"))) == 1
    assert len([row for row in told.rows if "losses/d_loss" in row]) == 2


# -- the view of it -------------------------------------------------------------------------------


def test_every_panel_shows_something_that_runs_log(offline: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    (told_run,) = kept(offline)
    logged = {name for row in told_run.rows for name in row}
    spec = workspace("someone/ganzoo", "sweep")._to_model().spec.section
    panels = [panel for section in spec.panel_bank_config.sections for panel in section.panels]
    assert len(panels) > 15
    for panel in panels:
        told = panel.config if isinstance(panel.config, dict) else panel.config.model_dump()
        for key in told.get("media_keys") or []:
            assert key in logged
        if names := told.get("metric_regex"):
            assert told["x_axis"] == "images_seen"
            assert any(re.search(names, name) for name in logged), names
            assert not re.search(names, "metrics/fd_tiny_std")
    measured = {f"system/{item.key}" for item in told_run.stats}
    assert {name for name in SYSTEM.values() if "gpu" not in name} <= measured
    shown = [
        *(names for part in CURVES.values() for names in part.values()),
        r"^pictures/",
    ]
    left = {name for name in logged if not any(re.search(s, name) for s in shown)}
    assert {name.partition("/")[0] for name in left} == {
        "images_seen",
        "metrics",
        "spectra",
        "speed",
    }
    assert spec.settings.x_axis == "images_seen"
    assert "sweep" in json.dumps(spec.model_dump()["run_sets"])


def test_a_view_is_saved(server, monkeypatch, capsys) -> None:
    pytest.importorskip("wandb_workspaces")
    wandb.teardown()
    save_view(["someone/ganzoo", "--group", "sweep"])
    ((_, given),) = [asked for asked in server.asked if asked[0] == "UpsertView2"]
    assert (given["entityName"], given["projectName"]) == ("someone", "ganzoo")
    assert given["displayName"] == "ganzoo sweep"
    assert len(json.loads(given["spec"])["section"]["panelBankConfig"]["sections"]) > 5
    said = capsys.readouterr().out
    assert said.startswith(f"{server.url}/someone/ganzoo?nw=")
    assert KEY not in said
    wandb.teardown()


@pytest.mark.parametrize(
    ("key", "address", "project", "sentence"),
    [
        (KEY, NOWHERE, "someone/ganzoo", "check the network"),
        ("", NOWHERE, "someone/ganzoo", "There is no wandb API key"),
        (KEY, NOWHERE, "ganzoo", "ENTITY/PROJECT"),
    ],
)
def test_what_a_view_lacks_is_told(key, address, project, sentence, monkeypatch) -> None:
    pytest.importorskip("wandb_workspaces")
    wandb.teardown()
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", address)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(SystemExit, match=sentence) as told:
        save_view([project])
    assert "\n" not in str(told.value)
    wandb.teardown()


def test_a_view_needs_its_library(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(SystemExit, match=r"pip install -e .\.\[workspace\]"):
        save_view(["someone/ganzoo"])


# -- on the wire -----------------------------------------------------------------------------------


def test_a_server_that_is_not_there_costs_seconds_and_no_data(
    online: Callable, train_main: Callable, tmp_path: Path
) -> None:
    online(NOWHERE)
    code, said = train_main(tmp_path / "run", *SHORT, "logger=wandb", "logger.patience=2")
    assert not code, said
    assert (tmp_path / "run" / "done").exists()
    assert 2 <= seconds_lost(said) <= 20
    assert "Traceback" not in said
    told = kept(tmp_path / "run")[-1]
    assert "offline-run-" in str(told.file)
    assert [row["images_seen"] for row in told.rows if "lr/generator" in row] == [8, 16]
    named = re.search(r"`wandb sync (.*?)`", said)
    assert named
    assert Path(named[1]) == told.file.parent
    assert KEY not in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_a_run_that_is_resumed_online_goes_on_where_it_was(
    server: Server, train_main: Callable, tmp_path: Path
) -> None:
    for total in (0.016, 0.032):
        code, said = train_main(tmp_path / "run", *SHORT, "logger=wandb", f"total_kimg={total}")
        assert not code, said
        assert f"wandb: online, {server.url}" in said
        assert "Traceback" not in said
        assert KEY not in said
    ((identity, lines),) = server.lines.items()
    assert identity == (tmp_path / "run" / "wandb" / "id.txt").read_text()
    ticks = [line for line in lines if "losses/d_loss" in line]
    assert [tick["images_seen"] for tick in ticks] == [8, 16, 24, 32]
    assert [line["_step"] for line in lines] == list(range(len(lines)))
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert [tick["losses/d_loss"] for tick in ticks] == pytest.approx(
        [float(row["losses/d_loss"]) for row in rows], rel=1e-6
    )
    assert any(name.startswith("media/images/pictures/samples") for name in server.uploaded)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_a_server_that_dies_on_the_way_does_not_hold_up_the_end(
    server: Server, train_main: Callable, tmp_path: Path
) -> None:
    server.dies_when_started = True
    folder = tmp_path / "run"
    code, said = train_main(folder, *SHORT, "logger=wandb", "logger.patience=2")
    assert not code, said
    assert (folder / "done").exists()
    assert "Traceback" not in said
    (told,) = kept(folder)
    assert [row["images_seen"] for row in told.rows if "lr/generator" in row] == [8, 16]
    assert "wandb did not receive everything" in said
    named = re.search(r"`wandb sync (.*?)`", said)
    assert named
    assert Path(named[1]) == told.file.parent


def test_what_wandb_raises_later_does_not_fail_the_run(tmp_path: Path, monkeypatch, caplog) -> None:
    def fails(*_: object, **__: object) -> None:
        raise BrokenPipeError("the service is gone")

    monkeypatch.setattr(wandb.Run, "log", fails)
    train(config(*SHORT, f"run_dir={tmp_path}", "logger=wandb"))
    assert (tmp_path / "done").exists()
    assert caplog.text.count("the service is gone") == 1


def test_settings_that_wandb_refuses_do_not_fail_the_run(
    online: Callable, train_main: Callable, tmp_path: Path
) -> None:
    online("no address")
    code, said = train_main(tmp_path / "run", *SHORT, "logger=wandb")
    assert not code, said
    assert (tmp_path / "run" / "done").exists()
    assert "wandb logs nothing" in said


def test_two_loggers_of_a_folder_have_one_id_and_two_folders_two(tmp_path: Path) -> None:
    ids = [Wandb(tmp_path / name)._run_id() for name in ("a", "a", "b")]
    assert ids[0] == ids[1] != ids[2]
