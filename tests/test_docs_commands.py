"""Every command line of README.md and docs/ runs, with tiny networks and few images.

The simplest of each command runs as a process, the others by `ganzoo.cli.main`, which runs a
module as `python -m` does, but without seconds of imports. What cannot run here is listed, with the
reason.
"""

import logging
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
import torch
from conftest import run
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from makers import shared
from makers.hub_server import TOKEN, serving
from makers.pages import ROOT, USER_PAGES, arguments, command_lines
from makers.photos import crops
from makers.tiny import TINY_METRICS, TinyExtractor
from PIL import Image

from ganzoo import cli
from ganzoo.config import CONF
from ganzoo.data.packing import write_pack
from ganzoo.data.sources.folder import Folder

LINES = list(dict.fromkeys(line for page in USER_PAGES for line in command_lines(page)))

# Lines that do not run here, by what they need. Their keys are composed.
ELSEWHERE = {
    "several GPUs or machines; tests/test_processes.py trains in two processes": [
        "python -m ganzoo.train trainer=ddp trainer.devices=4",
        "torchrun --nproc-per-node 4 -m ganzoo.train trainer=ddp",
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-id gan "
        "--rdzv-endpoint FIRST_MACHINE:29400 -m ganzoo.train trainer=ddp run_dir=/shared/run",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --standalone --nproc-per-node 4 "
        "--max-restarts 3 -m ganzoo.train trainer=ddp run_dir=runs/restarted",
        "torchrun --nproc-per-node 4 -m ganzoo.evaluate ckpt=RUN",
        "torchrun --nproc-per-node 2 -m ganzoo.train -m seed=0,1 trainer=ddp trainer.devices=2",
    ],
    "two processes, 15 seconds: tests/test_resume.py and others run it": [
        "python -m ganzoo.train trainer=ddp trainer.devices=2 trainer.accelerator=cpu",
    ],
    "SLURM; tests/test_cluster.py has a stand-in": [
        "sbatch docs/slurm.sbatch experiment=dcgan_64 data=folder data.root=PHOTOS",
        "sbatch docs/slurm.sbatch experiment=dcgan_64 data=folder data.root=/data/photos",
        "sbatch --nodes=2 docs/slurm.sbatch experiment=dcgan_64 data=folder data.root=/data/photos",
        "python -m ganzoo.train -m seed=0,1 hydra/launcher=submitit_slurm "
        "hydra.launcher.gpus_per_node=1 hydra.launcher.timeout_min=600",
        "python -m ganzoo.train -m seed=0,1 hydra/launcher=submitit_slurm "
        "hydra.launcher.tasks_per_node=4 hydra.launcher.gpus_per_node=4 trainer=slurm",
    ],
    "workers that take a minute to start; tests/test_sweeps.py starts them": [
        "python -m ganzoo.train -m seed=0,1,2,3 hydra/launcher=joblib hydra.launcher.n_jobs=2",
        "python -m ganzoo.train -m seed=0,1 hydra/launcher=submitit_local",
    ],
    "a process without end; tests/test_runs_command.py ends it": ["python -m ganzoo.runs --watch"],
    "a program that npm downloads; tests/test_playground.py makes pages without it": [
        "python -m ganzoo.prepare playground",
        "python -m ganzoo.prepare playground --from FOLDER",
        "python -m ganzoo.playground RUN",
        "python -m ganzoo.playground RUN site",
        "python -m ganzoo.playground RUN page.html",
        "npm pack onnxruntime-web@1.30.0",
    ],
    "an account or a server of another program": [
        "wandb login",
        "wandb sync RUN/wandb/offline-run-*",
        "tensorboard --logdir runs",
    ],
    "an environment of its own": [
        "make train",
        "make test",
        "make setup",
        "pip install -e .",
        'pip install -e ".[workspace]"',
    ],
}
LISTED = [line for lines in ELSEWHERE.values() for line in lines]

# Lines that run and cannot succeed here: what they have to say about that.
FAILING = {
    "python -m ganzoo.prepare weights inception": r"inception\S+ could not be downloaded",
    "python -m ganzoo.workspace ENTITY/PROJECT": "There is no wandb API key|did not save",
    "python -m ganzoo.workspace ENTITY/PROJECT --group augment": "API key|did not save",
    "python -m ganzoo.train model=biggan_deep data=cifar10 image_size=32": r"source\.download=true",
    "python -m ganzoo.evaluate ckpt=RUN data=cifar10 data.source.split=test": r"download=true",
    "python -m ganzoo.doctor celeba root=FOLDER crop=center160": "only 8 of CelebA's 202,599",
    # Of other projects: tests/test_*_import*.py make such files.
    "python -m ganzoo.prepare import weights/BigGAN_I128 biggan.ckpt": "no file weights",
    "python -m ganzoo.prepare import weights/BigGAN_I128/G_best0.pth biggan.ckpt": "G_best0",
    "python -m ganzoo.prepare import biggan-deep-256/pytorch_model.bin deep.ckpt": "pytorch_model",
    "python -m ganzoo.prepare import horse2zebra.pth horse2zebra.ckpt": "no file horse",
    "python -m ganzoo.prepare import checkpoints/maps_cyclegan maps.ckpt": "no file ch",
    "python -m ganzoo.prepare import celebaHQ.pth celebaHQ.ckpt": "no file celebaHQ",
    "python -m ganzoo.prepare import network-final.pkl official.ckpt": "no file network",
    "python -m ganzoo.prepare import FILE_OR_FOLDER ours.ckpt": "no file FILE_OR_FOLDER",
}
RUNNING = [line for line in LINES if line not in (*LISTED, *FAILING)]
SIMPLE = sorted(RUNNING, key=lambda line: ("--onnx" in line, len(line)), reverse=True)
FIRST = list({arguments(line)[0]: line for line in SIMPLE}.values())  # the simplest of each

# -- the folder in which the lines are run: it has what they name ----------------------------------

SIDE = 36  # from which windows of 32x32 can be cropped


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, data sets, runs and checkpoints under the names that the pages use."""
    root = tmp_path_factory.mktemp("pages")
    noise = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    photos = [Image.fromarray(pixels) for pixels in noise]
    for name in (
        "PHOTOS", "PAINTINGS", "FACES", "FOLDER", "IMAGES", "IMAGENET/train", "horses", "zebras",
    ):  # fmt: skip
        for i, photo in enumerate(photos):
            folder = root / name / ("n01440764", "n01443537")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            photo.save(folder / f"{i}.{'JPEG' if 'NET' in name else 'png'}")
    crops(1)[0].save(root / "photo.jpg")
    for folder in ("FOLDER_OR_ZIP", "CELEBA"):
        (root / folder).mkdir()
        for i, photo in enumerate(crops(8), 1):
            photo.save(root / folder / f"{i:06d}.jpg")
    for part in ("trainA", "trainB", "testA", "testB"):
        (root / "datasets" / "horse2zebra" / part).mkdir(parents=True)
        for i, photo in enumerate(photos):
            photo.save(root / "datasets" / "horse2zebra" / part / f"{i}.jpg")
    (root / "fashion").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    for kind, array in [("images-idx3", images), ("labels-idx1", images[:, 0, 0] % 10)]:
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        file = root / "fashion" / f"train-{kind}-ubyte"
        file.write_bytes(header + array.tobytes())
    for name in ("photos64", "A286", "B286"):
        write_pack(Folder(str(root / "PHOTOS"), SIDE), root / name, workers=0)
    runs = [("RUN", "dcgan"), ("TRANSLATING", "cyclegan"), ("runs/dcgan/emoji/TIME", "dcgan"),
            ("runs/sweeps/TIME/one", "dcgan")]  # fmt: skip
    for name, kind in runs:
        of = (
            []
            if kind == "cyclegan"
            else ["data=folder", f"data.root={root}/PHOTOS", "data.workers=0"]
        )
        (root / name).mkdir(parents=True)
        shared.write(root / name / "last.ckpt", kind, *of, f"run_dir={root / name}")
    for name, kind in [("horse2zebra", "cyclegan"), ("deep", "biggan_deep"), ("celebaHQ", "pggan")]:
        shared.write(root / f"{name}.ckpt", kind)
    transposed = [(8, 32, 1, 0), (32, 16, 2, 1), (16, 8, 2, 1), (8, 4, 2, 1), (4, 3, 2, 1)]
    state = {}
    for place, (inputs, outputs, stride, padding) in enumerate(transposed):
        layer = torch.nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
        state[f"main.{3 * place}.weight"] = layer.weight.data
        if place < 4:
            norm = torch.nn.BatchNorm2d(outputs).state_dict()
            state |= {f"main.{3 * place + 1}.{key}": value for key, value in norm.items()}
    torch.save(state, root / "netG_epoch_24.pth")
    return root


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder, as the current one, and a Hub on this machine."""
    folder = copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing answers
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield folder


# -- tiny keys ------------------------------------------------------------------------------------

NETWORKS = {
    "dcgan": ["model.nz=8", "model.generator.ngf=4", "model.discriminator.ndf=4"],
    "pggan": shared.PGGAN,
    "cyclegan": [key for key in shared.KINDS["cyclegan"] if key.startswith("model.")],
    "biggan": [f"model.{network}.{key}" for network in ("generator", "discriminator")
               for key in ("ch=4", "attention=[8]")],
}  # fmt: skip
OFF = ("ticks", "grid", "logits", "metrics", "accuracy", "spectra", "sentinel", "page")
FEW = ["trainer=cpu", "logger=csv", "data.workers=0", *(f"callbacks.{name}=null" for name in OFF)]
SHORT = ["image_size=32", "batch_size=8", "total_kimg=0.016"]
SCORED = ["metrics=quick", *TINY_METRICS, "callbacks.metrics.every_kimg=0.016"]


def tiny(given: list[str]) -> list[str]:
    """The keys of a training command, around which others make the run a short one."""
    text = " ".join(given)
    kind = next((kind for kind in NETWORKS if f"={kind}" in text), "dcgan")
    if "=dcgan,biggan" in text:  # networks that both have
        kind = ""
    keys = [*FEW, *NETWORKS.get(kind, [])]
    if given and not re.search("data|experiment|model=", text):  # quicker than the smileys
        keys += ["data=synthetic", "data.source.num=40"]
    if "imagenet" in text.lower() or "small_data" in text:
        keys += ["model.classes=2"]
    if "fashion" in text:
        keys += ["data.root=fashion"]
    short = SHORT
    if "sweeper=search" in text:
        keys, short = [key for key in keys if key != "callbacks.metrics=null"], [*SHORT, *SCORED]
        short.append("hydra.sweeper.n_trials=2")
    given_keys = [key.partition("=")[0].lstrip("+") for key in given]
    above = {*given_keys, *(".".join(key.split(".")[:n]) for key in given_keys for n in (1, 2))}
    keys = [key for key in keys if key.partition("=")[0] not in above]
    swept = [key.partition("=")[0] for key in given if is_sweep(key)]
    given = [one_of(key) if key.partition("=")[0] in swept[1:] else key for key in given]
    options = [word for word in given if word.startswith("-")]  # have to come first
    given = [word for word in given if word not in options]
    return [*options, *keys, *given, *(k for k in short if k.partition("=")[0] not in swept)]


def is_sweep(key: str) -> bool:
    return "=" in key and OverridesParser.create().parse_override(key).is_sweep_override()


def words(line: str) -> tuple[str, list[str]]:
    """The command and the arguments of a line, made tiny; what it writes is removed before."""
    name, given = arguments(line)
    if name == "train" and "--help" not in given:
        given = tiny(given)
    if name == "evaluate":
        given = [*given, *TINY_METRICS]
        if "data=cifar10" in line:
            given.append("image_size=32")
    if name == "translate" or {"--directions", "--samples"} & {*given}:
        given = ["TRANSLATING" if word == "RUN" else word for word in given]
    given = ["run_dir=new" if word == "run_dir=RUN" else word for word in given]
    if "celeba" in given:
        given = ["root=CELEBA" if word == "root=FOLDER" else word for word in given]
    if "horse2zebra data.root" in line:
        given = [word.replace("FOLDER", "datasets") for word in given]
    if (
        name in ("doctor", "prepare")
        and "weights" not in given
        and {"pack", "doctor"} & {name, *given}
    ):
        given = [*given, "--workers", "0"]
    for place in ("pack", "--out"):  # where this line writes: not what a later one reads
        if place in given and name in ("prepare", "sample"):
            rmtree(given[given.index(place) + 1 + (name == "prepare")], ignore_errors=True)
    return name, given


# -- tests ----------------------------------------------------------------------------------------


@pytest.fixture
def called(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[object, str]]:
    """Run a line in this process: (exit code, all that it wrote)."""

    def call(line: str) -> tuple[object, str]:
        name, given = words(line)
        root, code = logging.getLogger(), 0
        handlers, level, before = root.handlers[:], root.level, HydraConfig.instance().cfg
        signals = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
        monkeypatch.setattr("ganzoo.metrics.extractors.auto", TinyExtractor)
        # torch keeps writing to what was the standard error when it first exported a graph.
        monkeypatch.setattr(logging, "raiseExceptions", False)
        monkeypatch.setattr(sys, "argv", ["ganzoo", name, *given])
        monkeypatch.setattr(sys, "path", sys.path[:])
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        finally:
            root.handlers[:], HydraConfig.instance().cfg = handlers, before
            root.setLevel(level)
            for number, handler in signals.items():
                signal.signal(number, handler)
        written = capsys.readouterr()
        return code, f"{written.out}{written.err}{code}"

    return call


def test_what_is_listed_is_in_the_pages() -> None:
    """A line that has gone, or that runs, has to leave the lists."""
    for line in (*LISTED, *FAILING):
        assert line in LINES, line
    assert len(set(LISTED) | set(FAILING)) == len(LISTED) + len(FAILING)
    for line in RUNNING:
        assert arguments(line)[0] in cli.COMMANDS, f"{line} is no command of ganzoo: list it"
    assert len(RUNNING) > 60


@pytest.mark.parametrize("line", FIRST)
def test_a_command_of_the_pages_runs_as_a_process(line: str, here: Path) -> None:
    name, given = words(line)
    command = [sys.executable, "-m", f"ganzoo.{name}", *given]
    ended = run(command, cwd=here, env=dict(os.environ))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.filterwarnings("ignore::RuntimeWarning:runpy")
@pytest.mark.parametrize("line", [line for line in RUNNING if line not in FIRST])
def test_a_command_of_the_pages_runs(line: str, called: Callable) -> None:
    if "hf:USER/NAME" in line:  # as README does, in this order
        code, output = called("python -m ganzoo.export RUN --push USER/NAME --private")
        assert not code, output
    code, output = called(line)
    assert not code, output
    assert "Traceback" not in output


@pytest.mark.filterwarnings("ignore::RuntimeWarning:runpy")
@pytest.mark.parametrize("line", FAILING)
def test_a_command_that_needs_what_is_not_here_says_so(line: str, called: Callable) -> None:
    code, output = called(line)
    assert code, f"{line} succeeds: take it out of FAILING"
    assert re.search(FAILING[line], output), output
    assert "Traceback" not in output


def one_of(override: str) -> str:
    """An override without sweep: its first value."""
    parsed = OverridesParser.create().parse_override(override)
    if parsed.is_interval_sweep():
        return f"{parsed.key_or_group}={parsed.value().start}"
    if parsed.is_sweep_override():
        return f"{parsed.key_or_group}={next(parsed.sweep_string_iterator())}"
    return override


@pytest.mark.parametrize(
    "line", [line for line in LISTED if arguments(line)[0] in ("train", "evaluate")]
)
def test_keys_of_the_others_compose(line: str) -> None:
    name, given = arguments(line)
    overrides = [one_of(o) for o in cli.for_hydra(given) if o not in ("-m", "--help")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(name, overrides, return_hydra_config=True).batch_size


def test_make_has_the_targets() -> None:
    for line in LINES:
        if line.startswith("make "):
            command = ["make", "--dry-run", *line.split()[1:]]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
