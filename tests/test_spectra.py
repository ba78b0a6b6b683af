"""Singular values are exact, and the same after a resume."""

from pathlib import Path

import pytest
import torch
from conftest import checkpoint
from makers.tiny import PlainDiscriminator, PlainGenerator, adam, config
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ganzoo.callbacks.spectra import COLUMNS, read, singular_values, weight_matrices
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.loggers.csv import MetricsCSV
from ganzoo.train import train_config as train

OFTEN = "callbacks.spectra={_target_:ganzoo.callbacks.spectra.Spectra,every_kimg:0.024}"


def exact(matrix: Tensor) -> Tensor:
    values = torch.linalg.svdvals(matrix.double())[:3]
    return nn.functional.pad(values, (0, 3 - len(values)))


@pytest.mark.parametrize("shape", [(64, 576), (576, 64), (300, 300), (1, 500), (500, 2), (3, 3)])
@pytest.mark.parametrize("scale", [0, 100])
def test_values_are_those_of_a_decomposition(shape, scale) -> None:
    """Also with one direction that dominates all others."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator)
    matrix += scale * torch.outer(torch.randn(shape[0], generator=generator), torch.ones(shape[1]))
    torch.testing.assert_close(singular_values(matrix), exact(matrix), rtol=1e-6, atol=0)


def test_matrices_without_rank_or_reason() -> None:
    assert singular_values(torch.zeros(20, 30)).tolist() == [0, 0, 0]
    one = torch.outer(torch.arange(1.0, 21), torch.ones(30))
    expected = torch.tensor([float(one.norm()), 0, 0], dtype=torch.float64)
    torch.testing.assert_close(singular_values(one), expected, atol=1e-3, rtol=1e-5)
    broken = torch.ones(20, 30)
    broken[3, 4] = torch.nan
    assert singular_values(broken).isinf().all()


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.conv = nn.Conv2d(3, 5, 3)
        self.up = nn.ConvTranspose2d(3, 5, 4)
        self.table = nn.Embedding(7, 2)
        self.normal = spectral_norm(nn.Conv2d(3, 5, 3), n_power_iterations=50)
        self.norm = nn.BatchNorm2d(5)


def test_weights_are_matrices_of_outputs_and_rest() -> None:
    gan = GAN(Layers(), PlainDiscriminator(), {"generator": adam()}, total_kimg=1)
    gan.generator.to(memory_format=torch.channels_last)
    found = dict(weight_matrices(gan))
    assert {name: tuple(m.shape) for name, m in found.items() if name[0] == "g"} == {
        "generator.linear.weight": (4, 6),
        "generator.conv.weight": (5, 27),
        "generator.up.weight": (5, 48),
        "generator.table.weight": (7, 2),
        "generator.normal.weight": (5, 27),
    }
    weight = gan.generator.up.weight.detach().permute(1, 0, 2, 3).reshape(5, 48)
    assert torch.equal(found["generator.up.weight"].detach(), weight)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GAN]:
    folder = tmp_path_factory.mktemp("run")
    return folder, train(config(f"run_dir={folder}", "~callbacks.grid", OFTEN))


def test_the_table_is_of_the_start_all_looks_and_the_end(finished) -> None:
    folder, gan = finished
    rows = read(folder / "spectra.csv")
    weights = [name for name, *_ in weight_matrices(gan)]
    assert [(int(row["images_seen"]), row["weight"]) for row in rows] == [
        (seen, weight) for seen in (0, 24, 48, 72, 80) for weight in weights
    ]
    last = {row["weight"]: row for row in rows[-len(weights) :]}
    for name, matrix in weight_matrices(gan):
        told = torch.tensor([float(last[name][f"sigma_{i}"]) for i in (1, 2, 3)])
        torch.testing.assert_close(told.double(), exact(matrix), rtol=1e-5, atol=1e-6)


def test_the_picture_is_drawn(finished) -> None:
    picture = Image.open(finished[0] / "spectra.png")
    assert picture.width > 1000
    assert len(set(picture.convert("RGB").getdata())) > 100


def test_loggers_get_them_and_metrics_csv_is_spared(tmp_path, monkeypatch) -> None:
    told = []
    monkeypatch.setattr(
        "ganzoo.loggers.tensorboard.TensorBoard.log_metrics",
        lambda _, metrics, step=None: told.append((step, metrics)),
    )
    train(config(f"run_dir={tmp_path}", "~callbacks.grid", OFTEN, "logger=tensorboard"))
    seen = [step for step, metrics in told if "spectra/generator.image.0.weight/1" in metrics]
    assert seen == [0, 24, 48, 72, 80]
    assert "spectra" not in (tmp_path / "metrics.csv").read_text()
    assert MetricsCSV(tmp_path).name == "csv"


def test_a_resumed_run_logs_what_a_straight_one_does(finished, tmp_path) -> None:
    for total in (0.04, 0.08):
        train(config(f"run_dir={tmp_path}", "~callbacks.grid", OFTEN, f"total_kimg={total}"))
    straight, resumed = (read(folder / "spectra.csv") for folder in (finished[0], tmp_path))
    ends = {"40"}  # the first part had an end, and its rows are kept
    assert [row for row in resumed if row["images_seen"] not in ends] == straight


def test_a_run_without_it_has_the_same_weights(finished, tmp_path) -> None:
    train(config(f"run_dir={tmp_path}", "~callbacks.grid"))
    one, other = checkpoint(finished[0])["state_dict"], checkpoint(tmp_path)["state_dict"]
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_another_file_is_not_written_to(tmp_path) -> None:
    (tmp_path / "spectra.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="was not written by ganzoo"):
        train(config(f"run_dir={tmp_path}", "~callbacks.grid", OFTEN))
    assert COLUMNS[0] == "images_seen"


def test_weight_norms_are_logged(tmp_path) -> None:
    gan = train(config(f"run_dir={tmp_path}", "~callbacks.grid"))
    from ganzoo.loggers.csv import read_rows

    last = read_rows(tmp_path / "metrics.csv")[-1]
    for name in ("generator", "discriminator"):
        parameters = gan.get_submodule(name).parameters()
        norm = torch.cat([p.detach().flatten() for p in parameters]).norm()
        assert float(last[f"weight_norms/{name}"]) == pytest.approx(float(norm), rel=1e-5)


def test_generators_without_matrices() -> None:
    gan = GAN(PlainGenerator(), nn.Identity(), {"generator": adam()}, total_kimg=1)
    assert [name for name, *_ in weight_matrices(gan)] == [
        "generator.layers.0.weight",
        "generator.layers.2.weight",
    ]
