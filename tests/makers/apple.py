"""Tensors that refuse float64, as on Apple's GPUs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MPS = torch.device("mps")


class OnApple(Tensor):
    """A tensor that says it is on an Apple GPU: float64 is refused until it is on the CPU."""

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if function is Tensor.device.__get__:
            return MPS
        leaves = name == "cpu" or (name == "to" and str(args[1:2]).find("cpu") >= 0)
        given = [*args, *kwargs.values()]
        double = name == "double" or any(value is torch.float64 for value in given)
        if double:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        result = super().__torch_function__(function, types, args, kwargs)
        return result.as_subclass(Tensor) if leaves and isinstance(result, Tensor) else result
