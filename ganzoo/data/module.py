"""What data of one domain and of two have in common: checks before training, and the loader."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader

from ganzoo.data.files import refuse_among
from ganzoo.data.loader import Loader, cores
from ganzoo.data.source import Source
from ganzoo.data.stream import BatchSize, batch_size_at
from ganzoo.errors import UserError

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


class Domain(Protocol):
    """The images of a domain, as far as they are known here: an `ImageData`."""

    source: Source


class DataModule(L.LightningDataModule):
    """Training batches without end, for a module that has these attributes of `GAN`: `images_seen`,
    `discriminator_steps`, `batch_size` (a function that replaces the data's own, or None),
    `shown_size`, and `domains`.

    Args:
        batch_size: images of one discriminator step over all devices, or a function from images
            seen to that number.
        workers: processes that load images; with 0 a thread of the training process reads ahead.
            None for one per core, but at most 4.
        accept_changed: resume a run although its images are not the same any more.
    """

    trainer: Any  # set by the Trainer; its module is a GAN, which Lightning's types cannot say

    def __init__(
        self, batch_size: BatchSize, workers: int | None = 0, accept_changed: bool = False
    ) -> None:
        super().__init__()
        self.batch_size, self.accept_changed = batch_size, accept_changed
        self.workers = min(4, cores()) if workers is None else workers
        self._fingerprints: dict[str, str] = {}
        self.prepare_data_per_node = False  # see `_prepare_on_other_nodes`
        self._announced = False
        self._loader: Loader | None = None

    def setup(self, stage: str) -> None:
        """Check everything that can be known before training, and log what the data is."""
        self._prepare_on_other_nodes()
        if stage == "fit":
            module = self.trainer.lightning_module
            if list(module.domains) != list(self.domains):
                raise UserError(
                    f"{type(module).__name__} does not fit this data: models that translate need "
                    "two domains, such as data=emoji_unpaired, and other models need one domain."
                )
            size = module.batch_size or self.batch_size
            batch_size_at(size, module.images_seen, self.trainer.world_size)
        notes = self.check()
        if stage == "fit":
            for name, domain in self.domains.items():
                remedy = "choose a run_dir outside of it"
                refuse_among(Path(self.trainer.default_root_dir), domain.source.folder, remedy)
                self._fingerprints[name] = domain.source.fingerprint()
        if self.trainer.global_rank == 0 and not self._announced:
            for line in notes:
                log.info(line)
            for text in dict.fromkeys(d.source.license for d in self.domains.values()):
                log.debug("license of the images: %s", text or "unknown")
            self._announced = True

    def state_dict(self) -> dict[str, Any]:
        """What identifies the images, for the checkpoint: their content, not their place."""
        return {"fingerprints": self._fingerprints} if self._fingerprints else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises UserError if a resumed run was trained on other images."""
        if state_dict["fingerprints"] == self._fingerprints:
            return
        if not self.accept_changed:
            raise UserError(
                "The images have changed since the run was saved: restore them, choose another "
                "run_dir, or set data.accept_changed=true to resume with other images."
            )
        log.warning("The images have changed since the run was saved; the run resumes with them.")

    @property
    def domains(self) -> Mapping[str, Domain]:
        """The training images of each domain, by its name."""
        raise NotImplementedError

    def check(self) -> list[str]:
        """Sentences on what the data is and how it is converted; UserError if it does not fit."""
        raise NotImplementedError

    @property
    def waited(self) -> float:
        """Seconds that training has waited for batches."""
        return self._loader.waited if self._loader is not None else 0.0

    def batches(self) -> tuple[Any, Any]:
        """A data set that returns complete batches, and the indices of each, without end."""
        raise NotImplementedError

    def first_batch(self) -> Any:
        """The first batch of `train_dataloader`, loaded in this process and not yet transferred."""
        images, order = self.batches()
        return read(images, next(iter(order)))

    def train_dataloader(self) -> DataLoader:
        """Training batches from `images_seen` on, without end."""
        module = self.trainer.lightning_module
        batch = batch_size_at(
            module.batch_size or self.batch_size, module.images_seen, self.trainer.world_size
        )
        pixels = sum(math.prod(domain.source.shape) for domain in self.domains.values())
        share = batch * module.discriminator_steps // self.trainer.world_size
        cuda = module.device.type == "cuda"
        self._loader = Loader(*self.batches(), self.workers, share * pixels, pin_memory=cuda)
        return self._loader

    def _prepare_on_other_nodes(self) -> None:
        """Prepare the data on nodes that do not share a disk with the first, one process a node.

        The first process of all has prepared it by now, so nodes that share its folder find it.
        """
        trainer = self.trainer
        if trainer is not None and trainer.num_nodes > 1:
            if trainer.local_rank == 0 and trainer.global_rank != 0:
                self.prepare_data()
            trainer.strategy.barrier()


def read(images: Any, indices: Any) -> Any:
    """One batch of a data set, read in this process; UserError if an image cannot be read."""
    batch = images.__getitems__(indices)
    if isinstance(batch, UserError):
        raise batch
    return batch
