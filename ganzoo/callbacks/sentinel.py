"""Watches a run for the ways in which GANs fail, names them, and stops it or goes back in time.

`alarms.py` decides what the numbers mean; docs/watching.md has the table of alarms.
"""

import json
import logging
import math
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from ganzoo.callbacks import alarms
from ganzoo.callbacks.alarms import (
    ADVICE,
    COLLAPSE,
    DIVERSITY,
    MEMORIZATION,
    NOT_FINITE,
    SPECTRUM,
    WINS,
)
from ganzoo.callbacks.signs import Diversity, Growth, Means
from ganzoo.callbacks.trainer import data_of, log_numbers, maintenance
from ganzoo.disk import write_whole
from ganzoo.distributed.strategy import average_over_processes
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds
from ganzoo.engine.rollback import good_checkpoint, keep_good
from ganzoo.errors import NotFinite, UserError, check_choice
from ganzoo.schedules.images import crossed

log = logging.getLogger(__name__)

AT_ONCE = (SPECTRUM, MEMORIZATION)  # one measurement is reliable enough


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
        collapse: discriminator loss, as a share of that at chance, above which it has collapsed.
        wins: the same share below which the discriminator wins, in the median of recent checks.
        growth: growth of a weight's largest singular value that is too much; see `signs.Growth`.
        diversity: share of the largest diversity of the run below which samples are alike.
        training, held_out: accuracies from which and up to which images are memorized
            (Brock et al. 2019, section 4.2: over 98 % and 50 to 55 %).
    """

    def __init__(
        self,
        action: Literal["warn", "stop", "rollback"] = "warn",
        every_kimg: float | None = None,
        patience: int = 3,
        num: int = 64,
        rollbacks: int = 3,
        collapse: float = 1.2,
        wins: float = 0.02,
        growth: float = 5.0,
        diversity: float = 0.3,
        training: float = 0.98,
        held_out: float = 0.55,
    ) -> None:
        check_choice("callbacks.sentinel.action", action, ["warn", "stop", "rollback"])
        if num < 2 or patience < 1:
            raise UserError("callbacks.sentinel.num must be at least 2 and patience at least 1.")
        self.action, self.every_kimg, self.patience, self.num = action, every_kimg, patience, num
        self.rollbacks = rollbacks
        self.collapse, self.wins = collapse, wins
        self.growth, self.diversity = growth, diversity
        self.training, self.held_out = training, held_out
        self._diversity: Diversity | None = None
        self._path: Path | None = None  # of warnings.json, once the run has started
        self.spectrum, self.means = Growth(), Means([])
        self.logged: dict[str, float] = {}  # by other callbacks since the last check
        self.logged_at = 0  # images seen when the newest of these was logged
        self.most_diverse = 0.0
        self.shares: dict[str, list[float]] = {}  # of each discriminator at the last checks
        self.least_shares: dict[str, float] = {}  # of each discriminator
        self.widest_gaps: dict[str, float] = {}  # between its mean logits of reals and of fakes
        self.signs: dict[str, int] = {}  # alarm -> number of checks in a row that saw its sign
        self.raised: list[str] = []  # alarms that have not cleared

    def state_dict(self) -> dict[str, Any]:
        return {
            "spectrum": self.spectrum.state_dict(),
            "means": [dict(self.means.sums), dict(self.means.counts)],
            "logged": dict(self.logged),
            "logged_at": self.logged_at,
            "most_diverse": self.most_diverse,
            "shares": {name: list(shares) for name, shares in self.shares.items()},
            "least_shares": dict(self.least_shares),
            "widest_gaps": dict(self.widest_gaps),
            "signs": dict(self.signs),
            "raised": list(self.raised),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spectrum.load_state_dict(state["spectrum"])
        self.means.sums, self.means.counts = map(dict, state["means"])
        self.logged, self.logged_at = dict(state["logged"]), state["logged_at"]
        self.most_diverse = state["most_diverse"]
        self.shares, self.least_shares = dict(state["shares"]), dict(state["least_shares"])
        self.widest_gaps = dict(state["widest_gaps"])
        self.signs, self.raised = dict(state["signs"]), list(state["raised"])

    # -- when to check -----------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, gan: GAN, stage: str) -> None:
        # Before `Spectra` logs the weights that training starts from.
        gan.report.listeners.append(partial(self._hear, gan))

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if trainer.should_stop:  # a dry run
            return
        self._path = Path(trainer.default_root_dir) / "warnings.json"
        self.warnings = [
            alarm
            for alarm in read_warnings(self._path)
            if alarm["rollbacks"] < gan.rollbacks or alarm["images_seen"] <= gan.images_seen
        ]
        names = {name for names in gan.discriminator_reports.values() for name in names}
        if self.means.sums.keys() != names:
            self.means = Means(sorted(names))
        self._diversity = None
        if isinstance(gan, FromSeeds):
            self._diversity = Diversity(gan, data_of(trainer).domains[""], self.num)
        if gan.images_seen == 0:
            self._spectrum_growth()  # what it will be compared with
            self._keep(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        every = self.every_kimg
        if every is None:
            every = min(20.0, gan.total_images / 50_000)
        if crossed(gan.images_before, gan.images_seen, every):
            with maintenance(gan):
                self._check(trainer, gan)

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        if isinstance(exception, NotFinite) and self._path is not None:
            self._alarm(trainer, gan, {NOT_FINITE: str(exception).partition(":")[0]})

    def _hear(self, gan: GAN, name: str, number: float) -> None:
        if self._path is not None:  # else it is the preflight's
            self.means.add(name, number)
        if name.startswith(("spectra/", "accuracy/")):
            self.logged[name], self.logged_at = number, gan.images_seen

    # -- one check ---------------------------------------------------------------------------------

    def _check(self, trainer: L.Trainer, gan: GAN) -> None:
        gan.report.check_finite()
        growth, weight = self._spectrum_growth()
        numbers = {
            **self.means.drain(),
            "diversity": self._diversity.now() if self._diversity is not None else math.nan,
            "growth": growth,
        }
        # All processes have to come to the same decision.
        values = torch.tensor(list(numbers.values()), device=gan.device)
        average_over_processes([values])
        numbers = dict(zip(numbers, values.tolist(), strict=True))
        found = self.find(gan, numbers, weight)
        for name, sentence in found.items():
            self.signs[name] = self.signs.get(name, 0) + 1 if sentence else 0
        self.raised = [name for name in self.raised if self.signs[name]]
        new = {
            name: sentence
            for name, sentence in found.items()
            if name not in self.raised
            and self.signs[name] >= (1 if name in AT_ONCE else self.patience)
        }
        self.raised += new
        logged = {
            "d_loss": max((shares[-1] for shares in self.shares.values()), default=math.nan),
            "diversity": numbers["diversity"],
            "growth": numbers["growth"],
            "alarms": len(self.raised),
        }
        finite = {f"sentinel/{name}": v for name, v in logged.items() if math.isfinite(v)}
        log_numbers(trainer, gan, finite)
        if new:
            self._alarm(trainer, gan, new)
        elif not any(self.signs.values()):
            self._keep(trainer)

    def find(self, gan: GAN, numbers: Mapping[str, float], weight: str) -> dict[str, str]:
        """For each alarm that can be judged now, a sentence on its sign, "" if there is none.

        Args:
            gan: the model, for its discriminators and their loss at chance.
            numbers: means of what the model reports, and "diversity" and "growth".
            weight: name of the weight that has grown by "growth".
        """
        found: dict[str, str] = {}
        for accuracy in self._accuracies():
            said = alarms.memorization(accuracy, self.training, self.held_out)
            found[MEMORIZATION] = found.get(MEMORIZATION) or said
        reports = gan.discriminator_reports
        for name, reported in reports.items():
            who = f"discriminator {name}" if len(reports) > 1 else "the discriminator"
            loss, real, fake = (numbers[key] for key in reported)
            share = loss / gan.loss_at_chance if gan.loss_at_chance else math.nan
            least, widest = self.least_shares.get(name, 1.0), self.widest_gaps.get(name, 0.0)
            saw = {
                COLLAPSE: alarms.collapse(share, least, real, fake, widest, self.collapse),
                WINS: alarms.discriminator_wins(self._usual(name, share), real, fake, self.wins),
            }
            if found.get(MEMORIZATION, self.signs.get(MEMORIZATION)):
                saw[WINS] = ""  # the cause is known, and it fails on images that it has not seen
            for alarm, said in saw.items():
                found[alarm] = found.get(alarm) or (f"{who} {said}" if said else "")
            self.least_shares[name] = min(share, self.least_shares.get(name, math.inf))
            self.widest_gaps[name] = max(widest, abs(real - fake))
        if not math.isnan(growth := numbers["growth"]):
            found[SPECTRUM] = alarms.spectrum_explodes(growth, weight, self.growth)
        if not math.isnan(diversity := numbers["diversity"]):
            self.most_diverse = max(self.most_diverse, diversity)
            found[DIVERSITY] = alarms.diversity_gone(diversity, self.most_diverse, self.diversity)
        return found

    def _usual(self, name: str, share: float) -> float:
        """The median of a discriminator's share at this and the last checks; NaN at the first."""
        span = 2 * self.patience - 1
        self.shares[name] = [*self.shares.get(name, []), share][-span:]
        if len(self.shares[name]) < self.patience:
            return math.nan
        return statistics.median(self.shares[name])

    def _spectrum_growth(self) -> tuple[float, str]:
        """Growth of the singular values logged since the last check, and of which weight."""
        largest = {
            name.removeprefix("spectra/").removesuffix("/1"): self.logged.pop(name)
            for name in list(self.logged)
            if name.startswith("spectra/") and name.endswith("/1")
        }
        return self.spectrum.add(self.logged_at, largest) if largest else (math.nan, "")

    def _accuracies(self) -> list[dict[str, float]]:
        """Accuracies logged since the last check, one dict for each discriminator."""
        found: dict[str, dict[str, float]] = {}
        for name in [name for name in self.logged if name.startswith("accuracy/")]:
            domain, _, kind = name.rpartition("/")
            found.setdefault(domain, {})[kind] = self.logged.pop(name)
        return [accuracy for accuracy in found.values() if "held_out" in accuracy]

    # -- what follows from an alarm ----------------------------------------------------------------

    def _keep(self, trainer: L.Trainer) -> None:
        if self.action != "warn":
            keep_good(trainer)

    def _alarm(self, trainer: L.Trainer, gan: GAN, saw: Mapping[str, str]) -> None:
        """Report new alarms and act on them."""
        run_dir = Path(trainer.default_root_dir)
        action: str = self.action if set(saw) != {MEMORIZATION} else "warn"
        good = good_checkpoint(run_dir)
        if action == "rollback" and (gan.rollbacks >= self.rollbacks or good is None):
            action = "stop"
        if action != "warn":
            trainer.should_stop = True
        if action == "rollback":
            gan.control.go_back_to = good
        rows = [
            {
                "images_seen": gan.images_seen,
                "alarm": name,
                "saw": sentence,
                "try": ADVICE[name],
                "action": action,
                "rollbacks": gan.rollbacks,
            }
            for name, sentence in saw.items()
        ]
        sentences = [f"{name}: {sentence}. Try {ADVICE[name]}." for name, sentence in saw.items()]
        if action == "stop":
            kept = f" {good} was written before that." if good else ""
            gan.control.given_up = (
                f"Stopped by the sentinel after {gan.images_seen:,} images. {' '.join(sentences)}"
                f"{kept} Start a new run_dir with init_from=CHECKPOINT, or continue this one with "
                "callbacks.sentinel.action=warn."
            )
        if trainer.is_global_zero:
            self.warnings += rows
            assert self._path is not None
            write_warnings(self._path, self.warnings)
            for sentence in sentences:
                log.warning("sentinel at %.1f kimg: %s", gan.images_seen / 1000, sentence)


def read_warnings(path: Path) -> list[dict[str, Any]]:
    """The alarms of a run so far."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return rows


def write_warnings(path: Path, rows: list[dict[str, Any]]) -> None:
    write_whole(path, json.dumps(rows, indent=1))
