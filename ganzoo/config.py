"""Where the configs are, and what is made of them."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ganzoo.data.source import Source
from ganzoo.data.sources.pack import FACTS
from ganzoo.data.unpaired import Unpaired
from ganzoo.engine.checkpoint import check_trusted
from ganzoo.errors import UserError

PACKAGE = Path(__file__).resolve().parent
CONF = next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir())


def make(node: Any) -> Any:
    """`hydra.utils.instantiate`, with a sentence for the user when the config does not fit."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__
        message = str(error).replace("\n", "; ")
        raise UserError(f"The config does not fit the code: {message}.") from error


@cache
def _number_of_classes(data: str) -> int:
    """The number of classes of data, given as the YAML of its config."""
    node = OmegaConf.create(data)
    if "source" not in node or "_target_" not in node.source or OmegaConf.missing_keys(node):
        return 0  # of two domains, or not all is given: either is refused elsewhere
    source = make(node).source
    try:
        labels = source.labels()
    except UserError as error:
        if node.source.get("download") or node.source.get("unpack"):
            raise UserError(
                "How many classes there are cannot be known before the data is there: give "
                "model.classes=NUMBER until it is."
            ) from error
        raise
    if labels is None:
        raise UserError(
            f"{source.name} has no labels: choose data with labels (a folder has them where every "
            f"image lies in a folder of its class), or train without classes: model.classes=0."
        )
    return len(source.classes) if source.classes is not None else int(labels.max()) + 1


# `${classes:${data}}`: how many classes the data has; looked at once in a process.
OmegaConf.register_new_resolver(
    "classes", lambda data: _number_of_classes(OmegaConf.to_yaml(data, resolve=True)), replace=True
)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """A config as plain dicts and lists, with every value found.

    Raises:
        UserError: one was not given, or cannot be found for another reason that the user can mend.
    """
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise UserError(
                f"There is no default for {' and '.join(missing)}: give {missing[0]}=VALUE."
            )
        return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        # OmegaConf keeps of an error in a resolver no more than its name and what it said.
        name, _, said = str(error).partition("\n")[0].partition(" raised while resolving ")
        if name != UserError.__name__:
            raise
        raise UserError(said.partition(": ")[2]) from None


def source_of(
    data: str, image_size: tuple[int, int], channels: int = 3, keys: Sequence[str] = ()
) -> Source:
    """The images meant on a command line: a name in `conf/data`, a folder, zip, tar or pack.

    Args:
        data: a name, or a path.
        keys: KEY=VALUE for keys of `data.source`, such as root=PHOTOS or split=test.

    Raises:
        UserError: neither a name nor a path, keys that do not fit, or data of two domains.
    """
    sources = sources_of(data, image_size, channels, keys)
    if len(sources) > 1:
        raise UserError(f"{data} has two domains: give the path of the images of one.")
    return sources[""]


def sources_of(
    data: str, image_size: tuple[int, int], channels: int = 3, keys: Sequence[str] = ()
) -> dict[str, Source]:
    """As `source_of`, under an empty name; of two domains A and B, and A-test and B-test.

    Args:
        keys: of two domains also those of one, as in a.root=PHOTOS.
    """
    names = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
    name, given = data, [OmegaConf.from_dotlist(list(keys))]
    if data not in names:
        if not Path(data).exists():
            raise UserError(
                f"{data} is neither a file or folder nor one of {', '.join(names)}: give the path "
                "of a folder, zip, tar or pack, or the name of a data set."
            )
        name = "pack" if (Path(data) / FACTS).is_file() else "folder"
        given.insert(0, OmegaConf.create({"root": data}))
    top = [f"image_size=[{image_size[0]},{image_size[1]}]", f"channels={channels}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"data={name}", *top])
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
            f"{' '.join(str(error).split())}; the keys are those in conf/data/{name}.yaml."
        ) from error
    found = {domain: part.source for domain, part in both.whole().items()}
    try:
        return found | {f"{domain}-test": p.source for domain, p in both.held_out().items()}
    except UserError:
        return found


def training_data(path: str | Path, config: Mapping[str, Any] | None) -> Any:
    """The data that the model of a checkpoint was trained on, an `ImageData`, by its config.

    Raises:
        UserError: it does not say, or would call what data is not made of.
    """
    if not config or "data" not in config:
        raise UserError(f"{path} does not say what it was trained on: give data=NAME.")
    check_trusted(path, config["data"], ["ganzoo.data."])
    return make(config["data"])
