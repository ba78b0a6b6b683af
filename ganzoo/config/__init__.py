"""Configs: where they are, and how objects are made of them.

`values` compares their values with the declared types; `trust` says which names a checkpoint may
call.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ganzoo.config.values import check_call, check_value
from ganzoo.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir())


def composed(name: str, overrides: Sequence[str], **options: bool) -> DictConfig:
    """Compose a config of the package, also inside of a command that Hydra has started.

    Folders that the command was given as `--config-dir` or `hydra.searchpath` are searched as well.

    Raises UserError: an override that Hydra does not accept.
    """
    instance = GlobalHydra.instance()
    before = instance.hydra
    instance.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(name, [*search_path(), *overrides], **options)
    except (HydraException, ValueError) as error:  # ValueError: data=0, which is not a name
        raise UserError(" ".join(str(error).split())) from error
    finally:
        instance.hydra = before


def search_path() -> list[str]:
    """The override that adds the folders of `--config-dir` and `hydra.searchpath`, if any."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    given = [source for source in sources if source.provider.endswith("command-line")]
    paths = [json.dumps(f"{source.schema}://{source.path}") for source in given]
    return [f"hydra.searchpath=[{','.join(paths)}]"] if paths else []


def make(node: Any, key: str = "") -> Any:
    """`hydra.utils.instantiate`; one sentence for the user if the config does not fit the code.

    `key` is its dotted name, for messages; a part of a larger config knows its own.
    """
    if isinstance(node, DictConfig):
        key = key or node._get_full_key("")
        node = resolved(node)
    if not isinstance(node, Mapping | list):
        raise UserError(f"{key} must be a config with _target_, not {node!r}.")
    try:
        check_types(node, key)
        return instantiate(node, _convert_="all")
    except (InstantiationException, TypeError) as error:  # TypeError: _partial_=1
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
                raise UserError(f"Not enough memory for {key}: make it smaller.") from error
            cause = cause.__cause__
        message = str(error).replace("\n", "; ")
        raise UserError(f"The config does not fit the code: {message}.") from error


def check_types(node: Any, key: str = "") -> None:
    """Raise `UserError` if a value in a config is not of the type that the code declares."""
    if isinstance(node, list):
        for place, value in enumerate(node):
            check_types(value, f"{key}[{place}]")
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        _check_call(node, key)  # first, as parts repeat its values: ${model.nz}
    for name, value in node.items():
        check_types(value, f"{key}.{name}" if key else str(name))


def _check_call(node: Mapping[str, Any], key: str) -> None:
    """`check_types` for what one `_target_` is given."""
    try:
        called = get_object(node["_target_"])
    except Exception:  # importing it may raise anything; `instantiate` then says it
        return
    given = {name: value for name, value in node.items() if not str(name).startswith("_")}
    try:
        check_call(called, given, key)
    except UserError:
        for name, value in given.items():
            _check_no_option(f"{key}.{name}", value)
        raise


def _check_no_option(key: str, value: Any) -> None:
    """Raise `UserError` for the option of a group that was given as the value of a key."""
    for group in (key.replace(".", "/"), key.rpartition(".")[2]):
        if isinstance(value, str) and (CONF / group / f"{value}.yaml").is_file():
            raise UserError(f"{key}={value} is not the value of a key: use {group}={value}.")


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """A config, or a part of one, as plain data without interpolations; UserError if one fails."""
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise UserError(f"{' and '.join(missing)} must be given: add {missing[0]}=VALUE.")
        return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise _in_a_sentence(error) from None


def check_keys(cfg: DictConfig, kinds: Mapping[str, Any]) -> None:
    """Raise `UserError` if a key at the top of a config is missing or of another type."""
    for key, kind in kinds.items():
        if key not in cfg:
            raise UserError(f"{key} is needed: leave out ~{key}.")
        try:
            value = cfg[key]
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            raise _in_a_sentence(error) from None
        check_value(key, value, kind)


def _in_a_sentence(error: OmegaConfBaseException) -> UserError:
    # Of an error in a resolver, OmegaConf keeps only the name of its type and the message.
    message = str(error).partition("\n")[0]
    if found := re.search(r"Missing mandatory value: ([\w.]+)$", message):  # what a key refers to
        return UserError(f"{found[1]} must be given: add {found[1]}=VALUE.")
    name, _, resolving = message.partition(" raised while resolving ")
    message = resolving.partition(": ")[2] if resolving else message
    if name == UserError.__name__:
        return UserError(message)
    message = message.strip('"')  # around the message of a KeyError
    where = f"{error.full_key}: " if error.full_key else ""
    return UserError(f"{where}{message.removesuffix('.')}.")
