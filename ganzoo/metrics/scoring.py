"""Scores of a model: of samples of seeds, or of translations in each of its directions."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ganzoo.data.images import ImageData
from ganzoo.data.pixels import to_float
from ganzoo.data.reference import Reference
from ganzoo.data.unpaired import Unpaired
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds, Translating, generator_of, only_from_seeds
from ganzoo.errors import UserError
from ganzoo.metrics import translation
from ganzoo.metrics.protocol import Scores, joined
from ganzoo.metrics.suite import Fakes, Suite


def scorer_of(
    gan: GAN, data: ImageData | Unpaired, suite: Suite, device: torch.device, prepare: bool = True
) -> "SeedScorer | TranslationScorer":
    """The scorer that suits the model; without `prepare`, everything is only checked.

    A metric that needs more images than there are is lowered; see `lowered` of the scorer. All
    processes call it.
    """
    if isinstance(gan, Translating):
        return TranslationScorer(gan, data, suite, device, prepare)
    return SeedScorer(only_from_seeds(gan), data, suite, device, prepare)


class SeedScorer:
    """Scores samples of fixed seeds against the training data, again and again."""

    def __init__(
        self,
        gan: FromSeeds,
        data: ImageData | Unpaired,
        suite: Suite,
        device: torch.device,
        prepare: bool = True,
    ) -> None:
        if "" not in data.domains:
            raise UserError("A model that makes images from seeds needs data of one domain.")
        reference = Reference(data.domains[""], suite.num_real, suite.mirror)
        suite = suite.fitted(len(reference), suite.num_fake)
        self.gan, self.suite, self.names = gan, suite, suite.names()
        self.lowered = suite.lowered
        suite.check_counts(len(reference), suite.num_fake)
        if prepare:
            suite.prepare(reference, device)

    def score(
        self,
        raw: bool = False,
        truncation: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
        standing: Mapping[str, int] | None = None,
    ) -> Scores | None:
        """Scores of the model as it is now, with the seeds from 0; see `Suite.score`.

        `standing` are facts about standing statistics.
        """
        gan, num = self.gan, self.suite.num_fake

        def images(seeds: Sequence[int]) -> Tensor:
            return gan.sample(list(seeds), truncation=truncation, raw=raw)

        facts = {
            "generator": generator_of(gan, raw),
            "seeds": f"0-{num - 1}",
            "truncation": truncation,
            "standing_statistics": standing,
        }
        return self.suite.score(Fakes(num, images, facts, _subject(gan)), stopped)


class TranslationScorer:
    """Scores translated test images of one domain against the test images of the other.

    Values are called `AtoB/fd_effnet` and so on. Besides the metrics of the suite there are
    `cycle`, `identity` and, if `data.test_pairs` says that partners are known, `l1`, `psnr` and
    `ssim`; see `ganzoo.metrics.translation`. If there are no test images, training images take
    their place.

    There are at most `num_real` test images of each domain; at most `num_fake` are translated.
    """

    def __init__(
        self,
        gan: Translating,
        data: ImageData | Unpaired,
        suite: Suite,
        device: torch.device,
        prepare: bool = True,
    ) -> None:
        if not isinstance(data, Unpaired):
            raise UserError("A model that translates needs data of two domains.")
        self.gan, self.device = gan, device
        self.tests, self.pairs = data.tests()
        counts = {name: len(test.source) for name, test in self.tests.items()}
        if min(counts.values()) < 2:
            raise UserError(
                f"There are too few test images for scores, {counts}: hold out more, or set "
                "callbacks.metrics=null."
            )
        reals = {
            name: Reference(test, suite.num_real, suite.mirror) for name, test in self.tests.items()
        }
        self.numbers = {name: real.images.tolist() for name, real in reals.items()}
        self.inputs = {name: _spread(some, suite.num_fake) for name, some in self.numbers.items()}
        self.suites, self.names, self.lowered = {}, [], []
        more = {
            "cycle": len(gan.directions) == 2,
            "identity": len(set(data.channels.values())) == 1,
            "pairs": self.pairs,
        }
        for direction in gan.directions:
            source, target = direction.split("to")
            own = suite.fitted(
                len(reals[target]), len(self.inputs[source]), translation.metrics(**more)
            )
            self.lowered += [f"{direction}: {sentence}" for sentence in own.lowered]
            own.check_counts(len(reals[target]), len(self.inputs[source]))
            if prepare:
                own.prepare(reals[target], device)
            self.suites[direction] = own
            self.names += [f"{direction}/{name}" for name in own.names()]
        self.fingerprints = {name: self._fingerprint(name) for name in self.inputs}

    def score(
        self,
        raw: bool = False,
        truncation: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
        standing: Mapping[str, int] | None = None,
    ) -> Scores | None:
        """Scores of the model as it is now; it has neither truncation nor standing statistics."""
        parts = {}
        for direction, suite in self.suites.items():
            scores = suite.score(self._fakes(direction, raw), stopped)
            if scores is None:
                return None
            parts[direction] = scores
        return joined(parts)

    def _fakes(self, direction: str, raw: bool) -> Fakes:
        gan = self.gan
        source, target = direction.split("to")
        back = f"{target}to{source}"
        inputs, targets = self.inputs[source], self.numbers[target]

        def made(numbers: Sequence[int]) -> dict[str, Tensor]:
            given = self.tests[source].read([inputs[i] for i in numbers], self.device)
            fakes = gan.translate_many(to_float(given), direction, raw)
            images = {"inputs": given, "images": fakes}
            if back in gan.directions:
                images["reconstructed"] = gan.translate_many(fakes, back, raw)
            if self.pairs:
                same = [inputs[i] for i in numbers]
                images["partners"] = self.tests[target].read(same, self.device)
            # Each input comes with its share of the images of the target domain.
            edges = [[i * len(targets) // len(inputs) for i in (n, n + 1)] for n in numbers]
            share = [target for start, end in edges for target in targets[start:end]]
            if share and given.shape[1] == fakes.shape[1]:
                images["targets"] = self.tests[target].read(share, self.device)
                images["identity"] = gan.translate_many(to_float(images["targets"]), direction, raw)
            return images

        return Fakes(
            len(inputs),
            made,
            {
                "generator": generator_of(gan, raw),
                "direction": direction,
                "inputs": self.tests[source].source.name,
                "inputs_fingerprint": self.fingerprints[source][:8],
                "pairs": self.pairs,
            },
            _subject(gan),
        )

    def _fingerprint(self, domain: str) -> str:
        digest = hashlib.sha256()
        for number in self.inputs[domain]:
            digest.update(self.tests[domain].read([number]).numpy().tobytes())
        return digest.hexdigest()


def _subject(gan: GAN) -> dict[str, Any]:
    return {"model": type(gan).__name__, "images_seen": gan.images_seen}


def _spread(numbers: list[int], most: int) -> list[int]:
    """At most `most` of the numbers, evenly spaced."""
    count = min(len(numbers), most)
    return [numbers[i * len(numbers) // count] for i in range(count)]
