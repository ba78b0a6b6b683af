"""What tells a failing run from a healthy one is measured as by hand."""

import math

import pytest
import torch
from makers.tiny import PlainDiscriminator, PlainGenerator, adam, config

from ganzoo.callbacks.signs import Diversity, Growth, nearest
from ganzoo.callbacks.spectra import singular_values, weight_matrices
from ganzoo.config import make
from ganzoo.engine.gan import GAN


class Watch:
    """`Growth` of a model's own weights."""

    def __init__(self) -> None:
        self.growth = Growth()

    def look(self, gan: GAN) -> tuple[float, str]:
        values = {n: float(singular_values(m)[0]) for n, m in weight_matrices(gan)}
        return self.growth.add(gan.images_seen, values)


def test_diversity_of_training_images_is_1_and_of_one_image_0(tmp_path, monkeypatch) -> None:
    cfg = config()
    gan, data = make(cfg.model), make(cfg.data)
    diversity = Diversity(gan, data, 16)
    (indices,) = diversity.members.values()
    real = data.source.__getitems__(indices)["image"].float() / 127.5 - 1
    monkeypatch.setattr(gan, "sample", lambda seeds, **_: real[: len(seeds)])
    assert diversity.now() == pytest.approx(1, abs=1e-6)
    monkeypatch.setattr(gan, "sample", lambda seeds, **_: real[:1].expand(len(seeds), -1, -1, -1))
    assert diversity.now() == 0


def test_diversity_is_that_within_classes(monkeypatch) -> None:
    """A generator that makes one image for each class varies only over classes."""
    cfg = config()
    gan, data = make(cfg.model), make(cfg.data)
    gan.classes = len(data.source.classes)
    diversity = Diversity(gan, data, 16)
    assert set(diversity.members) == {0, 3, 6, 9}
    for label, indices in diversity.members.items():
        assert (data.source.labels()[indices] == label).all()
        assert len(indices) == 4
    noise = torch.randn(10, 3, 16, 16)
    one_each = lambda seeds, label, raw: noise[label].expand(len(seeds), -1, -1, -1)  # noqa: E731
    monkeypatch.setattr(gan, "sample", one_each)
    assert diversity.now() == 0


def test_nearest_neighbors_by_hand() -> None:
    images = torch.tensor([0.0, 1.0, 5.0, 5.5]).view(4, 1, 1, 1).expand(4, 3, 16, 16)
    unit = math.sqrt(3 * 256)
    torch.testing.assert_close(nearest(images) / unit, torch.tensor([1, 1, 0.5, 0.5]))
    large = images.repeat_interleave(8, 2).repeat_interleave(8, 3)  # reduced to 32 pixels
    torch.testing.assert_close(nearest(large) / (2 * unit), torch.tensor([1, 1, 0.5, 0.5]))


@pytest.mark.parametrize(
    ("law", "most"),
    [(lambda t: 1 + t / 16_000, 2.8), (lambda t: 1 + (t / 400) ** 0.5, 8.1)],
)
def test_growth_by_hand(law, most) -> None:
    """An even growth by the factor of two in half of the run; one over the start, and a jump."""
    gan = GAN(PlainGenerator(), PlainDiscriminator(), {"generator": adam()}, total_kimg=1)
    start = {name: p.detach().clone() for name, p in gan.generator.named_parameters()}
    growth, found = Watch(), []
    for images in range(0, 64_001, 2_000):
        gan.images_seen = images
        with torch.no_grad():
            for name, parameter in gan.generator.named_parameters():
                parameter.copy_(start[name] * law(images))
        found.append(growth.look(gan)[0])
    assert max(found) <= most
    expected = max(law(64_000) / law(32_000), law(64_000) / law(0) / 3.2**0.5)
    assert found[-1] == pytest.approx(expected, rel=1e-3)
    with torch.no_grad():
        gan.generator.layers[2].weight.mul_(9)
    factor, name = growth.look(gan)
    assert name == "generator.layers.2.weight"
    assert factor == pytest.approx(9 * expected, rel=0.5)


def test_weights_that_start_at_zero_do_not_explode() -> None:
    gan = GAN(PlainGenerator(), PlainDiscriminator(), {"generator": adam()}, total_kimg=1)
    layer = gan.generator.layers[0]
    usual = layer.weight.detach().clone()
    torch.nn.init.zeros_(layer.weight)
    growth = Watch()
    growth.look(gan)
    layer.weight.data.copy_(usual)
    gan.images_seen = 1000
    assert growth.look(gan)[0] < 2
