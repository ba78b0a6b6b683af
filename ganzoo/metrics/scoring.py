"""What is scored of a model: samples of seeds, or translations in each of its directions."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ganzoo.data.images import ImageData, moved, to_float, to_uint8
from ganzoo.data.reference import Reference
from ganzoo.draws import Draws
from ganzoo.errors import UserError
from ganzoo.gan import GAN
from ganzoo.metrics import translation
from ganzoo.metrics.protocol import Scores, joined
from ganzoo.metrics.suite import Fakes, Suite

log = logging.getLogger(__name__)

PIXELS = 2**19  # of images that are translated together


class Scorer(Protocol):
    """Scores a model again and again with the same images."""

    names: list[str]  # of the values there will be

    def score(
        self,
        gan: GAN,
        raw: bool = False,
        truncation: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Scores | None:
        """See `Suite.score`."""


def scorer_of(gan: GAN, data: Any, suite: Suite, device: torch.device) -> Scorer:
    """What suits the model. All processes call it.

    Raises:
        UserError: too few images, images that cannot be read, a cache that cannot be written.
    """
    if gan.directions:
        return TranslationScorer(gan, data, suite, device)
    return SeedScorer(data, suite, device)


class SeedScorer:
    """Samples of fixed seeds against the data that was trained on."""

    def __init__(self, data: ImageData, suite: Suite, device: torch.device) -> None:
        self.suite, self.names = suite, suite.names()
        suite.prepare(Reference(data, suite.num_real, suite.mirror), device)

    def score(
        self,
        gan: GAN,
        raw: bool = False,
        truncation: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Scores | None:
        return self.suite.score(fakes_of(gan, self.suite.num_fake, raw, truncation), stopped)


class TranslationScorer:
    """Translated test images of one domain against the test images of the other.

    Values are called `AtoB/fd_effnet` and so on. Beside the suite's there are `cycle`, `identity`
    and, where `data.test_pairs` says that partners are known, `l1`, `psnr`, `ssim`: see
    `ganzoo.metrics.translation`. Of data without test images, training images are taken.

    Test images are at most `num_real` of each domain; at most `num_fake` are translated.
    """

    def __init__(self, gan: GAN, data: Any, suite: Suite, device: torch.device) -> None:
        self.device = device
        self.tests, self.pairs = tests_of(data)
        reals = {
            name: Reference(test, suite.num_real, suite.mirror) for name, test in self.tests.items()
        }
        self.numbers = {name: real.images.tolist() for name, real in reals.items()}
        self.inputs = {name: _spread(some, suite.num_fake) for name, some in self.numbers.items()}
        self.suites, self.names = {}, []
        for direction in gan.directions:
            source, target = direction.split("to")
            own = suite.fitted(len(reals[target]), len(self.inputs[source]), translation.metrics())
            own.prepare(reals[target], device)
            self.suites[direction] = own
            told = [n for n in own.names() if self.pairs or n not in translation.OF_PAIRS]
            self.names += [f"{direction}/{name}" for name in told]
        self.fingerprints = {name: self._fingerprint(name) for name in self.inputs}

    def score(
        self,
        gan: GAN,
        raw: bool = False,
        truncation: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Scores | None:
        parts = {}
        for direction, suite in self.suites.items():
            scores = suite.score(self._fakes(gan, direction, raw), stopped)
            if scores is None:
                return None
            parts[direction] = scores
        return joined(parts)

    def _fakes(self, gan: GAN, direction: str, raw: bool) -> Fakes:
        source, target = direction.split("to")
        back = f"{target}to{source}"
        inputs, targets = self.inputs[source], self.numbers[target]

        def made(numbers: Sequence[int]) -> dict[str, Tensor]:
            given = self._read(source, [inputs[i] for i in numbers])
            fakes = translated(gan, to_float(given), direction, raw)
            images = {"inputs": given, "images": fakes}
            if back in gan.directions:
                images["reconstructed"] = translated(gan, fakes, back, raw)
            if self.pairs:
                images["partners"] = self._read(target, [inputs[i] for i in numbers])
            # Each input comes with its share of the images of the target domain.
            share = [
                targets[k]
                for i in numbers
                for k in range(
                    i * len(targets) // len(inputs), (i + 1) * len(targets) // len(inputs)
                )
            ]
            if share and given.shape[1] == fakes.shape[1]:
                images["targets"] = self._read(target, share)
                images["identity"] = translated(gan, to_float(images["targets"]), direction, raw)
            return images

        return Fakes(
            len(inputs),
            made,
            {
                "generator": "average" if gan.average is not None and not raw else "raw",
                "direction": direction,
                "inputs": self.tests[source].source.name,
                "inputs_fingerprint": self.fingerprints[source][:8],
                "pairs": self.pairs,
            },
            {"model": type(gan).__name__, "images_seen": gan.images_seen},
        )

    def _fingerprint(self, domain: str) -> str:
        told = hashlib.sha256()
        for number in self.inputs[domain]:
            told.update(self._read(domain, [number]).cpu().numpy().tobytes())
        return told.hexdigest()

    def _read(self, domain: str, numbers: list[int]) -> Tensor:
        """Test images by their numbers in the source, uint8 [n, C, H, W], whole."""
        data = self.tests[domain]
        images = moved(data.source.__getitems__(numbers)["image"], self.device)
        plain = torch.zeros(len(numbers), dtype=torch.bool, device=self.device)
        return to_uint8(data.shown(images, plain, Draws(0)))


def tests_of(data: Any) -> tuple[dict[str, ImageData], bool]:
    """The test images of both domains and whether they are pairs.

    Where there are none, they are the training images.
    """
    try:
        return data.held_out(), data.test_pairs
    except UserError as error:
        log.info("metrics: of training images, since none are held out. %s", error)
        return data.whole(), False


def translated(gan: GAN, images: Tensor, direction: str, raw: bool = False) -> Tensor:
    """`gan.translate` of images [N, C, H, W] in [-1, 1], a few at a time."""
    few = max(1, PIXELS // (images.shape[2] * images.shape[3]))
    return torch.cat([gan.translate(part, direction, raw) for part in images.split(few)])


def fakes_of(
    gan: GAN, num: int, raw: bool = False, truncation: float | None = None, label: int | None = None
) -> Fakes:
    """Samples of the seeds 0 to `num` - 1."""

    def images(seeds: Sequence[int]) -> Tensor:
        return gan.sample(list(seeds), label=label, truncation=truncation, raw=raw)

    if num < 2:
        raise UserError("metrics.num_fake must be at least 2.")
    which = "average" if gan.average is not None and not raw else "raw"
    return Fakes(
        num,
        images,
        {
            "generator": which,
            "seeds": f"0-{num - 1}",
            "truncation": truncation,
            "standing_statistics": None,
            "label": label,
        },
        {"model": type(gan).__name__, "images_seen": gan.images_seen},
    )


def _spread(numbers: list[int], most: int) -> list[int]:
    """At most so many of the numbers, evenly spaced."""
    count = min(len(numbers), most)
    return [numbers[i * len(numbers) // count] for i in range(count)]
