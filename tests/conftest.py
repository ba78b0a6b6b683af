"""What tests share: tiny configs, tiny networks, commands in processes of their own."""

import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.hydra_config import HydraConfig

os.environ.setdefault("WANDB_MODE", "offline")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts jobs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started processes inherit this
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"  # servers of tests are here
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)

TESTS = str(Path(__file__).parent)  # holds `makers`, which also the started processes import
sys.path.insert(0, TESTS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))

from makers import quick, warm  # noqa: E402, F401
from makers.tiny import TINY  # noqa: E402

from ganzoo.train import main as train_main_  # noqa: E402


def train_command(run_dir: Path, *overrides: str) -> list[str]:
    """The command line of a tiny run."""
    return [sys.executable, "-m", "ganzoo.train", *TINY, f"run_dir={run_dir}", *overrides]


def run(
    command: Sequence[str], processes: int = 1, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a Python command to its end, in one process or several that train together.

    Returns:
        The first process's exit code and output; if a process fails, that one's.
    """
    if "preexec_fn" in options:  # limits need a process from its start
        return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)
    if processes == 1:
        return warm.run(list(command), timeout=240, **options)
    done = warm.world(list(command), processes, timeout=240, **options)
    return next((one for one in done if one.returncode > 0), done[0])


def in_worlds(folder: Path, script: str, *scenarios: str) -> Callable[..., Any]:
    """Run scenarios of a script in one process and in two; their results by world size and rank."""
    for size in (1, 2):
        (folder / str(size)).mkdir(parents=True)
        done = run([sys.executable, script, str(folder / str(size)), *scenarios], processes=size)
        assert done.returncode == 0, done.stderr[-3000:]

    def load(scenario: str, world: int, rank: int = 0) -> Any:
        return torch.load(folder / str(world) / f"{scenario}-{rank}.pt", weights_only=True)

    return load


def group_is_gone(number: int, patience: float = 5.0) -> bool:
    """Whether no process of a group is left, some seconds after its first one ended."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.killpg(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def tensors(node: object, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in nested dicts and lists, by its path."""
    if isinstance(node, torch.Tensor):
        return {path: node}
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list | tuple)
        else ()
    )
    return {k: v for key, value in items for k, v in tensors(value, f"{path}/{key}").items()}


def assert_same_tensors(a: object, b: object, atol: float = 0.0) -> None:
    """Every tensor of two checkpoints is equal, bit for bit unless `atol` is given."""
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    assert left
    for key, value in left.items():
        if atol:
            torch.testing.assert_close(value, right[key], rtol=atol, atol=atol, msg=key)
        else:
            assert torch.equal(value, right[key]), key


def checkpoint(run_dir: Path) -> dict:
    return torch.load(run_dir / "last.ckpt", weights_only=True)


def pytest_collection_finish() -> None:
    """Leave what has been imported out of garbage collections, which then take no time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The export of a tiny run of a kind, with its graphs; the run is two folders above it.

    Graphs take seconds, so all tests of a process share them.
    """
    from makers import shared

    return cache(lambda kind: shared.graphs(tmp_path_factory.mktemp("alice-folder"), kind))


@pytest.fixture(autouse=True)
def _no_key_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture(autouse=True)
def _no_package_of_another_test() -> Iterator[None]:
    """Several tests write a package `mypackage`, as the pages call it, each its own."""
    yield
    if "mypackage" in sys.modules:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _hydra_as_before() -> Iterator[None]:
    """Names of runs are made from what Hydra composed last, which must not be another test's."""
    before = HydraConfig.instance().cfg
    yield
    HydraConfig.instance().cfg = before


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out `curves.png` and `spectra.png`, each of which takes up to a second."""
    monkeypatch.setattr("ganzoo.callbacks.page.plot_curves", lambda *_: None)
    monkeypatch.setattr("ganzoo.callbacks.spectra.plot_spectra", lambda *_: None)


@pytest.fixture
def train_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str]]:
    """`python -m ganzoo.train ...` without the process: (exit code, all that it wrote)."""

    def call(run_dir: Path, *overrides: str) -> tuple[object, str]:
        root, instance = logging.getLogger(), HydraConfig.instance()
        handlers, level, before = root.handlers[:], root.level, instance.cfg
        monkeypatch.setattr(sys, "argv", [*train_command(run_dir, *overrides)[2:]])
        code: object = 0
        try:
            train_main_()
        except SystemExit as stop:
            code = stop.code
            if isinstance(code, str):  # a sentence, which Python prints
                print(code, file=sys.stderr)
                code = 1
        finally:
            root.handlers[:], instance.cfg = handlers, before
            root.setLevel(level)
        written = capsys.readouterr()
        return code, written.out + written.err

    return call
