"""Networks are compiled in one piece, and once for each stage of growth. (Without a compiler for
the machine: only the part of `torch.compile` that reads Python is under test.)"""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins import Precision
from makers.tiny import config
from torch import nn
from torch._dynamo.utils import counters

from ganzoo.config import make
from ganzoo.models import biggan, cyclegan, dcgan

IMAGES, LABELS = (2, 3, 16, 16), (torch.tensor([0, 2]),)
WIDE = {"ch": 8, "classes": 3, "attention": (8,), "widths": (1, 1, 1)}

# A network that `model.compile` may name, and the shape of its input.
NETWORKS = {
    "dcgan generator": (lambda: dcgan.Generator(16, nz=8, ngf=4), (2, 8)),
    "dcgan discriminator": (lambda: dcgan.Discriminator(16, ndf=4), IMAGES),
    "dcgan layer norm": (lambda: dcgan.Discriminator(16, ndf=4, norm="layer"), IMAGES),
    "biggan generator": (
        lambda: biggan.Generator(16, nz=6, shared=4, **WIDE),
        (2, 6),
    ),
    "biggan discriminator": (lambda: biggan.Discriminator(16, **WIDE), IMAGES),
    "biggan deep generator": (
        lambda: biggan.DeepGenerator(16, nz=8, shared=4, **WIDE),
        (2, 8),
    ),
    "biggan deep discriminator": (lambda: biggan.DeepDiscriminator(16, **WIDE), IMAGES),
    "cyclegan resnet": (lambda: cyclegan.ResNetGenerator(ngf=4, blocks=1), IMAGES),
    "cyclegan padded": (lambda: cyclegan.ResNetGenerator(ngf=4, blocks=1), (2, 3, 18, 17)),
    "cyclegan unet": (lambda: cyclegan.UNetGenerator(ngf=4, halvings=3, dropout=0.5), IMAGES),
    "cyclegan patches": (lambda: cyclegan.PatchDiscriminator(ndf=4, layers=1), IMAGES),
}


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compilations():
    assert not counters["graph_break"]
    return counters["stats"].get("unique_graphs", 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_one_graph(name):
    make, shape = NETWORKS[name]
    network, x = make(), torch.randn(shape)
    labels = LABELS if "biggan" in name else ()
    torch.manual_seed(1)  # for dropout
    network.compile(fullgraph=True, backend="eager")
    network(x, *labels).sum().backward()
    network(x, *labels)
    assert compilations() == 1


def test_growth_compiles_once_for_each_stage(monkeypatch):
    torch_compile = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self: torch_compile(self, fullgraph=True, backend="eager")
    )
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)  # of which there are 3 here
    small = ("generator.fmap_base=32", "generator.fmap_max=4", "compile=[generator]")
    keys = ("model=pggan", "image_size=8", *(f"model.{key}" for key in small))
    gan = make(config(*keys, tiny=False).model)
    strategy = SimpleNamespace(precision_plugin=Precision())
    gan._trainer = SimpleNamespace(strategy=strategy, global_rank=0)
    gan.setup("fit")
    stages = [(1.0, 1.0), (0.75, 0.5, 0.1), (0.0, 0.0)]  # levels of detail
    for count, stage in enumerate(stages, start=1):
        for lod in stage:
            gan.generator(torch.randn(2, gan.nz), lod=lod).sum().backward()
            assert compilations() == count
