"""The commands that start a run, as people type them."""

import json
import logging
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import assert_same_tensors, checkpoint, run
from makers.tiny import TINY, config
from PIL import Image

import ganzoo
from ganzoo.errors import UserError

ROOT = Path(__file__).parents[1]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "total_kimg=0.048")


def test_torchrun_and_lightnings_launcher_make_the_same_run(tmp_path: Path) -> None:
    """Also: without a run_dir, the processes of torchrun agree on one folder."""
    module = ["-m", "ganzoo.train", *TINY, *TWO]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = run([*torchrun, *module], cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (folder,) = (tmp_path / "runs" / "dcgan_small" / "synthetic").iterdir()
    other = tmp_path / "other"
    ended = run([sys.executable, *module, f"run_dir={other}"], cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in other.iterdir())
    assert_same_tensors(checkpoint(folder)["state_dict"], checkpoint(other)["state_dict"])


@pytest.mark.slow
def test_the_wheel_works_from_anywhere(tmp_path: Path) -> None:
    """The config travels in the wheel, and the console script finds it."""
    root = Path(__file__).resolve().parent.parent
    python = sys.executable
    built = run([python, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(root)])
    assert built.returncode == 0, built.stderr[-3000:]
    (wheel,) = tmp_path.glob("ganzoo_lightning-*.whl")
    target = tmp_path / "site"
    into = ["--quiet", "--no-deps", "--target", str(target), str(wheel)]
    assert run([python, "-m", "pip", "install", *into]).returncode == 0
    assert (target / "ganzoo" / "conf" / "train.yaml").is_file()
    assert (target / "ganzoo" / "data" / "sources" / "emoji" / "NOTICE.md").is_file()
    assert (target / "ganzoo" / "pictures" / "page.html").is_file()
    script = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import ganzoo.cli as m; "
        f"assert m.__file__.startswith({str(target)!r}); m.main()"
    )
    command = [python, "-c", script, "train", *TINY, f"run_dir={tmp_path / 'run'}"]
    ended = run(command, cwd=tmp_path, env={"PYTHONPATH": str(target), "PATH": ""})
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / "run" / "done").is_file()


def test_training_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ganzoo.train` is a module and can be called; the folder is named like that of a command."""
    monkeypatch.chdir(tmp_path)
    gan = ganzoo.train(*TINY, total_kimg=0.016, **{"model.nz": 6})
    assert gan.images_seen == 16
    assert gan.nz == 6
    (folder,) = (tmp_path / "runs" / "dcgan_small" / "synthetic").iterdir()
    assert folder.name.endswith("_nz-6") or "nz-6" in folder.name
    assert ganzoo.load(folder).images_seen == 16
    state = json.loads((folder / "state.json").read_text())
    assert (state["state"], state["about"]["model"]) == ("done", "dcgan_small")
    assert "total_kimg=0.016" in state["about"]["keys"]
    with pytest.raises(ganzoo.UserError, match="precision must be one of"):
        ganzoo.train(*TINY, precision="float8", run_dir=str(tmp_path / "other"))


def test_training_in_a_thread_shows_its_progress(tmp_path: Path, capsys) -> None:
    """Threads have no signals, and a program without logging of its own sees the messages."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        with ThreadPoolExecutor() as threads:
            call = threads.submit(ganzoo.train, *TINY, run_dir=str(tmp_path / "run"))
            assert call.result().images_seen == 80
    finally:
        root.handlers = handlers
    lines = capsys.readouterr().out.splitlines()
    assert f"run folder: {tmp_path / 'run'}" in lines
    ticks = [line for line in lines if re.match(r"0\.\d/0\.08 kimg  ", line)]
    assert len(ticks) == 2
    assert all("images/s" in line and "d_loss" in line and "left" in line for line in ticks)
    assert max(map(len, ticks)) <= 120
    assert len(lines) - len(ticks) <= 11, "at most ten lines at the start, and one at the end"


@pytest.mark.parametrize("keys", [("data=folder", "data.root=nowhere"), ("dry=true",)])
def test_what_trains_nothing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [key for key in TINY if not key.startswith(("data", "logger"))] + ["logger=wandb"]
    try:
        ganzoo.train(*given, *keys)
    except ganzoo.UserError as error:
        assert "nowhere" in str(error)  # noqa: PT017
    assert list(tmp_path.iterdir()) == []


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells in their order, with a tiny model and few images."""
    notebook = json.loads((ROOT / "examples" / "first_gan.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells), "outputs are kept"
    tiny = dict(key.split("=", 1) for key in TINY if not key.startswith(("data", "logger")))
    train = ganzoo.train
    monkeypatch.setattr(ganzoo, "train", lambda *keys, **named: train(*keys, **{**named, **tiny}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(Image=Image.open))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    names: dict[str, Any] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert names["gan"].images_seen == 80


def test_a_composed_config_trains_in_a_thread(tmp_path: Path) -> None:
    """Which has no signals; overrides come too late for it."""
    cfg = config(f"run_dir={tmp_path}")
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(ganzoo.train, cfg).result().trained
    with pytest.raises(UserError, match="give them to compose"):
        ganzoo.train(cfg, total_kimg=1)
