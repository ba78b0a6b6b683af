"""Image files in their own sizes, each read whole."""

import io
from pathlib import PurePosixPath

import torch
from torch import Tensor

from ganzoo.data.decode import EXTENSIONS, Decoder, Header
from ganzoo.data.encoded import reason
from ganzoo.data.files import Files
from ganzoo.data.source import Source
from ganzoo.errors import UserError

WHITE = (255, 255, 255)  # what `Decoder` lays transparency on


class Originals(Source):
    """All images among `files`, in 8 bits; a batch must be of images of one size.

    Batches also have "alpha", uint8 [n, 1, H, W], where images are transparent and that is kept.

    Args:
        files: where they lie.
        channels: to deliver; see `Decoder`.
        ground: the color that transparency is laid on, red, green, blue in 0...255.
        keep_alpha: deliver the transparency of what has any.
    """

    def __init__(
        self,
        files: Files,
        channels: int,
        ground: tuple[int, int, int] = WHITE,
        keep_alpha: bool = False,
    ) -> None:
        self.files, self.channels, self.ground = files, channels, ground
        self.transparency = channels in (1, 3)  # others deliver it among their channels, or none
        self.keep_alpha = keep_alpha and self.transparency
        self.name = str(files.root)
        self.names = [n for n in files.names if PurePosixPath(n).suffix.lower() in EXTENSIONS]
        self.decoder = Decoder((1, 1), channels, resize="none")

    @property
    def ignored(self) -> int:
        """How many files are no images."""
        return len(self.files.names) - len(self.names)

    def header(self, index: int) -> Header | str:
        """Size and kind of image `index`, or why it cannot be read."""
        try:
            with self.files.open(self.names[index]) as file:
                return self.decoder.header(file)
        except Exception as error:  # decoders raise many types
            return reason(error)

    def name_of(self, index: int) -> str:
        return self.names[index]

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Raises UserError with the reason why an image cannot be read."""
        try:
            read = [self._read(index) for index in indices]
        except Exception as error:  # decoders raise many types
            raise UserError(reason(error)) from error
        return {key: torch.stack([one[key] for one in read]) for key in read[0]}

    def _read(self, index: int) -> dict[str, Tensor]:
        with self.files.open(self.names[index]) as file:
            data = file.read()
        image = self.decoder(data)
        if not self.transparency or not self.decoder.header(io.BytesIO(data)).transparent:
            return {"image": image}
        pixels = Decoder((1, 1), self.channels + 1, resize="none")(data)
        colors, alpha = pixels[:-1], pixels[-1:]
        if self.ground != WHITE:
            image = laid_on(colors, alpha, self.ground)
        return {"image": image, "alpha": alpha} if self.keep_alpha else {"image": image}


def laid_on(colors: Tensor, alpha: Tensor, ground: tuple[int, int, int]) -> Tensor:
    """uint8 [C, H, W], gray or RGB, with the opacity `alpha` [1, H, W] on a color: uint8."""
    red, green, blue = ground
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R 601
    under = torch.tensor([luminance] if len(colors) == 1 else ground).view(-1, 1, 1)
    share = alpha / 255
    return (colors * share + under * (1 - share)).round().to(torch.uint8)
