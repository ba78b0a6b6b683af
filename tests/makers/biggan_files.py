"""Random state dicts to be laid out as other projects' BigGAN files."""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


class File:
    """Random tensors by name, as they come up."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.state: State = {}

    def add(self, name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> None:
        value = torch.randn(shape, generator=self.generator).double()
        self.state[name] = value * scale + shift

    def positive(self, name: str, *shape: int) -> None:
        self.state[name] = torch.rand(shape, generator=self.generator).double() + 0.5


def up(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Pretrained(File):
    """State dicts of networks with the spectral normalization of torch."""

    def sn(self, name: str, *shape: int, bias: bool = True) -> None:
        self.add(f"{name}.weight_orig", *shape, scale=0.2)
        w = self.state[f"{name}.weight_orig"].flatten(1)
        # Not quite the singular vectors, as after training.
        left, _, right = torch.linalg.svd(w, full_matrices=False)
        for end, vector in (("u", left[:, 0]), ("v", right[0])):
            noise = 0.05 * torch.randn(len(vector), generator=self.generator).double()
            self.state[f"{name}.weight_{end}"] = F.normalize(vector + noise, dim=0)
        if bias:
            self.add(f"{name}.bias", shape[0], scale=0.1)

    def statistics(self, name: str, ch: int) -> None:
        self.add(f"{name}.running_means", 51, ch, scale=0.3)
        self.positive(f"{name}.running_vars", 51, ch)
