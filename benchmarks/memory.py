"""Memory of one iteration: the peak of live tensors, and what cannot be less.

    python benchmarks/memory.py [--only NAME]

The peak is that of the second iteration of a recipe under the Trainer of a run, when Adam has its
moments: every tensor counts from the operation that makes it until the last reference to it is
gone. Tensors are counted, not the buffers that libraries need inside of an operation, so any
machine gives the same numbers. What cannot be less, without computing something twice:

    state         weights and statistics of all networks, the average, Adam's two moments
    activations   what the backward pass of the larger step needs, when its forward pass has ended

Activations are what autograd stores in forward passes of the networks by themselves. A step of the
discriminator stores those of reals and of fakes (and those of the generator where both steps share
the fakes), a step of the generator those of both networks. See `benchmarks/README.md`.
"""

import argparse
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from limit import begin
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ganzoo.engine.gan import GAN


def storages(tensors: Iterable[Any]) -> dict[int, torch.UntypedStorage]:
    """The memory behind tensors, each once, by its address."""
    found = (t.untyped_storage() for t in tensors if isinstance(t, Tensor))
    return {s.data_ptr(): s for s in found}


def size(tensors: Iterable[Any]) -> int:
    return sum(s.nbytes() for s in storages(tensors).values())


class Live(TorchDispatchMode):
    """Adds up the bytes of living tensors that are made inside, and remembers the most."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen = set(storages(known))  # made before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = storages(tree_iter((args, kwargs)))  # an operation in place returns these
        for address, storage in storages(tree_iter(out)).items():
            if address not in self.seen and address not in given:
                self.seen.add(address)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, address, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def _gone(self, address: int, nbytes: int) -> None:
        self.seen.discard(address)
        self.now -= nbytes


class Watcher(Callback):
    """Watches the second iteration of a Trainer, and ends it."""

    peak = 0

    def on_train_batch_start(self, trainer: L.Trainer, gan: Any, batch: Any, index: int) -> None:
        if index == 1:
            self.live = Live([*state(gan), *tree_iter(batch)])
            self.live.__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if index == 1:
            self.live.__exit__(None, None, None)
            self.peak = self.live.most + size([*state(gan), *tree_iter(batch)])
            trainer.should_stop = True


def state(gan: GAN) -> Iterator[Tensor]:
    yield from gan.parameters()
    yield from gan.buffers()
    for optimizer in gan.trainer.optimizers:
        yield from tree_iter(list(optimizer.state.values()))


def activations(gan: GAN, *passes: Callable[[], Any]) -> int:
    """Bytes that autograd stores in forward passes, without the state."""
    stored: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        stored.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = [run() for run in passes]  # a graph that is freed gives its addresses to the next
    known = storages(state(gan))
    del kept
    return sum(s.nbytes() for a, s in storages(stored).items() if a not in known)


def run(*keys: str) -> tuple[int, Any]:
    """The peak of a recipe's second iteration, and its model."""
    watcher = Watcher()
    gan = begin(watcher, *keys)
    return watcher.peak, gan


# -- the models: the peak, the state, and the activations of both steps ----------------------------


def dcgan(*keys: str) -> tuple[int, int, list[int]]:
    batch = 32
    peak, gan = run("experiment=dcgan_64", "data=emoji", f"batch_size={batch}", *keys)
    z, images = torch.zeros(batch, gan.nz), torch.zeros(batch, 3, 64, 64)
    fakes = gan.generator(z).detach().requires_grad_()
    made, judged = lambda: gan.generator(z), lambda: gan.discriminator(images)
    steps = [
        activations(gan, made, judged, judged),
        activations(gan, made, lambda: gan.discriminator(fakes)),
    ]
    return peak, size(state(gan)), steps


def pggan() -> tuple[int, int, list[int]]:
    side, batch = 32, 16
    peak, gan = run("experiment=pggan_emoji", f"image_size={side}", "augment=none",
                    "model.growth.train_kimg=0", "model.growth.fade_kimg=0")  # fmt: skip
    z, images = torch.zeros(batch, gan.generator.nz), torch.zeros(batch, 3, side, side)
    fakes = torch.zeros_like(images).requires_grad_()
    steps = [
        activations(gan, *[lambda: gan.discriminator(images)] * 2),
        activations(gan, lambda: gan.generator(z), lambda: gan.discriminator(fakes)),
    ]
    return peak, size(state(gan)), steps


def biggan() -> tuple[int, int, list[int]]:
    batch = 8
    peak, gan = run("experiment=biggan_cifar10", "data=synthetic", f"batch_size={batch}",
                    "model.ema_start_kimg=0")  # fmt: skip
    y = torch.zeros(batch, dtype=torch.int64)
    z, both = torch.zeros(batch, gan.generator.nz), torch.zeros(2 * batch, 3, 32, 32)
    fakes = torch.zeros(batch, 3, 32, 32).requires_grad_()
    steps = [
        activations(gan, lambda: gan.discriminator(both, torch.cat([y, y]))),
        activations(gan, lambda: gan.generator(z, y), lambda: gan.discriminator(fakes, y)),
    ]
    return peak, size(state(gan)), steps


def cyclegan() -> tuple[int, int, list[int]]:
    side = 64
    peak, gan = run("model=cyclegan", "data=emoji_unpaired", f"image_size={side}", "batch_size=1")
    images = torch.zeros(1, 3, side, side)
    fakes = torch.zeros_like(images).requires_grad_()
    forth, back = gan.generator["AtoB"], gan.generator["BtoA"]
    steps = [
        activations(gan, *[lambda d=d: d(images) for d in gan.discriminator.values()] * 2),
        activations(
            gan,  # translations, identities, cycles, and the discriminators
            *[lambda g=g: g(images) for g in (forth, back)] * 2,
            *[lambda g=g: g(fakes) for g in (forth, back)],
            *[lambda d=d: d(fakes) for d in gan.discriminator.values()],
        ),
    ]
    return peak, size(state(gan)), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", help="one row, by its name")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {"dcgan": dcgan, "pggan": pggan, "biggan": biggan, "cyclegan": cyclegan}
    if not args.only:
        for name in rows:
            subprocess.run([sys.executable, __file__, "--only", name], check=True)
        return
    peak, kept, steps = rows[args.only]()
    least = kept + max(steps)
    print(f"{args.only:10} peak {peak / 2**20:7.1f} MiB  state {kept / 2**20:6.1f}  activations "
          f"{' or '.join(f'{s / 2**20:.1f}' for s in steps)}  peak/least {peak / least:.3f}",
          flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
