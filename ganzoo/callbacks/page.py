"""`index.html` and `curves.png`: everything about a run on one page."""

import importlib.util
import json
import logging
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from ganzoo.callbacks.periods import due, picture_period
from ganzoo.callbacks.trainer import data_of, maintenance
from ganzoo.config.values import NotNegative
from ganzoo.disk import write_whole
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import Translating
from ganzoo.loggers.csv import read_rows
from ganzoo.metrics.protocol import best_of, sentences
from ganzoo.pictures.curves import plot_curves
from ganzoo.pictures.web import link, newest, render

log = logging.getLogger(__name__)


class Page(Callback):
    """`index.html` of the run folder, with `curves.png`; nothing that goes wrong here fails a run.

    Has to follow the callbacks whose pictures and numbers it shows.

    Args:
        every_kimg: thousands of images between two versions; None for the model's own period.
    """

    def __init__(self, every_kimg: NotNegative | None = 10.0) -> None:
        self.every_kimg = every_kimg

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if due(gan, picture_period(gan, self.every_kimg)) and not gan.trained:
            self._write(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        if not gan.control.dry:
            self._write(trainer, gan)

    def _write(self, trainer: L.Trainer, gan: GAN) -> None:
        if not trainer.is_global_zero:
            return
        run_dir = Path(trainer.default_root_dir)
        with maintenance(gan, "writing index.html"):
            try:
                metrics = _json(run_dir / "metrics.json")
                floors = metrics["evaluations"][-1]["floors"] if metrics else {}
                plot_curves(read_rows(run_dir / "metrics.csv"), run_dir / "curves.png", floors)
                write_whole(run_dir / "index.html", page(run_dir, trainer, gan, metrics))
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                log.warning("index.html could not be made (%s)", reason)


def page(run_dir: Path, trainer: L.Trainer, gan: GAN, metrics: Mapping[str, Any]) -> str:
    """The page of a run as HTML."""
    about = _json(run_dir / "state.json").get("about", {})
    names = [about.get(key) for key in ("experiment", "model", "data")]
    speed = trainer.callback_metrics.get("speed/images_per_second")
    samples = newest(run_dir / "samples")
    logits = newest(run_dir / "logits")

    def existing(name: str) -> str:
        return name if (run_dir / name).is_file() else ""

    return render(
        "run.html",
        title=about.get("name") or run_dir.name,
        what=f"{type(gan).__name__}: {', '.join(name for name in names if name)}",
        generator=sum(p.numel() for p in gan.generator.parameters()),
        discriminator=sum(p.numel() for p in gan.discriminator.parameters()),
        kimg=gan.images_seen / 1000,
        total_kimg=gan.total_images / 1000,
        speed=None if speed is None else float(speed),
        now=datetime.now().strftime("%Y-%m-%d %H:%M"),
        alarms=_json(run_dir / "warnings.json") or [],
        samples=samples
        and {
            "link": link(samples, run_dir),
            "kimg": f"{float(samples.stem):g}",
            "of": "test images" if isinstance(gan, Translating) else "seeds",
        },
        progress=existing("progress.png"),
        growth=existing("growth.gif"),
        curves=existing("curves.png"),
        spectra=existing("spectra.png"),
        logits=logits and link(logits, run_dir),
        metrics=table(metrics) if metrics else None,
        commands=commands(run_dir, gan, about.get("keys", [])),
        differs=about.get("differs"),  # None: unknown
        data=[
            {"summary": domain.check()[0], "license": domain.source.license}
            for domain in data_of(trainer).domains.values()
        ],
    )


def table(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The newest and the best evaluation of a `metrics.json`, row by row."""
    last = metrics["evaluations"][-1]
    best = best_of(metrics["evaluations"], metrics["monitor"], metrics["higher_is_better"])

    def text(evaluation: Mapping[str, Any], name: str) -> str:
        value, spread = (evaluation["values"].get(n) for n in (name, f"{name}_std"))
        return "" if value is None else f"{value:.4g}" + (f" ± {spread:.2g}" if spread else "")

    return {
        "kimg": f"{last['images_seen'] / 1000:g}",
        "best": None if best is last else {"kimg": f"{best['images_seen'] / 1000:g}"},
        "rows": [
            {
                "name": name,
                "value": text(last, name),
                "best": text(best, name),
                "floor": f"{last['floors'][name]:.4g}" if name in last["floors"] else "",
            }
            for name in last["values"]
            if not name.endswith("_std")
        ],
        "protocols": sentences(last["protocol"], metrics["protocols"][last["protocol"]]),
    }


def commands(run_dir: Path, gan: GAN, keys: list[str]) -> list[tuple[str, str]]:
    """What can be done with a run, and the command for each."""
    inside = run_dir.is_relative_to(Path.cwd())
    run = shlex.quote(os.path.relpath(run_dir) if inside else str(run_dir))
    given = shlex.join(key for key in keys if not key.startswith(("run_dir=", "total_kimg=")))
    again = " ".join(part for part in ("python -m ganzoo.train", given, f"run_dir={run}") if part)
    total = gan.total_images / 1000
    found = [
        ("Resume it if it was stopped", f"{again} total_kimg={total:g}"),
        ("Train it longer", f"{again} total_kimg={2 * total:g}"),
    ]
    if isinstance(gan, Translating):
        found.append(("Translate a folder", f"python -m ganzoo.translate {run} PHOTOS OUT --page"))
    else:
        found += [
            ("More samples", f"python -m ganzoo.sample {run} --num 64 --out samples.png"),
            ("Walk between seeds", f"python -m ganzoo.sample {run} --walk 0-3 --out walk.gif"),
            ("Training images next to samples", f"python -m ganzoo.neighbors {run} --out near.png"),
        ]
    found.append(("Measure it with more images", f"python -m ganzoo.evaluate ckpt={run}"))
    if importlib.util.find_spec("ganzoo.export"):
        found.append(("Export it", f"python -m ganzoo.export {run}"))
    return found


def _json(path: Path) -> Any:
    """What a file says; empty if there is none, or if it cannot be read."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return {}
