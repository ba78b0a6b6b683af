"""A set of metrics of one set of fakes against one set of reals, in one pass, with its protocol."""

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from ganzoo import __version__
from ganzoo.data.pixels import to_uint8
from ganzoo.data.reference import Reference, mixed
from ganzoo.distributed.strategy import rank, world_size
from ganzoo.draws import seed_of
from ganzoo.errors import UserError
from ganzoo.metrics.base import SuiteMetric
from ganzoo.metrics.cache import Real, compute, real_features, rgb
from ganzoo.metrics.extractors import Extractor
from ganzoo.metrics.frechet import FrechetDistance
from ganzoo.metrics.kernel import KernelDistance
from ganzoo.metrics.protocol import Scores

log = logging.getLogger(__name__)

Options = dict[str, Any]


class Fakes(NamedTuple):
    """Images to be scored.

    Attributes:
        num: how many there are.
        images: their numbers, from 0 to `num`, -> float [n, C, H, W] in [-1, 1], or uint8; or a
            dict of such images, of which "images" are scored and metrics may take the others.
        facts: how they were drawn, for the protocol.
        subject: what made them.
    """

    num: int
    images: Callable[[Sequence[int]], Tensor | dict[str, Tensor]]
    facts: Mapping[str, Any]
    subject: Mapping[str, Any]


class Suite:
    """Metrics that share one pass of an extractor over the fakes.

    Args:
        metrics: by label. Each names in its `update` what it takes: features, logits, images,
            index, real. The full names of their values are the extractor's to say (`fd` is `fid`
            with Inception, `fd_effnet` with another), but for metrics of images alone.
        extractor: of features; None if no metric needs any.
        num_real: real images to compare with; None for all.
        num_fake: fakes that a caller should make.
        mirror: whether the real images are flipped, too; None: as in training.
        batch_size: of the extractor and the generator.
        cache: keep features of real images on the disk.
    """

    def __init__(
        self,
        metrics: Mapping[str, SuiteMetric | None],
        extractor: Extractor | None = None,
        num_real: int | None = 50000,
        num_fake: int = 50000,
        mirror: bool | None = None,
        batch_size: int = 64,
        cache: bool = True,
    ) -> None:
        self.metrics = {label: metric for label, metric in metrics.items() if metric is not None}
        if not self.metrics:
            raise UserError("metrics.metrics names no metric: leave one in.")
        if num_fake < 2 or batch_size < 1:
            raise UserError("metrics.num_fake must be at least 2 and metrics.batch_size 1.")
        needing = [label for label in self.metrics if self._takes(label) & {"features", "logits"}]
        if needing and extractor is None:
            raise UserError(
                f"{', '.join(needing)} needs an extractor: choose one with metrics/extractor=auto."
            )
        for label in needing:
            assert extractor is not None
            if "logits" in self._takes(label) and extractor.classifier is None:
                raise UserError(
                    f"{label} needs a classifier, which {extractor.name} is not: leave it out with "
                    f"metrics.metrics.{label}=null, or choose another metrics/extractor."
                )
        self.extractor = extractor if needing else None
        self.num_real, self.num_fake, self.mirror = num_real, num_fake, mirror
        self.batch_size, self.cache = batch_size, cache
        self.lowered: list[str] = []  # sentences on metrics of fewer images than asked for
        self.real: Real | None = None
        self._floors: dict[int, tuple[dict[str, float], tuple[int, int]]] = {}

    # -- real images -------------------------------------------------------------------------------

    def prepare(self, reference: Reference, device: torch.device) -> None:
        """Look at the real images, or find what was kept of them. All processes call it.

        Raises:
            UserError: too few images, images that cannot be read, a cache that cannot be written.
        """
        self.device = device
        self._check_counts(len(reference), self.num_fake)
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
            metric.to(device)
        self._floors.clear()
        self.shape = tuple(reference.facts()["shape"])
        self.facts = {**reference.facts(), "fingerprint": self.real.fingerprint}
        self._show_real(reference)

    def _show_real(self, reference: Reference) -> None:
        """Each process shows the metrics its share."""
        assert self.real is not None
        if any(self._takes(label) >= {"images", "real"} for label in self.metrics):
            # Of few chunks, each process takes some rows, since none may be left without any.
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
        """Distances between real images and other real images, and how many there were of each."""
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
                floor = type(metric)(**given).to(self.device)
                for real, places in enumerate(parts):
                    index = torch.arange(rank(), len(places), world_size())
                    features = self.real.features[places[index]].to(self.device)
                    index = index.to(self.device)
                    floor.update(**floor._filter_kwargs(
                        features=features, index=index, real=bool(real)
                    ))  # fmt: skip
                named = self._named(label, floor.compute())
                floors |= {k: v for k, v in named.items() if not k.endswith("_std")}
        self._floors[num_fake] = floors, (a, num - a)
        return self._floors[num_fake]

    # -- fakes -------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, fakes: Fakes, stopped: Callable[[], bool] = lambda: False) -> Scores | None:
        """The values of all metrics; the same on any number of processes, which all call it.

        Args:
            stopped: asked between batches by every process, with the same answer in all of them;
                if true, there are no scores.

        Raises:
            UserError: too few fakes for a metric, or fakes that are no images like the real ones.
        """
        assert self.real is not None, "prepare comes first"
        start, world = time.perf_counter(), world_size()
        if fakes.num < max(2, world):
            raise UserError(
                f"{fakes.num} images are too few for metrics on {world} process(es): raise "
                "metrics.num_fake."
            )
        self._check_counts(self.facts["images"], fakes.num)
        for metric in self.metrics.values():
            metric.reset()
            metric.expect(fakes.num)
        size = min(self.batch_size, -(-fakes.num // world))
        chunks = list(torch.arange(fakes.num).split(size))
        bar = tqdm(
            desc="metrics", total=fakes.num, unit=" images", dynamic_ncols=True, leave=False,
            disable=None if rank() == 0 else True,
        )  # fmt: skip
        with bar:
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
            values = {
                name: value
                for label, metric in self.metrics.items()
                for name, value in self._named(label, metric.compute()).items()
            }
        for metric in self.metrics.values():
            metric.reset()
        floors, counts = self._floor(fakes.num)
        return Scores(
            values,
            floors,
            self._protocol(fakes, counts),
            dict(fakes.subject),
            notes=self._notes(fakes.num),
            seconds=time.perf_counter() - start,
        )

    @torch.no_grad()
    def add_intra_class(
        self, scores: Scores, fakes: Sequence[Fakes], classes: Sequence[str]
    ) -> None:
        """Add the Fréchet distance within each class, and their mean, to `scores`.

        Args:
            fakes: of each class, in the order of the labels.

        Raises:
            UserError: no labels, no extractor, or classes with too few images.
        """
        real, extractor = self.real, self.extractor
        if extractor is None or real is None or real.labels is None or not classes:
            raise UserError(
                "Distances within classes need labels of the real images and an extractor: choose "
                "other data, or set intra_class=null."
            )
        for label, (name, few) in enumerate(zip(classes, fakes, strict=True)):
            distance = FrechetDistance().to(self.device)
            members = (real.labels == label).nonzero().flatten()
            if min(len(members), few.num) < max(2, world_size()):
                raise UserError(
                    f"There are too few images of {name} for a distance: raise metrics.num_real or "
                    "intra_class, or leave such classes out with data.classes."
                )
            mine = members[rank() :: world_size()]
            distance.update(real.features[mine].to(self.device), real=True)
            chunks = torch.arange(few.num)[rank() :: world_size()].split(self.batch_size)
            for index in tqdm(
                chunks, desc=name, leave=False, disable=None if rank() == 0 else True
            ):
                images = few.images(index.tolist())
                assert isinstance(images, Tensor)
                images = as_uint8(images.to(self.device))
                distance.update(extractor(rgb(images))[0], real=False)
            scores.classes[name] = float(distance.compute())
        name = f"intra_{extractor.named('fd')}"
        scores.values[name] = sum(scores.classes.values()) / len(scores.classes)
        scores.protocol["intra_class"] = fakes[0].num

    def fitted(self, num_real: int, num_fake: int, more: Mapping[str, SuiteMetric]) -> "Suite":
        """A suite of the same metrics and `more`, for sets of so many images.

        What a metric takes more of than there are is lowered to that, as in subsets of the kernel
        distance. The extractor is shared.
        """
        metrics, lowered = dict(more), []
        for label, metric in self.metrics.items():
            given, least = arguments(metric), metric.least
            limit, most = metric.limit, min(num_real, num_fake)
            if limit and most < least:
                given[limit] = max(1, given[limit] * most // least)
                lowered.append(
                    f"{label} is with {limit}={given[limit]}, for there are {num_real} real and "
                    f"{num_fake} fake images."
                )
            metrics[label] = type(metric)(**given)
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
        """The full name of a value, and whether more of it is better.

        Args:
            name: `fd` or the like, or a full name.
            more: metrics that may come to those of the suite.

        Raises:
            UserError: no metric has it.
        """
        for label, metric in (self.metrics | dict(more)).items():
            for key in metric.names or (label,):
                full = self._full(label, key) if label in self.metrics else key
                if name in (key, full):
                    return full, bool(metric.higher_is_better)
        known = ", ".join(name for name in self.names() if not name.endswith("_std"))
        raise UserError(
            f"No metric gives {name}: set callbacks.evaluate.monitor to one of {known}."
        )

    def _look(self, made: Mapping[str, Tensor], index: Tensor, num: int) -> None:
        places = mixed(index, num).to(self.device)
        given = {**made, "index": index.to(self.device), "mixed": places}
        if self.extractor is not None:
            given["features"], logits = self.extractor(rgb(made["images"]))
            given |= {} if logits is None else {"logits": logits}
        self._update(**given, real=False)

    def _update(self, **given: Any) -> None:
        """Update the metrics that get all they take."""
        for label, metric in self.metrics.items():
            takes = self._takes(label)
            # Metrics of images take some of them or make pairs, for which their order must be none.
            own = {**given, "index": given.get("mixed")} if "images" in takes else given
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
                f"The images to score are {theirs} (channels, height, width) and the real ones "
                f"{ours}: bring them to one size and number of channels."
            )

    def _check_counts(self, reals: int, fakes: int) -> None:
        """Before anything is computed."""
        for label, metric in self.metrics.items():
            least = max(metric.least, 2 * world_size())
            if min(reals, fakes) < least:
                raise UserError(
                    f"{label} needs at least {least} images and there are {reals} real ones and "
                    f"{fakes} fakes: raise metrics.num_real and num_fake, lower metrics.metrics."
                    f"{label}.{metric.limit or 'num'}, or leave it out with "
                    f"metrics.metrics.{label}=null."
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
                        f"{name} of {fewest} images in {dim} dimensions compares with nothing but "
                        f"the same counts: trust {self.extractor.named('kid')}, or raise "
                        "metrics.num_fake and num_real."
                    )
        return notes


def options(metric: SuiteMetric) -> Options:
    """The class of a metric and the arguments that it was made with."""
    return {"class": type(metric).__name__, **arguments(metric)}


def arguments(metric: SuiteMetric) -> Options:
    """What a metric was made with, but for what the suite sets."""
    names = inspect.signature(type(metric)).parameters
    return {k: v for k, v in vars(metric).items() if k in names and k not in ("keep_real", "total")}


def as_uint8(images: Tensor) -> Tensor:
    """Images as extractors take them. Raises UserError if they can be neither [-1, 1] nor uint8."""
    if images.dtype == torch.uint8:
        if len(images) > 1 and images.max() == 1 and images.min() == 0:
            raise UserError(
                "Images to score are all 0 and 1, as floats in [0, 1] or [-1, 1] become when cast "
                "to uint8: give the floats."
            )
        return images
    if not images.is_floating_point():
        raise UserError(
            f"Images to score must be floats in [-1, 1] or uint8, not {images.dtype}: convert them."
        )
    low, high = images.aminmax()
    if not bool(torch.isfinite(low + high)):
        raise UserError("Images to score hold NaN or infinity: the generator is broken.")
    if low >= 0 and high > 2:
        raise UserError(
            f"Images to score are floats from {float(low):.3g} to {float(high):.3g}, which have to "
            "lie in [-1, 1]: divide by 127.5 and subtract 1, or give uint8."
        )
    return to_uint8(images)
