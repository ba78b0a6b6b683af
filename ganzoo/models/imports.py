"""Public checkpoints of other projects as ours: `python -m ganzoo.prepare import`.

Files are read without running what is pickled in them: classes that are not torch's own become
inert stand-ins, and only tensors are taken.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ganzoo.engine.checkpoint import AtomicCheckpointIO, check_sums
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.models.biggan.imports import (
    ajbrock_files,
    ajbrock_model,
    is_ajbrock,
    is_pretrained,
    pretrained_model,
)
from ganzoo.models.cyclegan.imports import authors_model, is_authors_cyclegan
from ganzoo.models.pggan.imports import gan_zoo_model, is_gan_zoo, is_official, official_model
from ganzoo.models.weights import Imported

# What pickled arrays are made of. Anything else in a file is not called.
HARMLESS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core")
      for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}  # fmt: skip

# Who knows a kind of file: whether it is one, and what becomes of it.
KINDS: list[tuple[Callable[[Any], bool], Callable[[Any], Imported]]] = [
    (is_gan_zoo, gan_zoo_model),
    (is_official, official_model),
    (is_ajbrock, ajbrock_model),
    (is_pretrained, pretrained_model),
    (is_authors_cyclegan, authors_model),
]


class Inert:
    """Stands for an object of a class that is not trusted: it takes anything and does nothing.

    `state` is what the object was to be made from.
    """

    state: Any = None

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, *_: Any) -> None:
        pass

    append = extend = __setitem__


class Wary(pickle.Unpickler):
    """Calls nothing but what rebuilds arrays."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in HARMLESS else Inert


def read(path: Path) -> Any:
    """What a file of torch.save or of pickle holds, its tensors on the CPU.

    Objects of classes that are not torch's own are `Inert`.

    Raises:
        UserError: no such file, or one that is damaged or of another kind, such as TorchScript.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: give the checkpoint to import.")
    try:
        stand_ins: list[Any] = [(Inert, name) for name in named_in(path)]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes of the unpickler
        with path.open("rb") as file, suppress(Exception):
            return Wary(file, encoding="latin1").load()
        raise UserError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged or of "
            f"another kind; give a file that torch.save or pickle wrote."
        ) from error


def named_in(path: Path) -> set[str]:
    """The classes and functions that a file of torch.save names, found without running it."""
    if zipfile.is_zipfile(path):
        check_sums(path)
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    with path.open("rb") as file:  # files of torch before 1.6 are five pickles and the numbers
        opcodes = [code for _ in range(5) for code in pickletools.genops(file)]
    return {str(name).replace(" ", ".") for code, name, _ in opcodes if code.name == "GLOBAL"}


def import_checkpoint(source: Path, out: Path) -> GAN:
    """Write a checkpoint of ganzoo with the networks of another project's file; return its model.

    In a folder, the files `latest_net_*.pth` belong together, or `G.pth`, `G_ema.pth` and `D.pth`
    (see `ajbrock_files`). Raises `UserError` for unknown files and for networks that differ from
    ours.
    """
    given: Any
    if files := ajbrock_files(source):
        given = {name: read(path) for name, path in files.items()}
    elif (source / "pytorch_model.bin").is_file():
        given = read(source / "pytorch_model.bin")
    elif source.is_dir():
        given = {path.stem: read(path) for path in sorted(source.glob("latest_net_*.pth"))}
        if not given:
            raise UserError(
                f"{source} holds no latest_net_G_A.pth, G.pth or pytorch_model.bin or the like: "
                f"give their folder."
            )
    else:
        given = read(source)
    for knows, make in KINDS:
        if knows(given):
            try:
                gan, config = make(given)
            except KeyError as error:
                raise UserError(f"{source} cannot be imported: {error} is missing.") from error
            break
    else:
        has = ", ".join(map(str, list(given)[:5])) if isinstance(given, Mapping) else type(given)
        raise UserError(
            f"{source} is of no kind that can be imported (it holds {has}): give a PGAN checkpoint "
            f"of facebookresearch/pytorch_GAN_zoo, a network pickle of the official PGGAN code, "
            f"a latest_net_G.pth (a folder of latest_net_*.pth) of CycleGAN's authors, weights of "
            f"ajbrock/BigGAN-PyTorch, or of the package pytorch-pretrained-biggan."
        )
    if out.exists():
        raise UserError(f"{out} exists: choose another name.")
    gan.config = config
    checkpoint: dict[str, Any] = {"state_dict": gan.state_dict()}
    gan.on_save_checkpoint(checkpoint)
    AtomicCheckpointIO().save_checkpoint(checkpoint, out)
    return gan
