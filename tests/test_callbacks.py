"""What a run leaves in its folder."""

import csv
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import checkpoint
from makers.tiny import PAGE, config
from PIL import Image

from ganzoo import load
from ganzoo.callbacks import grid as grid_module
from ganzoo.callbacks.grid import SampleGrid, readable
from ganzoo.callbacks.periods import kimg_name
from ganzoo.data.pixels import to_uint8
from ganzoo.engine.gan import GAN
from ganzoo.loggers.csv import read_rows
from ganzoo.pictures.curves import curves_of
from ganzoo.pictures.grids import GAP
from ganzoo.train import train_config as train

PICTURES = [f"samples/000000.{at:03d}.png" for at in (0, 40, 80, 120)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GAN]:
    folder = tmp_path_factory.mktemp("run")
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    gan = train(config(f"run_dir={folder}", "total_kimg=0.12", "callbacks.grid.seeds=5", PAGE))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    return folder, gan


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_run_folder_holds_what_was_promised_and_no_more(finished) -> None:
    folder, _ = finished
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert found == sorted(
        [
            "config.yaml",
            "curves.png",
            "growth.gif",
            "index.html",
            "done",
            "last.ckpt",
            "metrics.csv",
            "progress.png",
            "state.json",
            "train.log",
            *PICTURES,
        ]
    )


def test_config_yaml_is_the_resolved_config(finished) -> None:
    folder, gan = finished
    text = (folder / "config.yaml").read_text()
    assert "${" not in text
    assert yaml.safe_load(text) == gan.config == checkpoint(folder)["ganzoo"]["config"]
    assert gan.config is not None
    assert gan.config["model"]["generator"]["image_size"] == 16
    assert gan.config["data"]["batch_size"] == 8


def test_the_grid_shows_the_seeds(finished) -> None:
    folder, _ = finished
    picture = np.asarray(Image.open(folder / PICTURES[-1]))
    tiles = to_uint8(load(folder).sample([0, 1, 2, 3, 4])).permute(0, 2, 3, 1).numpy()
    assert picture.shape == (2 * 16 + GAP, 3 * 16 + 2 * GAP, 3)
    for i, tile in enumerate(tiles):
        y, x = i // 3 * (16 + GAP), i % 3 * (16 + GAP)
        assert (picture[y : y + 16, x : x + 16] == tile).all()
    first = np.asarray(Image.open(folder / PICTURES[0]))
    assert (first != picture).any(), "the first grid was made before training"


def test_progress_png_has_a_row_for_each_grid(finished) -> None:
    folder, _ = finished
    sheet = Image.open(folder / "progress.png")
    scale, margin = 3, 80  # 16 pixels are enlarged to 48
    assert sheet.height == (48 + GAP) * len(PICTURES)
    assert sheet.width == margin + (3 * (16 + GAP) - GAP) * scale
    for row, name in enumerate(PICTURES):
        grid = Image.open(folder / name)
        strip = np.asarray(grid)[:16].repeat(scale, 0).repeat(scale, 1)
        top = row * (48 + GAP)
        assert (np.asarray(sheet)[top : top + 48, margin:] == strip).all(), name
        label = np.asarray(sheet)[top : top + 48, :margin]
        assert (label < 128).any(), "its name is beside it"


def test_ticks_have_finite_numbers_at_their_images(finished) -> None:
    folder, _ = finished
    table = rows(folder)
    assert [row["images_seen"] for row in table] == ["40", "80", "120"]
    for row in table:
        assert all(math.isfinite(float(value)) for value in row.values())
        assert float(row["speed/images_per_second"]) > 0
        assert float(row["speed/images_per_second"]) * float(
            row["speed/sec_per_kimg"]
        ) == pytest.approx(1000)
        assert 0 < float(row["speed/data_wait_share"]) < 1
        assert 0 < float(row["speed/peak_memory_gib"]) < 100
        assert float(row["lr/generator"]) == float(row["lr/discriminator"]) == 0.0008
    curves = curves_of(read_rows(folder / "metrics.csv"))
    assert set(curves) == {
        *("losses/adversarial_loss", "losses/d_loss", "losses/g_loss"),
        *("logits/real", "logits/fake"),
        *("gradient_norms/generator", "gradient_norms/discriminator"),
        *("weight_norms/generator", "weight_norms/discriminator"),
    }
    assert curves["losses/d_loss"] == (
        [0.04, 0.08, 0.12],
        [float(row["losses/d_loss"]) for row in table],
    )
    assert Image.open(folder / "curves.png").height > 3 * 200


def test_train_log_has_a_line_for_each_tick(finished) -> None:
    lines = (finished[0] / "train.log").read_text().splitlines()
    assert all(line[:4].isdecimal() and line[10] == " " for line in lines), "each has its time"
    ticks = [line for line in lines if " kimg " in line and "sec_per_kimg" in line]
    assert len(ticks) == 3
    assert all("d_loss" in line and "left 00:00" in line for line in ticks[-1:])
    for number, line in enumerate(ticks, 1):
        assert f"tick {number}  kimg {0.04 * number:.1f}  time 00:" in line
    assert any("10 classes" in line for line in lines)


def test_a_tick_is_the_mean_of_its_iterations(tmp_path: Path) -> None:
    cut = ("total_kimg=0.048", "~callbacks.grid")
    train(config(f"run_dir={tmp_path / 'a'}", *cut, "callbacks.ticks.every_kimg=0.008"))
    train(config(f"run_dir={tmp_path / 'b'}", *cut, "callbacks.ticks.every_kimg=0.024"))
    fine, coarse = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert [len(fine), len(coarse)] == [6, 2]
    for name in ("losses/d_loss", "losses/g_loss", "gradient_norms/generator"):
        for i in range(2):
            mean = sum(float(row[name]) for row in fine[3 * i : 3 * i + 3]) / 3
            assert float(coarse[i][name]) == pytest.approx(mean, rel=1e-5)


def test_raw_grids_lie_beside_the_others(tmp_path: Path) -> None:
    keys = ("every_kimg=1", "seeds=[3,1]", "raw=true")
    raw = [f"callbacks.grid.{key}" for key in keys]
    train(config(f"run_dir={tmp_path}", "total_kimg=0.016", *raw))
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [
        *("000000.000-raw.png", "000000.000.png"),
        *("000000.016-raw.png", "000000.016.png"),
    ]
    picture = np.asarray(Image.open(tmp_path / "samples" / "000000.016-raw.png"))
    tiles = to_uint8(load(tmp_path).sample([3, 1], raw=True)).permute(0, 2, 3, 1).numpy()
    assert (picture[:, :16] == tiles[0]).all()
    assert (picture[:, 16 + GAP :] == tiles[1]).all()


def test_names_sort_and_do_not_collide() -> None:
    assert kimg_name(10_048, 10, 100.0) == "000010"
    assert kimg_name(400, 10, 0.4) == "000000.400"
    assert kimg_name(2_500, 2.5, 100) == "000002.500"
    for periods in ((1, 2000), (0.5, 2000)):
        names = [kimg_name(seen, *periods) for seen in range(0, 2_000_000, 1000)]
        assert names == sorted(set(names))


def test_every_callback_can_be_left_out(tmp_path: Path) -> None:
    off = [f"~callbacks.{name}" for name in ("ticks", "grid", "save", "bar")]
    train(config(f"run_dir={tmp_path}", "total_kimg=0.016", *off))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.yaml", "train.log", "state.json", "done")
    }


def test_the_film_reads_a_hundred_of_many_grids(tmp_path: Path, monkeypatch, caplog) -> None:
    (tmp_path / "samples").mkdir()
    for kimg in range(950):
        Image.new("L", (8, 8), kimg % 251).save(tmp_path / "samples" / f"{kimg:06}.png")
    (tmp_path / "samples" / "000020.png").write_bytes(b"torn")
    opened = []

    def counted(path: Path) -> bool:
        opened.append(path)
        return readable(path)

    monkeypatch.setattr(grid_module, "readable", counted)
    SampleGrid()._write_film(tmp_path)
    assert len(opened) <= 101
    assert "growth.gif leaves out 000020.png" in caplog.text
    with Image.open(tmp_path / "growth.gif") as film:
        assert film.n_frames == len(opened) - 1
        film.seek(film.n_frames - 1)
        assert film.convert("L").getpixel((4, 4)) == 949 % 251
