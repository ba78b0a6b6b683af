"""Making an iteration fit into the memory, by splitting its batch into micro-batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from ganzoo.distributed.collectives import world_size
from ganzoo.errors import UserError


class Fitting:
    """How many micro-batches a batch is split into: fixed, or as many as each stage needs.

    Args:
        accumulate: number of micro-batches; "auto" to find the number for each stage of training.

    Raises UserError: neither a positive number nor "auto".
    """

    def __init__(self, accumulate: int | str) -> None:
        self.auto = accumulate == "auto"
        if not (self.auto or (isinstance(accumulate, int) and accumulate > 0)):
            raise UserError(f"model.accumulate must be a number or auto, not {accumulate}.")
        self.fixed = 1 if isinstance(accumulate, str) else accumulate
        self.by_stage: dict[int, int] = {}  # of stages that turned out to need more than one

    def parts(self, stage: int) -> int:
        """Number of micro-batches in a stage."""
        return self.by_stage.get(stage, self.fixed)

    def split(self, rows: Tensor, stage: int) -> tuple[Tensor, ...]:
        """The equal micro-batches of a batch of images or draws; `UserError` if there are none."""
        parts = self.parts(stage)
        if len(rows) % parts:
            raise UserError(
                f"{len(rows)} images per device do not split into model.accumulate={parts} equal "
                f"parts: change batch_size or model.accumulate."
            )
        return rows.chunk(parts)

    def fit(self, stage: int, images: int, iteration: Callable[[], None]) -> None:
        """Run an iteration; in "auto", with twice as many micro-batches until it fits.

        Micro-batches must divide `images`, those of one update on one device, evenly.

        Raises torch.OutOfMemoryError: it does not fit however it may be split.
        """
        while True:
            try:
                return iteration()
            except torch.OutOfMemoryError:
                more = 2 * self.by_stage.get(stage, 1)
                # Of several processes, only one may have run out: they would no longer agree.
                if not self.auto or world_size() > 1 or images % more:
                    raise
                self.by_stage[stage] = more
            # Outside of `except`, where the error no longer keeps the iteration's tensors alive.
            torch.cuda.empty_cache()
