"""Image data sets of the Hugging Face Hub or in parquet files, read by the library datasets."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ganzoo.config.values import Share, Sides
from ganzoo.data.encoded import EncodedImages, Listing
from ganzoo.data.files import Files
from ganzoo.data.source import library, part
from ganzoo.errors import UserError, first

Paths = str | Sequence[str]


class HuggingFace(EncodedImages):
    """The images in one column, and optionally their classes in another.

    The library stores all data in its cache, `~/.cache/huggingface` or `HF_HOME`, in its own
    format. Without `download`, the network is not used.

    Args:
        path: "user/name" on the Hub, a folder of parquet or other files, or "parquet" for the files
            in `data_files`.
        image_size, decoding: see `EncodedImages`.
        config: name of the configuration, for data sets that have several.
        split: one of the data set's splits; if it has no "test", "train" is split by `held_out`.
        image: column of encoded images; None if there is only one.
        label: column of classes: a ClassLabel, or integers or strings, which are numbered in their
            order. None for the only ClassLabel, if there is one.
        data_files: paths of the files, for "parquet" or for some files of a data set; a mapping
            from splits to paths if there are several splits.
        download: whether to download data that is not in the cache.
        held_out: share of "train" that is "test" if there is no such split; see `part`.
    """

    test_split = "test"

    def __init__(
        self,
        path: str,
        image_size: Sides,
        config: str | None = None,
        split: str = "train",
        image: str | None = None,
        label: str | None = None,
        data_files: Paths | Mapping[str, Paths] | None = None,
        download: bool = False,
        held_out: Share = 0.0,
        **decoding: Any,
    ) -> None:
        super().__init__(image_size, **decoding)
        self.path, self.config, self.data_files = path, config, data_files
        self.image, self.label, self.download = image, label, download
        self.split, self.share = split, held_out
        self.name = f"{path} ({split})"

    def prepare(self) -> None:
        if self.download:
            _ = self._splits

    def _list(self) -> Listing:
        shared = bool(self.share) and "test" not in self._splits
        split = "train" if shared and self.split == "test" else self.split
        if split not in self._splits:
            raise UserError(
                f"{self.path} has no split {self.split}: data.source.split may be "
                f"{first(list(self._splits), 40)}, or test with data.source.held_out."
            )
        data = self._splits[split]
        files = Rows(Path(self.path), split, data, self._image_column(data.features))
        classes, labels, notes = self._classes(data)
        if not (shared and split == "train"):
            return Listing(files, files.names, classes, labels, notes)
        kept = part(files.names, self.split, self.share)
        notes.append(f"{len(kept)} of {len(data)} images are in the {self.split} split.")
        names = [files.names[i] for i in kept]
        return Listing(files, names, classes, None if labels is None else labels[kept], notes)

    @cached_property
    def _splits(self) -> dict[str, Any]:
        """All splits; the cache comes first, so that a run resumes with the data it began with."""
        library, remedy = _library(), "check data.source.path, config and data_files"
        for network in (False, True) if self.download else (False,):
            try:
                if not network and "://" in str(self.data_files):
                    raise ValueError("its data_files are on the network")
                with _network(network):
                    files = self.data_files
                    return dict(library.load_dataset(self.path, self.config, data_files=files))
            except Exception as error:  # bad formats, bad names, missing files
                reason = error
        if not self.download:
            remedy += ", or set data.source.download=true to download it"
        why = " ".join(str(reason).split())[:300]
        raise UserError(f"{self.path} cannot be read ({why}): {remedy}.") from reason

    def _image_column(self, features: Mapping[str, Any]) -> str:
        pictures = [name for name, f in features.items() if isinstance(f, _library().Image)]
        encoded = [name for name, f in features.items() if _holds_bytes(f)]
        found = [self.image] if self.image is not None else pictures or encoded
        if len(found) != 1 or found[0] not in pictures + encoded:
            raise UserError(
                f"The columns of images are {', '.join(pictures + encoded) or 'missing'}: "
                "set data.source.image to one, or choose another data.source.path or config."
            )
        return found[0]

    def _classes(self, data: Any) -> tuple[list[str] | None, torch.Tensor | None, list[str]]:
        """Names of the classes, labels, and notes."""
        features, kind = data.features, _library().ClassLabel
        column = self.label
        if column is None:
            found = [name for name, feature in features.items() if isinstance(feature, kind)]
            if len(found) > 1:
                labels = ", ".join(found)
                raise UserError(
                    f"There are several labels: set data.source.label to one of {labels}."
                )
            if not found:
                return None, None, []
            column = found[0]
        if column not in features:
            known = first(list(features), 40)
            raise UserError(
                f"There is no column {column}: data.source.label may be one of {known}."
            )
        feature, values = features[column], _values(data, column)
        if isinstance(feature, kind):
            classes = list(feature.names)
            number = {label: label for label in range(len(classes))}
        else:
            everywhere = [v for split in self._splits.values() for v in _values(split, column)]
            distinct = sorted({value for value in everywhere if value is not None})
            classes = [str(value) for value in distinct]
            number = {value: label for label, value in enumerate(distinct)}
        without = sum(value not in number for value in values)  # None, or -1 for a ClassLabel
        if not without:
            return classes, torch.tensor([number[value] for value in values]), []
        missing = f"{without} of {len(values)} images have no class in the column {column}"
        if self.label is None:
            return None, None, [f"{missing}, so this column is not used."]
        raise UserError(f"{missing}: set data.source.label=null, or choose another split.")


class Rows(Files):
    """The images of a column as files `<split>/<row>`."""

    def __init__(self, root: Path, split: str, data: Any, column: str) -> None:
        self.root, self.column = root, column
        self.names = [f"{split}/{row}" for row in range(len(data))]
        self.data = data.select_columns([column])
        if isinstance(data.features[column], _library().Image):
            self.data = self.data.cast_column(column, _library().Image(decode=False))

    def open(self, name: str) -> BinaryIO:
        value = self.data[int(name.rpartition("/")[2])][self.column]
        if isinstance(value, dict):
            if value["bytes"] is None and value.get("path"):
                return open(value["path"], "rb")
            value = value["bytes"]
        if value is None:
            raise ValueError("there is no image in this row")
        return io.BytesIO(value)


def _library() -> Any:
    return library("datasets", "huggingface")


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Unless allowed, act as under HF_HUB_OFFLINE=1, which is only read when importing."""
    import datasets.config
    import huggingface_hub.constants

    modules: list[Any] = [datasets.config, huggingface_hub.constants]
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE |= not allowed
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _holds_bytes(feature: Any) -> bool:
    """Whether a column may have encoded images although it is not declared as an image."""
    binary = feature.get("bytes") if isinstance(feature, dict) else feature
    return getattr(binary, "dtype", None) in ("binary", "large_binary")


def _values(data: Any, column: str) -> list[Any]:
    return data.select_columns([column])[:][column]
