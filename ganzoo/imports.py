"""Public checkpoints of other projects as ours: `python -m ganzoo.prepare import`.

Files are read without running what is pickled in them: classes that are not torch's own become
inert stand-ins, and only tensors are taken.
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ganzoo.checkpoint import AtomicCheckpointIO
from ganzoo.errors import UserError
from ganzoo.gan import GAN
from ganzoo.models.biggan.imports import (
    ajbrock_files,
    ajbrock_model,
    is_ajbrock,
    is_pretrained,
    pretrained_model,
)
from ganzoo.models.pggan.imports import gan_zoo_model, is_gan_zoo

# What pickled tensors are made of. Anything else in a file is not called.
HARMLESS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    *(("torch", f"{kind}Storage") for kind in ("Float", "Double", "Half", "Long", "Int", "Byte")),
    ("torch.storage", "UntypedStorage"),
}

Made = tuple[GAN, dict[str, Any]]  # a model, and the config that it is rebuilt from

# Who knows a kind of file: whether it is one, and what becomes of it.
KINDS: list[tuple[Callable[[Any], bool], Callable[[Any], Made]]] = [
    (is_gan_zoo, gan_zoo_model),
    (is_ajbrock, ajbrock_model),
    (is_pretrained, pretrained_model),
]


class Inert:
    """Stands for an object of a class that is not trusted: it takes anything and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


class Wary(pickle.Unpickler):
    """Calls nothing but what rebuilds tensors."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in HARMLESS else Inert


def read(path: Path) -> Any:
    """What a file of torch.save holds, its tensors on the CPU, the rest as far as it is harmless.

    Raises:
        UserError: no such file, or none of torch's.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: give the checkpoint to import.")
    wary = SimpleNamespace(
        Unpickler=Wary, load=lambda f, **_: Wary(f).load(), __name__="wary", Pickler=None
    )
    try:
        return torch.load(path, map_location="cpu", pickle_module=wary, weights_only=False)
    except Exception as error:  # whatever a damaged file makes of the unpickler
        raise UserError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged or of "
            f"another kind; give a file that torch.save wrote."
        ) from error


def import_checkpoint(source: Path, out: Path) -> GAN:
    """Make a checkpoint of ganzoo of a file of another project; return its model.

    Args:
        source: a PGAN checkpoint of pytorch_GAN_zoo; a folder of BigGAN-PyTorch's weights, or its
            generator's file; or `pytorch_model.bin` of pytorch-pretrained-biggan, or its folder.
        out: a .ckpt that is not there yet.

    Raises:
        UserError: a file of no known kind, or a network that ours cannot be.
    """
    if files := ajbrock_files(source):
        given = {name: read(path) for name, path in files.items()}
    else:
        given = read(source / "pytorch_model.bin" if source.is_dir() else source)
    for knows, make in KINDS:
        if knows(given):
            gan, config = make(given)
            break
    else:
        has = ", ".join(map(str, list(given)[:5])) if isinstance(given, Mapping) else type(given)
        raise UserError(
            f"{source} is of no kind that can be imported (it holds {has}): give a PGAN checkpoint "
            f"of facebookresearch/pytorch_GAN_zoo, weights of ajbrock/BigGAN-PyTorch, or of the "
            f"package pytorch-pretrained-biggan."
        )
    if out.exists():
        raise UserError(f"{out} exists: choose another name.")
    gan.config = config
    checkpoint: dict[str, Any] = {"state_dict": gan.state_dict()}
    gan.on_save_checkpoint(checkpoint)
    AtomicCheckpointIO().save_checkpoint(checkpoint, out)
    return gan
