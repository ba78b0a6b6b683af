"""The ground of all configs: where they are, how objects are made of them, whom to trust."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ganzoo.errors import UserError

PACKAGE = Path(__file__).resolve().parent
CONF = next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir())

# What the config in a checkpoint may call when its model is rebuilt: the parts of models, and
# torch's optimizers. The caller has to name anything else.
TRUSTED = (
    *(f"ganzoo.{part}." for part in ("models", "nn", "draws", "schedules")),
    "torch.optim.",
    "hydra.utils.get_method",
)


def make(node: Any) -> Any:
    """`hydra.utils.instantiate`; one sentence for the user if the config does not fit the code."""
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


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """A config as plain dicts and lists, with all interpolations replaced by their values.

    Raises:
        UserError: a value is missing, or a resolver raised one.
    """
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise UserError(f"{' and '.join(missing)} must be given: add {missing[0]}=VALUE.")
        return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        # Of an error in a resolver, OmegaConf keeps only the name of its type and the message.
        name, _, said = str(error).partition("\n")[0].partition(" raised while resolving ")
        if name != UserError.__name__:
            raise
        raise UserError(said.partition(": ")[2]) from None


def check_trusted(path: str | Path, config: Any, trust: Sequence[str] = ()) -> None:
    """Raises UserError if the config in a checkpoint would call anything but parts of models.

    Args:
        path: path of the checkpoint, for the message.
        config: part of its config.
        trust: prefixes of further names that it may call, such as "mypackage.".
    """
    for target in _targets(config):
        if not (target.startswith(tuple(trust)) or _is_trusted(target)):
            raise UserError(
                f"{path} wants to call {target}: if you trust its author, load it with "
                f"trust=[{target.rpartition('.')[0]!r}]."
            )


def _is_trusted(target: str) -> bool:
    """Whether a name leads to an object that is defined in one of the modules in `TRUSTED`.

    What a trusted module imports is not trusted: `ganzoo.models.os` would be `os`.
    """
    if not target.startswith(TRUSTED):
        return False
    try:
        found = get_object(target)
    except Exception:  # importing it may raise anything
        return False
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    return home.startswith(TRUSTED)


def _targets(node: Any) -> Iterator[str]:
    """Every name that instantiating a config would import, and every interpolation.

    The config was resolved when it was written, so an interpolation can only hide a name.
    """
    if isinstance(node, str) and "${" in node:
        yield node
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ("_target_", "path") and isinstance(value, str):
                yield value
            else:
                yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)
