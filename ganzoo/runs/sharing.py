"""What of a run is shared: a folder with weights, graphs, samples, a card, and their parity."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL.Image import Image
from torch import Tensor

from ganzoo import __version__
from ganzoo.data.choosing import source_of, training_data
from ganzoo.data.images import ImageData
from ganzoo.data.pixels import to_float
from ganzoo.data.unpaired import Unpaired
from ganzoo.disk import write_whole
from ganzoo.engine import checkpoint
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds, Translating, generator_of
from ganzoo.engine.sharing import BATCHES, alone, graphs, photos, sizes
from ganzoo.errors import UserError
from ganzoo.metrics.protocol import sentence
from ganzoo.pictures import sheets
from ganzoo.pictures.grids import enlarged, grid, named_rows
from ganzoo.sharing import artifacts, facts, loading
from ganzoo.sharing.card import Card, Value

PARITY, CARD, PICTURE = "parity.json", "README.md", "samples.png"
PHRASES = {
    loading.WEIGHTS: "weights of the network that samples",
    loading.CONFIG: "everything that `ganzoo.load` builds the model from",
    PARITY: "the largest difference of each file from the trained model",
    "generator.onnx": "ONNX graph: `latents`, `labels` if there are classes -> `images`",
    "generator.pt2": "the same graph for `torch.export.load`",
    **{f"{d}.onnx": f"ONNX graph {d}: `source`, any height and width -> `images`"
       for d in ("AtoB", "BtoA")},
    **{f"{d}.pt2": f"the same graph {d} for `torch.export.load`" for d in ("AtoB", "BtoA")},
}  # fmt: skip
EMBEDDING = " `class_embedding` may be given, too, in place of the labels: it mixes classes"


@dataclass(frozen=True)
class Options:
    """What to write.

    Args:
        kinds: graphs to add: "onnx", "pt2".
        directions: of a model that translates; None for all.
        size: largest height and width to compare translations at; None for the training images'.
        half: whether to round weights to float16.
        raw: whether to take the raw generator instead of the average.
        trust: packages of the user's own that the model is made of.
        repository: USER/NAME on the Hub, for the card; empty if it is not pushed.
        samples: images to translate for the card, a file or folder for each direction; empty for
            test images of data that anybody can have.
    """

    kinds: Sequence[str] = ()
    directions: Sequence[str] | None = None
    size: tuple[int, int] | None = None
    half: bool = False
    raw: bool = False
    trust: Sequence[str] = ()
    repository: str = ""
    samples: Sequence[str] = ()


def export(source: str | Path, out: Path, options: Options) -> dict[str, Any]:
    """Write a trained model to a folder, which must be new or empty.

    Args:
        source: everything that `ganzoo.load` takes.
        out: the folder.
        options: what to write.

    Returns:
        for each file its size in bytes, its largest difference from the model, and whether it was
        deleted for that.

    Raises:
        UserError: the folder is not empty, an option does not suit the model, or a graph cannot be
            written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists: choose another name.")
    path = checkpoint.find(source)
    gan = checkpoint.load(path, trust=options.trust)
    if options.size and not isinstance(gan, Translating):
        raise UserError(f"{type(gan).__name__} translates nothing: leave out --size.")
    size = options.size or _size(gan)
    model, entry = alone(gan, options.raw, options.directions, options.half)
    directions = model.directions if isinstance(model, Translating) else ()
    if options.samples and len(options.samples) != len(directions):
        raise UserError(
            f"--samples needs a file or folder for each of {', '.join(directions)}."
            if directions
            else f"{type(gan).__name__} translates nothing: leave out --samples."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        state = model.state_dict()
        if options.half:
            state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        entry["scores"] = scores_of(gan, path, options.raw)
        loading.write(folder, state, entry)
        parity = {loading.WEIGHTS: _weights_parity(model, gan, folder, size, options)}
        for graph in graphs(model, size):
            for kind in options.kinds:
                parity[f"{graph.name}.{kind}"] = artifacts.write(graph, kind, folder)
        about = {"limit": artifacts.LIMIT, "versions": artifacts.versions(), "files": parity}
        write_whole(folder / PARITY, json.dumps(about, indent=1) + "\n")
        data = data_of(gan, path, options.trust)
        if isinstance(model, FromSeeds):
            picture_of(model).save(folder / PICTURE)
        elif isinstance(model, Translating) and (
            picture := translations_of(model, data.tests, size, options.samples)
        ):
            picture.save(folder / PICTURE)
        names = sorted(file.name for file in folder.iterdir())
        write_whole(folder / CARD, card_of(gan, model, entry, names, data, out, options).text())
        if out.is_dir():
            out.rmdir()
        folder.rename(out)
    return parity


def _size(gan: GAN) -> tuple[int, int]:
    assert gan.config is not None
    size = gan.config.get("image_size", 256)
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _weights_parity(
    model: GAN, gan: GAN, folder: Path, size: tuple[int, int], options: Options
) -> dict[str, Any]:
    """How far the weights, loaded again, are from the trained model (rounded with `half`)."""
    again = checkpoint.load(folder, trust=options.trust)
    rounded = options.half
    pairs = []
    if isinstance(gan, FromSeeds) and isinstance(model, FromSeeds) and isinstance(again, FromSeeds):
        seeds = range(max(BATCHES))
        original = gan.sample(seeds, raw=options.raw)
        pairs = [(original, model.sample(seeds), again.sample(seeds))]
    elif isinstance(gan, Translating) and isinstance(model, Translating):
        assert isinstance(again, Translating)
        for direction in model.directions:
            for each in sizes(*size):
                given = photos(2, gan.channels[direction[0]], each)
                original = gan.translate(given, direction, options.raw)
                pairs.append(
                    (original, model.translate(given, direction), again.translate(given, direction))
                )
    worst = max(artifacts.difference(m if rounded else o, a) for o, m, a in pairs)
    path = folder / loading.WEIGHTS
    found: dict[str, Any] = {"largest_difference": worst, "deleted": not worst <= artifacts.LIMIT}
    if rounded:
        found["difference_by_rounding"] = max(artifacts.difference(o, a) for o, _, a in pairs)
    if found["deleted"]:
        path.unlink()
    return {**found, "bytes": path.stat().st_size if path.is_file() else 0}


@dataclass(frozen=True)
class Data:
    """What may be told and shown of the data that a model was trained on.

    Attributes:
        names: names of the data sets.
        license: whose images these are, and under which licenses; empty if unknown.
        tests: some test images of each domain, float [N, C, H, W] in [-1, 1], if the model
            translates and anybody can have these images.
    """

    names: str
    license: str = ""
    tests: Mapping[str, Tensor] = field(default_factory=dict)


def data_of(gan: GAN, path: Path, trust: Sequence[str]) -> Data:
    """What is known here of the data of a checkpoint."""
    kind, nameable = facts.data_of(gan.config or {})
    try:
        data = training_data(path, gan.config, trust)
        sources = [domain.source for domain in data.domains.values()]
        license_ = " ".join(dict.fromkeys(s.license for s in sources if s.license))
        shown = data.tests()[0] if nameable and isinstance(data, Unpaired) else {}
        tests = {domain: _some(images) for domain, images in shown.items()}
    except UserError:  # it is not on this machine, or comes from a package that is not trusted
        return Data(f"images of the source {kind}")
    names = (
        " and ".join(source.name for source in sources)
        if nameable
        else f"images of the source {kind}"
    )
    return Data(names, license_, tests)


def _some(images: ImageData) -> Tensor:
    """Up to eight images, evenly spaced, float in [-1, 1]."""
    num = len(images.source)
    count = min(8, num)
    return to_float(images.read([i * num // count for i in range(count)]))


def picture_of(gan: FromSeeds) -> Image:
    """Samples: a row for each of the first ten classes, or a grid."""
    if gan.classes:
        rows = sheets.class_sheet(gan, range(min(10, gan.classes)), range(8))
        return named_rows({name: _large(images) for name, images in rows.items()})
    return grid(_large(gan.sample(range(32))), 8)


def translations_of(
    gan: Translating, tests: Mapping[str, Tensor], size: tuple[int, int], samples: Sequence[str]
) -> Image | None:
    """Images before and after; None if there are none that everybody may see.

    Args:
        gan: the model.
        tests: images of each domain, as in `Data`.
        size: height and width of `samples`.
        samples: files or folders of images to show instead, one for each direction.
    """
    before = dict(tests)
    for direction, place in zip(gan.directions, samples, strict=False):
        channels = gan.channels[direction[0]]
        source = source_of(place, size, channels)
        before[direction[0]] = _some(ImageData(source, size, channels, 1, 0, mirror=False))
    rows: dict[str, Tensor] = {}
    for direction in gan.directions:
        if (images := before.get(direction[0])) is not None:
            after = gan.translate_many(images, direction)
            rows[f"real {direction[0]}"] = _large(images)
            rows[direction.replace("to", " to ")] = _large(after)
    return named_rows(rows) if rows else None


def _large(images: Tensor) -> Tensor:
    """Images enlarged to about 64 pixels, if they are smaller, so that a page shows them well."""
    return enlarged(images, max(1, 64 // images.shape[-2]))


def card_of(
    gan: GAN,
    model: GAN,
    entry: dict[str, Any],
    names: Sequence[str],
    data: Data,
    out: Path,
    options: Options,
) -> Card:
    """The card of an export."""
    assert gan.config is not None
    config = gan.config
    height, width = _size(gan)
    phrases = {name: PHRASES[name] for name in names if name in PHRASES}
    if isinstance(model, FromSeeds) and any(g.optional in g.free for g in graphs(model, (8, 8))):
        phrases |= {n: f"{p}.{EMBEDDING}" for n, p in phrases.items() if n.endswith(".onnx")}
    average = generator_of(gan, options.raw) == "average"
    generator = "moving average" if average else "as trained, without an average"
    card = Card(
        name=options.repository.rpartition("/")[2] or out.name,
        source=f"hf:{options.repository}" if options.repository else out.name,
        model=type(gan).__name__,
        version=__version__,
        shape=(int(config.get("channels", 3)), height, width),
        facts={"Generator": generator, **facts.recipe(config, gan.images_seen)},
        data=data.names,
        license=data.license,
        values=[value for scores in entry["scores"] for value in values_of(scores)],
        files=phrases,
        class_names=gan.class_names or [],
        classes=gan.classes,
        parameters=sum(p.numel() for p in model.generator.parameters()),
        picture=PICTURE if PICTURE in names else "",
    )
    if isinstance(gan, Translating) and isinstance(model, Translating):
        card.directions = model.directions
        card.shape = (gan.channels[model.directions[0][0]], height, width)
    elif isinstance(gan, FromSeeds):
        card.nz, card.prior = gan.nz, getattr(gan.prior, "__name__", "")
    return card


def scores_of(gan: GAN, path: Path, raw: bool) -> list[dict[str, Any]]:
    """The scores of a model, with their protocols, as far as they may be told to everybody."""
    data, nameable = facts.data_of(gan.config or {})
    which = generator_of(gan, raw)
    return list(facts.scores(path, gan.images_seen, which, "" if nameable else data))


def values_of(scores: dict[str, Any]) -> list[Value]:
    """The values of one evaluation, for the card."""
    values = []
    for metric, value in scores["values"].items():
        protocol = scores["protocol"]
        protocol = protocol if "real" in protocol else protocol[metric.partition("/")[0]]
        if not metric.endswith("_std"):
            data, floor = protocol["real"]["data"], scores["floors"].get(metric)
            values.append(Value(metric, float(value), sentence(protocol), data, floor))
    return values
