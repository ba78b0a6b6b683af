"""FID, KID and IS of the same images with the same weights, by three programs.

The programs run one after the other, each in its own process, so that peak memory is its own.
Without --weights the weights are random: trained ones change neither times nor agreement. See
`benchmarks/README.md`.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

SUBSETS, SUBSET_SIZE = 100, 1000
BATCH = 32

Values = dict[str, float]


def images(num: int, seed: int, size: int = 64) -> Tensor:
    """Smooth random textures, uint8 [num, 3, size, size]; another seed has another contrast."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, 3, 8, 8, generator=generator) * (1 - 0.2 * seed)
    fine = nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8)


def random_weights(path: Path) -> None:
    """Of Inception, scaled so that features of different images differ."""
    import torch_fidelity.feature_extractor_inceptionv3 as original

    original.load_state_dict_from_url = lambda *_, **__: None
    load, name = nn.Module.load_state_dict, "FeatureExtractorInceptionV3"
    getattr(original, name).load_state_dict = lambda *_, **__: None
    torch.manual_seed(0)
    net = getattr(original, name)("inception-v3-compat", ["2048"])
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(6**0.5)
    getattr(original, name).load_state_dict = load
    torch.save(net.state_dict(), path)


# -- the programs ----------------------------------------------------------------------------------


def ganzoo(weights: str, fake: Tensor, real: Tensor, precision: str = "float32") -> Callable:
    from ganzoo.data import ImageData
    from ganzoo.data.reference import Reference
    from ganzoo.data.source import Source
    from ganzoo.metrics.extractors import Inception
    from ganzoo.metrics.frechet import FrechetDistance
    from ganzoo.metrics.inception_score import InceptionScore
    from ganzoo.metrics.kernel import KernelDistance
    from ganzoo.metrics.suite import Fakes, Suite

    class Memory(Source):
        name, shape = "memory", (3, real.shape[2], real.shape[3])

        def __len__(self) -> int:
            return len(real)

        def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
            return {"image": real[indices]}

    size = min(SUBSET_SIZE, len(fake))
    metrics = {"fd": FrechetDistance(), "kid": KernelDistance(SUBSETS, size),
               "is": InceptionScore()}  # fmt: skip
    suite = Suite(metrics, Inception(weights, precision), None, batch_size=BATCH, cache=False)
    data = ImageData(Memory(), list(real.shape[2:]), 3, BATCH, seed=0, mirror=False)

    def score() -> Values:
        suite.prepare(Reference(data), torch.device("cpu"))
        scores = suite.score(Fakes(len(fake), lambda n: fake[list(n)], {}, {}))
        assert scores is not None
        return scores.values

    return score


def bf16(weights: str, fake: Tensor, real: Tensor) -> Callable:
    return ganzoo(weights, fake, real, "bf16")


class Tensors(Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def torch_fidelity(weights: str, fake: Tensor, real: Tensor) -> Callable:
    from torch_fidelity import calculate_metrics

    def score() -> Values:
        told = calculate_metrics(
            input1=Tensors(fake), input2=Tensors(real), isc=True, fid=True, kid=True,
            feature_extractor="inception-v3-compat", feature_extractor_weights_path=weights,
            kid_subsets=SUBSETS, kid_subset_size=min(SUBSET_SIZE, len(fake)), batch_size=BATCH,
            cuda=False, cache=False, verbose=False,
        )  # fmt: skip
        return {"fid": told["frechet_inception_distance"],
                "kid": told["kernel_inception_distance_mean"],
                "is": told["inception_score_mean"]}  # fmt: skip

    return score


def torchmetrics(weights: str, fake: Tensor, real: Tensor) -> Callable:
    from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    def net(layer: str) -> nn.Module:
        return NoTrainInceptionV3("inception-v3-compat", [layer], weights)

    fid = FrechetInceptionDistance(net("2048"), antialias=False)
    kid = KernelInceptionDistance(
        net("2048"), subsets=SUBSETS, subset_size=min(SUBSET_SIZE, len(fake))
    )
    score_ = InceptionScore(net("logits_unbiased"))

    def score() -> Values:
        for real_too, source in ((True, real), (False, fake)):
            for part in source.split(BATCH):
                fid.update(part, real=real_too)
                kid.update(part, real=real_too)
                if not real_too:
                    score_.update(part)
        return {"fid": float(fid.compute()), "kid": float(kid.compute()[0]),
                "is": float(score_.compute()[0])}  # fmt: skip

    return score


PROGRAMS = {f.__name__: f for f in (ganzoo, torch_fidelity, torchmetrics, bf16)}


def child(args: argparse.Namespace) -> None:
    """One score by one program, told as a line of JSON."""
    torch.set_num_threads(args.threads)
    fake, real = images(args.images, 1), images(args.images, 0)
    score = PROGRAMS[args.program](args.weights, fake, real)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    values = score()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "values": values, "before_gib": before / 2**20,
                      "peak_gib": peak / 2**20}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="fakes, and as many real ones")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", help="of Inception")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.program:
        child(args)
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in args.programs}
    with tempfile.TemporaryDirectory() as folder:
        weights = args.weights
        if weights is None:
            weights = str(Path(folder) / "random.pth")
            random_weights(Path(weights))
        for _ in range(args.rounds):
            for name in args.programs:
                command = [sys.executable, __file__, "--program", name, "--weights", weights]
                command += ["--images", str(args.images), "--threads", str(args.threads)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
                told[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, told[name][-1], flush=True)
    print(f"{machine}, {args.images} fakes and {args.images} real images")
    seconds = {n: statistics.median(r["seconds"] for r in rounds) for n, rounds in told.items()}
    for name, rounds in told.items():
        ratio = statistics.median(
            a["seconds"] / b["seconds"] for a, b in zip(told["ganzoo"], rounds, strict=True)
        )
        print(
            f"{name:15} {seconds[name]:8.1f} s  ganzoo/{name} {ratio:.2f}  peak "
            f"{rounds[0]['peak_gib']:.2f} GiB ({rounds[0]['before_gib']:.2f} before)  "
            + "  ".join(
                f"{k} {rounds[0]['values'][k]:.6g} "
                f"({rounds[0]['values'][k] / told['ganzoo'][0]['values'][k] - 1:+.1e})"
                for k in ("fid", "kid", "is")
            )
        )
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "rounds": told}, indent=1))


if __name__ == "__main__":
    main()
