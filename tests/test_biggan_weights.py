"""BigGAN's weights: spectral normalization, orthogonal regularization, how they begin."""

import math

import pytest
import torch
from torch import nn

from ganzoo.models.biggan import DeepDiscriminator, DeepGenerator, Discriminator, Generator
from ganzoo.models.biggan.layers import (
    Conv2d,
    Embedding,
    Linear,
    add_orthogonal_gradient,
    orthogonal_weights,
)

# -- spectral normalization -----------------------------------------------------------------------


def spectral(layer: nn.Module, iterations: int = 1, eps: float = 1e-6) -> nn.Module:
    layer.normalize_spectrum(eps, iterations)
    return layer.double()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", ["conv", "linear", "embedding"])
def test_sigma_becomes_the_largest_singular_value(kind: str, channels_last: bool) -> None:
    torch.manual_seed(0)
    make = {
        "conv": lambda: Conv2d(6, 10, 3, padding=1),
        "linear": lambda: Linear(7, 12),
        "embedding": lambda: Embedding(9, 5),
    }
    layer = spectral(make[kind]())
    if channels_last:
        layer.to(memory_format=torch.channels_last)
    true = torch.linalg.svdvals(layer.weight.flatten(1))[0]
    before = layer.u.clone()
    first = layer.sigma().item()
    assert not torch.equal(layer.u, before)
    assert first < true  # an estimate from below
    for _ in range(500):
        layer.sigma()
    torch.testing.assert_close(layer.sigma(), true, rtol=1e-9, atol=0)
    top = torch.linalg.svdvals(layer.normalized().flatten(1))[0]
    assert abs(top.item() - 1) < 1e-9


def test_eval_leaves_the_vector_alone_and_iterations_add_up() -> None:
    torch.manual_seed(0)
    layer = spectral(Linear(7, 12))
    before = layer.u.clone()
    layer.eval()
    layer(torch.randn(3, 7).double())
    assert torch.equal(layer.u, before)
    thrice = spectral(Linear(7, 12), 3)
    thrice.load_state_dict(layer.state_dict())
    layer.train()
    for _ in range(3):
        last = layer.sigma()
    torch.testing.assert_close(thrice.sigma(), last, rtol=1e-14, atol=0)
    torch.testing.assert_close(thrice.u, layer.u, rtol=1e-14, atol=0)


def test_gradient_flows_through_the_weight_in_sigma_only() -> None:
    """d sum(A W / sigma) = A / sigma - <A, W> / sigma^2 u v' with u, v of this very forward."""
    torch.manual_seed(0)
    layer = spectral(Linear(4, 6))
    u, w = layer.u.clone(), layer.weight.detach()
    v = w.T @ u / (w.T @ u).norm()
    u = w @ v / (w @ v).norm()
    sigma = u @ w @ v
    a = torch.randn(6, 4).double()
    (a * layer.normalized()).sum().backward()
    expected = a / sigma - (a * w).sum() / sigma**2 * torch.outer(u, v)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-12, atol=1e-14)


def test_two_forwards_before_a_backward_do_not_disturb_each_other() -> None:
    layer = spectral(Linear(4, 6))
    x = torch.randn(3, 4).double()
    (layer(x).sum() + layer(x).square().sum()).backward()
    assert layer.weight.grad is not None


def test_eps_bounds_the_norm_that_is_divided_by() -> None:
    layer = spectral(Linear(4, 6), eps=1e-2)
    with torch.no_grad():
        layer.weight.fill_(1e-9)
    u = layer.u.clone()
    v = layer.weight.detach().T @ u / 1e-2
    expected_u = layer.weight.detach() @ v / 1e-2
    layer.sigma()
    torch.testing.assert_close(layer.u, expected_u, rtol=1e-12, atol=0)


def test_everything_but_tables_of_the_generator_is_normalized() -> None:
    options = {"image_size": 32, "ch": 8, "classes": 5, "attention": [16]}
    for network, tables in (
        (Generator(nz=16, **options), {"shared"}),
        (DeepGenerator(nz=16, **options), {"shared"}),
        (Discriminator(**options), set()),
        (DeepDiscriminator(**options), set()),
    ):
        weighty = {
            name
            for name, m in network.named_modules()
            if getattr(m, "weight", None) is not None and m.weight.dim() > 1
        }
        without = {n for n in weighty if not hasattr(network.get_submodule(n), "u")}
        assert without == tables
        assert len(weighty) > 15


# -- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6), (9, 3), (8, 2, 3, 3), (40, 2, 3, 3)])
def test_orthogonal_gradient_is_half_of_the_formulas(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape).double())
    rows = weight.flatten(1)
    gram = rows @ rows.T
    penalty = (gram * (1 - torch.eye(len(gram)).double())).square().sum()
    (expected,) = torch.autograd.grad(penalty, weight)
    weight.grad = torch.ones_like(weight)
    add_orthogonal_gradient([weight], 0.01)
    torch.testing.assert_close(weight.grad, 1 + 0.01 * expected / 2, rtol=1e-10, atol=1e-12)


def test_orthogonal_rows_of_any_length_are_left_alone() -> None:
    weight = nn.Parameter(torch.diag(torch.tensor([1.0, 5.0, 0.1])))
    weight.grad = torch.zeros_like(weight)
    add_orthogonal_gradient([weight], 1.0)
    assert weight.grad.abs().max() == 0


def test_orthogonal_regularization_is_of_maps_between_features() -> None:
    network = Generator(16, classes=3, ch=8, nz=12, attention=[16])
    regular = {id(w) for w in orthogonal_weights(network)}
    names = {n for n, p in network.named_parameters() if id(p) in regular}
    assert names == {n for n, p in network.named_parameters() if p.dim() > 1} - {"shared.weight"}
    table = Generator(16, classes=3, ch=8, nz=12, shared=0, hierarchical=False, attention=[])
    assert not any(len(w) == 3 and w.dim() == 2 for w in orthogonal_weights(table))


def test_weights_begin_as_asked() -> None:
    network = Discriminator(32, classes=5, ch=8)
    weight = network.blocks[1].conv1.weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(32), rtol=0, atol=1e-5)
    assert network.linear.bias.abs().max() > 0
    normal = Discriminator(32, classes=5, ch=8, init="normal", zero_biases=True)
    assert abs(normal.blocks[1].conv1.weight.std().item() - 0.02) < 0.001
    assert normal.linear.bias.abs().max() == 0
    bound = math.sqrt(6 / (2 * 32 * 9))
    xavier = Discriminator(32, classes=5, ch=8, init="xavier").blocks[1].conv1.weight
    assert 0.95 * bound < xavier.abs().max() <= bound
