import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ganzoo.nn import losses
from ganzoo.nn.piecewise import Piecewise


class AsItIs(TorchFunctionMode):
    """torch's own derivatives."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Flops(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class SelfMade(nn.Module):
    """Convolutions with their options by place, by name and as words, none of them a module."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))

    def forward(self, x):
        h = torch.relu(conv2d(x, self.weight, None, 1, (1, 1), 1, 2))
        h = nn.functional.relu(conv2d(h, self.weight, stride=2, padding="valid", groups=2))
        return nn.functional.leaky_relu(conv2d(h, weight=self.weight, groups=2, padding=1))


NETWORKS = {
    "plain": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.ReLU(inplace=True), nn.Conv2d(6, 1, 8),
    ),
    # Second derivatives that are not 0 flow through all layers before.
    "curved": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 4, 2, 1), nn.LeakyReLU(), nn.Conv2d(8, 6, 3, padding="same"),
        nn.GroupNorm(1, 6), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.SiLU(inplace=True),
    ),
    "self-made": SelfMade,
}  # fmt: skip


def gradients(network, images):
    losses.zero_centered_penalty(*losses.differentiable(network, images)).backward()
    found = [p.grad for p in network.parameters() if p.grad is not None and p.grad.any()]
    network.zero_grad()
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_penalties_have_torchs_own_gradients_bit_for_bit(name, layout, monkeypatch):
    torch.manual_seed(0)
    network = NETWORKS[name]().to(memory_format=layout)
    images = torch.randn(3, 4, 16, 16).contiguous(memory_format=layout)
    ours = gradients(network, images)
    monkeypatch.setattr(losses, "Piecewise", AsItIs)
    theirs = gradients(network, images)
    assert len(ours) == len(theirs) > 0
    assert all(map(torch.equal, ours, theirs))


def test_a_penalty_takes_four_forward_passes():
    torch.manual_seed(0)
    network, images = NETWORKS["plain"](), torch.randn(3, 4, 16, 16)
    with Flops() as forward, torch.no_grad():
        network(images)
    with Flops() as penalty:
        losses.zero_centered_penalty(*losses.differentiable(network, images)).backward()
    # Logits, the gradient by images, and the gradients of that by each layer's input and weights.
    assert penalty.total == 4 * forward.total


def test_the_loss_itself_has_all_gradients():
    torch.manual_seed(0)
    network, images = NETWORKS["curved"](), torch.randn(3, 4, 16, 16, requires_grad=True)
    found = []
    for mode in (Piecewise, AsItIs):
        with mode():
            loss = network(images).square().sum()
        found.append(torch.autograd.grad(loss, [images, *network.parameters()]))
    assert all(map(torch.equal, *found))
