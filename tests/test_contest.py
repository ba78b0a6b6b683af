"""The contest of benchmarks/ in small: a stranger's script and ours train, stop, and are scored."""

import json
import sys
from pathlib import Path

import pytest
from makers import warm
from PIL import Image

CONTEST = Path(__file__).parent.parent / "benchmarks" / "contest.py"

# Asks for a GPU, worker processes and betas that today's Adam refuses, as old scripts do.
SCRIPT = """
import argparse
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

parser = argparse.ArgumentParser()
for name in ("dataset", "dataroot", "outf", "manualSeed", "niter"):
    parser.add_argument("--" + name)
options = parser.parse_args()
torch.manual_seed(int(options.manualSeed))

class Generator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.color = torch.nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, z):
        return self.color.tanh() + 0 * z.mean(1, keepdim=True).expand(-1, 3, 64, 64)

netG = Generator().cuda()
other = torch.nn.Linear(1, 1).to("cuda")
steps = [torch.optim.Adam(n.parameters(), lr=0.5, betas=[0, 0.9]) for n in (netG, other)]
for epoch in range(int(options.niter)):
    for images, _ in DataLoader(ImageFolder(options.dataroot, ToTensor()), 4, num_workers=2):
        z = torch.randn(4, 100, 1, 1, device="cuda")
        (netG(z) + 1).square().mean().backward()
        other(torch.ones(1, 1)).sum().backward()
        for step in steps:
            step.step()
            step.zero_grad()
"""

TINY = [
    "model.generator.ngf=2", "model.discriminator.ndf=2", "model.nz=4", "batch_size=4",
    "total_kimg=100", "trainer=cpu",
]  # fmt: skip


def contest(folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(CONTEST), "emoji64", *arguments, "--out", str(folder)]
    done = warm.run(command, 120, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contest")
    script = folder / "peers" / "examples" / "dcgan" / "main.py"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT)
    for kind in ("images/00", "real", "floor"):
        (folder / "emoji64" / kind).mkdir(parents=True)
        for value in range(8):
            path = folder / "emoji64" / kind / f"{value}.png"
            Image.new("RGB", (64, 64), (30 * value, 255 - value, 128)).save(path)
    for program in ("examples", "ganzoo"):
        contest(folder, "--program", program, "--peers", str(folder / "peers"), "--seeds", "3",
                "--minutes", "0.01", "--num", "6", "--keys", *TINY)  # fmt: skip
    return folder / "emoji64"


@pytest.mark.parametrize("program", ["examples", "ganzoo"])
def test_a_program_trains_until_its_time_is_up(made: Path, program: str) -> None:
    record = json.loads((made / program / "3" / "record.json").read_text())
    minutes = [row["minutes"] for row in record]
    assert all(m >= 0.01 * share for m, share in zip(minutes, (0.25, 0.5, 1), strict=True))
    assert minutes == sorted(minutes)
    assert minutes[-1] < 0.02
    kimg = [row["kimg"] for row in record]
    assert 0 < kimg[0] < kimg[1] < kimg[2]
    for mark in range(3):
        files = sorted((made / program / "3" / str(mark)).iterdir())
        assert [f.name for f in files] == [f"{i:05d}.png" for i in range(6)]
        assert {Image.open(f).size for f in files} == {(64, 64)}


def test_samples_are_those_of_the_generator_at_that_time(made: Path) -> None:
    """The script's generator turns black."""
    brightness = [Image.open(made / f"examples/3/{mark}/00000.png").getpixel((0, 0))[0]
                  for mark in range(3)]  # fmt: skip
    assert brightness[0] <= 128
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[-1] < 5


def test_scores_by_two_programs_agree(made: Path) -> None:
    contest(made.parent, "--score")
    for program in ("examples", "ganzoo"):
        last = json.loads((made / program / "3" / "scores.json").read_text())[-1]
        assert last["fd_effnet"] == pytest.approx(last["fidelity_fd"], rel=1e-3)
        assert last["fd_effnet"] > 1
    told = contest(made.parent, "--table", str(made.parent / "pictures"))
    assert "| examples | 1 |" in told
    assert "| ganzoo | 1 |" in told
    floor = json.loads((made / "floor.json").read_text())  # the same images
    assert floor["fd_effnet"] == pytest.approx(0, abs=0.01)
    assert floor["fidelity_fd"] == pytest.approx(0, abs=0.01)
    assert "| other real images |" in told
    assert {p.name for p in (made.parent / "pictures").iterdir()} == {
        "emoji64.png", "emoji64-curves.png"}  # fmt: skip
