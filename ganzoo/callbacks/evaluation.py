"""Metrics during training."""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from ganzoo.callbacks.saving import save_checkpoint
from ganzoo.callbacks.trainer import data_of, declare_numbers, log_numbers, loggers_of, maintenance
from ganzoo.config.values import Count, NotNegative
from ganzoo.disk import write_whole
from ganzoo.distributed.collectives import any_process
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import Translating
from ganzoo.engine.sampling import check
from ganzoo.errors import UserError
from ganzoo.metrics import translation
from ganzoo.metrics.protocol import Scores, best_of, monitored
from ganzoo.metrics.scoring import scorer_of
from ganzoo.metrics.suite import Suite
from ganzoo.schedules.images import crossed

log = logging.getLogger(__name__)


class Evaluate(Callback):
    """Scores samples of fixed seeds, or translations, and keeps the best checkpoint.

    Numbers go to every logger as `metrics/<name>`, and with their protocols to `metrics.json`.
    `best.ckpt` has the best value of the monitored metric among the evaluations by one protocol.

    Args:
        every_kimg: thousands of images between two evaluations; there is one at the end as well.
        monitor: metric that decides which checkpoint is the best: a label of the suite, or a full
            name. For a model that translates also `l1` and the other metrics of
            `TranslationScorer`, either in one direction, as in `AtoB/fd`, or without a direction
            for the mean over both.
        raw: whether to score the generator instead of its average.
        truncation: threshold of the latents; None for no limit.
        patience: number of evaluations in a row without a new best one after which the run ends
            and is complete; None for a run over its full length.
    """

    def __init__(
        self,
        suite: Suite,
        every_kimg: NotNegative = 20.0,
        monitor: str = "fd",
        raw: bool = False,
        truncation: float | None = None,
        patience: Count | None = None,
    ) -> None:
        self.suite, self.every_kimg = suite, every_kimg
        direction, slash, name = monitor.rpartition("/")
        name, self.up = suite.monitored(name, translation.metrics())
        self.monitor = direction + slash + name
        self.raw, self.truncation, self.patience = raw, truncation, patience
        if truncation is not None:
            check([truncation])
        self._began = 0.0
        self.evaluations: list[dict[str, Any]] = []
        self.protocols: dict[str, dict[str, Any]] = {}

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        self._began = time.perf_counter()
        if self.truncation is not None and isinstance(gan, Translating):
            raise UserError(
                "Translations have no latents to truncate: set callbacks.metrics.truncation=null."
            )
        data = data_of(trainer)
        with maintenance(gan, "computing features of the real images, once"):
            prepare = not gan.control.dry
            self.scorer = scorer_of(gan, data, self.suite, gan.device, prepare=prepare)
        if monitored(self.monitor, dict.fromkeys(self.scorer.names, 0.0)) is None:
            known = ", ".join(n for n in self.scorer.names if not n.endswith("_std"))
            raise UserError(
                f"callbacks.metrics.monitor={self.monitor} is not measured here: choose one of "
                f"{known}."
            )
        if gan.control.dry:
            return
        declare_numbers(trainer, [f"metrics/{name}" for name in self.scorer.names])
        declare_numbers(trainer, ["speed/metrics_seconds", "speed/maintenance_share"])
        if trainer.is_global_zero:
            for sentence in self.scorer.lowered:
                log.info("metrics: %s", sentence)
        last = self.evaluations[-1]["images_seen"] if self.evaluations else 0
        # It was stopped before it could.
        if crossed(last, gan.images_seen, self.every_kimg) or gan.trained:
            self._evaluate(trainer, gan)
        self._end_if_exhausted(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        due = crossed(gan.images_before, gan.images_seen, self.every_kimg)
        if due or gan.trained:
            self._evaluate(trainer, gan)
            self._end_if_exhausted(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        if trainer.is_global_zero and gan.trained and (best := self._best_result()):
            kimg = best["images_seen"] / 1000
            log.info("best.ckpt: %s %.5g at %.1f kimg", self.monitor, best["value"], kimg)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluations": self.evaluations, "protocols": self.protocols}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.evaluations, self.protocols = state["evaluations"], state["protocols"]

    def best(self) -> dict[str, Any] | None:
        """The best evaluation by the protocol of the newest one; None if none has a number."""
        if not self.evaluations:
            return None
        best = best_of(self.evaluations, self.monitor, self.up)
        value = monitored(self.monitor, best["values"])
        return None if value is None or math.isnan(value) else best

    def _best_result(self) -> dict[str, Any] | None:
        best = self.best()
        if best is None:
            return None
        value = monitored(self.monitor, best["values"])
        return {"images_seen": best["images_seen"], "value": value}

    def _end_if_exhausted(self, trainer: L.Trainer, gan: GAN) -> None:
        """End the run if the newest evaluations are not better than the best one before them."""
        best = self.best()
        since = len(self.evaluations) - (1 + self.evaluations.index(best) if best else 0)
        if self.patience is None or since < self.patience or gan.trained:
            return
        gan.control.enough = f"{self.monitor} has not improved in {since} evaluations"
        trainer.should_stop = True

    def _evaluate(self, trainer: L.Trainer, gan: GAN) -> None:
        if self.evaluations and self.evaluations[-1]["images_seen"] == gan.images_seen:
            return
        gan.report.check_finite()
        with maintenance(gan, "measuring the metrics"):
            scores = self.scorer.score(
                self.raw, self.truncation, lambda: any_process(gan.control.signal != 0, gan.device)
            )
        if scores is None:  # asked to stop; a resumed run evaluates first
            return
        share = gan.control.maintenance_seconds / (time.perf_counter() - self._began)
        protocol = scores.protocol_id
        if self.evaluations and self.evaluations[-1]["protocol"] != protocol:
            log.info("metrics: the protocol has changed, so best.ckpt starts over")
        self.protocols[protocol] = scores.protocol
        self.evaluations.append(
            {
                "images_seen": gan.images_seen,
                "values": scores.values,
                "floors": scores.floors,
                "protocol": protocol,
            }
        )
        values = {f"metrics/{name}": value for name, value in scores.values.items()}
        values |= {"speed/metrics_seconds": scores.seconds, "speed/maintenance_share": share}
        log_numbers(trainer, gan, values)
        for logger in loggers_of(trainer):
            logger.log_facts(*self._facts())
        best = self.best() is self.evaluations[-1]
        if trainer.is_global_zero:
            self._log(scores, gan, share, best)
            self._write(Path(trainer.default_root_dir) / "metrics.json")
        if best:
            path = Path(trainer.default_root_dir) / "best.ckpt"
            save_checkpoint(trainer, path, gan.images_seen)

    def _facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """For loggers: the protocols by their ids and since when they hold; the best result."""
        since: dict[str, int] = {}
        for evaluation in self.evaluations:
            since.setdefault(evaluation["protocol"], evaluation["images_seen"])
        protocols = {
            name: {"since_images_seen": since[name], **protocol}
            for name, protocol in self.protocols.items()
        }
        if (best := self._best_result()) is None:
            return {"protocols": protocols}, {}
        newest = self.evaluations[-1]["protocol"]
        return {"protocols": protocols}, {
            "best": {"metric": self.monitor, "protocol": newest, **best}
        }

    def _log(self, scores: Scores, gan: GAN, share: float, best: bool) -> None:
        log.debug(
            "metrics at %.1f kimg: %s%s  (%.0f s, %.1f %% of the time so far)",
            gan.images_seen / 1000,
            "  ".join(scores.rows()),
            "  best so far: best.ckpt" if best else "",
            scores.seconds,
            100 * share,
        )
        if len([e for e in self.evaluations if e["protocol"] == scores.protocol_id]) == 1:
            for line in (*scores.protocols(), *scores.notes):
                log.debug("metrics: %s", line)

    def _write(self, path: Path) -> None:
        content = {
            "monitor": self.monitor,
            "higher_is_better": self.up,
            "best": self._best_result(),
            "evaluations": self.evaluations,
            "protocols": self.protocols,
        }
        write_whole(path, json.dumps(content, indent=1))
