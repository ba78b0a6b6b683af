"""Equal time: other projects' training scripts, as they are, against ours on the same images.

    python benchmarks/contest.py ARENA... --peers FOLDER_OF_CHECKOUTS --minutes 5 --seeds 0 1 2
    python benchmarks/contest.py ARENA... --score          # distances of what has been made
    python benchmarks/contest.py ARENA... --table FOLDER   # Markdown, curves and samples

Every program trains in a process of its own, with one torch thread, until this process has used the
given minutes of CPU time since its first step; programs take turns, seed by seed. At a quarter, a
half and all of the time, the clock stands still and the program writes images of its generator as
PNGs. What is already there is not made again. See `benchmarks/README.md`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from peers import PEERS, Fakes
from peers import run as run_peer
from torch import Tensor

from ganzoo.config import CONF, make
from ganzoo.data import choosing  # noqa: F401  defines ${classes:...}
from ganzoo.data.pixels import rgb, to_float, to_uint8
from ganzoo.pictures.grids import enlarged, named_rows, singles
from ganzoo.train import make_trainer

MARKS = (0.25, 0.5, 1.0)  # shares of the time
NUM_FAKE, NUM_REAL = 500, 1000
FASHION = "data.root=/usr/share/datasets/fashion-mnist"


@dataclass(frozen=True)
class Arena:
    """Images, and what trains on them.

    `ours` are recipes of this project, the first of which says what the images are; `peers` maps
    names in `PEERS` to the names of checkouts.
    """

    title: str
    ours: dict[str, list[str]]
    peers: dict[str, str]
    classes: bool = False
    translates: bool = False

    @property
    def keys(self) -> list[str]:
        """Of the recipe that says what the images are."""
        return next(iter(self.ours.values()))

    @property
    def programs(self) -> list[str]:
        return [*self.ours, *self.peers]


ARENAS = {
    "emoji64": Arena(
        "3,421 emoji, 64 px",
        {
            "ganzoo": ["model=dcgan_small", "data=emoji", "image_size=64"],
            "ganzoo_pggan": ["experiment=pggan_emoji", "image_size=64"],
        },
        {"examples": "examples", "zoo_dcgan": "pytorch_GAN_zoo", "lightweight": "lightweight-gan"},
    ),
    "emoji32": Arena(
        "3,421 emoji, 32 px",
        {
            "ganzoo_pggan": ["experiment=pggan_emoji"],
            "ganzoo_dcgan": ["model=dcgan_small", "data=emoji"],
            "ganzoo_biggan": ["experiment=biggan_emoji"],
        },
        {"zoo_pgan": "pytorch_GAN_zoo"},
    ),
    "fashion": Arena(
        "Fashion-MNIST, 60,000 images, 32 px, ten classes",
        {
            "ganzoo_biggan": ["experiment=biggan_fashion"],
            "ganzoo_dcgan": ["model=dcgan_small", "data=fashion_mnist", "channels=1", FASHION],
        },
        {"ajbrock": "BigGAN-PyTorch"},
        classes=True,
    ),
    "translation": Arena(
        "Noto's emoji to Twemoji's, 3,421 each, 32 px",
        {"ganzoo": ["experiment=cyclegan_emoji"]},
        {"junyanz": "contrastive-unpaired-translation"},
        translates=True,
    ),
    "augmentation": Arena(  # for 3 minutes
        "Emoji, 32 px: all 3,421, 500 and 152 of them",
        {
            f"{augment}_{n}": [
                "model=dcgan_small",
                "data=emoji",
                f"data.subset={n}",
                f"augment={augment}",
            ]
            for n in (3421, 500, 152)
            for augment in ("none", "diffaugment", "ada_short")
        },
        {},
    ),
}


# -- images ----------------------------------------------------------------------------------------


def write_pngs(images: Tensor, folder: Path) -> None:
    """Images [N, C, H, W] in [-1, 1] as RGB: 00000.png, 00001.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(singles(to_float(rgb(to_uint8(images))))):
        picture.save(folder / f"{index:05d}.png")


def config(keys: Sequence[str], folder: Path) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*keys, f"run_dir={folder}", "logger=csv"])


def stored(source: Any) -> Tensor:
    rows = range(len(source))
    parts = [source.__getitems__(list(rows[i : i + 500]))["image"] for i in rows[::500]]
    return to_float(torch.cat(parts))


def tests_of(data: Any, domain: str) -> Tensor:
    return stored(data.tests()[0][domain].source)


def prepare(arena: Arena, out: Path, num: int) -> None:
    """Write the images of an arena as PNGs, for the scripts and for the scores.

    `real` are those that samples are compared with, and `floor` are up to `num` others.
    """
    if (out / "real").is_dir():
        return
    data = make(config(arena.keys, out).data)
    data.prepare_data()
    if arena.translates:
        for domain in "AB":
            write_pngs(stored(data.domains[domain].source), out / "images" / f"train{domain}")
            write_pngs(tests_of(data, domain), out / "images" / f"test{domain}")
        real, others = tests_of(data, "B"), stored(data.domains["B"].source)
    else:
        images = stored(data.source)
        labels = data.source.labels() if arena.classes else torch.zeros(len(images))
        for label in labels.unique().tolist():
            write_pngs(images[labels == label], out / "images" / f"{int(label):02d}")
        chosen = evenly(len(images), NUM_REAL)
        real, others = images[chosen], images[sorted({*range(len(images))} - {*chosen})]
    write_pngs(others[evenly(len(others), num)], out / "floor")
    write_pngs(real, out / "real")


def evenly(n: int, num: int) -> list[int]:
    """Up to `num` of n indices."""
    return [i * n // num for i in range(num)] if num < n else [*range(n)]


# -- training --------------------------------------------------------------------------------------


class Marks(Callback):
    """Writes images when the time of a mark has come, and stops after the last one."""

    def __init__(self, marks: Sequence[float], at_mark: Any, test_images: Tensor | None) -> None:
        self.marks, self.at_mark, self.test_images = list(marks), at_mark, test_images
        self.start: float | None = None
        self.mark = 0

    def on_train_batch_start(self, *_: Any) -> None:
        if self.start is None:
            self.start = time.process_time()

    def on_train_batch_end(self, trainer: L.Trainer, gan: Any, *_: Any) -> None:
        now = time.process_time()
        assert self.start is not None
        if now - self.start < self.marks[self.mark]:
            return

        def fakes(n: int) -> Tensor:
            if self.test_images is not None:
                return gan.translate_many(self.test_images[:n])
            return gan.sample(range(n))

        self.at_mark(self.mark, now - self.start, gan.images_seen / 1000, fakes)
        self.mark += 1
        trainer.should_stop = self.mark == len(self.marks)
        self.start += time.process_time() - now


def train(arena: Arena, program: str, args: argparse.Namespace, out: Path, seed: int) -> None:
    """Train one program from one seed, and write its images and what it took."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    folder = out / program / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    record: list[dict[str, float]] = []
    side = read(next((out / "real").iterdir())).shape[-1]

    def at_mark(mark: int, seconds: float, kimg: float, fakes: Fakes) -> None:
        images = fakes(args.num)  # of networks that still grow: enlarged, as ours are
        write_pngs(enlarged(images, side // images.shape[-1]), folder / str(mark))
        record.append({"minutes": seconds / 60, "kimg": kimg})
        print(f"{program} {seed}: {seconds / 60:.2f} minutes, {kimg:g} kimg", flush=True)

    marks = [60 * args.minutes * share for share in MARKS]
    if program in arena.ours:
        cfg = config(
            [*arena.ours[program], "total_kimg=1000000", *args.keys, f"seed={seed}"], folder / "run"
        )
        for name in ("grid", "logits", "metrics", "accuracy", "spectra", "sentinel", "page", "bar",
                     "save", "stages"):  # fmt: skip
            cfg.callbacks[name] = None
        L.seed_everything(seed, verbose=False)
        data, gan = make(cfg.data), make(cfg.model)
        trainer = make_trainer(cfg, folder / "run", 0)
        tests = tests_of(data, "A") if arena.translates else None
        trainer.callbacks.append(Marks(marks, at_mark, tests))  # type: ignore[attr-defined]
        trainer.loggers = []
        trainer.fit(gan, datamodule=data)
        if len(record) < len(marks):
            raise SystemExit("The run has ended before the time was up: raise total_kimg.")
    else:
        work = folder / "work"
        work.mkdir(exist_ok=True)
        checkout = args.peers / arena.peers[program]
        run_peer(PEERS[program], checkout.resolve(), (out / "images").resolve(), work.resolve(),
                 seed, marks, at_mark)  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))


def everyone(name: str, args: argparse.Namespace) -> None:
    """All programs of an arena from all seeds, in turns, each in a process of its own."""
    arena, out = ARENAS[name], args.out / name
    prepare(arena, out, args.num)
    for seed in args.seeds:
        programs = [p for p in arena.programs if p in (args.programs or [p])]
        for program in programs if seed % 2 == 0 else programs[::-1]:
            if (out / program / str(seed) / "record.json").is_file():
                continue
            command = [sys.executable, __file__, name, "--program", program, "--seeds", str(seed),
                       "--minutes", str(args.minutes), "--out", str(args.out), "--peers",
                       str(args.peers), "--num", str(args.num), "--keys", *args.keys]  # fmt: skip
            log = out / f"{program}-{seed}.log"
            with log.open("w") as file:
                done = subprocess.run(
                    command, stdout=file, stderr=subprocess.STDOUT, check=False,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
                )  # fmt: skip
            print(f"{name} {program} {seed}: {'done' if not done.returncode else f'see {log}'}",
                  flush=True)  # fmt: skip


# -- scores ----------------------------------------------------------------------------------------


def score(name: str, args: argparse.Namespace) -> None:
    """Distances by ours at every mark and, at the last one, by torch-fidelity of the same PNGs."""
    out = args.out / name
    real = out / "real"
    for record in sorted(out.glob("*/*/record.json")):
        file = record.with_name("scores.json")
        if file.is_file():
            continue
        rows = json.loads(record.read_text())
        for mark, row in enumerate(rows):
            fake = record.parent / str(mark)
            row.update(by_ours(fake, real))
            if mark == len(rows) - 1:
                row.update(by_fidelity(fake, real))
            if ARENAS[name].translates:
                row["l1"] = l1(fake, real)
        file.write_text(json.dumps(rows, indent=1))
    if not (floor := out / "floor.json").is_file():
        distances = by_ours(out / "floor", real) | by_fidelity(out / "floor", real)
        floor.write_text(json.dumps(distances, indent=1))


def by_ours(fake: Path, real: Path) -> dict[str, float]:
    """Scores by `ganzoo.evaluate`."""
    from ganzoo.evaluate import evaluate

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", [f"fake={fake}", f"real={real}", "metrics=quick", "device=cpu",
                                   "metrics/network=effnet",
                                   f"metrics.num_fake={len(list(fake.iterdir()))}"])  # fmt: skip
    return dict(evaluate(cfg).values)  # type: ignore[union-attr]


def by_fidelity(fake: Path, real: Path) -> dict[str, float]:
    """Distance and KID by torch-fidelity's code, with the features of the same network."""
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    from ganzoo.metrics.extractors import EffNet

    class Features(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.network = EffNet()

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (self.network(images)[0],)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 3, 32, 32, dtype=torch.uint8)

    try:
        torch_fidelity.register_feature_extractor("effnet", Features)
    except Exception as error:  # it has no class of its own for "registered before"
        if "registered" not in str(error):
            raise
    told = torch_fidelity.calculate_metrics(
        input1=str(fake), input2=str(real), cuda=False, fid=True, kid=True, kid_subsets=100,
        kid_subset_size=min(250, len(list(fake.iterdir()))), feature_extractor="effnet",
        verbose=False, save_cpu_ram=True,
        cache_root=str(real.parent / "features"), input2_cache_name="real",
    )  # fmt: skip
    return {"fidelity_fd": told["frechet_inception_distance"],
            "fidelity_kid": told["kernel_inception_distance_mean"]}  # fmt: skip


def l1(fake: Path, real: Path) -> float:
    """Mean absolute difference to the true drawings, of images in [0, 1], as in our metrics."""
    pairs = zip(sorted(fake.iterdir()), sorted(real.iterdir()), strict=False)
    return statistics.mean(float((read(a) - read(b)).abs().mean() / 2) for a, b in pairs)


def read(path: Path) -> Tensor:
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    return to_float(pil_to_tensor(Image.open(path).convert("RGB")))


# -- tables and pictures ---------------------------------------------------------------------------


def table(name: str, args: argparse.Namespace) -> None:
    """Print the rows of an arena; write its curves, and samples of every program's first seed."""
    import matplotlib.pyplot as plt

    arena, out = ARENAS[name], args.out / name
    print(f"\n### {arena.title}\n")
    columns = ["minutes", "kimg", "fd_effnet", "kid_effnet", "fidelity_fd", "fidelity_kid",
               *(["l1"] if arena.translates else [])]  # fmt: skip
    print("| program | seeds | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    figure, axes = plt.subplots(figsize=(6, 4))
    args.table.mkdir(parents=True, exist_ok=True)
    rows = {"inputs": first(out / "images" / "testA")} if arena.translates else {}
    for program in arena.programs:
        files = sorted((out / program).glob("*/scores.json"))
        if not files:
            continue
        runs = [json.loads(file.read_text()) for file in files]
        cells = [spread([run[-1][column] for run in runs]) for column in columns]
        print(f"| {program} | {len(runs)} | " + " | ".join(cells) + " |")
        marks = list(zip(*runs, strict=True))
        distances = [[row["fd_effnet"] for row in mark] for mark in marks]
        minutes = [statistics.mean(row["minutes"] for row in mark) for mark in marks]
        (line,) = axes.plot(minutes, [*map(statistics.mean, distances)], "o-", label=program)
        ends = [*map(min, distances)], [*map(max, distances)]
        axes.fill_between(minutes, *ends, color=line.get_color(), alpha=0.2)
        rows[program] = first(files[0].parent / str(len(MARKS) - 1))
    floor = json.loads((out / "floor.json").read_text())
    cells = [spread([floor[column]]) if column in floor else "" for column in columns]
    print("| other real images | | " + " | ".join(cells) + " |")
    if arena.translates:
        rows["the artists'"] = first(out / "real")
    named_rows(rows).save(args.table / f"{name}.png")
    axes.set(xlabel="minutes of CPU time", ylabel="fd_effnet", title=arena.title)
    axes.legend()
    figure.savefig(args.table / f"{name}-curves.png", dpi=100, bbox_inches="tight")
    plt.close(figure)


def first(folder: Path) -> Tensor:
    """The first images of a folder [12, 3, H, W], in [-1, 1]."""
    return torch.stack([read(path) for path in sorted(folder.iterdir())[:12]])


def spread(values: list[float]) -> str:
    """Mean and, of several values, half the distance between the extremes."""
    mean = statistics.mean(values)
    digits = 4 if abs(mean) < 1 else 1
    half = (max(values) - min(values)) / 2
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arenas", nargs="+", choices=ARENAS, metavar="ARENA", help=str([*ARENAS]))
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder of checkouts")
    parser.add_argument("--programs", nargs="*", help="only these, such as ganzoo")
    parser.add_argument("--minutes", type=float, default=5.0, help="of CPU time, for each program")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num", type=int, default=NUM_FAKE, help="images at each mark")
    parser.add_argument("--keys", nargs="*", default=[], help="more keys for ours")
    parser.add_argument("--out", type=Path, default=Path("contest"))
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--table", type=Path, help="folder for pictures")
    parser.add_argument("--program", help=argparse.SUPPRESS)  # train this one, in this process
    args = parser.parse_args()
    for name in args.arenas:
        if args.program:
            train(ARENAS[name], args.program, args, args.out / name, args.seeds[0])
        elif args.score:
            score(name, args)
        elif args.table:
            table(name, args)
        else:
            everyone(name, args)


if __name__ == "__main__":
    main()
