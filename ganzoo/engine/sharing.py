"""A model with nothing but the network that samples, and its graphs for other programs."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.config import make
from ganzoo.draws import from_seeds, uniform
from ganzoo.engine import checkpoint
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds, Translating, generator_of
from ganzoo.errors import UserError, check_choice
from ganzoo.sharing.artifacts import Graph, Inputs
from ganzoo.sharing.facts import public

BATCHES = (1, 2, 5, 17)  # numbers of images that graphs are tested with
LATENTS, LABELS, EMBEDDING, SOURCE = "latents", "labels", "class_embedding", "source"


@torch.no_grad()
def alone(
    gan: GAN, raw: bool = False, directions: Sequence[str] | None = None, half: bool = False
) -> tuple[GAN, dict[str, Any]]:
    """A model of the network that samples, and the entry `ganzoo` of its checkpoint.

    Args:
        gan: the model that was trained.
        raw: whether to take the raw generator instead of the average.
        directions: the directions of a model that translates; None for all.
        half: whether to round weights to float16; they are still computed with in float32.

    Raises:
        UserError: there is no such direction, the model has no config or a private one, or a weight
            is too large for float16.
    """
    if gan.config is None:
        raise UserError("This model does not say how it was built: set gan.config before training.")
    network, model = gan.bare(raw)  # type: ignore[operator]  # of both kinds
    if isinstance(gan, Translating):
        kept = [d for d in gan.directions if directions is None or d in directions]
        for direction in directions or ():
            check_choice("--directions", direction, gan.directions)
        network, model["directions"] = nn.ModuleDict({d: network[d] for d in kept}), kept
    elif directions:
        raise UserError(f"{type(gan).__name__} translates nothing: leave out --directions.")
    written: dict[str, Any] = {}
    gan.on_save_checkpoint(written)
    recipe = public(gan.config, gan.config["model"])["model"]
    config = {**public(gan.config, model), "average": generator_of(gan, raw) == "average"}
    entry = {**written["ganzoo"], "config": config, "recipe": recipe}
    found: GAN = make(model, "model")
    found.config = entry["config"]
    own, ours = found.state_dict(), gan.state_dict()
    state = {name: ours[name] for name in own if name in ours}
    state |= {f"generator.{name}": value for name, value in network.state_dict().items()}
    if half:
        state = {name: _rounded(name, value) for name, value in state.items()}
    checkpoint.restore(found, {"ganzoo": entry, "state_dict": state})
    return found.eval(), entry


def _rounded(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    if not value.half().isfinite().all():
        raise UserError(f"{name} has values that float16 cannot hold: leave out --half.")
    return value.half().to(value.dtype)


def graphs(gan: GAN, size: tuple[int, int]) -> Iterator[Graph]:
    """The graphs of a model made by `alone`, with inputs to test them.

    Args:
        gan: the model.
        size: largest height and width to test translations with.
    """
    if isinstance(gan, FromSeeds):
        yield _of_latents(gan)
    elif isinstance(gan, Translating):
        for direction in gan.directions:
            channels = gan.channels[direction[0]]
            cases = [{SOURCE: photos(n, channels, s)} for s in sizes(*size) for n in BATCHES]
            network = Translated(gan, direction).eval()
            yield Graph(direction, network, {SOURCE: {0: "N", 2: "H", 3: "W"}}, cases)


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Three sizes of images to translate: the given one, and two smaller ones of odd numbers."""
    return [
        (height, width),
        (height * 3 // 4 | 1, width // 2 | 1),
        (height // 2 | 1, width * 7 // 8 | 1),
    ]


def photos(n: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Random images [n, channels, *size] in [-1, 1], always the same."""
    return from_seeds(range(n), (channels, *size), uniform)


class Translated(nn.Module):
    """Images of one domain -> images of the other."""

    def __init__(self, gan: Translating, direction: str) -> None:
        super().__init__()
        self.network, self.translated = gan.network()[direction], gan.translated

    def forward(self, source: Tensor) -> Tensor:
        return self.translated(self.network, source)


class FromLatents(nn.Module):
    """Latents [N, nz], and labels int64 [N] if there are classes -> images.

    A class embedding [N, D] takes the place of the labels where it is not NaN, so that classes can
    be mixed.
    """

    table: Tensor | None

    def __init__(self, gan: FromSeeds) -> None:
        super().__init__()
        self.network, self.generated = gan.network(), gan.generated
        classes = torch.arange(gan.classes, device=gan.device)
        self.register_buffer("table", gan.class_embeddings(classes) if gan.classes else None)

    def forward(
        self, latents: Tensor, labels: Tensor | None = None, class_embedding: Tensor | None = None
    ) -> Tensor:
        y = labels
        if class_embedding is not None and labels is not None and self.table is not None:
            own = F.embedding(labels, self.table)
            y = torch.where(class_embedding.isnan(), own, class_embedding)
        return self.generated(self.network, latents, y)


def _of_latents(gan: FromSeeds) -> Graph:
    gan.images(gan.latents([0]))  # chooses the statistics of BatchNorm if there are several
    network = FromLatents(gan).eval()
    cases: list[Inputs] = []
    for n in BATCHES:
        case = {LATENTS: gan.latents(range(n))}
        if (labels := gan.labels(range(n))) is not None:
            case[LABELS] = labels
        if network.table is not None:
            case[EMBEDDING] = torch.full((n, network.table.shape[1]), torch.nan)
        cases.append(case)
    if network.table is not None:  # halfway between classes
        mixed = (network.table + network.table.roll(1, 0)) / 2
        cases += [{**case, EMBEDDING: mixed[case[LABELS]]} for case in cases]
    return Graph("generator", network, {name: {0: "N"} for name in cases[0]}, cases, EMBEDDING)
