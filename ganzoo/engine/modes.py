"""Ways to run a network for a while, after which it is exactly what it was before."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ganzoo.distributed.batchnorm import local_batchnorm


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in eval mode."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@contextmanager
def in_train_mode(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in training mode; afterwards its mode and its buffers are restored."""
    training, buffers = network.training, _copies(network)
    network.train()
    try:
        yield
    finally:
        network.train(training)
        _restore(buffers)


@contextmanager
def standing_statistics(network: nn.Module, batches: Iterable[Sequence[Tensor]]) -> Iterator[bool]:
    """Inside, BatchNorm uses standing statistics (Brock et al. 2019, appendix) in eval mode.

    Running statistics lag behind a generator that changes, and come from latents without a limit.
    Standing statistics are means over fresh batches of inputs, and are gone afterwards. Every
    process computes the same by itself. Yields whether the network has such statistics at all.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    before = _copies(network)
    try:
        with evaluating(network), local_batchnorm(network), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # plain means over all batches
                norm.train()  # only BatchNorm collects; dropout, for instance, stays off
            for inputs in batches if norms else ():
                network(*inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        yield bool(norms)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        _restore(before)


def _copies(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(buffer, buffer.clone()) for buffer in network.buffers()]


@torch.no_grad()
def _restore(copies: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, before in copies:
        buffer.copy_(before)
