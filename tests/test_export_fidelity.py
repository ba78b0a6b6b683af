"""The FID of an exported graph by torch-fidelity's own wrapper of ONNX, and the run's by ours."""

from pathlib import Path

import makers.inception
import pytest
import torch
import torch_fidelity
from makers import shared
from makers.tiny import evaluated
from torch import Tensor
from torch.utils.data import Dataset

import ganzoo
from ganzoo.sharing import artifacts

pytestmark = pytest.mark.skipif("onnxruntime" not in artifacts.versions(), reason="needs export")

FAKES, REALS = 12, 16


class Reals(Dataset):
    """The images that ours are compared with."""

    def __init__(self) -> None:
        data = shared.data("dcgan", f"data.source.num={REALS}")
        self.images = data.source.__getitems__(list(range(REALS)))["image"]

    def __len__(self) -> int:
        return REALS

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class Seeds(torch_fidelity.GenerativeModelONNX):
    """The wrapper, given the latents of seeds in place of its noise, and rounding as it asks to."""

    def __init__(self, path: Path, latents: Tensor) -> None:
        super().__init__(str(path), latents.shape[1], "normal", 0)
        self.latents = iter(latents)

    def forward(self, noise: Tensor) -> Tensor:
        images = super().forward(torch.stack([next(self.latents) for _ in noise]))
        return (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def test_torch_fidelity_gives_the_exported_graph_the_fid_of_the_run(
    graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """56 images go through Inception."""
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path))
    weights = tmp_path / "random.pth"
    torch.save(makers.inception.random_inception().state_dict(), weights)
    run = graphs("dcgan").parents[1]
    theirs = torch_fidelity.calculate_metrics(
        input1=Seeds(graphs("dcgan") / "generator.onnx", ganzoo.load(run).latents(range(FAKES))),
        input1_model_num_samples=FAKES,
        input2=Reals(),
        feature_extractor_weights_path=str(weights),
        feature_extractor="inception-v3-compat",
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        batch_size=8,
    )["frechet_inception_distance"]
    ours = evaluated(
        "metrics=standard",
        "metrics/network=inception",
        f"metrics.network.weights={weights}",
        "metrics.scores.kid.subset_size=6",
        "metrics.scores.is.splits=2",
        f"metrics.num_fake={FAKES}",
        f"ckpt={run}",
        "data=synthetic",
        f"data.source.num={REALS}",
        tiny=False,
    ).values["fid"]
    print(ours, theirs, ours / theirs - 1)
    assert theirs > 0
    assert ours == pytest.approx(theirs, rel=1e-4)
