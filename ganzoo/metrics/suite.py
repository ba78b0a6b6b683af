"""A set of metrics, computed in one pass over the fakes, with the protocol of the numbers."""

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import torch
from torch import Generator, Tensor

from ganzoo import __version__
from ganzoo.config.values import Count, Range
from ganzoo.data.pixels import rgb, to_uint8
from ganzoo.data.reference import Reference, mixed
from ganzoo.data.visit import progress
from ganzoo.distributed.collectives import rank, world_size
from ganzoo.draws import seed_of
from ganzoo.errors import UserError
from ganzoo.metrics.base import SuiteMetric, TwoSets, float64_device
from ganzoo.metrics.cache import Real, compute, real_features
from ganzoo.metrics.extractors import Extractor
from ganzoo.metrics.frechet import FrechetDistance
from ganzoo.metrics.kernel import KernelDistance
from ganzoo.metrics.protocol import Scores

log = logging.getLogger(__name__)

Options = dict[str, Any]


class Fakes(NamedTuple):
    """Images to score."""

    num: int
    # From numbers below `num` to images: float [n, C, H, W] in [-1, 1], or uint8; or a dict of such
    # images, of which "images" are scored, and the others are for metrics that ask for them.
    images: Callable[[Sequence[int]], Tensor | dict[str, Tensor]]
    facts: Mapping[str, Any]  # on how they were made, for the protocol
    subject: Mapping[str, Any]  # what made them


class Suite:
    """Metrics that share one pass of an extractor over the fakes.

    Args:
        scores: metrics by label; see `SuiteMetric`. The network gives their values the full
            names (`fd` becomes `fid` with Inception, `fd_effnet` with EfficientNet), except for
            metrics of the images alone.
        network: makes the features; None if no metric needs any.
        num_real: number of real images to compare with; None for all.
        num_fake: number of fakes that a caller should make.
        mirror: whether the real images are also flipped; None to do as in training.
        batch_size: batch size of the network and the generator.
        cache: whether to keep the features of real images on the disk.
    """

    def __init__(
        self,
        scores: Mapping[str, SuiteMetric | None],
        network: Extractor | None = None,
        num_real: int | None = 50000,
        num_fake: Annotated[int, Range(2)] = 50000,
        mirror: bool | None = None,
        batch_size: Count = 64,
        cache: bool = True,
    ) -> None:
        self.metrics = {label: metric for label, metric in scores.items() if metric is not None}
        if not self.metrics:
            raise UserError("metrics.scores names no metric: keep at least one.")
        for label, metric in self.metrics.items():
            kind = TwoSets if "real" in self._takes(label) else SuiteMetric
            if not isinstance(metric, kind):  # others would forget real images between evaluations
                raise UserError(
                    f"metrics.scores.{label}: {type(metric).__name__} must be a subclass of "
                    f"ganzoo.metrics.base.{kind.__name__}."
                )
        needing = [label for label in self.metrics if self._takes(label) & {"features", "logits"}]
        for label in needing:
            if network is None:
                raise UserError(f"{label} needs a network: set metrics/network=auto.")
            if "logits" in self._takes(label) and network.classifier is None:
                raise UserError(
                    f"{label} needs a classifier, which {network.name} is not: leave it out with "
                    f"metrics.scores.{label}=null, or choose another metrics/network."
                )
        self.extractor = network if needing else None
        self.num_real, self.num_fake, self.mirror = num_real, num_fake, mirror
        self.batch_size, self.cache = batch_size, cache
        self.lowered: list[str] = []  # sentences on metrics that use fewer images than they should
        self.real: Real | None = None
        self._floors: dict[int, tuple[dict[str, float], tuple[int, int]]] = {}

    # -- real images -------------------------------------------------------------------------------

    def prepare(self, reference: Reference, device: torch.device) -> None:
        """Process the real images, or read their features from the cache. All processes call it."""
        self.device = device
        self.check_counts(len(reference), self.num_fake)
        if self.extractor is not None:
            self.extractor.to(device)
        if self.extractor is None:
            self.real = compute(reference, None, device)
        else:
            self.real = real_features(reference, self.extractor, device, self.cache)
        for metric in self.metrics.values():
            metric.keep_real = False
            metric.reset()
            metric.keep_real = True
            metric.to(float64_device(device))
        self._floors.clear()
        self.shape = tuple(reference.facts()["shape"])
        self.facts = {**reference.facts(), "fingerprint": self.real.fingerprint}
        self._show_real(reference)

    def _show_real(self, reference: Reference) -> None:
        """Update the metrics with the real images; each process with its share."""
        assert self.real is not None
        if any(self._takes(label) >= {"images", "real"} for label in self.metrics):
            # Every process needs some images; if chunks are too few, each takes some of their rows.
            few = reference.num_chunks < world_size()
            mine = range(0 if few else rank(), reference.num_chunks, 1 if few else world_size())
            rows = slice(rank(), None, world_size()) if few else slice(None)
            for chunk in reference.chunks(mine, self.device):
                places = mixed(chunk.places[rows], len(reference)).to(self.device)
                self._update(images=chunk.images[rows], mixed=places, real=True)
        index = torch.arange(len(self.real.features))[rank() :: world_size()]
        for part in index.split(4096):
            features = self.real.features[part].to(self.device)
            self._update(features=features, index=part.to(self.device), real=True)

    def _floor(self, num_fake: int) -> tuple[dict[str, float], tuple[int, int]]:
        """Distances between two sets of real images, and the numbers of images in the two."""
        if num_fake in self._floors:
            return self._floors[num_fake]
        assert self.real is not None
        num = len(self.real.features)
        generator = Generator().manual_seed(seed_of("floor"))
        order = torch.randperm(num, generator=generator)
        a = min(num_fake, num // 2)
        parts = order[:a], order[a:]
        floors: dict[str, float] = {}
        for label, metric in self.metrics.items():
            if isinstance(metric, FrechetDistance | KernelDistance):
                given = arguments(metric)
                if isinstance(metric, KernelDistance):
                    given["subset_size"] = min(metric.subset_size, a, num - a)
                floor = type(metric)(**given).to(float64_device(self.device))
                for real, places in enumerate(parts):
                    index = torch.arange(rank(), len(places), world_size())
                    features = self.real.features[places[index]].to(floor.device)
                    floor.update(**floor._filter_kwargs(
                        features=features, index=index.to(floor.device), real=bool(real)
                    ))  # fmt: skip
                named = self._named(label, floor.compute())
                floors |= {k: v for k, v in named.items() if not k.endswith("_std")}
        self._floors[num_fake] = floors, (a, num - a)
        return self._floors[num_fake]

    # -- fakes -------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, fakes: Fakes, stopped: Callable[[], bool] = lambda: False) -> Scores | None:
        """The values of all metrics, the same for any number of processes. All processes call it.

        `stopped` is called between batches, and returns the same in all processes; if True, there
        are no scores.
        """
        assert self.real is not None, "call prepare first"
        start, world = time.perf_counter(), world_size()
        if fakes.num < max(2, world):
            raise UserError(f"{fakes.num} images are too few for metrics: raise metrics.num_fake.")
        self.check_counts(self.facts["images"], fakes.num)
        for metric in self.metrics.values():
            metric.reset()
            metric.expect(fakes.num)
        size = min(self.batch_size, -(-fakes.num // world))
        chunks = list(torch.arange(fakes.num).split(size))
        with progress("metrics", fakes.num, leave=False) as bar:
            for round_ in range(0, len(chunks), world):
                if stopped():
                    return None
                for index in chunks[round_ + rank() : round_ + rank() + 1]:
                    made = fakes.images(index.tolist())
                    made = {"images": made} if isinstance(made, Tensor) else made
                    made = {name: as_uint8(some.to(self.device)) for name, some in made.items()}
                    self._check_shape(made["images"])
                    self._look(made, index, fakes.num)
                bar.update(sum(len(chunk) for chunk in chunks[round_ : round_ + world]))
            named = {
                label: self._named(label, metric.compute())
                for label, metric in self.metrics.items()
            }
        for metric in self.metrics.values():
            metric.reset()
        floors, counts = self._floor(fakes.num)
        return Scores(
            {name: value for values in named.values() for name, value in values.items()},
            floors,
            self._protocol(fakes, counts),
            dict(fakes.subject),
            up=[
                n
                for label, some in named.items()
                if self.metrics[label].higher_is_better
                for n in some
            ],
            notes=self._notes(fakes.num),
            seconds=time.perf_counter() - start,
        )

    def fitted(
        self, num_real: int, num_fake: int, more: Mapping[str, SuiteMetric] = MappingProxyType({})
    ) -> "Suite":
        """A suite with the same extractor, the same metrics and `more`, for sets of that size.

        If a metric needs more images than there are, its limit is lowered, such as the size of the
        kernel distance's subsets.
        """
        metrics, lowered, most = dict(more), [], min(num_real, num_fake)
        for label, metric in self.metrics.items():
            given, limit = arguments(metric), metric.limit
            if limit and most < metric.least:
                given[limit] = max(1, given[limit] * most // metric.least)
                lowered.append(
                    f"{label} uses {limit}={given[limit]}, because there are {num_real} real and "
                    f"{num_fake} fake images."
                )
            metrics[label] = type(metric)(**given)
        if not lowered and not more:
            return self
        suite = Suite(
            metrics, self.extractor, num_real, num_fake, self.mirror, self.batch_size, self.cache
        )
        suite.lowered = lowered
        return suite

    def names(self) -> list[str]:
        """Full names of all values."""
        return [
            self._full(label, key)
            for label, metric in self.metrics.items()
            for key in metric.names or (label,)
        ]

    def monitored(
        self, name: str, more: Mapping[str, SuiteMetric] = MappingProxyType({})
    ) -> tuple[str, bool]:
        """The full name of a value, given that or a label such as `fd`, and if higher is better.

        There may be `more` metrics besides those of the suite.
        """
        for label, metric in (self.metrics | dict(more)).items():
            for key in metric.names or (label,):
                full = self._full(label, key) if label in self.metrics else key
                if name in (key, full):
                    return full, bool(metric.higher_is_better)
        known = ", ".join(name for name in self.names() if not name.endswith("_std"))
        raise UserError(f"No metric gives {name}: set callbacks.metrics.monitor to one of {known}.")

    def _look(self, made: Mapping[str, Tensor], index: Tensor, num: int) -> None:
        places = mixed(index, num).to(self.device)
        given = {**made, "index": index.to(self.device), "mixed": places}
        if self.extractor is not None:
            given["features"], logits = self.extractor(rgb(made["images"]))
            given |= {} if logits is None else {"logits": logits}
        self._update(**given, real=False)

    def _update(self, **given: Any) -> None:
        """Update the metrics for which everything they take is given."""
        for label, metric in self.metrics.items():
            takes = self._takes(label)
            if given["real"] and "real" not in takes:
                continue  # a metric of fakes alone
            # Metrics of images use the first ones, or pairs, so these must be in random order.
            own = {**given, "index": given.get("mixed")} if "images" in takes else given
            own = {k: v.to(metric.device) if isinstance(v, Tensor) else v for k, v in own.items()}
            if takes <= own.keys():
                metric.update(**metric._filter_kwargs(**own))

    def _takes(self, label: str) -> set[str]:
        update = type(self.metrics[label]).update
        return {name for name in inspect.signature(update).parameters if name != "self"}

    def _full(self, label: str, key: str) -> str:
        if not self._takes(label) & {"features", "logits"} or self.extractor is None:
            return key
        if key.endswith("_std"):
            return self.extractor.named(key.removesuffix("_std")) + "_std"
        return self.extractor.named(key)

    def _named(self, label: str, value: Tensor | Mapping[str, Tensor]) -> dict[str, float]:
        parts = value if isinstance(value, Mapping) else {label: value}
        return {self._full(label, key): float(part) for key, part in parts.items()}

    def _check_shape(self, images: Tensor) -> None:
        if tuple(images.shape[1:]) != self.shape:
            theirs, ours = ("x".join(map(str, s)) for s in (images.shape[1:], self.shape))
            raise UserError(
                f"The images to score are {theirs} (channels, height, width), and the real ones "
                f"{ours}: convert them."
            )

    def check_counts(self, reals: int, fakes: int) -> None:
        """Raises UserError if there are too few images, before anything is computed."""
        for label, metric in self.metrics.items():
            least = max(metric.least, 2 * world_size())
            if min(reals, fakes) < least:
                raise UserError(
                    f"{label} needs at least {least} images, and there are {reals} real ones and "
                    f"{fakes} fakes: raise metrics.num_real and num_fake, lower metrics.scores."
                    f"{label}.{metric.limit or 'num'}, or leave it out with "
                    f"metrics.scores.{label}=null."
                )

    def _protocol(self, fakes: Fakes, floor: tuple[int, int]) -> dict[str, Any]:
        extractor = self.extractor
        return {
            "metrics": {label: options(metric) for label, metric in self.metrics.items()},
            "extractor": None if extractor is None else {
                "name": extractor.name,
                "weights": extractor.weights,
                "resize": extractor.resize,
                "precision": extractor.precision,
            },
            "real": self.facts,
            "fake": {"images": fakes.num, **fakes.facts},
            "floor": list(floor),
            "ganzoo": __version__,
        }  # fmt: skip

    def _notes(self, num_fake: int) -> list[str]:
        notes = list(self.lowered)
        fewest = min(num_fake, self.facts["images"])
        for label, metric in self.metrics.items():
            if isinstance(metric, FrechetDistance) and self.extractor is not None:
                dim = self.extractor.num_features
                if fewest <= dim:
                    name = self._full(label, label)
                    notes.append(
                        f"{name} of {fewest} images in {dim} dimensions is only comparable at the "
                        f"same numbers of images: trust {self.extractor.named('kid')}, or raise "
                        "metrics.num_fake and num_real."
                    )
        return notes


def options(metric: SuiteMetric) -> Options:
    """The class of a metric and the arguments of its constructor."""
    return {"class": type(metric).__name__, **arguments(metric)}


def arguments(metric: SuiteMetric) -> Options:
    """The arguments of a metric's constructor, except for the total, which the suite sets."""
    names = inspect.signature(type(metric)).parameters
    return {k: v for k, v in vars(metric).items() if k in names and k != "total"}


def as_uint8(images: Tensor) -> Tensor:
    """Images as uint8. Raises UserError if they are floats in 0...255, or not finite."""
    if images.dtype == torch.uint8:
        return images
    if not images.isfinite().all():
        raise UserError("Images to score contain NaN or infinity: the generator is broken.")
    if images.min() >= 0 and images.max() > 2:
        raise UserError("Images to score must be in [-1, 1]: divide by 127.5 and subtract 1.")
    return to_uint8(images)
