"""Image files in their own sizes, each read in full."""

import io
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ganzoo.data.decode import EXTENSIONS, extension, images_among
from ganzoo.data.encoded import EncodedImages, Listing, reason
from ganzoo.data.files import Files, One, open_files
from ganzoo.errors import UserError


class Originals(EncodedImages):
    """All images among `files`, in 8 bits; the images of a batch must have the same size.

    If an image is transparent and `keep_alpha` is set, its batch also has "alpha", uint8
    [n, 1, H, W].
    """

    def __init__(self, files: Files, channels: int, keep_alpha: bool) -> None:
        super().__init__((1, 1), channels, resize="none")
        self.varies = False  # within a batch
        self.files, self.name = files, str(files.root)
        # With 2 and 4 channels, opacity is one of them.
        self.keep_alpha = keep_alpha and channels in (1, 3)

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
        if not self.keep_alpha or not self.decoder.header(io.BytesIO(data)).transparent:
            return {"image": image}
        with_alpha = replace(self.decoder, channels=self.shape[0] + 1)(data)
        return {"image": image, "alpha": with_alpha[-1:]}


def open_originals(src: Path, channels: int, results: int) -> Originals:
    """The images of a file, folder, zip or tar, for a generator from `channels` to `results`."""
    try:
        single = src.is_file() and extension(src.name) in EXTENSIONS
        files = One(src) if single else open_files(src)
    except UserError as error:
        message = str(error).replace("set data.root to", "give the path of")
        raise UserError(message) from error
    source = Originals(files, channels, keep_alpha=results in (1, 3))
    if not len(source):
        blocked = f" {files.problems[0]}" if files.problems else ""
        raise UserError(f"{src} has no images ({', '.join(EXTENSIONS)}).{blocked}")
    return source
