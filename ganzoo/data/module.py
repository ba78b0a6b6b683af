"""What data of one domain and of two have in common: checks before training, and the loader."""

import logging
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganzoo.data.loader import Loader, unchanged
from ganzoo.data.stream import BatchSize, batch_size_at

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


class DataModule(L.LightningDataModule):
    """Training batches without end, for a module that has the attributes of `GAN` named below.

    These are `images_seen`, `discriminator_steps`, `batch_size` (a function that replaces the
    data's own, or None), `shown_size`, and `domains`.

    Args:
        batch_size: images of one discriminator step over all devices, or a function from images
            seen to that number.
        workers: processes that load images; with 0 a thread of the training process reads ahead.
    """

    trainer: Any  # set by the Trainer; its module is a GAN, which Lightning's types cannot say

    def __init__(self, batch_size: BatchSize, workers: int) -> None:
        super().__init__()
        self.batch_size, self.workers = batch_size, workers
        self.prepare_data_per_node = False  # see `_prepare_on_other_nodes`
        self._announced = False
        self._loader: Loader | None = None

    def setup(self, stage: str) -> None:
        """Check everything that can be known before training, and log what the data is.

        Raises:
            UserError: model, data and batch size do not fit together, or files cannot be read.
        """
        self._prepare_on_other_nodes()
        if stage == "fit":
            module = self.trainer.lightning_module
            self.check_model(module)
            size = module.batch_size or self.batch_size
            batch_size_at(size, module.images_seen, self.trainer.world_size)
        notes = self.check()
        if self.trainer.global_rank == 0 and not self._announced:
            for line in notes:
                log.info(line)
            self._announced = True

    def check_model(self, module: Any) -> None:
        """Raises UserError if the model needs data of another kind."""
        raise NotImplementedError

    def check(self) -> list[str]:
        """Sentences on what the data is and how it is converted.

        Raises:
            UserError: sources and sizes do not fit together, or files cannot be read.
        """
        raise NotImplementedError

    @property
    def waited(self) -> float:
        """Seconds that training has waited for batches."""
        return self._loader.waited if self._loader is not None else 0.0

    def _load(self, images: Dataset, order: Any) -> DataLoader:
        self._loader = Loader(
            images,
            batch_sampler=order,
            collate_fn=unchanged,
            num_workers=self.workers,
            pin_memory=self.trainer.lightning_module.device.type == "cuda",
        )
        return self._loader

    def _prepare_on_other_nodes(self) -> None:
        """Prepare the data on nodes that do not share a disk with the first, one process a node.

        Lightning has called `prepare_data` in the first process of all by now, so nodes that share
        its folder find the data there and do not write into it at the same time.
        """
        trainer = self.trainer
        if trainer is not None and trainer.num_nodes > 1:
            if trainer.local_rank == 0 and trainer.global_rank != 0:
                self.prepare_data()
            trainer.strategy.barrier()
