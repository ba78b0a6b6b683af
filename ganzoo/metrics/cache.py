"""Features of real images, computed once and kept on the disk.

The key of an entry is a digest of the images, of what is done to them, and of the extractor's
weights. So an entry is never stale, and any run or process that needs the same features finds it.
"""

import hashlib
import logging
import uuid
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganzoo import __version__
from ganzoo.data.pixels import rgb
from ganzoo.data.reference import Reference
from ganzoo.data.visit import progress
from ganzoo.distributed.collectives import any_process, gather_rows, local_rank, rank, world_size
from ganzoo.metrics.extractors import Extractor
from ganzoo.metrics.pretrained import cache_folder

log = logging.getLogger(__name__)

# Exceptions of files that are not what `write` wrote.
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass
class Real:
    """What metrics have to know about real images."""

    features: Tensor  # float32 [N, D], in the order of the reference
    fingerprint: str  # SHA-256 of the pixels that metrics are computed from


def folder() -> Path:
    return cache_folder() / "reference"


def real_features(
    reference: Reference, extractor: Extractor, device: torch.device, keep: bool = True
) -> Real:
    """Features of all real images, computed by all processes; `keep` reads and writes the cache."""
    key = (reference.key(), extractor.name, extractor.weights, extractor.precision, __version__)
    entry = folder() / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:40]}.npz"
    found = read(entry) if keep else None
    if not any_process(found is None, device):
        assert found is not None
        log.debug("real images: features of %d read from %s", len(reference), entry)
        return found
    real = compute(reference, extractor, device)
    if keep and local_rank() == 0:  # one process per machine
        write(entry, real)
    return real


@torch.no_grad()
def compute(reference: Reference, extractor: Extractor | None, device: torch.device) -> Real:
    """The features, [N, 0] without an extractor; each process computes its share of the chunks."""
    mine = range(rank(), reference.num_chunks, world_size())
    width = extractor.num_features if extractor else 0
    # A process may have no chunks at all.
    places = [torch.empty(0, dtype=torch.int64)]
    features = [torch.empty(0, width, device=device)]
    digests = [torch.empty(0, 1 + hashlib.sha256().digest_size, dtype=torch.int64)]
    bar = progress("real images", len(reference))
    for number, chunk in zip(mine, reference.chunks(mine, device), strict=True):
        places.append(chunk.places)
        if extractor:
            features.append(extractor(rgb(chunk.images))[0])
        digest = hashlib.sha256(chunk.images.cpu().numpy().tobytes()).digest()
        digests.append(torch.tensor([[number, *digest]]))
        bar.update(min(len(chunk.images) * world_size(), bar.total - bar.n))
    bar.close()
    order = gather_rows(torch.cat(places).to(device)).argsort()
    gathered = gather_rows(torch.cat(features))
    rows = gather_rows(torch.cat(digests).to(device)).tolist()
    fingerprint = hashlib.sha256(repr((reference.facts()["shape"], sorted(rows))).encode())
    return Real(
        gathered[order].cpu() if extractor else torch.empty(len(reference), 0),
        fingerprint.hexdigest(),
    )


# -- the disk --------------------------------------------------------------------------------------


def read(entry: Path) -> Real | None:
    """An entry, or None if there is none, or a damaged one."""
    try:
        with np.load(entry) as arrays:  # checks the checksum of each array
            return Real(torch.from_numpy(arrays["features"]), str(arrays["fingerprint"]))
    except FileNotFoundError:
        return None
    except DAMAGED:
        log.warning("%s is damaged, so the features are computed again", entry)
        return None


def write(entry: Path, real: Real) -> None:
    """Write an entry completely or not at all. Other jobs may write the same one meanwhile."""
    partial = entry.with_name(f"partial-{uuid.uuid4().hex}")  # each job has a name of its own
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, features=real.features.numpy(), fingerprint=real.fingerprint)
        partial.replace(entry)
    except OSError as error:
        log.warning(
            "Features of the real images cannot be kept (%s): set the environment variable "
            "GANZOO_CACHE to a folder that can be written to.",
            error,
        )
    finally:
        with suppress(OSError):
            partial.unlink()
