"""A model that makes images from seeds, in the form that a page plays with."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from ganzoo import draws
from ganzoo.engine.kinds import FromSeeds, batches_for
from ganzoo.engine.sampling import TRUNCATIONS, Threshold, threshold_name
from ganzoo.engine.sharing import graphs
from ganzoo.sharing.artifacts import Graph

STATISTICS = "statistics"  # an input of the graph
SEEDS = 32  # seeds whose latents and classes are written down
DIRECTIONS = 5
PRIORS = ("normal", "uniform", "unit", "bernoulli", "censored_normal")  # those of random.js
# Truncations that a page offers, from the least variety to the most.
STOPS: dict[str, tuple[Threshold, ...]] = {
    "normal": (0.3, 0.5, 0.7, 1.0, 1.5, None),
    "uniform": (0.2, 0.4, 0.6, 0.8, None),
    "factor": (0.2, 0.4, 0.6, 0.8, None),  # where latents are multiplied by the truncation
}


@dataclass
class Played:
    """What a page needs of a model.

    Attributes:
        graph: network with its inputs; `statistics` [S] is the first if there is BatchNorm.
        facts: what JSON can hold: `nz`, `prior` (empty if the page cannot draw from it), `stops`
            (the truncations), `bounds` (see `sampling.shared_classes`; None for equal shares).
        arrays: `latents` [SEEDS, nz] and `labels` [SEEDS] of the first seeds, `statistics`
            [stops, S], `embeddings` [classes, D], `directions` [DIRECTIONS, nz]; only those that
            the model has.
    """

    graph: Graph
    facts: dict[str, Any]
    arrays: dict[str, Tensor]


def played(gan: FromSeeds, stops: Sequence[Threshold] | None = None) -> Played:
    """Prepare a model made by `sharing.alone`.

    Args:
        gan: the model.
        stops: truncations to offer; None for those that suit its latents.

    Raises:
        UserError: it has no latent space, or a truncation is not possible.
    """
    prior = gan.prior.__name__ if gan.prior in map(vars(draws).get, PRIORS) else ""
    if stops is None:
        resampled = gan.truncate is TRUNCATIONS["resample"]
        stops = STOPS.get(prior, (None,)) if resampled else STOPS["factor"]
    stops = sorted(stops, key=lambda stop: inf if stop is None else stop)
    limits = [(None, 1.0) if stop is None else gan.truncate(stop) for stop in stops]
    names = map(threshold_name, stops)
    facts: dict[str, Any] = {
        "nz": gan.nz,
        "prior": prior,
        "stops": [
            {"name": name, "limit": limit, "factor": factor}
            for name, (limit, factor) in zip(names, limits, strict=True)
        ],
    }
    arrays = {"latents": gan.latents(range(SEEDS)), "directions": directions(gan)}
    if (labels := gan.labels(range(SEEDS))) is not None:
        arrays["labels"] = labels.to(torch.int32)
        shares = dict(gan.named_buffers()).get("class_shares")
        facts["bounds"] = None if shares is None else shares.double().cumsum(0).tolist()
        embeddings = gan.class_embeddings(torch.arange(gan.classes, device=gan.device))
        if embeddings is not None:
            arrays["embeddings"] = embeddings
    graph = next(graphs(gan, (8, 8)))
    network, free, cases = graph.network, graph.free, graph.cases
    rows = statistics(gan, stops)
    if rows.shape[1]:
        arrays[STATISTICS] = rows
        network, free = WithStatistics(network).eval(), {STATISTICS: {}, **free}
        cases = [{STATISTICS: row, **case} for case in cases for row in (rows[0], rows[-1])]
    # No input is optional: onnxruntime-web would refuse the class embedding if it were.
    graph = Graph(graph.name, network, free, cases)
    return Played(graph, facts, arrays)


class WithStatistics(nn.Module):
    """A network whose BatchNorms take their means and variances from one vector [S].

    Each truncation has statistics of its own (see `FromSeeds.standing_statistics`), and so one
    graph serves all of them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.lengths = {name: len(buffer) for name, buffer in _buffers(network).items()}

    def forward(
        self,
        statistics: Tensor,
        latents: Tensor,
        labels: Tensor | None = None,
        class_embedding: Tensor | None = None,
    ) -> Tensor:
        parts = statistics.split(list(self.lengths.values()))
        given = [each for each in (latents, labels, class_embedding) if each is not None]
        buffers = dict(zip(self.lengths, parts, strict=True))
        images: Tensor = functional_call(self.network, buffers, tuple(given))
        return images


@torch.no_grad()
def statistics(gan: FromSeeds, stops: Sequence[Threshold]) -> Tensor:
    """The statistics of BatchNorm that `ganzoo.sample` uses at each truncation, [stops, S]."""
    network, rows = gan.network(), []
    for stop in tqdm(stops, unit=" truncations", disable=None):
        with gan.standing_statistics(stop, batches_for(gan, None, stop is not None)):
            # A generator with statistics for several truncations chooses them here.
            gan.images(gan.latents([0], stop), truncation=stop)
            rows.append(torch.cat([torch.empty(0), *_buffers(network).values()]))
    return torch.stack(rows)


def _buffers(network: nn.Module) -> dict[str, Tensor]:
    """Means and variances of all BatchNorms by their names."""
    return {
        f"{name}.{kind}": getattr(module, kind)
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
        for kind in ("running_mean", "running_var")
    }


class _Found(Exception):
    """The first layer has been reached; carries its outputs."""


@torch.no_grad()
def directions(gan: FromSeeds, count: int = DIRECTIONS) -> Tensor:
    """Directions in latent space that change images the most, unit vectors [count, nz].

    The closed-form factorization of Shen and Zhou (2021, "Closed-Form Factorization of Latent
    Semantics in GANs", equation 7): the eigenvectors of A'A with the largest eigenvalues, where A
    is the matrix that the first layer multiplies latents with. Its columns are what the layer makes
    of unit vectors, minus what it makes of 0, so that any kind of layer will do.
    """
    one = gan.latents([0])[0]
    unit = torch.cat([torch.zeros_like(one)[None], torch.eye(gan.nz).to(one)])

    def caught(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and len(output) == len(unit):
            effect = (output[1:] - output[:1]).flatten(1)  # A', [nz, features]
            if effect.any():  # not if the layer depends on the class alone
                raise _Found(effect)

    weighted = [m for m in gan.network().modules() if _has_matrix(m)]
    hooks = [module.register_forward_hook(caught) for module in weighted]
    many, gan.images_at_once = gan.images_at_once, len(unit)
    try:
        gan.images(unit)
    except _Found as found:
        effect = found.args[0].double().cpu()
    else:  # a network of no layers that are known
        effect = torch.eye(gan.nz, dtype=torch.float64)
    finally:
        gan.images_at_once = many
        for hook in hooks:
            hook.remove()
    _, vectors = torch.linalg.eigh(effect @ effect.T)  # the largest eigenvalue comes last
    best = vectors.T.flip(0)[:count]
    largest = best.gather(1, best.abs().argmax(1, keepdim=True))
    return (best * largest.sign()).float()


def _has_matrix(module: nn.Module) -> bool:
    """Whether a module itself multiplies with a matrix, as linear layers and convolutions do."""
    own = dict(module.named_parameters(recurse=False))
    return not isinstance(module, nn.Embedding) and any(p.ndim >= 2 for p in own.values())
