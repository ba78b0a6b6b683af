"""The pool of fakes from earlier iterations."""

import torch
from torch import Tensor, nn

from ganzoo.distributed.collectives import gather_rows
from ganzoo.draws import Draws, integers, unit


class ImagePool(nn.Module):
    """Shows a discriminator earlier fakes half of the time (Zhu et al. 2017, section 4).

    The first `size` fakes are kept and shown. Every later one is either shown itself, or replaces a
    kept one, which is shown instead: one draw for each image, as in the authors' code.

    All processes keep the same pool: the fakes of all of them, in the order of the global batch. A
    run thus does not depend on the number of processes.
    """

    images: Tensor

    def __init__(self, size: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, channels, height, width))

    @torch.no_grad()
    def exchange(self, fakes: Tensor, before: int, draws: Draws) -> Tensor:
        """The images shown instead of `fakes`, [n, C, H, W], in this process.

        The pool has got `before` fakes before these, over all processes.
        """
        n, size, kept = len(fakes), len(self.images), self.images
        news = gather_rows(fakes.detach()).to(kept.dtype)
        swaps = gather_rows(draws.rows(n, 1, 1, 1, of=unit)) > 0.5
        places = gather_rows(draws.rows(n, of=integers(size)))
        shown = []
        for i, new in enumerate(news.split(1)):
            if before + i < size:
                kept[before + i] = new[0]
                shown.append(new)
                continue
            # Both outcomes are computed: an `if` on the draw would wait for the device.
            place, swap = places[i : i + 1], swaps[i : i + 1]
            old = kept.index_select(0, place)
            kept.index_copy_(0, place, torch.where(swap, new, old))
            shown.append(torch.where(swap, old, new))
        return torch.cat(shown[draws.rank * n : (draws.rank + 1) * n])
