"""Compute metrics of a checkpoint, or of a folder of images, with their protocol.

Composed by Hydra from `conf/evaluate.yaml`; `--help` lists groups and keys. Processes started by
torchrun share the work.
"""

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from ganzoo import cli

    cli.answer("evaluate")  # before the imports below, which take seconds

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ganzoo import cli
from ganzoo.config import CONF, check_keys, make
from ganzoo.config import trust as trusted
from ganzoo.config.values import EVALUATE, TRAIN, check_value
from ganzoo.data.choosing import source_of, training_data
from ganzoo.data.encoded import EncodedImages
from ganzoo.data.images import ImageData
from ganzoo.data.reference import Reference
from ganzoo.data.source import Source, pair
from ganzoo.data.sources.pack import FACTS
from ganzoo.disk import write_whole
from ganzoo.distributed.collectives import rank
from ganzoo.engine.checkpoint import find, load
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds, Translating, batches_for
from ganzoo.engine.sampling import Threshold, threshold_name
from ganzoo.engine.sampling import check as check_thresholds
from ganzoo.errors import UserError, first
from ganzoo.metrics.protocol import Scores
from ganzoo.metrics.scoring import scorer_of
from ganzoo.metrics.suite import Fakes, Suite
from ganzoo.metrics.truncation import plot, threshold_of
from ganzoo.sharing.hub import SCHEME

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> Scores | list[Scores]:
    """Score what the config describes, log and write the scores; at each of its `truncations`."""
    check_keys(cfg, EVALUATE)
    if (cfg.ckpt is None) == (cfg.fake is None):
        raise UserError("Give either ckpt=RUN_OR_CKPT, or fake=FOLDER and real=FOLDER.")
    if cfg.fake is not None and cfg.real is None:
        raise UserError("Give real=FOLDER, the images to compare with.")
    if cfg.truncations is not None and (cfg.ckpt is None or cfg.truncation is not None):
        raise UserError("truncations needs ckpt=RUN_OR_CKPT, without truncation.")
    check_effect(cfg)
    device = cli.device(cfg.device)
    if cfg.out:
        check_out(Path(cfg.out))
    path = None if cfg.ckpt is None else find(cfg.ckpt)
    several = cfg.truncations is not None
    thresholds = cfg.truncations if several else [cfg.truncation]
    out = out_of(cfg, path, "truncation.json" if several else "{}.metrics.json")
    if several:
        check_thresholds(thresholds)
        if out is None:
            raise UserError("Say where to write the scores: give out=FILE.json.")
    found = (
        [of_folders(cfg, device)] if path is None else of_checkpoint(cfg, path, device, thresholds)
    )
    if rank() == 0:
        for scores in found if several else []:
            name = threshold_name(threshold_of(scores))
            log.info("truncation %s: %s", name, "  ".join(scores.rows()))
        last = found[-1]
        for line in [*last.protocols(), *last.notes] if several else last.lines():
            log.info("%s", line)
        if out:
            report(out, found, several)
    return found if several else found[0]


def report(out: Path, found: list[Scores], several: bool) -> None:
    """Write scores to a file, and those at several truncations as a plot next to it, too."""
    for scores in found:
        write(out, scores)
    picture = out.with_suffix(".png")
    if several:
        plot(picture, found)
    log.info("written to %s", f"{out} and {picture}" if several else out)


# Keys that only have an effect next to others, and their defaults.
OF_A_CHECKPOINT: dict[str, Any] = {
    "raw": False, "truncation": None, "standing": None, "data": None, "seed": 0
}  # fmt: skip
OF_DATA: dict[str, Any] = {"image_size": None, "channels": None, "seed": 0, "real": None}


def check_effect(cfg: DictConfig) -> None:
    """Raise `UserError` for a key that would have no effect next to the others."""
    if cfg.fake is not None:
        unused, needs = OF_A_CHECKPOINT, "ckpt=RUN_OR_CKPT"
    elif cfg.get("data") is None:
        unused, needs = OF_DATA, "fake=FOLDER or data=NAME"
    else:
        unused, needs = {"real": None}, "fake=FOLDER"
    if given := [key for key, default in unused.items() if cfg.get(key) != default]:
        raise UserError(
            f"{' and '.join(given)} would have no effect without {needs}: leave it out."
        )


def of_checkpoint(
    cfg: DictConfig, path: Path, device: torch.device, thresholds: Sequence[Threshold]
) -> list[Scores]:
    """Scores of a checkpoint, the same seeds at each threshold of truncation."""
    gan = load(path, device, cfg.trust)
    if isinstance(gan, Translating) and list(thresholds) != [None]:
        raise UserError("Translations have no latents to truncate: leave out truncation.")
    if isinstance(gan, Translating) and cfg.standing is not None:
        raise UserError("Translations use no standing statistics: leave out standing.")
    data = data_of(cfg, path, gan)
    data.prepare_data()
    data.check()
    scorer = scorer_of(gan, data, make(cfg.metrics), device)
    found = []
    for threshold in thresholds:
        with statistics_of(gan, cfg, threshold) as standing:
            scores = scorer.score(cfg.raw, threshold, standing=standing)
        assert scores is not None
        found.append(scores)
    return found


def data_of(cfg: DictConfig, path: Path, gan: GAN) -> Any:
    """The data that a model was trained on, or `cfg.data`."""
    assert gan.config is not None
    if cfg.get("data") is None:
        return training_data(path, gan.config, cfg.trust)
    for key in ("image_size", "channels"):
        if cfg[key] is None:
            # It becomes part of a config of data, so that it must not name anything to call.
            trusted.check(path, gan.config.get(key), ())
            check_value(f"{key} in {path}", gan.config.get(key), TRAIN[key])
            cfg[key] = gan.config[key]
    return make(cfg.data)


def statistics_of(
    gan: GAN, cfg: DictConfig, threshold: Threshold
) -> AbstractContextManager[dict[str, int] | None]:
    """See `FromSeeds.standing_statistics`; models that translate have none."""
    if not isinstance(gan, FromSeeds):
        return nullcontext()
    truncated = threshold is not None or bool(cfg.truncations)
    batches = batches_for(gan, cfg.standing, truncated)
    return gan.standing_statistics(threshold, batches, raw=cfg.raw)


def of_folders(cfg: DictConfig, device: torch.device) -> Scores:
    """Scores of the images in `cfg.fake` against those in `cfg.real`."""
    channels = 3 if cfg.channels is None else cfg.channels
    sizes = {pair(cfg.image_size)} if cfg.image_size else size_of(cfg.fake, channels)
    if len(sizes) > 1 or (not cfg.image_size and not size_of(cfg.real, channels) <= sizes):
        raise UserError(
            f"The images in {cfg.fake} and {cfg.real} have different sizes "
            f"({', '.join(f'{h}x{w}' for h, w in sorted(sizes | size_of(cfg.real, channels)))}): "
            "give image_size=64, for example, to resize all of them."
        )
    (size,) = sizes
    fake, real = (source_of(path, size, channels) for path in (cfg.fake, cfg.real))
    suite: Suite = make(cfg.metrics)
    data = ImageData(real, size, channels, cfg.batch_size, seed=0, mirror=False)
    for note in (*fake.notes, *data.check()):
        log.info("%s", note)
    reference, num = Reference(data, suite.num_real), min(len(fake), suite.num_fake)
    suite = suite.fitted(len(reference), num)
    suite.prepare(reference, device)
    # Not the first ones by name, which may all be of one class.
    chosen = [i * len(fake) // num for i in range(num)]
    if num < len(fake):
        log.info("%d of the %d images in %s are scored, evenly spaced", num, len(fake), cfg.fake)
    with ThreadPoolExecutor() as threads:

        def images(numbers: Sequence[int]) -> Tensor:
            which = [chosen[number] for number in numbers]
            parts = [which[start : start + 8] for start in range(0, len(which), 8)]
            return torch.cat([b["image"] for b in threads.map(fake.__getitems__, parts)])

        subject = {"images": str(cfg.fake), "sha256": fake.digest(chosen)}
        scores = suite.score(Fakes(num, images, {}, subject))
    assert scores is not None
    return scores


def size_of(path: str, channels: int) -> set[tuple[int, int]]:
    """Heights and widths of the images in a folder, zip, tar or pack; UserError if unreadable."""
    facts = Path(path) / FACTS
    if facts.is_file():
        try:
            return {tuple(json.loads(facts.read_text())["shape"][1:])}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{facts} is damaged: make the pack again.") from error
    source: Source = source_of(path, (64, 64), channels)
    if not isinstance(source, EncodedImages):
        return {source.shape[1:]}
    with ThreadPoolExecutor() as threads:
        headers = list(threads.map(source.header, range(len(source))))
    bad = {source.name_of(i): h for i, h in enumerate(headers) if isinstance(h, str)}
    if bad:
        raise UserError(
            f"{len(bad)} images in {path} cannot be read ({first(list(bad))}; the first one: "
            f"{next(iter(bad.values()))}): repair or remove them."
        )
    return set(Counter(h.size for h in headers if not isinstance(h, str)))


def out_of(cfg: DictConfig, path: Path | None, name: str) -> Path | None:
    """The file to write scores to: `cfg.out`, or one next to the checkpoint; {} is its name."""
    if cfg.out:
        return Path(cfg.out)
    if path is None or str(cfg.ckpt).startswith(SCHEME):  # not among the files of the Hub's cache
        return None
    return path.with_name(name.format(path.stem))


def check_out(path: Path) -> None:
    """Raise `UserError` unless `path` is, or can become, a regular file."""
    if (path.exists() and not path.is_file()) or not path.absolute().parent.is_dir():
        raise UserError(
            f"{path} is not a regular file in an existing folder: choose another out=FILE.json."
        )


def write(path: Path, scores: Scores) -> None:
    """Add scores to those in a file, replacing those of the same subject and protocol."""
    path = path.resolve()  # a link stays a link
    try:
        entries = json.loads(path.read_text()) if path.is_file() else []
        new = (scores.subject, scores.protocol_id)
        entries = [entry for entry in entries if (entry["subject"], entry["protocol_id"]) != new]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a file of scores: choose another file with out=FILE.json."
        ) from error
    entries.append({**asdict(scores), "protocol_id": scores.protocol_id})
    write_whole(path, json.dumps(entries, indent=1), "Choose another out=FILE.json.")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    OmegaConf.set_struct(cfg, False)
    together = int(os.environ.get("WORLD_SIZE", 1)) > 1  # started by torchrun
    if together:
        torch.distributed.init_process_group(timeout=timedelta(hours=1))
    if rank():
        logging.getLogger().setLevel(logging.WARNING)
    try:
        with cli.exits("evaluate"):
            evaluate(cfg)
    finally:
        if together:
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with cli.exits("evaluate"):
        sys.argv[1:] = cli.for_hydra(sys.argv[1:])
    with cli.key_hints("evaluate"):
        main()
