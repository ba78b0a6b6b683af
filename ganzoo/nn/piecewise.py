"""Second derivatives of convolutions and ReLUs that are left out, because they are 0."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode


class Piecewise(TorchFunctionMode):
    """Inside, gradients of convolutions, ReLU and leaky ReLU do not depend on their inputs.

    They do not in truth, either: the functions are linear, or linear piece by piece. But when such
    a gradient is differentiated again, torch makes zeros for the input, and sends them back through
    all layers before it, which takes as long as a backward pass. The values stay the same.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.relu or function is F.leaky_relu:
            slope = 0.0 if function is F.relu else kwargs.get("negative_slope", 0.01)
            return _Kink.apply(args[0], slope)  # not in place, as nothing else holds the input
        # `conv2d_input` takes no padding by name, "same" or "valid".
        named = any(isinstance(option, str) for option in (*args, *kwargs.values()))
        if function is F.conv2d and args[0].requires_grad and not named:
            return _convolution(*args, **kwargs)
        return function(*args, **kwargs)


class _Kink(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        y = F.leaky_relu(x, slope) if slope else F.relu(x)
        ctx.slope = slope
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        aten, y = torch.ops.aten, y.detach()
        if ctx.slope:
            return aten.leaky_relu_backward(grad, y, ctx.slope, True), None
        return aten.threshold_backward(grad, y, 0), None


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any, **named: Any
) -> Tensor:
    """`F.conv2d`, whose gradients flow to the weights and to the input by separate ways."""
    y = F.conv2d(x.detach(), weight, bias, *options, **named)
    return _Input.apply(y, x, weight, options, named)


class _Input(torch.autograd.Function):
    """The result of a convolution, and its gradient with respect to the input."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, *options: Any) -> Tensor:
        ctx.shape, ctx.options = x.shape, options
        ctx.save_for_backward(weight)
        ctx.mark_dirty(y)  # not a copy of it
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        options, named = ctx.options
        x = conv2d_input(ctx.shape, weight, grad, *options, **named)
        return grad, x, None, None, None
