"""The same runs in several processes, with gradients in buckets and with all of them at once.

Run by the tests in each process:  python bucket_worlds.py FOLDER SCENARIO ...
Each scenario leaves FOLDER/<scenario>-<rank>.pt.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from makers.worlds import RANK, cyclegan, fit, normalized, pairs, pggan, plain

from ganzoo.distributed import buckets
from ganzoo.engine.gan import GAN

SMALL = 256  # bytes of a bucket: several for each of these networks


@contextmanager
def watched(gan: GAN) -> Iterator[list[str | int]]:
    """What happens in a run: updates, backward passes, and numbers of elements that are averaged.

    Sums that SyncBatchNorm waits for are not averages.
    """
    events: list[str | int] = []
    send, backward, updating = dist.all_reduce, gan.manual_backward, gan.turns.updating

    def all_reduce(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        number = tensor.numel()
        events.append(number if kwargs.get("async_op") else f"waits for {number}")
        return send(tensor, *args, **kwargs)

    def manual_backward(loss: torch.Tensor) -> None:
        events.append("backward")
        backward(loss)
        events.append("end")

    @contextmanager
    def counted(name: str) -> Iterator[None]:
        events.append("update")
        with updating(name):
            yield
            having = [p.numel() for p in gan.parameters() if p.grad is not None]
        events.extend(["stepped", sum(having)])

    dist.all_reduce, gan.turns.updating = all_reduce, counted  # type: ignore[assignment]
    gan.manual_backward = manual_backward  # type: ignore[method-assign, assignment]
    try:
        yield events
    finally:
        dist.all_reduce = send


def set_capacity(size: float) -> None:
    buckets.capacity = lambda: size  # type: ignore[assignment, return-value]


def compared(folder: Path, make: Callable[[], GAN], *options: str, data: Any = None) -> Any:
    """The end of both runs, and the events of the one with buckets."""
    result: dict[str, Any] = {}
    for way, size in (("at_once", math.inf), ("in_buckets", SMALL)):
        set_capacity(size)
        gan = make()
        with watched(gan) as events:
            result[way] = fit(folder / way, gan, *options, data=data and data())
    return result | {"events": events}


def accumulated(folder: Path) -> Any:
    """Two micro-batches, with penalties, whose graphs contain a backward pass themselves."""
    return compared(folder, lambda: plain(0.032, accumulate=2))


def growing(folder: Path) -> Any:
    """Through a fade: which parameters have a gradient changes."""
    return compared(folder, lambda: pggan(0.144), "data.source.num=64")


def synced(folder: Path) -> Any:
    """BatchNorm makes collectives of its own in the backward pass, between those of gradients."""
    return compared(folder, lambda: normalized(0.016), "sync_batchnorm=true")


def translating(folder: Path) -> Any:
    return compared(folder, lambda: cyclegan(0.016), data=pairs)


def resumed(folder: Path) -> Any:
    """A run, and the same stopped when a fade begins; both in buckets."""
    set_capacity(SMALL)
    straight = fit(folder / "straight", pggan(0.112), "data.source.num=64")
    fit(folder / "parts", pggan(0.064), "data.source.num=64")
    parts = fit(folder / "parts", pggan(0.112), "data.source.num=64", resume=True)
    return {"straight": straight, "parts": parts}


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for scenario in (globals()[name] for name in sys.argv[2:]):
        torch.save(scenario(out / scenario.__name__), out / f"{scenario.__name__}-{RANK}.pt")
