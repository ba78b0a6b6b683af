"""Which images are meant on a command line or in a checkpoint, and how many classes they have."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ganzoo.config import CONF, composed, make
from ganzoo.config import trust as trusted
from ganzoo.data.files import refuse_among
from ganzoo.data.source import Source
from ganzoo.data.sources.pack import FACTS
from ganzoo.data.unpaired import Unpaired
from ganzoo.errors import UserError

# Sources of all images below their root.
READS_ALL = [f"ganzoo.data.sources.{name}" for name in ("folder.Folder", "domains.Domain")]


def source_of(
    data: str,
    image_size: tuple[int, int],
    channels: int = 3,
    keys: Sequence[str] = (),
    config_dir: str | None = None,
) -> Source:
    """The images of one domain meant on a command line; see `sources_of`."""
    sources = sources_of(data, image_size, channels, keys, config_dir)
    if len(sources) > 1:
        raise UserError(f"{data} has two domains: give the path of the images of one.")
    return sources[""]


def sources_of(
    data: str,
    image_size: tuple[int, int],
    channels: int = 3,
    keys: Sequence[str] = (),
    config_dir: str | None = None,
) -> dict[str, Source]:
    """The images meant on a command line: {"": source}, or those of A, B, A-test and B-test.

    Args:
        data: the name of a data set in `conf/data`, or the path of a folder, zip, tar or pack.
        keys: KEY=VALUE for keys of `data.source`, such as root=PHOTOS or split=test; for two
            domains also of one of them, such as a.root=PHOTOS.
        config_dir: folder of more configs, as in `ganzoo.train --config-dir`.

    Raises UserError: `data` is neither a name nor a path, or a key does not fit.
    """
    if config_dir and not Path(config_dir).expanduser().is_dir():
        raise UserError(f"{config_dir} is not a folder: give the one that has data/NAME.yaml.")
    folders = [CONF, *([Path(config_dir).expanduser().resolve()] if config_dir else [])]
    names = sorted(path.stem for folder in folders for path in (folder / "data").glob("*.yaml"))
    name, given = data, [OmegaConf.from_dotlist(list(keys))]
    if data not in names:
        if not Path(data).exists():
            raise UserError(
                f"{data} is not a file or folder and not one of {', '.join(names)}: give the path "
                "of a folder, zip, tar or pack, or the name of a data set."
            )
        if "root" in given[0]:
            raise UserError(f"Both {data} and root={given[0].root} are given: leave out one.")
        name = "pack" if (Path(data) / FACTS).is_file() else "folder"
        given.insert(0, OmegaConf.create({"root": data}))
    top = [f"image_size=[{image_size[0]},{image_size[1]}]", f"channels={channels}"]
    top += [f"hydra.searchpath=['file://{folder}']" for folder in folders[1:]]
    cfg = composed("train", [f"data={name}", *top])
    asked: Any = OmegaConf.merge(*given)
    try:
        for domain in ("a", "b"):
            if domain in cfg.data and domain in asked:
                cfg.data[domain] = OmegaConf.merge(cfg.data[domain], asked.pop(domain))
        cfg.data.source = OmegaConf.merge(cfg.data.source, asked)
        if "_target_" in cfg.data.source:
            return {"": make(cfg.data.source)}
        both: Unpaired = make(cfg.data)
    except OmegaConfBaseException as error:
        raise UserError(
            f"{str(error).splitlines()[0]}; the keys are those in conf/data/{name}.yaml."
        ) from error
    found = {domain: part.source for domain, part in both.whole().items()}
    try:
        return found | {f"{domain}-test": p.source for domain, p in both.held_out().items()}
    except UserError:  # nothing is held out
        return found


def training_data(
    path: str | Path, config: Mapping[str, Any] | None, trust: Sequence[str] = ()
) -> Any:
    """The `ImageData` that the model of a checkpoint was trained on.

    Its config may call nothing but data, here or in a package of the user's own that is in `trust`.
    """
    if not config or "data" not in config:
        raise UserError(f"{path} does not say what it was trained on: give data=NAME.")
    trusted.check(path, config["data"], trusted.DATA, trust)
    return make(_without_downloads(config["data"]), "data")


def _without_downloads(node: Any) -> Any:
    """A config of data that writes nothing into the folder that a checkpoint names."""
    if isinstance(node, list | tuple):
        return [_without_downloads(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    return {
        key: False if key in ("download", "unpack") and value is True else _without_downloads(value)
        for key, value in node.items()
    }


def refuse_among_training(path: Path, config: Mapping[str, Any] | None) -> None:
    """Raises UserError if an output would lie among the images that a model was trained on."""
    data = (config or {}).get("data") or {}
    for part in ("source", "a", "b"):
        node = data.get(part) or {}
        if node.get("_target_") in READS_ALL and node.get("root"):
            refuse_among(path, Path(node["root"]).expanduser(), "choose an --out outside of it")


@cache
def _number_of_classes(data: str) -> int:
    """The number of classes of data, given as the YAML of its config."""
    node = OmegaConf.create(data)
    if "source" not in node or "_target_" not in node.source or OmegaConf.missing_keys(node):
        return 0  # two domains, or a missing value: both are refused elsewhere
    source = make(node).source
    try:
        labels = source.labels()
    except UserError as error:
        if node.source.get("download") or node.source.get("unpack"):
            raise UserError(
                "The number of classes is unknown until the data has been downloaded: set "
                "model.classes=NUMBER."
            ) from error
        raise
    if labels is None:
        raise UserError(
            f"{source.name} has no labels (a folder has them if every image lies in a folder of "
            "its class): choose other data, or train without classes: model.classes=0."
        )
    return len(source.classes) if source.classes is not None else int(labels.max()) + 1


# `${classes:${data}}` in a config: the number of classes of the data, found once per process.
# Programs that resolve configs import this module for it.
OmegaConf.register_new_resolver(
    "classes", lambda data: _number_of_classes(OmegaConf.to_yaml(data, resolve=True)), replace=True
)
