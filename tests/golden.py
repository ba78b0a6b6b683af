"""Golden runs: what tiny runs of the models leave in their checkpoints, to be compared with later.

    python tests/golden.py record FILE.json
    python tests/golden.py compare FILE.json

`record` trains all of `RUNS` in float32 and in float64 and writes digests and sizes of every tensor
of their checkpoints; `compare` trains them again and says which are equal bit for bit. Both want
the same machine and the same version of torch. Into `tests/golden.json` only what other machines
can be compared with is recorded, by `tests/test_golden.py`: two numbers of each network of the runs
in `TESTED`, in float64, which are compared within `TOLERANCE`.

Runs are started by the command line alone, so nothing here depends on how the code is arranged.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
PORTABLE = Path(__file__).with_name("golden.json")
PRECISIONS = {"float32": "32-true", "float64": "64-true"}

# Of a network's norm, how far its two numbers may move; see `distance`. Two threads and other
# instructions move them by 1e-10 at most, a learning rate that is 0.1 % higher by 1e-5 and more.
TOLERANCE = 1e-7
# That holds where normal numbers are drawn alike. Elsewhere some differ in the last bit of float32,
# which a ReLU may make a thousandth of.
ALIKE = ("AVX2", "AVX512")

SHARED = (
    "logger=csv",
    "trainer=cpu",
    "image_size=16",
    "batch_size=8",
    *(
        f"callbacks.{name}=null"
        for name in (
            "ticks", "grid", "logits", "metrics", "accuracy", "spectra", "sentinel", "stages",
        )
    ),
)  # fmt: skip
CYCLEGAN = (
    "data.source.variants=false",
    "data.subset=50",
    "batch_size=4",
    "model.generator.ngf=4",
    "model.generator.blocks=1",
    "model.discriminator.ndf=4",
    "model.discriminator.layers=1",
    "model.accumulate=2",
    "model.pool=20",  # full after five iterations
    "model.ema_kimg=0.02",
)
BIGGAN = (
    "data=emoji",
    "data.subset=100",
    "model.generator.ch=4",
    "model.generator.shared=8",
    "model.generator.attention=[8]",
    "model.discriminator_steps=2",
    "model.accumulate=2",
    "model.orthogonal={generator: 0.01}",
    "model.ema_start_kimg=0.16",
    "model.ema_kimg=0.1",
    "total_kimg=0.96",
)

# Sixty iterations each.
RUNS = {
    "dcgan": (
        "model=dcgan",
        "data=emoji",
        "data.subset=100",
        "model.nz=8",
        "model.generator.ngf=4",
        "model.discriminator.ndf=4",
        "model.ema_kimg=0.05",
        "total_kimg=0.48",
    ),
    # Two penalties, all augmentations, clipping, two steps of each network, micro-batches.
    "dcgan_penalties": (
        "model=dcgan",
        "loss=wasserstein_gp",
        "data=emoji",
        "data.subset=100",
        "data.source.image_size=32",
        "data.crop=random",
        "model.nz=8",
        "model.generator.ngf=4",
        "model.discriminator.ndf=4",
        "model.discriminator.norm=layer",
        "model.r1=1.0",
        "model.augment.cutout=true",
        "model.clip={discriminator: 1.0}",
        "model.discriminator_steps=2",
        "model.generator_steps=2",
        "model.accumulate=2",
        "model.ema_kimg=0.05",
        "total_kimg=0.96",
    ),
    # 4x4 to 16x16: both fades end after 40 iterations, and the batches are smaller then.
    "pggan": (
        "model=pggan",
        "data=emoji",
        "data.subset=100",
        "model.generator.classes=9",
        "model.generator.fmap_base=64",
        "model.generator.fmap_max=8",
        "model.discriminator.group_size=2",
        "model.growth.train_kimg=0.064",
        "model.growth.fade_kimg=0.064",
        "++model.growth.batch_sizes={4: 8, 8: 8, 16: 4}",
        "++model.growth.lr_factors={16: 1.5}",
        "model.growth.rampup_kimg=0.1",
        "model.growth.repeats=2",
        "model.accumulate=2",
        "model.ema_beta=0.9",
        "total_kimg=0.336",
    ),
    # The learning rates fall in the second half.
    "cyclegan": ("model=cyclegan", *CYCLEGAN, "total_kimg=0.24"),
    # Images that grow, every network by itself, dropout.
    "cyclegan_growing": (
        "experiment=cyclegan_growing",
        *CYCLEGAN,
        "data=emoji_unpaired",
        "model.order=[generator.AtoB,discriminator.B,generator.BtoA,discriminator.A]",
        "model.generator.dropout=0.2",
        "model.growth.initial_resolution=8",
        "model.growth.train_kimg=0.08",
        "model.growth.fade_kimg=0.08",
        "++model.growth.batch_sizes={8: 4, 16: 4}",
        "total_kimg=0.24",
    ),
    # Orthogonal matrices of float32 depend on the library that finds them.
    "biggan": ("model=biggan", *BIGGAN, "model.generator.nz=12", "model.generator.init=normal"),
    "biggan_deep": ("model=biggan_deep", *BIGGAN, "model.generator.nz=8"),
}
TESTED = [f"{name} float64" for name in ("dcgan", "dcgan_penalties", "pggan", "cyclegan", "biggan")]

# `python -m ganzoo.train KEY=VALUE ...`, several times.
TRAIN = """
import json, runpy, sys

for overrides in json.load(sys.stdin):
    sys.argv = ["ganzoo.train", *overrides]
    runpy.run_module("ganzoo.train", run_name="__main__", alter_sys=True)
"""

Record = dict[str, Any]


def train(runs: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Train some runs, given as "NAME PRECISION"; all that the checkpoint of each holds.

    They share a process, one after the other, since starting one takes longer than training.
    """
    commands = []
    for run in runs:
        name, precision = run.split()
        own = [f"precision={PRECISIONS[precision]}", f"run_dir={folder / run.replace(' ', '-')}"]
        commands.append([*SHARED, *RUNS[name], *own])
    result = subprocess.run(
        [sys.executable, "-c", TRAIN],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=ROOT,  # so that this code is imported, wherever another copy may be installed
        env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **os.environ},
        check=False,
    )
    checkpoints = {}
    for run in runs:
        path = folder / run.replace(" ", "-") / "last.ckpt"
        if not path.with_name("done").exists():
            raise RuntimeError(f"{run} did not train:\n{result.stdout}{result.stderr}")
        checkpoints[run] = torch.load(path, weights_only=True)
    return checkpoints


def record(runs: Sequence[str]) -> dict[str, Record]:
    """What is kept of some runs: digests of every tensor and of all of them, and numbers."""
    with TemporaryDirectory() as folder:
        return {run: told(run, checkpoint) for run, checkpoint in train(runs, Path(folder)).items()}


def told(run: str, checkpoint: dict[str, Any]) -> Record:
    found = values(checkpoint)
    tensors = {key: [digest(value), *sizes([value])] for key, value in sorted(found.items())}
    whole = sha256("".join(f"{key} {kept[0]}\n" for key, kept in tensors.items()).encode())
    record: Record = {"sha256": whole.hexdigest(), "tensors": tensors}
    if run.endswith("float64"):
        record["numbers"] = numbers(found)
    return record


def values(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, and the settings of its optimizers, by lasting names.

    Model and optimizers are taken by their keys, other tensors by what they hold, wherever they
    are.
    """
    found = {f"state_dict.{key}": value for key, value in checkpoint["state_dict"].items()}
    for key, value in walk(checkpoint["optimizer_states"], "optimizers"):
        if isinstance(value, Tensor):
            found[key] = value
        elif isinstance(value, float):
            found[key] = torch.tensor(value, dtype=torch.float64)
    rest = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
    others = [value for _, value in walk(rest) if isinstance(value, Tensor)]
    others.sort(key=lambda value: (tuple(value.shape), digest(value)))
    return found | {f"other.{place}": value for place, value in enumerate(others)}


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All that is in nested dicts and lists, by its path."""
    if isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from walk(value, f"{path}.{key}")
    else:
        yield path, node


def digest(value: Tensor) -> str:
    head = f"{value.dtype} {tuple(value.shape)} ".encode()
    return sha256(head + value.contiguous().numpy().tobytes()).hexdigest()[:16]


def numbers(found: dict[str, Tensor]) -> dict[str, list[float]]:
    """The `sizes` of each network, and of the average gradients of each optimizer."""
    parts: dict[str, list[Tensor]] = {}
    for key, value in sorted(found.items()):
        kind, first, *_ = key.split(".")
        if kind == "state_dict" and value.is_floating_point():
            parts.setdefault(first, []).append(value)
        elif key.endswith(".exp_avg"):
            parts.setdefault(f"optimizer {first} exp_avg", []).append(value)
    return {name: sizes(part) for name, part in parts.items()}


def sizes(part: list[Tensor]) -> list[float]:
    """The norm of some tensors, and their product with numbers that fill [-0.5, 0.5) evenly."""
    flat = torch.cat([value.double().flatten() for value in part])
    even = (torch.arange(1, len(flat) + 1, dtype=torch.float64) * 2**0.5).frac() - 0.5
    return [float(flat.norm()), float(flat @ even)]


def distance(old: list[float], new: list[float]) -> float:
    """How far the `sizes` of something have moved, as a share of its norm."""
    moved = max(abs(a - b) for a, b in zip(old, new, strict=True))
    return moved / old[0] if old[0] else moved


def numbers_moved(old: dict[str, list[float]], new: dict[str, list[float]]) -> dict[str, float]:
    """The distance of each part; infinite for those that only one of the two has."""
    return {
        part: distance(old[part], new[part]) if part in old and part in new else float("inf")
        for part in sorted({*old, *new})
    }


def compared(old: Record, new: Record) -> tuple[bool, str]:
    """Whether a run is as it was, and a line on that."""
    if "tensors" not in old:
        moved = numbers_moved(old["numbers"], new["numbers"])
        worst = max(moved, key=lambda part: moved[part])
        same = all(value <= TOLERANCE for value in moved.values())
        return same, f"{'equal' if same else 'DIFFERENT'}, at most {moved[worst]:.1e} ({worst})"
    if old["sha256"] == new["sha256"]:
        return True, "equal bit for bit"
    before, now = old["tensors"], new["tensors"]
    lines = []
    for key in sorted({*before, *now}):
        if key not in before or key not in now:
            lines.append(f"{key} only {'now' if key in now else 'then'}")
        elif before[key][0] != now[key][0]:
            lines.append(f"{key} by {distance(before[key][1:], now[key][1:]):.1e} of its norm")
    return False, f"DIFFERENT in {len(lines)} of {len(now)}: {'; '.join(lines[:3])}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Record tiny runs, or compare with a record.")
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    if asked.action == "record":
        portable = asked.file.resolve() == PORTABLE
        runs = record(TESTED if portable else [f"{n} {p}" for n in RUNS for p in PRECISIONS])
        for run, kept in runs.items():
            print(f"{run}: {kept['sha256']}")
            if portable:
                runs[run] = {"numbers": kept["numbers"]}
        written = {"torch": torch.__version__, "runs": runs}
        asked.file.write_text(json.dumps(written, indent=1) + "\n")
        return 0
    written = json.loads(asked.file.read_text())
    if written["torch"] != torch.__version__:
        print(f"recorded with torch {written['torch']}, compared with {torch.__version__}")
    old = written["runs"]
    new = record(list(old))
    lines = {run: compared(old[run], new[run]) for run in old}
    for run, (_, line) in lines.items():
        print(f"{run}: {line}")
    return 0 if all(same for same, _ in lines.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
