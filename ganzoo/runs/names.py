"""Names of runs and their folders: when they started, and the keys that they were given."""

import hashlib
import os
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ganzoo.config import CONF
from ganzoo.distributed import cluster
from ganzoo.runs.text import endings

# Where images are. A resumed run may find them elsewhere, because they are identified by what they
# contain: see `Source.fingerprint`.
PLACES = ("data.root", "data.source.root", "data.a.root", "data.b.root")
# Keys that may change when a run is resumed.
CHANGEABLE = ("run_dir", "sweep_dir", "total_kimg", "model.total_kimg", "trainer", "callbacks",
              "metrics", "logger", "data.workers", "data.source.download", "data.source.unpack",
              "data.accept_changed", "dry", "init_from", *PLACES)  # fmt: skip
LONGEST = 100  # characters of a name; file systems allow 255 bytes


def in_sweep() -> bool:
    """Whether this process runs a job of a Hydra multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def changeable(key: str) -> bool:
    """Whether a key of the config may change when a run is resumed."""
    return any(key == name or key.startswith(name + ".") for name in CHANGEABLE)


def run_name(overrides: Iterable[str], keys: Iterable[str] = ()) -> str:
    """A readable name from overrides of some keys, or all: `biggan_lr-0.0002_seed-1`.

    Config groups appear by their value, other keys by their shortest unique ending. The name has no
    `=` and no `/`; a shortened value ends with digits of its hash. The order of the overrides does
    not matter.
    """
    parsed = sorted(
        (
            o
            for o in OverridesParser.create().parse_overrides(list(overrides))
            if _included(o, keys)
        ),
        key=lambda o: (not _is_group(o), o.key_or_group),
    )
    shorts = endings([o.key_or_group for o in parsed])
    parts = [_part(o, short) for o, short in zip(parsed, shorts, strict=True)]
    return _short("_".join(parts), LONGEST)


def start_time() -> str:
    """When the run started, or its SLURM job: equal in all processes, and after a requeue."""
    if job := cluster.job():
        return f"slurm-{job}"
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return now  # Lightning's launcher passes the folder of the first process on
    # torchrun starts all processes at once: the first to arrive decides, also after a restart.
    return torchrun_store().compare_set("ganzoo/start_time", "", now).decode()


def torchrun_store() -> torch.distributed.TCPStore:
    """The key-value store that the processes of torchrun share, even when they do not train."""
    return torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(minutes=5),
    )


def given(config: DictConfig | None = None) -> list[str]:
    """The overrides of this run, or of a config of Hydra, as they were typed."""
    hydra = HydraConfig.get() if config is None else config.hydra
    # Not resolved: a value such as {suite: ${metrics}} could not be parsed again.
    return OmegaConf.to_container(hydra.overrides.task, resolve=False)  # type: ignore[return-value]


def _folder() -> str:
    """`start_time`, and the given keys except model and data, which are folders already."""
    others = [o for o in given() if o.partition("=")[0] not in ("model", "data")]
    return "_".join(part for part in (start_time(), run_name(others)) if part)


def _job(*keys: str) -> str:
    return run_name(given(), keys) or "run"


def _sweep() -> str | None:
    return Path(HydraConfig.get().sweep.dir).name if in_sweep() else None


OmegaConf.register_new_resolver("start_time", start_time, use_cache=True, replace=True)
OmegaConf.register_new_resolver("run_folder", _folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("job_name", _job, replace=True)
OmegaConf.register_new_resolver("sweep_name", _sweep, replace=True)


def _is_group(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir()


def _included(override: Override, keys: Iterable[str]) -> bool:
    key = override.key_or_group
    return key in keys if keys else key in PLACES or not changeable(key)


def _part(override: Override, short: str) -> str:
    if override.is_delete():
        return f"without-{short}"
    text = override.get_value_element_as_str().strip("'\"[]{}")
    value = re.sub(r"[^\w.+-]+", "-", text.rstrip("/").rpartition("/")[2])
    value = _short(value, 40, text if "/" in text else value)
    return value if _is_group(override) else f"{short}-{value}"


def _short(text: str, longest: int, whole: str | None = None) -> str:
    """`text`, shortened to `longest`; it ends with a hash if it is not all of `whole`."""
    whole = text if whole is None else whole
    if text == whole and len(text) <= longest:
        return text
    return f"{text[: longest - 5]}-{hashlib.sha256(whole.encode()).hexdigest()[:4]}"
