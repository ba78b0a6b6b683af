"""A page that anyone can open and play with, made from a run."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ganzoo import __version__
from ganzoo.data.decode import Decoder, images_among
from ganzoo.data.files import open_files
from ganzoo.disk import write_whole
from ganzoo.engine import checkpoint
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds, Translating
from ganzoo.engine.playing import played
from ganzoo.engine.sampling import Threshold
from ganzoo.engine.sharing import alone, graphs
from ganzoo.errors import UserError
from ganzoo.metrics.pretrained import cache_folder
from ganzoo.runs.sharing import PICTURE, picture_of, scores_of, values_of
from ganzoo.sharing import artifacts, facts
from ganzoo.sharing.artifacts import Graph
from ganzoo.sharing.playground import INDEX, Page, runtime

ANYTHING = ("Folder", "Pack", "HuggingFace", "Unknown")  # sources whose name says nothing
EXAMPLES, LARGEST = 24, 512  # number of examples, at most, and pixels of their longer side


@dataclass(frozen=True)
class Options:
    """What to put on a page.

    Args:
        title: None for one made of the data and the model.
        license: of the network, in a few words; None if it is not stated.
        truncations: thresholds to offer; None for those that suit the latents.
        directions: of a model that translates; None for all.
        domains: what to call the two domains.
        examples: folder of photos for visitors to start with; None for no photos.
        raw: whether to take the raw generator instead of the average.
        trust: packages of the user's own that the model is made of.
    """

    title: str | None = None
    license: str | None = None
    truncations: Sequence[Threshold] | None = None
    directions: Sequence[str] | None = None
    domains: tuple[str, str] = ("A", "B")
    examples: Path | None = None
    raw: bool = False
    trust: Sequence[str] = ()


def runtime_cache() -> Path:
    """The folder where `ganzoo.prepare playground` puts what runs networks in a browser."""
    return cache_folder() / "playground"


def build(source: str | Path, options: Options) -> Page:
    """The page of a trained model.

    Args:
        source: everything that `ganzoo.load` takes.
        options: what to put on it.

    Raises:
        UserError: an option does not suit the model, or its graph cannot be written.
    """
    files = runtime.load(runtime_cache())
    path = checkpoint.find(source)
    gan = checkpoint.load(path, trust=options.trust)
    assert gan.config is not None
    model, _ = alone(gan, options.raw, options.directions)
    translates = isinstance(model, Translating)
    if not translates and options.examples:
        raise UserError(f"{type(gan).__name__} translates no photos: leave out --examples.")
    if translates and options.truncations:
        raise UserError(f"{type(gan).__name__} has no latents: leave out --truncations.")
    known, nameable = facts.data_of(gan.config)
    parameters = sum(p.numel() for p in model.generator.parameters())
    about = facts.recipe(gan.config, gan.images_seen)
    about = {key: about[key] for key in ("Data", "Length") if key in about}
    page = Page(
        title=options.title or title(type(gan).__name__, gan.config, translates),
        name=(known if nameable and known not in ANYTHING else type(gan).__name__).lower(),
        facts={"arrays": {}, "classes": [], "examples": [], "directions": [], "stops": []},
        rows={
            "Model": type(gan).__name__,
            **about,
            "Parameters": f"{parameters:,}",
            "License": options.license or "not stated",
        },
        scores=[
            value for scores in scores_of(gan, path, options.raw) for value in values_of(scores)
        ],
        version=__version__,
        files=files,
    )
    if isinstance(model, FromSeeds):
        _from_seeds(page, model, options)
    elif isinstance(model, Translating):
        _translating(page, model, options)
    page.networks = (*page.networks, runtime.WASM)
    return page


def title(model: str, config: Mapping[str, Any], translates: bool) -> str:
    """A title for a page that was given none."""
    if translates:
        return f"Photos repainted by a {model}"
    data, nameable = facts.data_of(config)
    only = config["data"].get("only") or []
    if nameable and len(only) == 1:  # one class, such as the smileys of the emoji
        data = str(only[0])
    return f"{'Pictures' if data in ANYTHING else data} drawn by a {model}"


def _from_seeds(page: Page, model: FromSeeds, options: Options) -> None:
    found = played(model, options.truncations)
    height, width = _size(model)
    page.facts |= {
        "kind": "seeds",
        "shape": [3, height, width],
        "classes": [_name(model, i) for i in range(model.classes)],
        "arrays": {name: _packed(array) for name, array in found.arrays.items()},
        **found.facts,
    }
    _add_graph(page, found.graph)
    page.picture, page.files[PICTURE] = PICTURE, _png(picture_of(model))


def _translating(page: Page, model: Translating, options: Options) -> None:
    names = dict(zip(model.domains, options.domains, strict=True))
    ends = {direction: direction.split("to") for direction in model.directions}
    page.facts |= {
        "kind": "translation",
        "directions": [
            {
                "name": direction,
                "from": names[a],
                "to": names[b],
                "channels": model.channels[a],
                "makes": model.channels[b],
            }
            for direction, (a, b) in ends.items()
        ],
    }
    if others := [d for d in model.directions if model.channels[d[0]] not in (1, 3)]:
        raise UserError(f"{others[0]} takes no photos: they have 1 or 3 channels.")
    for graph in graphs(model, _size(model)):
        _add_graph(page, graph)
    if options.examples:
        _add_examples(page, options.examples)


def _size(gan: GAN) -> tuple[int, int]:
    assert gan.config is not None
    size = gan.config.get("image_size", 256)
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _name(model: GAN, label: int) -> str:
    names = model.class_names or []
    return names[label] if label < len(names) else str(label)


def _packed(array: Tensor) -> dict[str, Any]:
    """An array for JavaScript, little-endian."""
    numbers = array.detach().cpu().numpy()
    data = numbers.astype(np.dtype(numbers.dtype).newbyteorder("<")).tobytes()
    return {"shape": list(array.shape), "data": base64.b64encode(data).decode()}


def _add_graph(page: Page, graph: Graph) -> None:
    with TemporaryDirectory() as temporary:
        found = artifacts.write(graph, "onnx", Path(temporary))
        if found["deleted"]:
            raise UserError(
                f"The graph {graph.name} differs from the model by "
                f"{found['largest_difference']:.2g}, more than {artifacts.LIMIT:g}, and cannot be "
                "put on a page."
            )
        name = f"{graph.name}.onnx"
        page.files[name] = (Path(temporary) / name).read_bytes()
    page.networks = (*page.networks, name)


def _add_examples(page: Page, folder: Path) -> None:
    """Add small copies of photos, without what else their files say."""
    files, decoder = open_files(folder), Decoder((1, 1), resize="none")
    for i, name in enumerate(images_among(files.names)[:EXAMPLES]):
        with files.open(name) as file:
            pixels = decoder(file.read())
        photo = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        photo.thumbnail((LARGEST, LARGEST))
        page.files[f"example{i}.png"] = _png(photo)
        page.facts["examples"].append({"name": Path(name).name, "file": f"example{i}.png"})


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def check_free(out: Path, single: bool) -> None:
    """Raise `UserError` if something is where a page is to be written."""
    if out.exists() and (single or not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists: choose another name.")


def write_page(page: Page, out: Path, single: bool) -> Path:
    """Write a page as a new folder, or as one file; returns the path to open.

    Raises:
        UserError: something is there already.
    """
    check_free(out, single)
    if single:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page.single())
        return out
    out.mkdir(parents=True, exist_ok=True)
    for name, data in page.folder().items():
        write_whole(out / name, data)
    return out / INDEX
