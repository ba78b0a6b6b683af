"""Image files in their own sizes, each read in full."""

import io
from pathlib import Path

import torch
from torch import Tensor

from ganzoo.data.decode import EXTENSIONS, Decoder, extension, images_among
from ganzoo.data.encoded import EncodedImages, Listing, reason
from ganzoo.data.files import Files, One, open_files
from ganzoo.errors import UserError

WHITE = (255, 255, 255)  # the color that `Decoder` lays transparency on


class Originals(EncodedImages):
    """All images among `files`, in 8 bits; the images of a batch must have the same size.

    If an image is transparent and `keep_alpha` is set, its batch also has "alpha", uint8
    [n, 1, H, W].

    Args:
        files: the files.
        channels: number of channels to deliver; see `Decoder`.
        ground: color that transparency is laid on: red, green, blue in 0...255.
        keep_alpha: whether to deliver transparency.
    """

    def __init__(
        self,
        files: Files,
        channels: int,
        ground: tuple[int, int, int] = WHITE,
        keep_alpha: bool = False,
    ) -> None:
        super().__init__((1, 1), channels, resize="none")
        self.varies = False  # within a batch
        self.files, self.ground, self.name = files, ground, str(files.root)
        self.transparency = channels in (1, 3)  # others have opacity as a channel, or cannot
        self.keep_alpha = keep_alpha and self.transparency

    def _list(self) -> Listing:
        return Listing(self.files, images_among(self.files.names))

    @property
    def ignored(self) -> int:
        """The number of files that are not images."""
        return len(self.files.names) - len(self)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Raises UserError with the reason why an image cannot be read."""
        try:
            read = [self._read(self.name_of(index)) for index in indices]
        except Exception as error:  # decoders raise many types
            raise UserError(reason(error)) from error
        return {key: torch.stack([one[key] for one in read]) for key in read[0]}

    def _read(self, name: str) -> dict[str, Tensor]:
        with self.files.open(name) as file:
            data = file.read()
        image = self.decoder(data)
        if not self.transparency or not self.decoder.header(io.BytesIO(data)).transparent:
            return {"image": image}
        pixels = Decoder((1, 1), self.shape[0] + 1, resize="none")(data)
        colors, alpha = pixels[:-1], pixels[-1:]
        if self.ground != WHITE:
            image = laid_on(colors, alpha, self.ground)
        return {"image": image, "alpha": alpha} if self.keep_alpha else {"image": image}


def open_originals(
    src: Path, channels: int, results: int, ground: tuple[int, int, int] | None
) -> Originals:
    """The images of a file, folder, zip or tar, for a generator.

    Args:
        src: path of the images.
        channels: number of channels that the generator takes.
        results: number of channels that it makes.
        ground: color that transparency is laid on; None to keep transparency if possible.

    Raises:
        UserError: there are no images.
    """
    try:
        single = src.is_file() and extension(src.name) in EXTENSIONS
        files = One(src) if single else open_files(src)
    except UserError as error:
        message = str(error).replace("set data.source.root to", "give the path of")
        raise UserError(message) from error
    source = Originals(files, channels, ground or WHITE, ground is None and results in (1, 3))
    if not len(source):
        blocked = f" {files.problems[0]}" if files.problems else ""
        raise UserError(f"{src} has no images ({', '.join(EXTENSIONS)}).{blocked}")
    return source


def laid_on(colors: Tensor, alpha: Tensor, ground: tuple[int, int, int]) -> Tensor:
    """uint8 [C, H, W], gray or RGB, with opacity `alpha` [1, H, W], on a ground color: uint8."""
    red, green, blue = ground
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R 601
    under = torch.tensor([luminance] if len(colors) == 1 else ground).view(-1, 1, 1)
    share = alpha / 255
    return (colors * share + under * (1 - share)).round().to(torch.uint8)
