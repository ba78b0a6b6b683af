"""Every config composes and fits the code, every model trains, every experiment is a lab note."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra.errors import ConfigCompositionException
from makers.tiny import TINY, config
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ganzoo.config import CONF, make
from ganzoo.engine.gan import GAN
from ganzoo.errors import UserError
from ganzoo.runs.differences import flatten
from ganzoo.train import train_config as train

# The lines that every experiment's header has, in this order.
LAB_NOTE = ["Source", "Parameters", "Length", "Hardware", "Score", "Command"]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


GROUPS = [
    (path.name, option)
    for path in sorted(CONF.iterdir())
    if path.is_dir() and path.name != "experiment"
    for option in options(path.name)
]
SMALL = tuple(o for o in TINY if not o.startswith("model."))  # for any model
TWO_DOMAINS = tuple(o for o in SMALL if not o.startswith(("data", "image_size")))
OWN = {
    "cyclegan": (
        *TWO_DOMAINS,
        "image_size=32",
        "model.generator.ngf=4",
        "model.discriminator.ndf=4",
    )
}


def nodes(node: DictConfig) -> list[str]:
    """The `_target_`s in a config."""
    plain = OmegaConf.to_container(node)
    found: list[str] = []

    def visit(part: object) -> None:
        if isinstance(part, dict):
            found.extend(str(v) for k, v in part.items() if k == "_target_")
            for value in part.values():
                visit(value)

    visit(plain)
    return found


@pytest.mark.parametrize("model", options("model"))
def test_models_train_two_iterations(model: str, tmp_path: Path) -> None:
    overrides = [
        *OWN.get(model, SMALL),
        f"model={model}",
        "total_kimg=0.016",
        f"run_dir={tmp_path}",
    ]
    cfg = config(*overrides, tiny=False)
    torch.manual_seed(cfg.seed)
    before = make(cfg.model).state_dict()
    gan = train(cfg)
    assert gan.images_seen >= 16
    assert (tmp_path / "done").exists()
    for network in ("generator", "discriminator"):
        moved = [not torch.equal(v, before[k]) for k, v in gan.state_dict().items() if network in k]
        # A network that grows has parts whose time is still to come.
        assert any(moved) if gan.stage(10**9) else all(moved), network


@pytest.mark.parametrize(("group", "option"), GROUPS)
def test_options_compose_and_resolve(group: str, option: str) -> None:
    written = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
    extra = [f"{group}.{key}=x" for key, value in flatten(written).items() if value == "???"]
    cfg = config(f"{group}={option}", *extra, tiny=False)
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert nodes(cfg)
    assert isinstance(plain, dict)
    if group == "data":
        assert len(make(cfg.data).image_size) == 2
    if group == "callbacks":
        assert all(make(callback) for callback in cfg.callbacks.values())
    if group == "trainer":
        make(cfg.trainer)


def lab_note(experiment: str) -> dict[str, str]:
    """The labeled lines of an experiment's header, after the title and an empty line."""
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[2] == "#"
    parts = [line.removeprefix("# ").partition(": ") for line in lines[3:9]]
    return {label: value for label, _, value in parts}


def parameters(network: nn.Module) -> str:
    """The number of parameters as headers state it: "2 x 11,378,179" for two equal networks."""
    parts = list(network.values()) if isinstance(network, nn.ModuleDict) else [network]
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert len(set(counts)) == 1
    return (f"{len(counts)} x " if len(counts) > 1 else "") + f"{counts[0]:,}"


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiments_fit_the_code_and_their_header(experiment: str) -> None:
    note = lab_note(experiment)
    assert list(note) == LAB_NOTE
    assert all(note.values())
    # Keys that the counts depend on are in parentheses behind them.
    stated, keys = re.fullmatch(r"(.+ / [\d,x ]+\d)(?: \((.+)\))?", note["Parameters"]).groups()
    cfg = config(f"experiment={experiment}", *(keys or "").split(), tiny=False)
    if OmegaConf.is_missing(cfg.data, "root"):
        cfg.data.root = "x"
    assert OmegaConf.to_container(cfg, resolve=True)
    with torch.device("meta"):
        gan = make(cfg.model)
    assert isinstance(gan, GAN)
    assert stated == f"{parameters(gan.generator)} / {parameters(gan.discriminator)}"
    assert gan.total_images == round(cfg.total_kimg * 1000)
    assert note["Length"].startswith(f"{cfg.total_kimg:,g} kimg")
    assert len(gan.configure_optimizers()) == len(gan.turns.networks)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_commands_in_headers_compose(experiment: str) -> None:
    *program, first = shlex.split(lab_note(experiment)["Command"])[:4]
    assert program == ["python", "-m", "ganzoo.train"]
    assert first == f"experiment={experiment}"
    cfg = config(*shlex.split(lab_note(experiment)["Command"])[3:], tiny=False)
    assert not OmegaConf.missing_keys(cfg.data), "the command gives every key that has no default"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("+model.generator.nfg=4", "nfg"),
        ("+model.momentum=1", "momentum"),
        ("+model.optimizers.generator.momentun=1", "momentun"),
        ("+data.batchsize=4", "batchsize"),
        ("+data.source.number=4", "number"),
    ],
)
def test_keys_are_constructor_parameters(override: str, named: str) -> None:
    cfg = config(override)
    with pytest.raises(UserError, match=named) as told:
        make(cfg.data) and make(cfg.model).configure_optimizers()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "override", ["model.generator.nfg=4", "total_kmig=3", "modle=dcgan", "callbacks.grd.seeds=1"]
)
def test_misspelt_overrides_do_not_compose(override: str) -> None:
    with pytest.raises(ConfigCompositionException, match=override.split("=")[0]):
        config(override)


def test_misspelt_options_are_answered_with_the_offer() -> None:
    with pytest.raises(Exception, match=r"(?s)dcgann.*Available options.*dcgan"):
        config("model=dcgann")


def test_unknown_networks_are_named() -> None:
    with pytest.raises(UserError, match=r"model\.clip names a network 'critic'"):
        make(config("model.clip={critic: 1.0}").model)
    with pytest.raises(UserError, match=r"model\.compile names a network 'generater'"):
        make(config("model.compile=[generater]").model)
