"""Run folders that no run has written."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import psutil

CONFIG = """\
loss:
  _target_: ganzoo.nn.losses.Hinge
model:
  loss:
    _target_: ganzoo.nn.losses.Hinge
  _target_: ganzoo.models.pggan.PGGAN
  total_kimg: 7
data:
  _target_: ganzoo.data.ImageData
  source:
    _target_: ganzoo.data.sources.emoji.Emoji
total_kimg: 80
"""
HERE = {"host": socket.gethostname(), "pid": os.getpid()}


def make(
    path: Path,
    state: str | None = "done",
    sentence: str = "",
    rows: str | None = "",
    value: float | None = None,
    monitor: str = "fd_tiny",
    protocol: str = "aaaaaaaa",
    config: str | None = CONFIG,
    **about: Any,
) -> Path:
    """A run folder by hand."""
    path.mkdir(parents=True)
    if state is not None:
        told = {"state": state, "sentence": sentence, "about": about, **HERE}
        told["started"] = psutil.Process().create_time()
        (path / "state.json").write_text(json.dumps(told))
    if config is not None:
        (path / "config.yaml").write_text(config)
    if rows is not None:
        (path / "metrics.csv").write_text(
            f"images_seen,losses/d_loss,speed/images_per_second\n{rows}"
        )
    if value is not None:
        evaluation = {"images_seen": 20000, "values": {monitor: value}, "protocol": protocol}
        told = {
            "monitor": monitor,
            "higher_is_better": monitor.rpartition("/")[2].startswith("is"),
            "best": {"images_seen": 20000, "value": value},
            "evaluations": [evaluation],
            "protocols": {protocol: {}},
        }
        (path / "metrics.json").write_text(json.dumps(told))
    return path
