"""Public checkpoints of other projects as ours: `python -m ganzoo.prepare import`.

Files are read without running what is pickled in them: classes that are not torch's own become
inert stand-ins, and only tensors are taken.
"""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ganzoo.engine.checkpoint import AtomicCheckpointIO, check_sums
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.models.biggan import imports as biggan
from ganzoo.models.cyclegan import imports as cyclegan
from ganzoo.models.dcgan import imports as dcgan
from ganzoo.models.pggan import imports as pggan
from ganzoo.models.weights import Imported, is_state, states_in
from ganzoo.sharing.loading import weights_of

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

# Keys under which people keep a network in a file, the average before the others.
WRAPPERS = ("g_ema", "G_ema", "state_dict", "model", "netG", "generator", "G")
# Files that belong together, in a folder: the first of these patterns that is found.
TOGETHER = (
    "latest_net_*.pth", "net[GD]_epoch_*.pth", "model=[GD]*.pth", "*.safetensors", "*.bin",
)  # fmt: skip


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
    """What a file of torch.save, of pickle or of safetensors holds, its tensors on the CPU.

    Objects of classes that are not torch's own are `Inert`.

    Raises:
        UserError: no such file, or one that is damaged or of another kind, such as TorchScript.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: give the checkpoint to import.")
    if path.suffix == ".safetensors":
        return weights_of(path)
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


class Format(NamedTuple):
    """A kind of file of another project: its name, whether it is one, and the model it becomes.

    `model` raises KeyError or UserError if it cannot.
    """

    name: str
    knows: Callable[[Any], bool]
    model: Callable[[Any], Imported]


def has(layer: str, network: str = "") -> Callable[[Any], bool]:
    """Recognizes a state dict by the start of a layer's name; of several, by their names, too."""

    def knows(given: Any) -> bool:
        states = [
            s for name, s in states_in(given).items() if re.fullmatch(network, name) or not name
        ]
        return any(re.match(layer, name) for state in states for name in state)

    return knows


FORMATS = [
    Format(
        "networks of pytorch/examples' DCGAN (netG_epoch_24.pth, or their folder)",
        has(r"main\.\d+\.", "net[GD].*"), dcgan.example_model,
    ),
    Format(
        "a PGAN checkpoint of facebookresearch/pytorch_GAN_zoo",
        has(r"formatLayer\.", "netG"), pggan.gan_zoo_model,
    ),
    Format(
        "a network pickle of the official PGGAN code", pggan.is_official, pggan.official_model
    ),
    Format(
        "networks of CycleGAN's authors (latest_net_G_A.pth, latest_net_D_A.pth, or their folder)",
        has(r"(model|net)\.(model\.)?\d", cyclegan.ROLE), cyclegan.authors_model,
    ),
    Format(
        "weights of ajbrock/BigGAN-PyTorch (G.pth, or its folder)",
        has(r"output_layer\.2\.weight", "G|G_ema"), biggan.ajbrock_model,
    ),
    Format(
        "pytorch-pretrained-biggan (pytorch_model.bin)",
        has(r"generator\.gen_z\.weight_orig"), biggan.pretrained_model,
    ),
    Format(
        "StudioGAN's BigGAN (model=G-....pth, or its folder)",
        has(r"blocks\.0\.0\.conv2d0\.weight_orig", "model=.*"), biggan.studio_model,
    ),
]  # fmt: skip
SUPPORTED = f"Supported are {'; '.join(form.name for form in FORMATS)}."


def contents(source: Path) -> Any:
    """What a file holds, or the files of a folder that belong together, by their names.

    Of several epochs, the last is taken. Raises `UserError` if there is nothing to import.
    """
    files = biggan.ajbrock_files(source)
    if not files and not source.is_dir():
        found = plain(read(source))
        named = re.fullmatch(cyclegan.ROLE, source.stem) and is_state(found)
        return {source.stem: found} if named else found
    for pattern in TOGETHER:
        paths = [] if files else sorted(source.glob(pattern), key=_epoch)
        files |= {_network(path.stem): path for path in paths}
    if not files:
        raise UserError(f"{source} holds no file that can be imported. {SUPPORTED}")
    if len(files) == 1 and source.is_dir():
        return contents(*files.values())
    return {name: [*inside(plain(read(path)))][-1] for name, path in files.items()}


def _epoch(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.stem)]


def _network(stem: str) -> str:
    """The name of a network without its moment: `netG` of `netG_epoch_24`."""
    return re.split("_epoch_|-(?:best|current)-weights", stem)[0]


def plain(given: Any) -> Any:
    """State dicts without the `module.` of a wrapper for several devices."""
    if is_state(given):
        return {name.removeprefix("module."): value for name, value in given.items()}
    if isinstance(given, Mapping):
        return {name: plain(value) for name, value in given.items()}
    return given


def inside(given: Any) -> Iterator[Any]:
    """The contents of a file, and what is kept in it under one of `WRAPPERS`, outermost first."""
    yield given
    if isinstance(given, Mapping) and not is_state(given):
        for key in WRAPPERS:
            if isinstance(given.get(key), Mapping):
                yield from inside(given[key])


def import_checkpoint(source: Path, out: Path) -> GAN:
    """Write a checkpoint of ganzoo with the networks of another project's file; return its model.

    Raises `UserError` for unknown files and for networks that differ from ours; see `contents`.
    """
    given = contents(source)
    known = [(form, part) for part in inside(given) for form in FORMATS if form.knows(part)]
    if not known:
        held = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise UserError(
            f"{source} is of no kind that can be imported (it holds {held[:200] or 'nothing'}). "
            f"{SUPPORTED}"
        )
    form, part = known[0]
    try:
        gan, config = form.model(part)
    except KeyError as error:
        raise UserError(f"{source} cannot be imported: {error} is missing.") from error
    if out.exists():
        raise UserError(f"{out} exists: choose another name.")
    gan.config = config
    checkpoint: dict[str, Any] = {"state_dict": gan.state_dict()}
    gan.on_save_checkpoint(checkpoint)
    AtomicCheckpointIO().save_checkpoint(checkpoint, out)
    return gan
