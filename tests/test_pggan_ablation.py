"""PGGAN's Table 1, its mode test and the flags of its code: constants of the recipes, runs."""

from pathlib import Path

import pytest
import torch
from makers.files import write_fashion
from makers.tiny import TINY, config
from torch import nn

from ganzoo.config import make
from ganzoo.models.pggan import PGGAN
from ganzoo.models.pggan.layers import Layer, LayerNorm, MinibatchDiscrimination, PixelNorm
from ganzoo.train import train_config as train

# -- constants: recipes of the paper's code --------------------------------------------------------

# lr, beta2, batch, steps of D, EMA, nz, latents normalized, drift; G's norm; D's
ROWS = {
    "a": (1e-4, 0.9, 64, 5, 0.999**20, 128, False, 0.0, "batch", "layer"),
    "b": (1e-4, 0.9, 64, 5, 0.999**20, 128, False, 0.0, "batch", "layer"),
    "c": (1e-4, 0.9, 16, 5, 0.999**5, 128, False, 0.0, "batch", "layer"),
    "d": (1e-4, 0.99, 16, 1, 0.999, 512, True, 0.001, None, None),
    "e_star": (1e-4, 0.99, 16, 1, 0.999, 512, True, 0.001, None, "kernels"),
    "e": (1e-4, 0.99, 16, 1, 0.999, 512, True, 0.001, None, "stddev"),
    "f": (1e-3, 0.99, 16, 1, 0.999, 512, True, 0.001, None, "stddev"),
    "g": (1e-3, 0.99, 16, 1, 0.999, 512, True, 0.001, "pixel", "stddev"),
}


def counted(row: str) -> tuple[int, int]:
    """The parameters of the published networks, and what the options change."""
    generator, discriminator = 13_629_810, 13_636_897
    if row in "abc":
        maps = 2 * (512 + 512 + 256 + 128 + 64 + 32)
        generator += maps - (512 - 128) * 512 * 16  # a gain beside each bias; fewer latents
        discriminator += 2 * 6  # a gain for each of two layers of six levels
    if row in ("a", "b", "c", "d", "e_star"):
        discriminator -= 9 * 512  # no channel of deviations
    if row == "e_star":
        discriminator += 512 * 100 * 5 + 100 * 5 + 100 + 100  # and a weight for each kernel
    return generator, discriminator


@pytest.mark.parametrize("row", ROWS)
def test_constants_of_the_rows(row: str) -> None:
    cfg = config(f"experiment=pggan_ablation_{row}", "data.root=x", tiny=False)
    with torch.device("meta"):
        gan = make(cfg.model)
    lr, beta2, batch, steps, beta, nz, normalized, drift, norm, judge = ROWS[row]
    generator, discriminator = gan.generator, gan.discriminator
    sizes = tuple(sum(p.numel() for p in n.parameters()) for n in (generator, discriminator))
    assert sizes == counted(row)
    for optimizer in gan.configure_optimizers():
        group = optimizer.param_groups[0]
        assert (group["lr"], group["betas"], group["eps"]) == (lr, (0.0, beta2), 1e-8)
    assert (gan.discriminator_steps, gan.generator_steps) == (steps, 1)
    assert gan.averaging.beta == pytest.approx(beta, rel=1e-14)
    assert (gan.objective.gradient_penalty, gan.objective.target, gan.drift) == (10, 1, drift)
    assert gan.total_images == 10_000_000
    growth, phase = gan.growth, 0 if row == "a" else 800
    assert (growth.train_kimg, growth.fade_kimg) == (phase, phase)
    assert (growth.rampup_kimg, growth.repeats, growth.lod(0)) == (0, 1, 0 if row == "a" else 5)
    assert {growth.batch(kimg * 1000) for kimg in range(10_000)} == {batch}
    assert {growth.lr_factor(kimg * 1000) for kimg in range(10_000)} == {1}
    assert generator.nz == nz
    assert isinstance(generator.latent_norm, PixelNorm) == normalized

    def has(network: nn.Module, kind: type[nn.Module]) -> bool:
        return any(isinstance(module, kind) for module in network.modules())

    rectified = row in "abc"
    assert has(generator, nn.Tanh) == has(generator, nn.ReLU) == rectified
    assert has(generator, nn.LeakyReLU) != rectified
    assert has(generator, nn.BatchNorm2d) == (norm == "batch")
    assert has(generator.blocks, PixelNorm) == (norm == "pixel")
    assert has(discriminator, nn.LeakyReLU)
    assert not has(discriminator, nn.ReLU)
    assert has(discriminator, nn.AvgPool2d)  # after the activation
    assert has(discriminator, LayerNorm) == (judge == "layer")
    assert has(discriminator, MinibatchDiscrimination) == (judge == "kernels")
    assert discriminator.group_size == (batch if judge == "stddev" else 0)
    scaled = [m.scale != 1 for n in (generator, discriminator) for m in n.modules()
              if isinstance(m, Layer)]  # fmt: skip
    assert all(scaled) if row in "fg" else not any(scaled)
    assert cfg.data.mirror
    assert cfg.data.source.crop == "cx89cy121-128"


@pytest.mark.parametrize("row", ["a", "g"])
def test_rows_on_bedrooms(row: str) -> None:
    keys = ["data=lsun", "data.root=x", "~data.source.crop", "data.mirror=false"]
    data = make(config(f"experiment=pggan_ablation_{row}", *keys, tiny=False).data)
    assert (data.source.shape, data.mirror) == ((3, 128, 128), False)


MODES = {
    "growth": [],
    "stddev": [
        "total_kimg=10000",
        "model.growth.train_kimg=0",
        "model.growth.fade_kimg=0",
    ],
}
MODES["norm"] = [*MODES["stddev"], "model.discriminator.group_size=0"]
MODES["plain"] = [
    *MODES["norm"],
    "model.generator.wscale=false",
    "model.generator.pixelnorm=false",
    "model.generator.batchnorm=true",
]


@pytest.mark.parametrize("variant", MODES)
def test_constants_of_the_mode_test(variant: str) -> None:
    cfg = config("experiment=pggan_mnist_rgb", *MODES[variant], tiny=False)
    gan, header = make(cfg.model), Path("conf/experiment/pggan_mnist_rgb.yaml")
    told = (Path(__file__).parent.parent / header).read_text().split("defaults:")[0]
    assert all(key in told for key in MODES[variant])
    growing, plain = variant == "growth", variant == "plain"
    assert gan.total_images == (15_000_000 if growing else 10_000_000)
    assert gan.growth.lod(0) == (3 if growing else 0)
    assert gan.growth.train_kimg == (500 if growing else 0)
    assert gan.growth.fade_kimg == (2000 if growing else 0)
    assert (gan.growth.rampup_kimg, gan.growth.repeats) == (40, 1)
    assert {gan.growth.batch(kimg * 1000) for kimg in range(15_000)} == {64}
    assert (gan.discriminator_steps, gan.drift, gan.objective.gradient_penalty) == (5, 0, 10)
    for optimizer in gan.configure_optimizers():
        assert (optimizer.param_groups[0]["lr"], optimizer.defaults["betas"]) == (1e-3, (0, 0.99))
    assert gan.averaging.beta == 0.999
    assert gan.discriminator.group_size == (0 if variant in ("plain", "norm") else 64)
    for network in (gan.generator, gan.discriminator):
        convolutions = [m for m in network.modules() if isinstance(m, Layer)]
        assert all((m.scale == 1) == plain for m in convolutions)
        assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == plain
    assert any(isinstance(m, PixelNorm) for m in gan.generator.blocks.modules()) != plain
    assert gan.discriminator.blocks[1][0].weight.shape == (32 // 4, 16 // 4, 3, 3)
    assert (gan.generator.nz, gan.generator.output(torch.tensor(9.0)).item() < 1) == (64, True)
    assert not cfg.data.mirror
    assert len(make(cfg.data).source) == 1_000_000


# -- flags of the official code --------------------------------------------------------------------

FLAGS = {
    "nogrowing": "total_kimg=10000 model.growth.train_kimg=0 model.growth.fade_kimg=0",
    "nopixelnorm": "model.generator.pixelnorm=false",
    "nowscale": "model.generator.wscale=false",
    "noleakyrelu": "model.generator.leaky=false model.discriminator.leaky=true",
    "nosmoothing": "model.ema_beta=null",
    "norepeat": "model.growth.repeats=1",
    "noreset": "model.reset_optimizers=false",
}


def flags_of(gan: PGGAN) -> set[str]:
    """Which of the features are left out."""
    generator, discriminator = gan.generator, gan.discriminator
    scales = [m.scale for n in (generator, discriminator) for m in n.modules()
              if isinstance(m, Layer)]  # fmt: skip
    assert any(isinstance(m, nn.LeakyReLU) for m in discriminator.modules())
    assert isinstance(generator.latent_norm, PixelNorm)
    left_out = {
        "nogrowing": (gan.growth.lod(0), gan.total_images) == (0, 10_000_000),
        "nopixelnorm": not any(isinstance(m, PixelNorm) for m in generator.blocks.modules()),
        "nowscale": set(scales) == {1.0},
        "noleakyrelu": not any(isinstance(m, nn.LeakyReLU) for m in generator.modules()),
        "nosmoothing": gan.average is None,
        "norepeat": gan.growth.repeats == 1,
        "noreset": not gan.reset_optimizers,
    }
    return {name for name, flag in left_out.items() if flag}


@pytest.mark.parametrize("flag", [None, *FLAGS])
def test_flags_of_the_official_code(flag: str | None) -> None:
    keys = FLAGS[flag].split() if flag else []
    cfg = config("experiment=pggan_v2_1gpu", "data.root=x", *keys, tiny=False)
    with torch.device("meta"):
        gan = make(cfg.model)
    assert flags_of(gan) == ({flag} if flag else set())
    told = (Path(__file__).parent.parent / "docs" / "pggan.md").read_text()
    assert all(f"| `{name}` | `{keys}` |" in told for name, keys in FLAGS.items())


# -- runs ------------------------------------------------------------------------------------------

TRAINING = [o for o in TINY if not o.startswith(("model.", "data", "image_size"))]


@pytest.mark.parametrize("row", ROWS)
def test_rows_train(row: str, tmp_path: Path) -> None:
    keys = [
        *TRAINING,
        f"experiment=pggan_ablation_{row}",
        "data=synthetic",
        "~data.source.crop",
        "image_size=16",
        "model.generator.fmap_base=64",
        "model.generator.fmap_max=8",
        "total_kimg=0.001",
        f"run_dir={tmp_path}",
    ]
    gan = train(config(*keys, tiny=False))
    assert gan.images_seen == {"a": 320, "b": 320, "c": 80}.get(row, 16)
    assert gan.sample([0]).isfinite().all()


@pytest.mark.parametrize("variant", MODES)
def test_the_mode_test_trains(variant: str, tmp_path: Path) -> None:
    write_fashion(tmp_path)
    keys = [
        *TRAINING,
        *MODES[variant],
        "experiment=pggan_mnist_rgb",
        f"data.root={tmp_path}",
        "total_kimg=0.001",
        f"run_dir={tmp_path / 'run'}",
    ]
    gan = train(config(*keys, tiny=False))
    assert gan.images_seen == 320
    assert gan.sample([0]).abs().max() <= 1
