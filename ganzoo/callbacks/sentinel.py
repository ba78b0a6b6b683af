"""Watches a run for the ways in which GANs fail, names them, and stops it or goes back in time.

`alarms.py` decides what the numbers mean; docs/watching.md has the table of alarms.
"""

import json
import logging
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from ganzoo.callbacks import alarms
from ganzoo.callbacks.signs import Diversity, Growth
from ganzoo.callbacks.trainer import data_of, declare_numbers, log_numbers, maintenance
from ganzoo.config.values import Count, Natural, NotNegative, Range
from ganzoo.disk import write_whole
from ganzoo.distributed.collectives import average_over_processes
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds
from ganzoo.engine.rollback import GoodCheckpoints, good_checkpoint
from ganzoo.errors import NotFinite
from ganzoo.schedules.images import crossed

log = logging.getLogger(__name__)

AT_ONCE = (alarms.SPECTRUM, alarms.MEMORIZATION)  # one measurement is reliable enough


@dataclass
class History:
    """What the sentinel remembers of a run; it is saved in checkpoints."""

    # Since the last check: sum and count of the numbers that the model has reported, and numbers
    # that other callbacks have logged; images seen when the newest of these was logged.
    reported: dict[str, tuple[float, int]] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)
    logged_at: int = 0
    # For each discriminator: its losses of the last checks, as shares of the loss at chance; the
    # smallest such share; the largest difference between mean logits of reals and of fakes.
    shares: dict[str, list[float]] = field(default_factory=dict)
    least_shares: dict[str, float] = field(default_factory=dict)
    widest_gaps: dict[str, float] = field(default_factory=dict)
    most_diverse: float = 0.0  # the largest diversity of the run
    signs: dict[str, int] = field(default_factory=dict)  # checks in a row that saw an alarm's sign
    raised: list[str] = field(default_factory=list)  # alarms that have not cleared


class Sentinel(Callback):
    """Names what goes wrong in a run: in `train.log`, in `warnings.json`, and in every logger.

    It listens to the losses, to the singular values that `Spectra` logs, and to the accuracies that
    `DiscriminatorAccuracy` logs; so it has to follow these two in the list of callbacks. It
    measures only the diversity of samples itself. An alarm is raised if its sign was there at
    `patience` checks in a row (for singular values and accuracies: at one), and again only after it
    has cleared. See `alarms` for what the signs are.

    Args:
        action: "warn"; "stop" to end the run; or "rollback" to return to the last good checkpoint
            and continue from there with other random numbers, which is up to `ganzoo.train`. Both
            keep that checkpoint as `good.ckpt`, written one check before the newest one without any
            sign. Memorization only warns.
        every_kimg: thousands of images between two checks; None for a fiftieth of the run, at most
            20.
        patience: number of checks in a row at which a sign has to be there.
        num: number of samples whose diversity is measured.
        rollbacks: largest number of rollbacks in a run; at the next alarm it stops.
    """

    def __init__(
        self,
        action: Literal["warn", "stop", "rollback"] = "warn",
        every_kimg: NotNegative | None = None,
        patience: Count = 3,
        num: Annotated[int, Range(2)] = 64,
        rollbacks: Natural = 3,
    ) -> None:
        self.action, self.every_kimg, self.patience, self.num = action, every_kimg, patience, num
        self.rollbacks = rollbacks
        self._diversity: Diversity | None = None
        self._path: Path | None = None  # of warnings.json, once the run has started
        self.spectrum, self.history = Growth(), History()

    def state_dict(self) -> dict[str, Any]:
        return {"spectrum": self.spectrum.state_dict(), "history": asdict(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spectrum.load_state_dict(state["spectrum"])
        self.history = History(**state["history"])

    # -- when to check -----------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, gan: GAN, stage: str) -> None:
        # Before `Spectra` logs the weights that training starts from.
        gan.report.listeners.append(partial(self._hear, gan))

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if gan.control.dry:
            return
        self._path = Path(trainer.default_root_dir) / "warnings.json"
        self._good = GoodCheckpoints(Path(trainer.default_root_dir))
        self.warnings = [
            alarm
            for alarm in read_warnings(self._path)
            if alarm["rollbacks"] < gan.rollbacks or alarm["images_seen"] <= gan.images_seen
        ]
        self._diversity = None
        if isinstance(gan, FromSeeds):
            self._diversity = Diversity(gan, data_of(trainer).domains[""], self.num)
        names = ["d_loss", "growth", "alarms", *(["diversity"] if self._diversity else [])]
        declare_numbers(trainer, [f"sentinel/{name}" for name in names])
        if gan.images_seen == 0:
            self._spectrum_growth()  # what it will be compared with
            self._keep(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        every = self.every_kimg
        if every is None:
            every = min(20.0, gan.total_images / 50_000)
        if crossed(gan.images_before, gan.images_seen, every):
            with maintenance(gan):
                self._check(trainer, gan)

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        if isinstance(exception, NotFinite) and self._path is not None:
            self._alarm(trainer, gan, {alarms.NOT_FINITE: str(exception).partition(":")[0]})

    def _hear(self, gan: GAN, name: str, number: float) -> None:
        history = self.history
        if name.startswith(("spectra/", "accuracy/")):
            history.logged[name], history.logged_at = number, gan.images_seen
        elif self._path is not None:  # else it is the preflight's
            total, count = history.reported.get(name, (0.0, 0))
            history.reported[name] = total + number, count + 1

    # -- one check ---------------------------------------------------------------------------------

    def _check(self, trainer: L.Trainer, gan: GAN) -> None:
        gan.report.check_finite()
        numbers, weight = self._numbers(gan)
        found = self.find(gan, numbers, weight)
        history = self.history
        for name, sentence in found.items():
            history.signs[name] = history.signs.get(name, 0) + 1 if sentence else 0
        raised = [name for name in history.raised if history.signs[name]]
        new = {
            name: sentence
            for name, sentence in found.items()
            if name not in raised
            and history.signs[name] >= (1 if name in AT_ONCE else self.patience)
        }
        history.raised = [*raised, *new]
        logged = {
            "d_loss": max((recent[-1] for recent in history.shares.values()), default=math.nan),
            "diversity": numbers["diversity"],
            "growth": numbers["growth"],
            "alarms": len(history.raised),
        }
        finite = {f"sentinel/{name}": v for name, v in logged.items() if math.isfinite(v)}
        log_numbers(trainer, gan, finite)
        if new:
            self._alarm(trainer, gan, new)
        elif not any(history.signs.values()):
            self._keep(trainer, gan)

    def _numbers(self, gan: GAN) -> tuple[dict[str, float], str]:
        """Numbers for `find`, the same in all processes, and the name of the grown weight."""
        growth, weight = self._spectrum_growth()
        numbers = {"diversity": self._diversity.now() if self._diversity else math.nan}
        numbers["growth"] = growth
        for name in (name for names in gan.discriminator_reports.values() for name in names):
            total, count = self.history.reported.get(name, (math.nan, 1))
            numbers[name] = total / count
        self.history.reported = {}
        # All processes have to come to the same decision.
        values = torch.tensor(list(numbers.values()), device=gan.device)
        average_over_processes([values])
        return dict(zip(numbers, values.tolist(), strict=True)), weight

    def find(self, gan: GAN, numbers: Mapping[str, float], weight: str) -> dict[str, str]:
        """For each alarm that can be judged now, a sentence on its sign, "" if there is none.

        `numbers` are means of what discriminators report, and "diversity" and "growth", of
        `weight`.
        """
        found: dict[str, str] = {}
        history = self.history
        for accuracy in self._accuracies():
            said = alarms.memorization(accuracy)
            found[alarms.MEMORIZATION] = found.get(alarms.MEMORIZATION) or said
        reports = gan.discriminator_reports
        for name, reported in reports.items():
            who = f"discriminator {name}" if len(reports) > 1 else "the discriminator"
            loss, real, fake = (numbers[key] for key in reported)
            share = loss / gan.loss_at_chance if gan.loss_at_chance else math.nan
            least, widest = history.least_shares.get(name, 1.0), history.widest_gaps.get(name, 0.0)
            saw = {
                alarms.COLLAPSE: alarms.collapse(share, least, real, fake, widest),
                alarms.WINS: alarms.discriminator_wins(self._usual(name, share), real, fake),
            }
            if found.get(alarms.MEMORIZATION, history.signs.get(alarms.MEMORIZATION)):
                # The cause is known, and it fails on images that it has not seen.
                saw[alarms.WINS] = ""
            for alarm, said in saw.items():
                found[alarm] = found.get(alarm) or (f"{who} {said}" if said else "")
            history.least_shares[name] = min(share, history.least_shares.get(name, math.inf))
            history.widest_gaps[name] = max(widest, abs(real - fake))
        if not math.isnan(growth := numbers["growth"]):
            found[alarms.SPECTRUM] = alarms.spectrum_explodes(growth, weight)
        if not math.isnan(diversity := numbers["diversity"]):
            history.most_diverse = max(history.most_diverse, diversity)
            found[alarms.DIVERSITY] = alarms.diversity_gone(diversity, history.most_diverse)
        return found

    def _usual(self, name: str, share: float) -> float:
        """The median of a discriminator's share at this and the last checks; NaN at the first."""
        span = 2 * self.patience - 1
        recent = [*self.history.shares.get(name, []), share][-span:]
        self.history.shares[name] = recent
        return statistics.median(recent) if len(recent) >= self.patience else math.nan

    def _take_logged(self, group: str) -> dict[str, float]:
        """Numbers of a group that were logged since the last check, by the rest of their names."""
        names = [name for name in self.history.logged if name.startswith(group)]
        return {name.removeprefix(group): self.history.logged.pop(name) for name in names}

    def _spectrum_growth(self) -> tuple[float, str]:
        """Growth of the singular values logged since the last check, and of which weight."""
        values = self._take_logged("spectra/")
        largest = {k.removesuffix("/1"): v for k, v in values.items() if k.endswith("/1")}
        return self.spectrum.add(self.history.logged_at, largest) if largest else (math.nan, "")

    def _accuracies(self) -> list[dict[str, float]]:
        """Accuracies logged since the last check, one dict for each discriminator."""
        found: dict[str, dict[str, float]] = {}
        for name, value in self._take_logged("accuracy/").items():
            domain, _, kind = name.rpartition("/")
            found.setdefault(domain, {})[kind] = value
        return [accuracy for accuracy in found.values() if "held_out" in accuracy]

    # -- what follows from an alarm ----------------------------------------------------------------

    def _keep(self, trainer: L.Trainer, gan: GAN) -> None:
        if self.action != "warn":
            self._good.keep(trainer, gan)

    def _alarm(self, trainer: L.Trainer, gan: GAN, saw: Mapping[str, str]) -> None:
        """Report new alarms and act on them."""
        run_dir = Path(trainer.default_root_dir)
        action: str = self.action if set(saw) != {alarms.MEMORIZATION} else "warn"
        good = good_checkpoint(run_dir)
        if action == "rollback" and (gan.rollbacks >= self.rollbacks or good is None):
            action = "stop"
        if action != "warn":
            trainer.should_stop = True
        if action == "rollback":
            gan.control.go_back_to = good
        sentences = [
            f"{name}: {sentence}. Try {alarms.ADVICE[name]}." for name, sentence in saw.items()
        ]
        if action == "stop":
            kept = f" {good} was written before that." if good else ""
            gan.control.given_up = (
                f"Stopped by the sentinel after {gan.images_seen:,} images. {' '.join(sentences)}"
                f"{kept} Start a new run_dir with init_from=CHECKPOINT, or continue this one with "
                "callbacks.sentinel.action=warn."
            )
        if trainer.is_global_zero:
            now = {"images_seen": gan.images_seen, "action": action, "rollbacks": gan.rollbacks}
            self.warnings += [
                {**now, "alarm": name, "saw": sentence, "try": alarms.ADVICE[name]}
                for name, sentence in saw.items()
            ]
            assert self._path is not None
            write_whole(self._path, json.dumps(self.warnings, indent=1))
            for sentence in sentences:
                log.warning("sentinel at %.1f kimg: %s", gan.images_seen / 1000, sentence)


def read_warnings(path: Path) -> list[dict[str, Any]]:
    """The alarms of a run so far; none, with a warning, if the file holds anything else."""
    if not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        if all(row["rollbacks"] >= 0 and row["images_seen"] >= 0 for row in rows):
            return rows
    except (ValueError, TypeError, KeyError):
        pass
    log.warning("%s cannot be read, so the alarms so far are not known", path)
    return []
