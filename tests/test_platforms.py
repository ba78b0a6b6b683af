"""Windows and Apple GPUs, emulated: what they do not have is taken away."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import TESTS
from makers.apple import MPS, OnApple
from makers.tiny import TINY, TINY_METRICS, config

from ganzoo.callbacks.spectra import singular_values
from ganzoo.config import make
from ganzoo.metrics import pretrained
from ganzoo.metrics.base import float64_device
from ganzoo.metrics.suite import Suite

# Packages that know both systems are imported before.
WITHOUT_UNIX = """
import os, pkgutil, signal, sys
import datasets, lightning.pytorch, matplotlib.figure, multiprocessing.popen_spawn_posix, psutil
import torchmetrics, torchvision, tqdm, wandb, wandb_workspaces
from lightning.pytorch.trainer.connectors import signal_connector
signal_connector._IS_WINDOWS = True
signal.valid_signals = lambda: {signal.SIGINT, signal.SIGTERM}
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "pthread_sigmask", "sigwaitinfo"):
    delattr(signal, name)
for name in ("fork", "register_at_fork", "sched_getaffinity", "getuid", "killpg"):
    delattr(os, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import ganzoo
for found in pkgutil.walk_packages(ganzoo.__path__, "ganzoo."):
    if not found.name.endswith("__main__"):
        __import__(found.name)
import ganzoo.data.loader
ganzoo.data.loader.cores = lambda: 1
"""


def test_a_run_on_windows(tmp_path: Path) -> None:
    code = f"{WITHOUT_UNIX}\nganzoo.train(*{TINY!r}, run_dir={str(tmp_path)!r})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=TESTS
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "done").is_file()


def test_sums_are_where_float64_is() -> None:
    assert float64_device(MPS) == torch.device("cpu")
    assert float64_device(torch.device("cuda:1")) == torch.device("cuda:1")


def test_tensors_on_apple_refuse_float64() -> None:
    """Otherwise the next test could not fail."""
    images = torch.rand(2, 3).as_subclass(OnApple)
    for convert in (
        lambda x: x.double(),
        lambda x: x.to(torch.float64),
        lambda x: x.to("cpu", torch.float64),
    ):
        with pytest.raises(TypeError, match="float64"):
            convert(images)
    assert type(images.to("cpu")) is torch.Tensor
    assert type(images + 1) is OnApple


def test_metrics_and_spectra_of_an_apple_gpu() -> None:
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    features, logits, index = torch.randn(40, 6), torch.randn(40, 5), torch.arange(40)
    values = []
    for kind in (torch.Tensor, OnApple):
        suite: Suite = make(config(*TINY_METRICS, "metrics=all", "image_size=32").metrics)
        for metric in suite.metrics.values():
            metric.expect(40)
        for real in (True, False):
            given = {"images": images.flip(0) if real else images, "index": index, "mixed": index,
                     "features": features + real, "logits": logits}  # fmt: skip
            suite._update(**{k: v.clone().as_subclass(kind) for k, v in given.items()}, real=real)
        fd = suite.metrics["fd"].compute()
        values.append((fd, suite.metrics["is"].compute()))
    assert str(values[0]) == str(values[1])
    matrix = torch.randn(5, 7)
    assert torch.equal(singular_values(matrix), singular_values(matrix.as_subclass(OnApple)))


def test_a_user_without_a_home_has_a_cache(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("GANZOO_CACHE", raising=False)
    monkeypatch.setattr(pretrained, "user_cache_path", refuse)
    assert pretrained.cache_folder().parent == Path(tempfile.gettempdir())


def test_a_notebooks_backend_that_is_not_installed() -> None:
    code = "import ganzoo, matplotlib; print(matplotlib.get_backend())"
    env = {**os.environ, "MPLBACKEND": "module://no_such_package.backend_inline"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().lower() == "agg"
