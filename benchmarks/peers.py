"""Other projects' own training scripts, run as they are for a time: `contest.py` calls this.

No code of a project is copied here. An adapter knows the command line of a script, how many images
an iteration shows to the discriminator, and the name under which the script keeps its generator.
The script runs unchanged; after each step of an optimizer we look at the clock, and when it is time
for samples, take the generator from the script's variables.
"""

import functools
import runpy
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

Fakes = Callable[[int], Tensor]  # number of images -> [n, C, H, W] in [-1, 1]


class TimeIsUp(BaseException):
    """Ends a script; not an Exception, which a script might catch."""


@dataclass(frozen=True)
class Peer:
    """How a project's training script is run.

    Args:
        script: its path in the checkout.
        arguments: (folder of images, folder to write to, seed) -> command line. The images are PNGs
            in one folder for each class, or in trainA, trainB, testA and testB.
        steps, images: steps of optimizers in an iteration, and images in it.
        owns: name of the variable that holds the generator or what contains it.
        sampler: (that variable's value, n) -> n images in [-1, 1], as the project samples.
        prepare: called before the script with the folder of images; for what has to be exchanged.
        pretend: say that there is a GPU, which the script insists on; everything is on the CPU.
        calls: function to call, if the script only defines one.
    """

    script: str
    arguments: Callable[[Path, Path, int], Sequence[str]]
    steps: int
    images: int
    owns: str
    sampler: Callable[[Any, int], Tensor]
    prepare: Callable[[Path], None] = lambda images: None
    pretend: bool = False
    calls: str = ""


# -- the adapters ----------------------------------------------------------------------------------


def examples_fakes(generator: Any, n: int) -> Tensor:
    return torch.cat([generator(torch.randn(100, 100, 1, 1)) for _ in range(-(-n // 100))])[:n]


def zoo_prepare(images: Path) -> None:
    """Its average has an attribute `module` only on GPUs, and one line forgets that."""
    from models.progressive_gan import ProgressiveGAN

    build = ProgressiveGAN.buildAvG

    def build_average(self: Any) -> None:
        build(self)
        self.avgG.__dict__["module"] = self.avgG

    ProgressiveGAN.buildAvG = build_average


def junyanz_prepare(images: Path) -> None:
    """Its CycleGAN asks for an option that no parser has, and takes data that it is not given."""
    from models.cycle_gan_model import CycleGANModel

    options = CycleGANModel.modify_commandline_options

    def with_amp(parser: Any, is_train: bool = True) -> Any:
        parser = options(parser, is_train)
        parser.set_defaults(amp=False)
        return parser

    CycleGANModel.modify_commandline_options = with_amp
    CycleGANModel.data_dependent_initialize = lambda self, data: None


def zoo_fakes(trainer: Any, n: int) -> Tensor:
    model = trainer.model
    parts = [model.test(model.buildNoiseData(50)[0], getAvG=True) for _ in range(-(-n // 50))]
    return torch.cat(parts)[:n]


def zoo_arguments(model: str, config: str) -> Callable[[Path, Path, int], list[str]]:
    """`config` is the JSON file of a training, without the path of its images."""

    def arguments(images: Path, out: Path, seed: int) -> list[str]:
        torch.manual_seed(seed)
        (folder,) = images.iterdir()
        file = out / "config.json"
        file.write_text(f'{{"pathDB": "{folder}", "config": {config}}}')
        return [model, "--no_vis", "--restart", "-c", str(file), "-d", str(out), "-n", "peer"]

    return arguments


def ajbrock_prepare(images: Path) -> None:
    """Its CIFAR-10 becomes the folder; its Inception moments, for tests that never come, go."""
    import inception_utils
    import utils

    utils.dset_dict["C10"] = lambda root, transform, **_: ImageFolder(str(images), transform)
    inception_utils.prepare_inception_metrics = lambda *_: None


def ajbrock_fakes(sample: Any, n: int) -> Tensor:
    parts: list[Tensor] = []
    while sum(map(len, parts)) < n:
        parts.append(torch.Tensor(sample()[0]))
    return torch.cat(parts)[:n]


def lightweight_fakes(trainer: Any, n: int) -> Tensor:
    latents = torch.randn(n, trainer.GAN.latent_dim)
    parts = [trainer.generate_(trainer.GAN.GE, part) for part in latents.split(50)]
    return torch.cat(parts) * 2 - 1


def junyanz_fakes(model: Any, n: int) -> Tensor:
    """Translations of the first n test images of A."""
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    folder = Path(model.opt.dataroot) / "testA"
    images = [to_tensor(Image.open(path)) * 2 - 1 for path in sorted(folder.iterdir())[:n]]
    return torch.cat([model.netG_A(part) for part in torch.stack(images).split(20)])


# The schedule of pytorch_GAN_zoo's PGAN for 128 px and 1.2 million iterations, and its networks,
# would still be at 4 px; these are the widths of experiment=pggan_emoji, and levels that are as
# long, in proportion to each other, as its own, and end within the time.
ZOO_PGAN = """{
  "depthScales": [64, 64, 64, 32], "dimLatentVector": 64, "miniBatchSize": 16,
  "maxIterAtScale": [240, 480, 480, 100000],
  "alphaNJumps": [0, 30, 30, 30], "alphaSizeJumps": [0, 8, 8, 8, 8]}"""

PEERS = {
    "examples": Peer(
        "dcgan/main.py",
        lambda images, out, seed: ["--dataset", "folder", "--dataroot", str(images), "--outf",
                                   str(out), "--manualSeed", str(seed), "--niter", "1000000"],
        steps=2, images=64, owns="netG", sampler=examples_fakes,
    ),
    "zoo_dcgan": Peer(
        "train.py", zoo_arguments("DCGAN", '{"nEpoch": 1000000}'),
        steps=2, images=16, owns="GANTrainer", sampler=zoo_fakes,
    ),
    "zoo_pgan": Peer(
        "train.py", zoo_arguments("PGAN", ZOO_PGAN),
        steps=2, images=16, owns="GANTrainer", sampler=zoo_fakes, prepare=zoo_prepare,
    ),
    "ajbrock": Peer(  # scripts/launch_cifar_ema.sh, on one device
        "train.py",
        lambda images, out, seed: [
            "--shuffle", "--batch_size", "50", "--num_G_accumulations", "1",
            "--num_D_accumulations", "1", "--num_epochs", "1000000", "--num_D_steps", "4",
            "--G_lr", "2e-4", "--D_lr", "2e-4", "--dataset", "C10", "--G_ortho", "0.0",
            "--G_attn", "0", "--D_attn", "0", "--G_init", "N02", "--D_init", "N02", "--ema",
            "--use_ema", "--ema_start", "1000", "--test_every", "5000000", "--save_every",
            "2000000", "--seed", str(seed), "--base_root", str(out)],
        steps=5, images=200, owns="sample", sampler=ajbrock_fakes, prepare=ajbrock_prepare,
    ),
    "lightweight": Peer(
        "lightweight_gan/cli.py",
        lambda images, out, seed: [
            "--data", str(images), "--results_dir", str(out / "results"), "--models_dir",
            str(out / "models"), "--image_size", "64", "--num_train_steps", "1000000",
            "--seed", str(seed)],
        steps=2, images=40, owns="model", sampler=lightweight_fakes, pretend=True,
        calls="main",
    ),
    "junyanz": Peer(  # CycleGAN of its authors, as the repository of CUT carries it
        "train.py",
        lambda images, out, seed: [
            "--dataroot", str(images), "--model", "cycle_gan", "--no_antialias",
            "--no_antialias_up", "--init_type", "normal", "--gpu_ids", "-1", "--display_id", "-1",
            "--checkpoints_dir", str(out), "--preprocess", "none", "--n_epochs", "1000000",
            "--save_latest_freq", "100000000", "--no_html"],
        steps=2, images=1, owns="model", sampler=junyanz_fakes, prepare=junyanz_prepare,
    ),
}  # fmt: skip


# -- running a script ------------------------------------------------------------------------------


class OnCPU(TorchFunctionMode):
    """Inside, what is sent to a GPU stays on the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        if func is torch.Tensor.to:
            args = tuple("cpu" if is_cuda(arg) else arg for arg in args)
        return func(*args, **kwargs)


def is_cuda(device: Any) -> bool:
    return isinstance(device, str | torch.device) and str(device).startswith("cuda")


def made_ready(peer: Peer) -> None:
    """What today's torch or a CPU needs, for all scripts alike."""
    load, adam = DataLoader.__init__, torch.optim.Adam.__init__
    cross_entropy = F.binary_cross_entropy

    @functools.wraps(load)
    def load_here(self: Any, *args: Any, **kwargs: Any) -> None:
        # All work is done in this process, so that its clock counts all of it.
        load(self, *args, **{**kwargs, "num_workers": 0, "pin_memory": False})

    @functools.wraps(adam)
    def adam_of_floats(self: Any, *args: Any, **kwargs: Any) -> None:
        if "betas" in kwargs:
            kwargs["betas"] = tuple(map(float, kwargs["betas"]))
        adam(self, *args, **kwargs)

    @functools.wraps(cross_entropy)
    def cross_entropy_of_columns(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
        return cross_entropy(input, target.view_as(input), *args, **kwargs)

    F.binary_cross_entropy = cross_entropy_of_columns
    DataLoader.__init__ = load_here  # type: ignore[method-assign]
    torch.optim.Adam.__init__ = adam_of_floats  # type: ignore[method-assign]
    if peer.pretend:
        torch.cuda.is_available = lambda: True
        torch.accelerator.current_device_index = lambda: 0


def variable(name: str) -> Any:
    """The value of a variable of the running script, or of a function that it has called."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename != __file__ and name in frame.f_locals:
            return frame.f_locals[name]
        frame = frame.f_back
    raise LookupError(f"The script has no variable {name}.")


def run(
    peer: Peer,
    checkout: Path,
    images: Path,
    out: Path,
    seed: int,
    marks: Sequence[float],
    at_mark: Callable[[int, float, float, Fakes], None],
) -> None:
    """Run a script until its process has trained for the last of `marks`, in seconds of CPU time.

    The time starts with the first step of an optimizer. At each mark, `at_mark` is called with its
    number, the seconds, the thousands of images that the discriminator was shown, and a function
    that samples; the clock stands still meanwhile.
    """
    made_ready(peer)
    arguments = peer.arguments(images, out, seed)
    sys.path[:0] = [str(checkout), str((checkout / peer.script).parent)]
    peer.prepare(images)
    clock = {"start": 0.0, "steps": 0, "mark": 0}

    def after_step(*_: Any) -> None:
        now = time.process_time()
        clock["start"] = clock["start"] or now
        clock["steps"] += 1
        seconds = now - clock["start"]
        if seconds < marks[int(clock["mark"])] or clock["steps"] % peer.steps:
            return
        owner = variable(peer.owns)

        def fakes(n: int) -> Tensor:
            with torch.no_grad():
                return peer.sampler(owner, n).detach().float()

        kimg = clock["steps"] / peer.steps * peer.images / 1000
        at_mark(int(clock["mark"]), seconds, kimg, fakes)
        clock["mark"] += 1
        if clock["mark"] == len(marks):
            raise TimeIsUp
        clock["start"] += time.process_time() - now

    register_optimizer_step_post_hook(after_step)
    sys.argv = [peer.script, *arguments]
    try:
        with OnCPU():
            found = runpy.run_path(str(checkout / peer.script), run_name="__main__")
            if peer.calls:
                found[peer.calls]()
    except TimeIsUp:
        shutil.rmtree(out, ignore_errors=True)
        return
    raise RuntimeError(f"{peer.script} has ended before the time was up.")
