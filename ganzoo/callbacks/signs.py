"""Numbers that distinguish a failing run from a healthy one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganzoo.data.images import ImageData
from ganzoo.data.source import some
from ganzoo.engine.kinds import FromSeeds

SIDE = 32  # pixels to which images are reduced before they are compared
CLASSES = 4  # number of classes to sample from, if there are classes


class Diversity:
    """How far samples are from each other, compared with training images.

    The median distance of a sample to its nearest neighbor among the samples, divided by the same
    median of as many training images: near 1 if the generator varies as the data does, near 0 if it
    makes the same image again and again. Distances are Euclidean, between pixels, of images reduced
    to at most 32 pixels a side. If there are classes, neighbors are within a class, for a few of
    the classes.

    Args:
        num: number of samples, over all classes.
    """

    def __init__(self, gan: FromSeeds, data: ImageData, num: int) -> None:
        self.gan = gan
        self.members = members_of(gan, data, num)
        distances = [
            nearest(data.plain(indices, gan.device)[0]) for indices in self.members.values()
        ]
        self.real = float(torch.cat(distances).median()) if distances else 0.0

    @torch.no_grad()
    def now(self) -> float:
        """Diversity of the raw generator, not its average; NaN if training images are alike."""
        if not self.real:
            return math.nan
        distances = [
            nearest(self.gan.sample(range(len(indices)), label=label, raw=True))
            for label, indices in self.members.items()
        ]
        return float(torch.cat(distances).median()) / self.real


class Growth:
    """By how much weights have grown; those of healthy runs grow ever more slowly.

    For each weight, its largest singular value now, divided by that at the last measurement before
    half of the images seen; or by that at the first measurement and the square root of the images
    seen in units of 20,000 (at least 1), whichever is larger. Some weights start at 0, so if the
    mean over the weights of a network was larger then, that mean takes the place of the weight's
    own value.
    """

    def __init__(self) -> None:
        self.moments: list[int] = []  # images seen at each measurement
        self.values: list[Tensor] = []  # the largest singular values [weights]

    def state_dict(self) -> dict[str, Any]:
        values = torch.stack(self.values) if self.values else torch.empty(0)
        return {"moments": list(self.moments), "values": values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moments, self.values = list(state["moments"]), list(state["values"])

    def add(self, images_seen: int, largest: Mapping[str, float]) -> tuple[float, str]:
        """The largest growth of all weights, and the name of that weight; 1 the first time."""
        now = torch.tensor(list(largest.values()))
        networks = [name.partition(".")[0] for name in largest]
        self.moments.append(images_seen)
        self.values.append(now)
        early = sum(2 * moment <= images_seen for moment in self.moments)
        since_half = now / least(self.values[max(0, early - 1)], networks)
        usual = max(1.0, (images_seen / 20_000) ** 0.5)
        growth = torch.maximum(since_half, now / least(self.values[0], networks) / usual)
        return float(growth.max()), list(largest)[int(growth.argmax())]


def least(values: Tensor, networks: Sequence[str]) -> Tensor:
    """Values [weights], raised to the mean over the same network if they are below it, never 0."""
    means = {
        network: values[torch.tensor([other == network for other in networks])].mean()
        for network in networks
    }
    floor = torch.stack([means[network] for network in networks])
    return torch.maximum(values, floor).clamp_min(torch.finfo(values.dtype).tiny)


def members_of(gan: FromSeeds, data: ImageData, num: int) -> dict[int | None, list[int]]:
    """Numbers of training images to compare samples with, by class; under None for any class.

    At most `num` in total, at least two in each class, the same for every random seed.
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
    """The distance [N] of each image [N, C, H, W] to the nearest other image."""
    box = -(-max(images.shape[-2:]) // SIDE)
    rows = (F.avg_pool2d(images.float(), box) if box > 1 else images.float()).flatten(1)
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(math.inf).min(1).values
