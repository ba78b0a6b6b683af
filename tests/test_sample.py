"""The sampling command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from makers.tiny import PlainDiscriminator, PlainGenerator, config
from PIL import Image, ImageSequence

from ganzoo import UserError, load
from ganzoo.engine.kinds import FromSeeds
from ganzoo.pictures.grids import GAP
from ganzoo.pictures.sheets import slerp, walk
from ganzoo.sample import main
from ganzoo.train import train_config as train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(config(f"run_dir={folder}", "~callbacks.ticks", "~callbacks.grid"))
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_grid_holds_the_seeds_in_rows(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "grid.png"
    main([str(run_dir), "--seeds", "5,0-2", "--columns", "3", "--scale", "1", "--out", str(out)])
    picture, images = pixels(out), load(run_dir).sample([5, 0, 1, 2])
    assert picture.shape == (2 * 16 + GAP, 3 * 16 + 2 * GAP, 3)
    for i, image in enumerate(images):
        y, x = i // 3 * (16 + GAP), i % 3 * (16 + GAP)
        expected = (image.permute(1, 2, 0) * 127.5 + 127.5).numpy()
        assert np.abs(picture[y : y + 16, x : x + 16] - expected).max() <= 0.51
    assert (picture[16 + GAP :, 16 + GAP :] == 255).all(), "empty places are white"


def test_small_images_are_enlarged(run_dir: Path, tmp_path: Path) -> None:
    def size(name: str, *arguments: str) -> tuple[int, int]:
        main([str(run_dir), "--out", str(tmp_path / name), *arguments])
        return Image.open(tmp_path / name).size

    assert size("grid.png", "--num", "2") == (2 * 64 + GAP, 64)
    assert size("walk.gif", "--walk", "0,1", "--frames", "2") == (256, 256)
    assert size("three.png", "--num", "1", "--scale", "3") == (48, 48)
    small = load(run_dir).sample([0])[0].permute(1, 2, 0) * 127.5 + 127.5
    expected = small.repeat_interleave(3, 0).repeat_interleave(3, 1).numpy()
    assert np.abs(pixels(tmp_path / "three.png") - expected).max() <= 0.51
    with pytest.raises(SystemExit, match=r"NAME\.png"):
        main([str(run_dir), "--out", str(tmp_path / "x.jpg")])
    assert not (tmp_path / "x.jpg").exists()


def test_folder_holds_a_file_for_each_seed(run_dir: Path, tmp_path: Path) -> None:
    main([str(run_dir / "last.ckpt"), "--num", "70", "--out", str(tmp_path / "all")])
    main([str(run_dir), "--seeds", "69", "--out", str(tmp_path / "one")])
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == [f"seed{i:06d}.png" for i in range(70)]
    alone = pixels(tmp_path / "one" / "seed000069.png")
    assert (alone == pixels(tmp_path / "all" / "seed000069.png")).all()
    assert (alone != pixels(tmp_path / "all" / "seed000068.png")).any()


def test_raw_and_truncation_change_the_images(run_dir: Path, tmp_path: Path) -> None:
    pictures = []
    for extra in ([], ["--raw"], ["--truncation", "0.3"]):
        out = tmp_path / f"{len(pictures)}.png"
        main([str(run_dir), "--num", "4", "--out", str(out), *extra])
        pictures.append(pixels(out))
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[0] != pictures[2]).any()


def test_walk_is_a_loop(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "walk.gif"
    main([str(run_dir), "--walk", "0-2", "--frames", "4", "--scale", "1", "--out", str(out)])
    gif = Image.open(out)
    assert sum(1 for _ in ImageSequence.Iterator(gif)) == gif.n_frames == 12
    assert gif.size == (16, 16)
    assert gif.info["loop"] == 0

    gan = load(run_dir)
    way = walk(gan, [0, 1, 2], 40)
    assert way.shape == (120, 3, 16, 16)
    torch.testing.assert_close(way[::40], gan.sample([0, 1, 2]), atol=1e-5, rtol=0)
    steps = (way - way.roll(1, 0)).abs().amax((1, 2, 3))
    assert steps.max() < 0.5 * (way[0] - way[40]).abs().max(), "no jump, nor at the loop's end"


def test_slerp_keeps_to_the_sphere() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 100, generator=generator, dtype=torch.float64)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    way = slerp(a, b, t)
    torch.testing.assert_close(way[0], a)
    torch.testing.assert_close(way[-1], b)
    a, b = a / a.norm(), b / b.norm()
    way = slerp(a, b, t)
    torch.testing.assert_close(way.norm(dim=1), torch.ones(11, dtype=torch.float64))
    angles = (way[1:] * way[:-1]).sum(1).acos()
    torch.testing.assert_close(angles, (a @ b).acos().expand(10) / 10)
    assert slerp(a, a, t).isfinite().all()
    assert slerp(a, -a, t).isfinite().all()
    torch.testing.assert_close(slerp(a, a, t), a.expand(11, -1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--out", "x.png"], "no checkpoint at nowhere"),
        (["RUN", "--out", "x.gif"], "--walk"),
        (["RUN", "--out", "x.png", "--walk", "1,2"], ".gif"),
        (["RUN", "--out", "x.png", "--num", "0"], "from 1 to 1,000,000"),
        (["RUN", "--out", "x.gif", "--walk", "1,2", "--frames", "0"], "from 1 to"),
        (["RUN", "--out", "x.gif", "--walk", "1"], "at least two seeds"),
        (["RUN", "--out", "x.gif", "--walk", "1,2", "--columns", "2"], "--columns belongs"),
        (["RUN", "--out", "folder", "--columns", "2"], "--columns belongs"),
        (["RUN", "--out", "x.png", "--scale", "100000"], "from 1 to 64"),
        (["RUN", "--out", "x.png", "--frames", "2"], "--frames belongs"),
        (["RUN", "--out", ".png"], "NAME.png"),
        (["RUN", "--out", ""], "nothing is given"),
        (["RUN", "--out", "x.png", "--truncation", "0"], "greater than 0"),
        (["RUN", "--out", "x.png", "--seeds", "5-3"], "larger number"),
        (["RUN", "--out", "x.png", "--seeds", "a"], "not a list such as"),
        (["RUN", "--out", "x.png", "--seeds", "-3"], "seeds"),
        (["RUN", "--out", "x.png", "--columns", "0"], "columns"),
        (["RUN", "--out", "x.png", "--device", "nonsense"], "nonsense"),
        (["RUN/config.yaml", "--out", "x.png"], "cannot be read as a checkpoint"),
    ],
)
def test_errors_are_sentences(
    arguments: list[str], says: str, run_dir: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([a.replace("RUN", str(run_dir)) for a in arguments])
    message = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert stop.value.code not in (0, None)
    assert says in message
    assert message.strip().splitlines()[-1].startswith(("ganzoo.sample: ", "python -m ganzoo"))
    assert list(tmp_path.iterdir()) == []


def test_unwritable_output_is_a_sentence(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"ganzoo\.sample: ") as stop:
        main([str(run_dir), "--num", "1", "--out", str(tmp_path / "file" / "x.png")])
    assert "\n" not in str(stop.value.code)


def test_walking_without_latents_is_refused() -> None:
    gan = FromSeeds(PlainGenerator(), PlainDiscriminator(), optimizers={}, total_kimg=1)
    with pytest.raises(UserError, match="no latent space"):
        walk(gan, [0, 1], 2)
