"""The callback of a search that ends runs which are worse than the others were by then."""

from typing import Any

import lightning as L
import optuna
from lightning.pytorch.callbacks import Callback

from ganzoo.callbacks.evaluation import Evaluate
from ganzoo.distributed.collectives import any_process
from ganzoo.engine.gan import GAN
from ganzoo.metrics.protocol import monitored
from ganzoo.runs.search import opened


class Pruning(Callback):
    """Reports each value of the monitored metric to a study, which may end the run.

    A run that ends this way is complete.

    Args:
        storage: see `ganzoo.runs.search.opened`.
        number: number of the run's trial.
        pruner: decides from the values of all trials.
    """

    def __init__(self, storage: str, study: str, number: int, pruner: Any) -> None:
        self.storage, self.study, self.number, self.pruner = storage, study, number, pruner

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        evaluate = next(c for c in trainer.callbacks if isinstance(c, Evaluate))  # type: ignore[attr-defined]
        newest = evaluate.evaluations[-1] if evaluate.evaluations else None
        if newest is None or newest["images_seen"] != gan.images_seen or gan.trained:
            return
        value = monitored(evaluate.monitor, newest["values"])
        bad = trainer.is_global_zero and value is not None and self._is_bad(value, gan.images_seen)
        if any_process(bad, gan.device):
            gan.control.enough = f"{evaluate.monitor} is worse than in other trials of the search"
            trainer.should_stop = True

    def _is_bad(self, value: float, images_seen: int) -> bool:
        study = optuna.load_study(
            study_name=self.study, storage=opened(self.storage), pruner=self.pruner
        )
        frozen = study.get_trials(deepcopy=False)[self.number]
        trial = optuna.trial.Trial(study, frozen._trial_id)
        trial.report(value, images_seen)
        if trial.should_prune():
            trial.set_user_attr("pruned", True)
            return True
        return False
