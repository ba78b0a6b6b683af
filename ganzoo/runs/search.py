"""Searches: a sweep whose runs Optuna proposes, one after another or some at a time.

The study lies in the sweep's folder or in a database, and every trial is told to it at once, so
that the same command resumes the search. Trials that failed or were killed are run again, in the
same run folders. The sampler starts anew for every trial, with a seed made of its own and the
number of the trial, so that a resumed search proposes what an uninterrupted one would.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


class Search(Sweeper):
    """A sweeper of Hydra that asks Optuna for the values of keys and tells it the results.

    Args:
        direction: "minimize" or "maximize".
        sampler: config of Optuna's sampler, which proposes values.
        pruner: config of Optuna's pruner, which ends bad runs early; None for none.
        storage: URL of a database, or path of a journal; None for `study.log` in the sweep's
            folder.
        study_name: name of the study in the storage; None for the name of the sweep's folder.
        n_trials: number of runs, those of earlier starts included.
        n_jobs: number of runs that are proposed, and started, at a time.
        params: overrides with values to search, as on the command line.
    """

    def __init__(
        self, direction: str, sampler: DictConfig, pruner: DictConfig | None, storage: str | None,
        study_name: str | None, n_trials: int, n_jobs: int, params: DictConfig | None,
    ) -> None:  # fmt: skip
        self.direction, self.sampler, self.pruner = str(direction), sampler, pruner
        self.storage, self.study_name = storage, study_name
        self.n_trials, self.n_jobs, self.params = n_trials, n_jobs, dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.folder = Path(config.hydra.sweep.dir)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        assert self.launcher is not None
        storage = str(self.storage or self.folder / "study.log")
        name = self.study_name or self.folder.name
        study = optuna.create_study(
            storage=opened(storage), study_name=name, direction=self.direction, load_if_exists=True
        )
        overrides = [f"{key!s}={value}" for key, value in self.params.items()] + arguments
        parsed = OverridesParser.create().parse_overrides(overrides)
        space = {o.get_key_element(): distribution(o) for o in parsed if o.is_sweep_override()}
        fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        left = self.n_trials - finished(study)
        if left <= 0:
            log.info("the search has its trials: raise hydra.sweeper.n_trials for more")
        while left > 0:
            trials = [self._ask(study, space) for _ in range(min(left, self.n_jobs))]
            jobs = []
            for trial in trials:
                chosen = [f"{key}={value}" for key, value in trial.params.items()]
                jobs.append([*fixed, *chosen, *self._pruning(storage, name, trial.number)])
            self.validate_batch_is_legal(jobs)
            results = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
            for trial, result in zip(trials, results, strict=True):
                tell(study, trial.number, result)
            left -= len(trials)
        write_best(study, self.folder / "optimization_results.yaml")

    def _ask(self, study: "optuna.Study", space: dict[str, Any]) -> "optuna.Trial":
        seed = (self.sampler.get("seed") or 0) + len(study.get_trials(deepcopy=False))
        study.sampler = instantiate(self.sampler, seed=seed)
        return study.ask(space)

    def _pruning(self, storage: str, study: str, number: int) -> list[str]:
        """The callback with which a run reports to the study; none without a pruner."""
        if not self.pruner:
            return []
        node = {"_target_": "ganzoo.runs.pruning.Pruning", "storage": storage, "study": study,
                "number": number, "pruner": OmegaConf.to_container(self.pruner)}  # fmt: skip
        return [f"+callbacks.pruning={_override(node)}"]


def opened(storage: str) -> Any:
    """What Optuna takes for a storage: the URL of a database as it is, else a journal in a file."""
    from optuna.storages import JournalStorage, journal

    if "://" in storage:
        return storage
    return JournalStorage(journal.JournalFileBackend(storage, journal.JournalFileOpenLock(storage)))


def distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """The values of a key: `interval(0.1,1)`, `range(1,9)`, `choice(a,b)` or `a,b`."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        kind = IntDistribution if whole else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if override.is_range_sweep() and not value.shuffle:
        values: Any = override.sweep_iterator()
        numbers = sorted(values)  # as in Hydra, without the stop
        kind = IntDistribution if isinstance(value.step, int) else FloatDistribution
        return kind(numbers[0], numbers[-1], step=abs(value.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def finished(study: "optuna.Study") -> int:
    """How many trials have a result, or wait. Those that failed or were killed shall wait, too."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    good = [t.params or t.system_attrs.get("fixed_params", {}) for t in trials
            if t.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING)]  # fmt: skip
    waiting = sum(t.state == TrialState.WAITING for t in trials)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.state in (TrialState.RUNNING, TrialState.FAIL) and trial.params not in good:
            study.enqueue_trial(trial.params)
            good.append(trial.params)
            waiting += 1
    return len(good) - waiting


def tell(study: "optuna.Study", number: int, result: JobReturn) -> None:
    """Tell the study how a run ended."""
    from optuna.trial import TrialState

    try:
        value = result.return_value
    except Exception as error:
        log.warning("trial %d failed: %s", number, error)
        value = None
    if study.get_trials(deepcopy=False)[number].user_attrs.get("pruned"):
        study.tell(number, state=TrialState.PRUNED)
    elif isinstance(value, int | float) and not math.isnan(value):
        study.tell(number, value)
    else:
        study.tell(number, state=TrialState.FAIL)


def write_best(study: "optuna.Study", path: Path) -> None:
    """Log the best trial and write it to a file; nothing if no trial has a value."""
    try:
        best = study.best_trial
    except ValueError:
        log.warning("no trial of the search has a value")
        return
    result = {"name": "optuna", "best_params": best.params, "best_value": best.value}
    OmegaConf.save(OmegaConf.create(result), path)
    log.info("best of %d trials: %s", len(study.trials), json.dumps(best.params))


def _override(node: Any) -> str:
    """A value in the grammar of Hydra's overrides, which is JSON without quotes around keys."""
    if isinstance(node, Mapping):
        return f"{{{','.join(f'{key}:{_override(value)}' for key, value in node.items())}}}"
    return json.dumps(node)
