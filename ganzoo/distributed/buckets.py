"""Gradients that travel while the backward pass still computes the others.

Of the backward passes before an optimizer step, only the last one makes gradients final. Its graph
says which ones it will reach, and in which order: so they leave in buckets, the first ones early.
What fills no bucket, and what has a gradient from earlier passes alone, leaves at the step.

Buckets are a function of the graph alone: not of times, which differ between processes, nor of
earlier steps, which a resumed run has not seen. So a run resumes bit for bit although, from three
processes on, a sum is rounded by its place in the buffer.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from ganzoo.distributed.collectives import start_averaging, world_size


class Buckets:
    """The gradients of one optimizer step on their way."""

    def __init__(self) -> None:
        self.gone: set[int] = set()  # ids of the parameters whose gradients have left
        self.arrivals: list[Callable[[], None]] = []  # each waits for a bucket

    @contextmanager
    def leaving(self, loss: Tensor) -> Iterator[None]:
        """Let gradients leave during `loss.backward()` inside, which must be the last one.

        Raises RuntimeError: a gradient changed after it had left, as reentrant activation
            checkpointing lets it.
        """
        order = leaves(loss) if world_size() > 1 else []
        queue, waiting = deque(order), {id(parameter) for parameter in order}
        bucket: list[Tensor] = []
        full = capacity()

        def final(parameter: Tensor) -> None:
            if id(parameter) in self.gone:
                raise RuntimeError(
                    "A gradient changed after it had been sent to the other processes: use "
                    "torch.utils.checkpoint with use_reentrant=False."
                )
            waiting.discard(id(parameter))
            while queue and id(queue[0]) not in waiting:
                bucket.append(queue.popleft())
                if sum(p.grad.nbytes for p in bucket if p.grad is not None) >= full:
                    self._send(bucket)
                    bucket.clear()

        hooks = [parameter.register_post_accumulate_grad_hook(final) for parameter in order]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def arrive(self, parameters: Sequence[Tensor]) -> None:
        """Send the other gradients of `parameters`, and wait until all have been averaged."""
        self._send([p for p in parameters if id(p) not in self.gone])
        for wait in self.arrivals:
            wait()
        self.gone.clear()
        self.arrivals.clear()

    def _send(self, parameters: Sequence[Tensor]) -> None:
        self.gone.update(map(id, parameters))
        self.arrivals.append(start_averaging(p.grad for p in parameters if p.grad is not None))


def capacity() -> int:
    """Bytes at which a bucket leaves.

    Small ones start early and leave little for the end, as GANs are small (DCGAN-64: 11 and 14 MB).
    But a step of a ring carries one of `world_size()` parts of a bucket: in less than 64 KiB or so,
    its latency would be felt (5 us are 16 KiB at 25 Gbit/s). See `benchmarks/overlap.py`.
    """
    return max(4 * 2**20, 2**16 * world_size())


def leaves(loss: Tensor) -> list[Parameter]:
    """The parameters that `loss.backward()` reaches, about in the order in which it does.

    Like torch's engine, it takes an operation once all that come before it have been taken, and the
    branch of the graph that was computed last first. The engine knows the latter from a count of
    operations, which may differ between processes; here, only the graph's shape decides.
    """
    start = [] if loss.grad_fn is None else [loss.grad_fn]
    missing: Counter[Any] = Counter()  # for each operation, how many before it are still missing
    found = list(start)
    for node in found:
        for after in following(node):
            missing[after] += 1
            if missing[after] == 1:
                found.append(after)
    ready, order = start, []
    while ready:
        for after in following(ready.pop()):
            missing[after] -= 1
            if not missing[after]:
                leaf = getattr(after, "variable", None)
                # Images may be leaves, too, and a network may be frozen since it was used.
                if isinstance(leaf, Parameter) and leaf.requires_grad:
                    order.append(leaf)
                ready.append(after)
    return order


def following(node: Any) -> list[Any]:
    """The operations that a backward pass may reach from an operation directly."""
    return [after for after, _ in node.next_functions if after is not None]
