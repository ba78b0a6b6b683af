"""What tells a failing run from a healthy one, in numbers."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ganzoo.callbacks.singular import SingularValues, weight_matrices
from ganzoo.data.images import ImageData
from ganzoo.draws import Draws, seed_of
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import only_from_seeds

SIDE = 32  # pixels that images are reduced to before they are compared
CLASSES = 4  # that samples are taken of, where there are classes


class Heard:
    """Means of what a model reports, since they were last asked for.

    Args:
        names: of the numbers to listen to.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.sums = dict.fromkeys(names, 0.0)
        self.counts = dict.fromkeys(self.sums, 0)

    def hear(self, name: str, number: float) -> None:
        if name in self.sums:
            self.sums[name] += number
            self.counts[name] += 1

    def drain(self) -> dict[str, float]:
        """The means; NaN for what was not reported."""
        means = {
            name: total / self.counts[name] if self.counts[name] else math.nan
            for name, total in self.sums.items()
        }
        self.sums, self.counts = dict.fromkeys(means, 0.0), dict.fromkeys(means, 0)
        return means


class Diversity:
    """How far samples are from each other, in terms of how far training images are.

    The median distance of a sample to its nearest neighbor among the samples, over the same of as
    many training images: near 1 for a generator that varies as the data does, near 0 for one that
    makes the same image again and again. Distances are Euclidean, of pixels, at most 32 a side.
    Where there are classes, neighbors are sought within a class, for a few of the classes.

    Args:
        data: of training.
        num: samples, in all classes together.
    """

    def __init__(self, gan: GAN, data: ImageData, num: int) -> None:
        self.members = members_of(gan, data, num)
        distances = [
            nearest(shown(data, indices, gan.device)[0]) for indices in self.members.values()
        ]
        self.real = float(torch.cat(distances).median()) if distances else 0.0

    @torch.no_grad()
    def of(self, gan: GAN) -> float:
        """Of the generator as it is, not its average; NaN where the training images are alike."""
        if not self.real:
            return math.nan
        distances = [
            nearest(only_from_seeds(gan).sample(range(len(indices)), label=label, raw=True))
            for label, indices in self.members.items()
        ]
        return float(torch.cat(distances).median()) / self.real


class Memory:
    """How many of some training images and of held-out ones the discriminator takes for real.

    Args:
        data: of training.
        num: images of each kind, at most.

    Raises:
        UserError: nothing is held out.
    """

    def __init__(self, gan: GAN, data: ImageData, num: int) -> None:
        self.sets = {"training": data, "held_out": data.held_out()[""]}
        self.indices = {name: some(len(d.source), num) for name, d in self.sets.items()}

    def of(self, gan: GAN, boundary: float) -> dict[str, float]:
        """Shares of 1: training, held_out; real is what has a logit above `boundary`."""
        shares = {}
        for name, data in self.sets.items():
            images, labels = shown(data, self.indices[name], gan.device)
            shares[name] = float((gan.logits_of(images, labels) > boundary).float().mean())
        return shares


class Growth:
    """By how much weights have grown, where healthy ones grow ever more slowly.

    For each weight, its largest singular value now over that at the last look before half of the
    images seen; or over that at the first look, divided by the square root of the images seen in
    units of 20,000 (at least 1), whichever is larger. Where its network's weights had a larger
    mean then, that takes the place of the weight's own value, since some start at 0.
    """

    def __init__(self) -> None:
        self.singular_values = SingularValues()
        self.moments: list[int] = []  # images seen at each look
        self.looks: list[Tensor] = []  # the singular values [weights]

    def state_dict(self) -> dict[str, Any]:
        looks = torch.stack(self.looks) if self.looks else torch.empty(0)
        vectors = dict(self.singular_values.vectors)
        return {"moments": list(self.moments), "looks": looks, "vectors": vectors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moments, self.looks = list(state["moments"]), list(state["looks"])
        self.singular_values.vectors = dict(state["vectors"])

    def look(self, gan: GAN) -> tuple[float, str]:
        """The largest factor of all weights, and the name of that weight; 1 at the first look."""
        weights = {name: matrix for name, matrix, _ in weight_matrices(gan)}
        now = torch.stack([self.singular_values.of(name, m)[0] for name, m in weights.items()])
        networks = [name.partition(".")[0] for name in weights]
        self.moments.append(gan.images_seen)
        self.looks.append(now)
        early = sum(2 * at <= gan.images_seen for at in self.moments)
        of_half = now / least(self.looks[max(0, early - 1)], networks)
        passed = max(1.0, (gan.images_seen / 20_000) ** 0.5)
        factors = torch.maximum(of_half, now / least(self.looks[0], networks) / passed)
        return float(factors.max()), list(weights)[int(factors.argmax())]


class Pace:
    """How far one iteration moves the weights of a network, as a share of how large they are.

    The Frobenius norm of all changes over that of all weights before, of weights that are matrices
    or more and that moved at all; of the generator or the discriminator, whichever moves farther.
    """

    def __init__(self) -> None:
        self.before: dict[str, list[Tensor]] = {}  # weights of each network

    def start(self, gan: GAN) -> None:
        """Take the weights before the iteration."""
        self.before = {
            network: [weight.clone() for weight in weights_of(gan, network)]
            for network in ("generator", "discriminator")
        }

    def end(self, gan: GAN) -> float:
        """The share, after the iteration; NaN without a start, or where nothing moved."""
        shares = []
        for network, before in self.before.items():
            moved = sizes = torch.zeros((), device=gan.device)
            for old, new in zip(before, weights_of(gan, network), strict=True):
                square = (new - old).square().sum()
                moved, sizes = moved + square, sizes + (square > 0) * old.square().sum()
            if moved > 0:
                shares.append(float((moved / sizes).sqrt()))
        self.before = {}
        return max(shares, default=math.nan)


def weights_of(gan: GAN, network: str) -> list[Tensor]:
    """The parameters of a network that are matrices or more."""
    return [p.detach() for p in gan.get_submodule(network).parameters() if p.dim() > 1]


def least(values: Tensor, networks: Sequence[str]) -> Tensor:
    """Values [weights], but none below the mean of those of the same network, and none 0."""
    means = {
        network: values[torch.tensor([other == network for other in networks])].mean()
        for network in networks
    }
    floor = torch.stack([means[network] for network in networks])
    return torch.maximum(values, floor).clamp_min(torch.finfo(values.dtype).tiny)


# -- images ----------------------------------------------------------------------------------------


def shown(
    data: ImageData, indices: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Some images as the networks are shown them, not mirrored, [N, C, H, W], and their labels."""
    batch = data.source.__getitems__(list(indices))
    plain = torch.zeros(len(indices), dtype=torch.bool, device=device)
    images = data.shown(batch["image"].to(device), plain, Draws(0, "shown", device=device))
    labels = batch.get("label")
    return images, None if labels is None else labels.to(device)


def some(length: int, num: int) -> list[int]:
    """Up to `num` numbers below `length`, the same each time."""
    generator = Generator().manual_seed(seed_of("some", length))
    return torch.randperm(length, generator=generator)[:num].tolist()


def members_of(gan: GAN, data: ImageData, num: int) -> dict[int | None, list[int]]:
    """Training images to compare samples with, by class; None: of any class.

    At most `num` in all, at least two in each class. Which they are does not depend on the seed.
    """
    labels = data.source.labels() if gan.classes else None
    if labels is None:
        few = some(len(data.source), num)
        return {None: few} if len(few) > 1 else {}
    order = torch.tensor(some(len(labels), len(labels)))
    chosen = torch.linspace(0, gan.classes - 1, min(CLASSES, gan.classes)).round().long().tolist()
    found = {k: order[labels[order] == k][: num // len(chosen)].tolist() for k in chosen}
    return {label: indices for label, indices in found.items() if len(indices) > 1}


def nearest(images: Tensor) -> Tensor:
    """The distance of each image [N, C, H, W] to the nearest of the others, [N]."""
    box = -(-max(images.shape[-2:]) // SIDE)
    rows = (F.avg_pool2d(images.float(), box) if box > 1 else images.float()).flatten(1)
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(math.inf).min(1).values
