"""Features of real images, computed once and kept on the disk.

Entries are keyed by content: of the images, of what is done to them, and of the extractor's
weights. So they cannot be stale, and whoever computes the same finds them, in any run or process.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ganzoo import __version__
from ganzoo.data.reference import Reference
from ganzoo.disk import sha256
from ganzoo.distributed.strategy import any_process, gather_rows, local_rank, rank, world_size
from ganzoo.errors import UserError
from ganzoo.metrics.extractors import Extractor
from ganzoo.metrics.pretrained import cache_folder

log = logging.getLogger(__name__)

FACTS, FEATURES, LABELS = "facts.json", "features.npy", "labels.npy"


@dataclass
class Real:
    """What there is to know of real images.

    Attributes:
        features: float32 [N, D], in the order of the reference.
        labels: int64 [N], or None.
        fingerprint: SHA-256 of the very pixels that metrics are computed from.
    """

    features: Tensor
    labels: Tensor | None
    fingerprint: str


def folder() -> Path:
    return cache_folder() / "reference"


def real_features(
    reference: Reference, extractor: Extractor, device: torch.device, keep: bool = True
) -> Real:
    """Features of all images of `reference`, from the disk or else computed by all processes.

    Args:
        keep: read and write the cache.

    Raises:
        UserError: the cache cannot be written to (before anything is computed).
    """
    told = (reference.key(), extractor.name, extractor.weights, extractor.precision, __version__)
    entry = folder() / hashlib.sha256(repr(told).encode()).hexdigest()[:40]
    found = read(entry) if keep else None
    if not any_process(found is None, device):
        assert found is not None
        log.info("real images: features of %d from %s", len(reference), entry)
        return found
    if keep:
        check_writable(entry.parent)
    real = compute(reference, extractor, device)
    if keep and local_rank() == 0:  # one process of each machine
        facts = {
            **reference.facts(),
            "extractor": extractor.name,
            "weights": extractor.weights,
            "precision": extractor.precision,
        }
        write(entry, real, facts)
    return real


@torch.no_grad()
def compute(reference: Reference, extractor: Extractor | None, device: torch.device) -> Real:
    """The features, none without an extractor, each process working on its share of the chunks."""
    mine = range(rank(), reference.num_chunks, world_size())
    width = extractor.num_features if extractor else 0
    # Of what this process finds, which may be nothing.
    places = [torch.empty(0, dtype=torch.int64)]
    features = [torch.empty(0, width, device=device)]
    digests = [torch.empty(0, 1 + hashlib.sha256().digest_size, dtype=torch.int64)]
    bar = tqdm(
        desc=f"real images through {extractor.name}" if extractor else "real images",
        total=len(reference),
        unit=" images",
        dynamic_ncols=True,
        disable=None if rank() == 0 else True,
    )
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
    told = gather_rows(torch.cat(digests).to(device)).tolist()
    fingerprint = hashlib.sha256(repr((reference.facts()["shape"], sorted(told))).encode())
    return Real(
        gathered[order].cpu() if extractor else torch.empty(len(reference), 0),
        reference.labels(),
        fingerprint.hexdigest(),
    )


def rgb(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W], what a network for photographs takes, of images of any channels.

    Gray is repeated, opacity laid on white; of other numbers of channels the first three are taken,
    and of two the first.
    """
    channels = images.shape[1]
    if channels == 4:
        opacity = images[:, 3:].float() / 255
        return (images[:, :3] * opacity + 255 * (1 - opacity)).round().to(torch.uint8)
    if channels < 3:
        return images[:, :1].expand(-1, 3, -1, -1)
    return images[:, :3]


# -- the disk --------------------------------------------------------------------------------------


def read(entry: Path) -> Real | None:
    """An entry, or None if there is none that is whole."""
    try:
        facts = json.loads((entry / FACTS).read_text())
        for name, digest in facts["sha256"].items():
            if sha256(entry / name) != digest:
                log.warning("%s is damaged: it is computed anew", entry)
                shutil.rmtree(entry, ignore_errors=True)
                return None
        features = torch.from_numpy(np.load(entry / FEATURES))
        labels = torch.from_numpy(np.load(entry / LABELS)) if LABELS in facts["sha256"] else None
        return Real(features, labels, facts["fingerprint"])
    except (OSError, ValueError, KeyError):
        return None


def write(entry: Path, real: Real, facts: dict[str, Any]) -> None:
    """Write an entry, whole or not at all; leave alone what another job wrote meanwhile."""
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=entry.parent))
    try:
        np.save(partial / FEATURES, real.features.numpy())
        names = [FEATURES]
        if real.labels is not None:
            np.save(partial / LABELS, real.labels.numpy())
            names.append(LABELS)
        facts = {
            **facts,
            "fingerprint": real.fingerprint,
            "sha256": {name: sha256(partial / name) for name in names},
            "made": {"ganzoo": __version__, "on": datetime.now(UTC).date().isoformat()},
        }
        (partial / FACTS).write_text(json.dumps(facts, indent=1))
        os.chmod(partial, 0o755)
        os.rename(partial, entry)
    except OSError as error:
        if not (entry / FACTS).exists():
            log.warning("features of the real images could not be kept in %s (%s)", entry, error)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_writable(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UserError(
            f"The cache {place} cannot be written to ({error.strerror}): set the environment "
            "variable GANZOO_CACHE to a folder that can, or metrics.cache=false."
        ) from error


def entries() -> Iterator[tuple[Path, dict[str, Any], int]]:
    """Folder, facts and bytes of every entry, half written ones included, the newest last."""
    if not folder().is_dir():
        return
    for path in sorted(folder().iterdir(), key=lambda path: path.stat().st_mtime):
        try:
            facts = json.loads((path / FACTS).read_text())
        except (OSError, ValueError):
            facts = {}
        yield path, facts, sum(file.stat().st_size for file in path.glob("*"))
