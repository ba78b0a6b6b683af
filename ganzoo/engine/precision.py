"""The number type that networks compute in: as given, as the hardware suggests, or as measured."""

import hashlib
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision

from ganzoo import __version__
from ganzoo.disk import write_whole
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError, check_choice

PRECISIONS = ("auto", "fastest", "32-true", "bf16-mixed", "64-true")
MARGIN = 1.15  # how many times as fast bf16 has to be: less is not worth another rounding
SECONDS = 1.0  # that are measured for, but at least four iterations each

log = logging.getLogger(__name__)


def choose_precision(precision: str, on_gpu: bool) -> tuple[str, str]:
    """Lightning's name of a precision, and why it was chosen.

    `auto` is bf16-mixed if the hardware is fast at it, else 32-true. `fastest` is the same, but
    see `is_measured`. Raises `UserError` for a precision that was not shown to be right.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision not in ("auto", "fastest"):
        return precision, "as given"
    if is_measured(precision, on_gpu):
        return "32-true", "until it is measured"
    if on_gpu:
        if torch.cuda.get_device_capability() >= (8, 0):
            return "bf16-mixed", "the GPU is an Ampere or newer"
        return "32-true", "the GPU is older than Ampere"
    # Without AMX, most CPUs emulate bfloat16, which is slower than float32.
    if torch.cpu._is_amx_tile_supported():
        return "bf16-mixed", "the CPU has AMX"
    return "32-true", "the CPU has no AMX"


def is_measured(precision: str, on_gpu: bool) -> bool:
    """Whether the preflight chooses: with `fastest`, on a CPU that says it computes in bfloat16."""
    cpu = torch.cpu
    able = cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    return precision == "fastest" and not on_gpu and able


def take_fastest(trainer: L.Trainer, gan: GAN, iteration: Callable[[], float], cache: Path) -> None:
    """Compute in bf16-mixed if iterations are at least 1.15 times as fast in it as in 32-true.

    They take turns. `gan.config`, and so each checkpoint, gets the choice as its precision.

    Args:
        iteration: runs an iteration and returns the seconds that it took.
        cache: folder that keeps what was measured, by machine and recipe, so that a command that
            is given twice computes the same.
    """
    assert gan.config is not None
    recipe = {**gan.config["model"], "seed": 0, "total_kimg": 0}
    machine = platform.node(), torch.get_num_threads(), torch.__version__, __version__
    key = repr((machine, trainer.world_size, gan.config["batch_size"], recipe)).encode()
    entry = cache / f"{hashlib.sha256(key).hexdigest()[:40]}.json"
    plugins = {"32-true": Precision(), "bf16-mixed": MixedPrecision("bf16-mixed", "cpu")}
    everyone = trainer.strategy.broadcast  # says what the first process found
    seconds: dict[str, list[float]] = {}
    with suppress(OSError, ValueError):
        seconds = json.loads(entry.read_text())
    if not (known := everyone(bool(seconds))):
        seconds = {name: [] for name in plugins}
        start = time.perf_counter()
        while len(seconds["32-true"]) < 4 or everyone(time.perf_counter() - start < SECONDS):
            for name, trainer.strategy.precision_plugin in plugins.items():
                seconds[name].append(iteration())
        with suppress(OSError, UserError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_whole(entry, json.dumps(seconds))
    # Without the first, a warm-up.
    full, half = (1000 * statistics.median(s[1:]) for s in everyone(seconds).values())
    choice = gan.config["precision"] = "bf16-mixed" if full >= MARGIN * half else "32-true"
    trainer.strategy.precision_plugin = plugins[choice]
    if trainer.is_global_zero:
        log.info(
            f"precision {choice}: an iteration took {full:.0f} ms in 32-true and {half:.0f} ms in "
            f"bf16-mixed{' when it was measured before' if known else ''}"
        )
