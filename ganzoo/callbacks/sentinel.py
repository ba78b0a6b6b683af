"""Watches a run for the ways in which GANs fail, names them, and stops or goes back in time.

`signs.py` measures; here is decided what the numbers mean. docs/watching.md has the table.
"""

import json
import logging
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from ganzoo.callbacks.signs import Diversity, Growth, Heard, Memory, Pace
from ganzoo.callbacks.trainer import data_of, loggers_of
from ganzoo.disk import write_whole
from ganzoo.distributed.strategy import average_over_processes, rank, world_size
from ganzoo.engine.checkpoint import AtomicCheckpointIO, read
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds
from ganzoo.errors import NotFinite, UserError, check_choice
from ganzoo.schedules.images import crossed

log = logging.getLogger(__name__)

NOT_FINITE, MEMORIZATION = "not finite", "memorization"
LEARNED = 0.8  # share of the loss of ignorance below which a discriminator has learned something
BLANK = 0.95  # share above which it has forgotten all, if logits are alike, too
DIVERSE = 0.2  # diversity that must have been reached before it can be gone
ADVICE = {
    "collapse": "an earlier checkpoint with a lower learning rate, model.clip or a larger batch",
    "discriminator wins": "a lower learning rate or fewer steps of the discriminator, augmentation "
    "(model.augment), or a penalty (model.r1=1)",
    "wrong labels": "to find out what the discriminator is told to be real and to be fake: the two "
    "are exchanged, or all the same",
    "steps too large": "a lower learning rate",
    "spectrum explodes": "a lower learning rate, model.clip, or an earlier checkpoint",
    "diversity gone": "an earlier checkpoint with augmentation (model.augment), a larger batch or "
    "another loss",
    MEMORIZATION: "augmentation (model.augment, data.mirror=true), more data, or an earlier "
    "checkpoint",
    NOT_FINITE: "a lower learning rate, model.clip or precision=32-true",
}


class Sentinel(Callback):
    """Names what goes wrong in a run: a sentence in `train.log`, `warnings.json`, every logger.

    An alarm is raised when its sign was there at `patience` looks in a row (that of weights at
    one), and again only if it was gone meanwhile:

    - collapse: the discriminator knew something and forgot it: it loses more than if it told
      nothing apart, or does tell nothing apart.
    - discriminator wins: it loses almost nothing, and knows held-out images, too, if there are any.
    - wrong labels: reals and fakes are alike to it, and it loses less than that could cost if one
      was labeled real and the other fake.
    - steps too large: one iteration changes a network's weights by a large share; see `signs.Pace`.
    - spectrum explodes: singular values grow faster than evenly; see `signs.Growth`.
    - diversity gone: samples are alike that were not; see `signs.Diversity`.
    - memorization: training images are real to it, held-out ones about as often fake; only warned.
    - not finite: a loss or gradient is NaN or infinite, which ends the run in any case.

    Args:
        action: "warn"; "stop" the run; or "rollback": go back to the last good checkpoint and on
            from there with other random numbers, which is up to `ganzoo.train`. For both that
            checkpoint is kept, as `good.ckpt`: the last but one of a look without any sign.
        every_kimg: between two looks; None: a fiftieth of the run, at most 20.
        patience: looks at which a sign has to be there.
        num: samples, and images of each kind, that are looked at.
        rollbacks: the most in a run, which then stops.
        collapse: sign of it: the discriminator's loss over that of one that tells nothing apart is
            more than this.
        wins: the same is less than this, in the median of the last looks.
        pace: an iteration moves the weights by more than this share, in the same median.
        growth: a weight's largest singular value has grown by more than this; see `signs.Growth`.
        diversity: it is less than this share of the largest of the run.
        training, held_out: accuracies: at least this on training images and at most that on
            held-out ones (Brock et al. 2019, section 4.2: over 98 % and 50 to 55 %).
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
        pace: float = 0.02,
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
        self.collapse, self.wins, self.pace = collapse, wins, pace
        self.growth, self.diversity = growth, diversity
        self.training, self.held_out = training, held_out
        self.grown, self.moved, self.heard = Growth(), Pace(), Heard([])
        self.most_diverse = 0.0
        self.recent: dict[str, list[float]] = {}  # numbers at the last looks, for their medians
        self.least_losses: dict[str, float] = {}  # of each discriminator, as shares of ignorance
        self.widest_gaps: dict[str, float] = {}  # between the mean logits of its reals and fakes
        self.losses: list[float] = []  # of the discriminator at the last looks
        self.signs: dict[str, int] = {}  # -> looks in a row
        self.raised: list[str] = []  # alarms that are not over

    def state_dict(self) -> dict[str, Any]:
        return {
            "grown": self.grown.state_dict(),
            "heard": [dict(self.heard.sums), dict(self.heard.counts)],
            "most_diverse": self.most_diverse,
            "losses": list(self.losses),
            "recent": {name: list(numbers) for name, numbers in self.recent.items()},
            "least_losses": dict(self.least_losses),
            "widest_gaps": dict(self.widest_gaps),
            "signs": dict(self.signs),
            "raised": list(self.raised),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.grown.load_state_dict(state["grown"])
        self.heard.sums, self.heard.counts = map(dict, state["heard"])
        self.most_diverse, self.losses = state["most_diverse"], list(state["losses"])
        self.recent, self.least_losses = dict(state.get("recent", {})), dict(state["least_losses"])
        self.widest_gaps = dict(state["widest_gaps"])
        self.signs, self.raised = dict(state["signs"]), list(state["raised"])

    # -- when --------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if trainer.should_stop:  # a dry run
            return
        self._path = Path(trainer.default_root_dir) / "warnings.json"
        self.told = [
            alarm
            for alarm in read_warnings(self._path)
            if alarm["rollbacks"] < gan.rollbacks or alarm["images_seen"] <= gan.images_seen
        ]
        names = {name for names in gan.discriminator_reports.values() for name in names}
        if self.heard.sums.keys() != names:  # at first, or when models report other numbers
            self.heard = Heard(sorted(names))
        gan.report.listeners.append(self.heard.hear)
        self._prepare(gan, data_of(trainer))
        if not self.grown.moments:
            self.grown.look(gan)
            self._keep(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, gan: GAN, batch: Any, *_: Any) -> None:
        if self._due(gan, gan.images_seen, gan.images_seen + gan.images_in(batch)):
            self.moved.start(gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if self._due(gan, gan.images_before, gan.images_seen):
            start = time.perf_counter()
            self._look(trainer, gan)
            gan.control.maintenance_seconds += time.perf_counter() - start

    def _due(self, gan: GAN, before: int, now: int) -> bool:
        every = self.every_kimg
        if every is None:
            every = min(20.0, gan.total_images / 50_000)
        return crossed(before, now, every)

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        if isinstance(exception, NotFinite) and hasattr(self, "_path"):
            self._alarm(trainer, gan, {NOT_FINITE: str(exception).partition(":")[0]})

    # -- a look ------------------------------------------------------------------------------------

    def _prepare(self, gan: GAN, data: Any) -> None:
        """Find out what can be looked at in this model on this data."""
        self._diversity: Diversity | None = None
        self._memory: Memory | None = None
        if not isinstance(gan, FromSeeds):
            return
        self._diversity = Diversity(gan, data, self.num)
        try:
            self._memory = Memory(gan, data, self.num)
        except UserError:
            log.debug("sentinel: nothing is held out")

    def _look(self, trainer: L.Trainer, gan: GAN) -> None:
        gan.report.check_finite()
        numbers, weight = self._measure(gan)
        found = self._signs(gan, numbers, weight)
        self.signs = {name: self.signs.get(name, 0) + 1 for name in found}
        self.raised = [name for name in self.raised if name in found]
        new = {
            name: saw
            for name, saw in found.items()
            if name not in self.raised
            and (name == "spectrum explodes" or self.signs[name] >= self.patience)
        }
        self.raised += new
        told = {f"sentinel/{k}": v for k, v in numbers.items() if math.isfinite(v) and "/" not in k}
        for logger in loggers_of(trainer):
            logger.log_metrics({**told, "sentinel/alarms": len(self.raised)}, step=gan.images_seen)
        if new:
            self._alarm(trainer, gan, new)
        elif not found:
            self._keep(trainer)

    def _measure(self, gan: GAN) -> tuple[dict[str, float], str]:
        """Numbers by name, the same in all processes, and the weight that has grown most."""
        numbers = {f"heard/{name}": mean for name, mean in self.heard.drain().items()}
        numbers["pace"] = self.moved.end(gan)
        numbers["growth"], weight = self.grown.look(gan)
        if self._diversity is not None:
            numbers["diversity"] = self._diversity.of(gan)
        if self._memory is not None:
            boundary = gan.boundary
            if boundary is None:
                scores = [
                    numbers[f"heard/{name}"]
                    for name in gan.discriminator_reports["discriminator"][1:]
                ]
                boundary = sum(scores) / 2
            numbers |= self._memory.of(gan, boundary)
        means = torch.tensor(list(numbers.values()), device=gan.device)
        average_over_processes([means])
        numbers = dict(zip(numbers, means.tolist(), strict=True))
        if gan.loss_at_chance:
            losses = [numbers[f"heard/{loss}"] for loss, _, _ in gan.discriminator_reports.values()]
            numbers["d_loss"] = max(losses) / gan.loss_at_chance
            earlier = statistics.median(self.losses) if self.losses else numbers["d_loss"]
            numbers["d_loss_jump"] = numbers["d_loss"] - earlier
            self.losses = [*self.losses, numbers["d_loss"]][-20:]
        return numbers, weight

    def _signs(self, gan: GAN, numbers: Mapping[str, float], weight: str) -> dict[str, str]:
        """What is seen now, by the name of the alarm; comparisons with NaN are false."""
        found = {}
        by_heart = False
        if "training" in numbers:
            training, held = numbers["training"], numbers["held_out"]
            by_heart = training >= self.training and held <= self.held_out
        if by_heart:
            found[MEMORIZATION] = (
                f"the discriminator is right on {100 * training:.0f} % of training images and on "
                f"{100 * held:.0f} % of held-out ones"
            )
        for name, reported in gan.discriminator_reports.items():
            who = (
                "the discriminator"
                if len(gan.discriminator_reports) == 1
                else f"discriminator {name}"
            )
            loss, real, fake = (numbers[f"heard/{key}"] for key in reported)
            share = loss / gan.loss_at_chance if gan.loss_at_chance else math.nan
            gap, widest = abs(real - fake), self.widest_gaps.get(name, 0.0)
            alike = f"mean logits of reals and fakes are {real:.3g} and {fake:.3g}"
            if self.least_losses.get(name, 1.0) < LEARNED:
                if share > self.collapse:
                    cost = f"{share:.3g} times what knowing nothing would cost"
                    found["collapse"] = f"{who} loses {cost}, after it had learned"
                elif share > BLANK and gap < 0.002 * widest:
                    found["collapse"] = f"{who} no longer tells anything apart: {alike}"
            usual = self._usual(f"loss of {name}", share)
            if usual < self.wins and fake < real and not by_heart:
                found["discriminator wins"] = (
                    f"{who} loses {100 * usual:.2g} % of what knowing nothing would cost"
                )
            if wrong(loss, real, fake, gan.loss_at_chance, gan.boundary):
                found["wrong labels"] = f"{alike}, and yet {who} loses only {loss:.3g}"
            self.least_losses[name] = min(share, self.least_losses.get(name, math.inf))
            self.widest_gaps[name] = max(widest, gap)
        pace = self._usual("pace", numbers["pace"])
        if pace > self.pace:
            found["steps too large"] = f"an iteration changes weights by {100 * pace:.2g} %"
        if numbers["growth"] > self.growth:
            found["spectrum explodes"] = (
                f"the largest singular value of {weight} has grown {numbers['growth']:.3g} times "
                "as much as is usual"
            )
        diversity = numbers.get("diversity", math.nan)
        self.most_diverse = max(self.most_diverse, 0.0 if math.isnan(diversity) else diversity)
        if self.most_diverse >= DIVERSE and diversity < self.diversity * self.most_diverse:
            found["diversity gone"] = (
                f"samples are {diversity:.2g} as far apart as training images, and were "
                f"{self.most_diverse:.2g}"
            )
        return found

    def _usual(self, name: str, number: float) -> float:
        """The median of a number at this and the last looks; NaN at the first ones."""
        span = 2 * self.patience - 1
        self.recent[name] = [*self.recent.get(name, []), number][-span:]
        few = len(self.recent[name]) < min(span, self.patience)
        return math.nan if few else statistics.median(self.recent[name])

    # -- what follows ------------------------------------------------------------------------------

    def _keep(self, trainer: L.Trainer) -> None:
        """Keep a checkpoint of now, and let the one before be the good one."""
        if self.action == "warn":
            return
        good, newer = good_checkpoints(Path(trainer.default_root_dir))
        if trainer.is_global_zero and newer.is_file():
            newer.replace(good)
        trainer.save_checkpoint(newer)

    def _alarm(self, trainer: L.Trainer, gan: GAN, saw: Mapping[str, str]) -> None:
        """Tell of new alarms, and do what is to be done about them."""
        run_dir = Path(trainer.default_root_dir)
        action: str = self.action if set(saw) != {MEMORIZATION} else "warn"
        good = next((path for path in good_checkpoints(run_dir) if path.is_file()), None)
        if action == "rollback" and (gan.rollbacks >= self.rollbacks or good is None):
            action = "stop"
        if action != "warn":
            trainer.should_stop = True
        if action == "rollback":
            gan.control.go_back_to = good
        told = [
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
            kept = f" {good} is from before." if good else ""
            gan.control.given_up = (
                f"Stopped by the sentinel after {gan.images_seen:,} images. {' '.join(sentences)}"
                f"{kept} Start a new run_dir with init_from=CHECKPOINT, or go on in this one with "
                "callbacks.sentinel.action=warn."
            )
        if trainer.is_global_zero:
            self.told += told
            write_warnings(self._path, self.told)
            for sentence in sentences:
                log.warning("sentinel at %.1f kimg: %s", gan.images_seen / 1000, sentence)


def wrong(
    loss: float, real: float, fake: float, loss_at_chance: float | None, boundary: float | None
) -> bool:
    """Whether a loss and mean logits do not go together, if reals are to be real and fakes fake.

    Losses are convex, so that with reals and fakes alike, or exchanged, a discriminator loses about
    as much as if it knew nothing, or more. Without such a scale it loses the difference, or half.

    Args:
        loss_at_chance: the loss of a discriminator that knows nothing, where there is such a thing.
        boundary: between logits of reals and of fakes, where there is one.
    """
    if loss_at_chance is None:
        return real < fake and loss < (fake - real) / 4
    alike = boundary is not None and abs(real - fake) < abs((real + fake) / 2 - boundary) / 2
    return loss < 0.75 * loss_at_chance and (alike or real <= fake)


def good_checkpoints(run_dir: Path) -> tuple[Path, Path]:
    """Where the good checkpoint is kept, and the newer one that may become it."""
    return run_dir / "good.ckpt", run_dir / "good.newer.ckpt"


def go_back(gan: GAN, run_dir: Path) -> None:
    """Make the good checkpoint the last one, with other random numbers from there on.

    All processes call it when training has ended; the run then goes on as any other does.
    """
    assert gan.control.go_back_to is not None
    if rank() == 0:
        checkpoint = read(gan.control.go_back_to)
        checkpoint["ganzoo"]["rollbacks"] = gan.rollbacks + 1
        AtomicCheckpointIO().save_checkpoint(checkpoint, run_dir / "last.ckpt")
        good, newer = good_checkpoints(run_dir)
        if gan.control.go_back_to == good:
            newer.unlink(missing_ok=True)
        else:
            newer.replace(good)
        log.warning(
            "sentinel: back to %.1f kimg with other random numbers (rollback %d)",
            checkpoint["ganzoo"]["images_seen"] / 1000,
            gan.rollbacks + 1,
        )
    if world_size() > 1:
        torch.distributed.barrier()


def read_warnings(path: Path) -> list[dict[str, Any]]:
    """The alarms of a run so far."""
    told: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return told


def write_warnings(path: Path, told: list[dict[str, Any]]) -> None:
    write_whole(path, json.dumps(told, indent=1))
