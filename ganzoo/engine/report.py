"""The numbers of a run on their way from a training step to whoever logs them."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ganzoo.distributed.collectives import average_over_processes
from ganzoo.engine.control import Control
from ganzoo.errors import NotFinite

# On a GPU, reading a number waits until the device has computed it. So numbers stay there for this
# many iterations, and are then read all at once.
ITERATIONS = 256


class Report:
    """Collects scalars, checks that they are finite, and hands out their means."""

    def __init__(self, control: Control) -> None:
        self.control = control
        # Called with the name and the value of each number.
        self.listeners: list[Callable[[str, float], None]] = []
        self._unread: list[tuple[int, dict[str, Tensor]]] = []
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._latest: dict[str, float] = {}

    def show(self, **values: float) -> None:
        """Report numbers that are known without the device; the latest ones count, not means."""
        self._latest |= values

    def note(self, images_seen: int, values: Mapping[str, Tensor]) -> None:
        """Add scalars without waiting for the device."""
        self._unread.append((images_seen, {k: v.detach() for k, v in values.items()}))

    def should_check(self, device: torch.device) -> bool:
        """Whether to call `check_finite` now, which is after every iteration if that is free."""
        return device.type == "cpu" or len(self._unread) >= ITERATIONS

    def check_finite(self) -> None:
        """Read all numbers added so far. Raises `NotFinite` if one of them is NaN or infinite."""
        unread, self._unread = self._unread, []
        flat = [(seen, name, value) for seen, values in unread for name, value in values.items()]
        if not flat:
            return
        # One transfer for all of them.
        numbers = torch.stack([value.float().reshape(()) for *_, value in flat]).tolist()
        for (seen, name, _), number in zip(flat, numbers, strict=True):
            if not math.isfinite(number):
                self.control.savable = False
                last = self.control.last_checkpoint or "none yet"
                raise NotFinite(
                    f"{name} became {number} after {seen:,} images: training cannot continue. "
                    f"Last good checkpoint: {last}. Start a new run_dir, with "
                    f"init_from=CHECKPOINT to keep its weights, and a lower learning rate, "
                    f"model.clip or precision=32-true."
                )
            for listener in self.listeners:
                listener(name, number)
            self._sums[name] += number
            self._counts[name] += 1

    def clear(self) -> None:
        """Drop everything added since the last `drain`."""
        self._unread = []
        self._sums.clear()
        self._counts.clear()
        self._latest.clear()

    def drain(self, device: torch.device) -> dict[str, float]:
        """Means of everything noted since the last call, over all processes, and what is shown."""
        self.check_finite()
        names = sorted(self._sums)  # the same order in every process
        means = torch.tensor([self._sums[n] / self._counts[n] for n in names], device=device)
        average_over_processes([means])
        found = dict(zip(names, means.tolist(), strict=True)) | self._latest
        self.clear()
        return found
