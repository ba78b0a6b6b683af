"""Opening a file never runs it: a checkpoint calls what is on a closed list, and nothing else."""

import copy
import pickle
import random
import re
import struct
import sys
import zipfile
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any

import pytest
import torch
from makers import crafted
from makers.tiny import config, evaluated
from omegaconf import OmegaConf

import ganzoo
from ganzoo import draws, neighbors, sample, translate
from ganzoo.config import CONF, resolved, trust
from ganzoo.data.choosing import training_data
from ganzoo.engine.checkpoint import AtomicCheckpointIO, initialize_from, read
from ganzoo.errors import UserError
from ganzoo.models.imports import import_checkpoint

MARK = "MARK"  # stands for the path of a file that must not appear


@pytest.fixture(autouse=True)
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file that crafted configs try to write, in the current folder, too."""
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / MARK
    yield mark
    assert not mark.exists(), "something in a file was run"


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    return crafted.contents()


def get_method(name: str) -> dict[str, Any]:
    return {"_target_": "hydra.utils.get_method", "path": name}


def launcher(discriminator: Any) -> dict[str, Any]:
    """A CycleGAN that calls its network maker with the command line of torchrun."""
    command = ["--nproc-per-node", "1", "--no-python", "touch", MARK]
    return {
        "_target_": "ganzoo.models.cyclegan.CycleGAN", "generator": None, "optimizers": {},
        "discriminator": discriminator, "directions": [], "total_kimg": 1,
        "channels_a": command, "channels_b": 1,
    }  # fmt: skip


WRITE = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [MARK]}}
CALLS = {
    "positional": {"_target_": "hydra.utils.get_method", "_args_": ["torch.distributed.run.main"]},
    "path": get_method("torch.distributed.run.main"),
    "both": {**get_method("ganzoo.draws.normal"), "_args_": ["torch.distributed.run.main"]},
    "class": {"_target_": "hydra.utils.get_class", "path": "subprocess.Popen"},
    "object": {"_target_": "hydra.utils.get_object", "path": "os.system"},
    "again": {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system"}},
    "system": {"_target_": "os.system", "command": f"touch {MARK}"},
    "through a module": {"_target_": "ganzoo.train.os.makedirs", "name": MARK},
    "through torch": {"_target_": "torch.optim.os.makedirs", "name": MARK},
    "through data": {"_target_": "ganzoo.data.sources.folder.Path.write_text", "data": "x"},
    "elsewhere in ganzoo": {"_target_": "ganzoo.disk.write_whole", "path": MARK, "text": "x"},
    "of a command": {"_target_": "ganzoo.train.train"},
    "torchrun": {"_target_": "torch.distributed.run.main", "args": ["--no-python", "touch", MARK]},
    "hub": {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "m", "source": "local"},
    "unpickle": {"_target_": "torch.load", "f": "evil.pt", "weights_only": False},
    "from_file": {"_target_": "torch.from_file", "filename": MARK, "shared": True, "size": 8},
    "file": WRITE,
    "in a list": [[{"deep": [WRITE]}]],
    "in arguments": {"_target_": "ganzoo.nn.augment.DiffAugment", "color": WRITE},
    "in a good class": {"_target_": "ganzoo.nn.augment.DiffAugment", "_args_": [WRITE]},
    "another mode": {"_target_": "ganzoo.nn.augment.DiffAugment", "_convert_": "object"},
    "not recursive": {"_target_": "ganzoo.nn.augment.DiffAugment", "_recursive_": False},
    "partial": {"_target_": "ganzoo.nn.augment.DiffAugment", "_partial_": WRITE},
    "a list of targets": {"_target_": ["os.system"]},
    "an interpolation": "${oc.create:${oc.decode:'{_target_: os.makedirs, name: MARK}'}}",
    "a key": {"${oc.env:HOME}": 1},
    "a set": {1, 2},
    "a tensor": torch.ones(1),
    "bytes": b"x",
    "a prefix": {"_target_": "ganzoo.nn.augment.DiffAugmentation"},
    "a space": {"_target_": " ganzoo.nn.augment.DiffAugment"},
}


@pytest.mark.parametrize("name", CALLS)
def test_a_checkpoint_calls_nothing_that_is_not_listed(good, name, tmp_path) -> None:
    evil = copy.deepcopy(good)
    evil["ganzoo"]["config"]["model"]["augment"] = CALLS[name]
    torch.save(evil, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"wants to call|damaged or crafted|cannot be read"):
        ganzoo.load(tmp_path / "evil.ckpt")
    for part in (trust.MODEL, trust.DATA):
        with pytest.raises(UserError, match=r"wants to call|damaged or crafted"):
            trust.check("evil.ckpt", CALLS[name], part, ["mypackage"])


@pytest.mark.parametrize("name", ["positional", "path", "both"])
def test_a_listed_class_is_not_handed_another_function(good, name, tmp_path) -> None:
    evil = copy.deepcopy(good)
    evil["ganzoo"]["config"]["model"] = launcher(CALLS[name])
    torch.save(evil, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"wants to call|damaged or crafted"):
        ganzoo.load(tmp_path / "evil.ckpt")


def test_all_is_checked_before_anything_is_imported(good, tmp_path, monkeypatch) -> None:
    (tmp_path / "leaves_a_mark.py").write_text(f"open({MARK!r}, 'w')\nclass It: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    parts = [{"_target_": "leaves_a_mark.It"}, {"_target_": "os.system", "command": "true"}]
    with pytest.raises(UserError, match=r"wants to call os\.system"):
        trust.check("evil.ckpt", parts, trust.MODEL, ["leaves_a_mark"])
    with pytest.raises(UserError, match=r"wants to call leaves_a_mark\.It"):
        trust.check("evil.ckpt", parts[:1], trust.MODEL)


def test_a_config_without_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UserError, match="nested without end"):
        trust.check("evil.ckpt", {"a": endless}, trust.MODEL)


@pytest.mark.parametrize(
    "command",
    [
        lambda: sample.main(["evil.ckpt", "--out", "out.png"]),
        lambda: neighbors.main(["evil.ckpt", "--out", "out.png"]),
        lambda: translate.main(["evil.ckpt", ".", "out"]),
        lambda: evaluated("ckpt=evil.ckpt"),
        lambda: evaluated("ckpt=evil.ckpt", "data=synthetic"),
    ],
)
def test_no_command_runs_a_checkpoint(good, command, tmp_path) -> None:
    evil = copy.deepcopy(good)
    evil["ganzoo"]["config"]["model"] = launcher(CALLS["positional"])
    torch.save(evil, tmp_path / "evil.ckpt")
    with pytest.raises((UserError, SystemExit), match=r"evil\.ckpt is damaged or crafted"):
        command()


DATA = {
    "writes": {
        "_target_": "ganzoo.data.sources.folder.Path.write_text", "data": "x",
        "self": {"_target_": "ganzoo.data.sources.folder.Path", "_args_": [MARK]},
    },
    "source": {"_target_": "ganzoo.data.ImageData", "source": WRITE},
    "a model": {"_target_": "ganzoo.models.dcgan.DCGAN"},
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_the_data_of_a_checkpoint_write_nothing(good, name, tmp_path) -> None:
    evil = copy.deepcopy(good)
    evil["ganzoo"]["config"]["data"] = DATA[name]
    torch.save(evil, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"wants to call|damaged or crafted"):
        evaluated(f"ckpt={tmp_path / 'evil.ckpt'}", tiny=False)


@pytest.mark.parametrize(
    "size",
    [
        {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [MARK]}},
        {"_target_": "os.makedirs", "name": MARK},
        "${oc.create:${oc.decode:'{_target_: os.makedirs, name: MARK}'}}",
        "abc",
        None,
    ],
)
@pytest.mark.parametrize("key", ["image_size", "channels"])
def test_other_data_take_nothing_but_numbers_from_a_checkpoint(good, key, size, tmp_path) -> None:
    evil = copy.deepcopy(good)
    evil["ganzoo"]["config"][key] = size
    torch.save(evil, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"wants to call|damaged or crafted|must be a whole number"):
        evaluated(f"ckpt={tmp_path / 'evil.ckpt'}", "data=synthetic")


def test_the_data_of_a_checkpoint_are_not_downloaded(monkeypatch, tmp_path) -> None:
    def cifar10(root: str, train: bool = True, download: bool = False) -> None:
        if download:
            (tmp_path / MARK).touch()
        raise RuntimeError("Dataset not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", cifar10)
    node = resolved(config("data=cifar10", "data.source.download=true", tiny=False).data)
    assert node["source"]["download"] is True
    node["source"]["root"] = str(tmp_path / "chosen by the checkpoint")
    source = training_data("evil.ckpt", {"data": node}).source
    source.prepare()
    with pytest.raises(UserError, match=r"data\.source\.download=true"):
        source.labels()
    assert list(tmp_path.iterdir()) == []


# -- the list --------------------------------------------------------------------------------------


def test_the_list_names_classes_where_they_are_offered() -> None:
    names = {*trust.offered(trust.MODEL), *trust.offered(trust.DATA)}
    assert len(names) > 50
    for name in names:
        module, _, attribute = name.rpartition(".")
        found = getattr(sys.modules.get(module) or __import__(module, fromlist=["x"]), attribute)
        assert isclass(found), name
        assert found.__module__.split(".")[0] == name.split(".")[0], name
    for name in trust.FUNCTIONS:
        found = getattr(draws, name.rpartition(".")[2])
        assert isfunction(found)
        assert found.__module__ == "ganzoo.draws"


def test_conf_names_nothing_that_is_refused() -> None:
    for path in sorted(CONF.rglob("*.yaml")):
        for name in re.findall(r"^\s*path: *(ganzoo[\w.]+)", path.read_text(), re.MULTILINE):
            assert name in trust.FUNCTIONS, f"{path}: {name}"
    for model in sorted(path.stem for path in (CONF / "model").glob("*.yaml")):
        node = OmegaConf.to_container(config(f"model={model}", tiny=False))
        assert isinstance(node, dict)
        plain = re.sub(r"\$\{[^}]*\}", "1", OmegaConf.to_yaml(node["model"]))
        trust.check(model, OmegaConf.to_container(OmegaConf.create(plain)), trust.MODEL)


# -- trust -----------------------------------------------------------------------------------------


@pytest.fixture
def own(good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose loss is of a package of the user's own."""
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("from mypackage.losses import Mine as Short\nimport os\n")
    (package / "losses.py").write_text(
        "import os\nfrom os import system\nfrom ganzoo.nn.losses import Hinge\n"
        "class Mine(Hinge):\n    def method(self): ...\nthing = Mine()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("mypackage")]:
        monkeypatch.delitem(sys.modules, name)
    mine = copy.deepcopy(good)
    mine["ganzoo"]["config"]["model"]["loss"] = {"_target_": "mypackage.losses.Mine"}
    torch.save(mine, tmp_path / "own.ckpt")
    return tmp_path / "own.ckpt"


def test_the_message_says_what_to_type(own) -> None:
    with pytest.raises(UserError) as said:
        ganzoo.load(own)
    assert "mypackage.losses.Mine" in str(said.value)
    for typed in ("--trust mypackage ", "trust=[mypackage]", 'trust=["mypackage"]'):
        assert typed in str(said.value)


@pytest.mark.parametrize("package", ["mypackage", "mypackage.", "mypackage.losses"])
def test_a_package_of_ones_own_is_trusted_by_name(own, package) -> None:
    assert type(ganzoo.load(own, trust=[package]).loss).__name__ == "Mine"


@pytest.mark.parametrize(
    "package", ["", ".", "os", "torch", "torch.hub", "ganzoo", "a-b", "my pack"]
)
def test_trust_is_for_packages_of_ones_own(own, package) -> None:
    with pytest.raises(UserError, match=r"cannot be trusted|not the name of a package"):
        ganzoo.load(own, trust=[package])


@pytest.mark.parametrize(
    "name",
    [
        "mypackage.os.system",
        "mypackage.losses.os.system",
        "mypackage.losses.system",
        "mypackage.losses.Hinge",
        "mypackage.losses.Mine.method",
        "mypackage.losses.thing",
        "mypackage.losses.missing",
        "mypackage.losses.Mine.__init__.__globals__",
        "mypackages.losses.Mine",
        "mypackage",
    ],
)
def test_trust_does_not_reach_what_a_package_imports(own, name) -> None:
    for node in ({"_target_": name}, get_method(name)):
        with pytest.raises(UserError, match=r"wants to call|Python finds no"):
            trust.check(own, node, trust.MODEL, ["mypackage"])
    trust.check(own, {"_target_": "mypackage.Short"}, trust.MODEL, ["mypackage"])


def test_commands_trust_a_package_by_name(own, tmp_path) -> None:
    mine = ["own.ckpt", "--out", "out.png", "--num", "1"]
    with pytest.raises(SystemExit, match="--trust mypackage"):
        sample.main(mine)
    sample.main([*mine, "--trust", "other", "--trust", "mypackage"])
    assert (tmp_path / "out.png").is_file()
    assert evaluated(f"ckpt={own}", "trust=[mypackage]")


# -- files that run code when they are read --------------------------------------------------------


def test_torchscript_is_not_imported(tmp_path) -> None:
    """Its `__setstate__` may write files, and runs when `torch.jit.load` reads it."""

    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.save(torch.jit.script(Writes()), tmp_path / "evil.pt")
    loaded = torch.jit.load
    try:
        torch.jit.load = lambda *_, **__: (tmp_path / MARK).touch()
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            import_checkpoint(tmp_path / "evil.pt", tmp_path / "ours.ckpt")
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            ganzoo.load(tmp_path / "evil.pt")
    finally:
        torch.jit.load = loaded


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path(MARK),)


@pytest.mark.parametrize("new", [True, False])
def test_no_pickle_is_run(good, new, tmp_path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({**good, "evil": Evil()}, path, _use_new_zipfile_serialization=new)
    for reads in (
        lambda: ganzoo.load(path),
        lambda: initialize_from(torch.nn.Linear(1, 1), path),
        lambda: AtomicCheckpointIO().load_checkpoint(path, weights_only=False),
        lambda: import_checkpoint(path, tmp_path / "ours.ckpt"),
    ):
        with pytest.raises(UserError):
            reads()
    path.write_bytes(pickle.dumps({**good, "evil": Evil()}))
    for reads in (lambda: read(path), lambda: import_checkpoint(path, tmp_path / "ours.ckpt")):
        with pytest.raises(UserError):
            reads()


# -- damage ----------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found_or_without_effect(good, tmp_path) -> None:
    path = tmp_path / "good.ckpt"
    torch.save(good, path)
    sound, flip = path.read_bytes(), random.Random(0)
    places = [flip.randrange(len(sound)) for _ in range(100)]
    with zipfile.ZipFile(path) as file:
        tensors = [entry for entry in file.infolist() if re.search(r"/data/\d+$", entry.filename)]
    for i in range(20):  # the first ones are in tensors
        entry = flip.choice(tensors)
        name, extra = struct.unpack_from("<HH", sound, entry.header_offset + 26)
        start = entry.header_offset + 30 + name + extra
        places[i] = start + flip.randrange(entry.file_size)
    refusals: list[str] = []
    for i, place in enumerate(places):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << flip.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read(path)
        except UserError as error:
            refusals.append(str(error))
            continue
        assert i >= 20, "a flipped bit in a tensor was not found"
        assert str(found["ganzoo"]) == str(good["ganzoo"])
        for key, value in good["state_dict"].items():
            assert torch.equal(found["state_dict"][key], value), key
    assert all(str(path) in refusal for refusal in refusals)


def test_damage_is_found_wherever_a_checkpoint_is_read(good, tmp_path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(good, path)
    damaged = bytearray(path.read_bytes())
    weight = max(good["state_dict"].values(), key=torch.Tensor.numel)
    damaged[damaged.index(weight.numpy().tobytes()) + 5] ^= 4
    path.write_bytes(damaged)
    for reads in (
        lambda: ganzoo.load(path),
        lambda: initialize_from(torch.nn.Linear(1, 1), path),
        lambda: AtomicCheckpointIO().load_checkpoint(path),
        lambda: import_checkpoint(path, tmp_path / "ours.ckpt"),
    ):
        with pytest.raises(UserError, match=r"last\.ckpt is damaged: the checksum"):
            reads()


def test_files_that_are_not_zips_are_refused(good, tmp_path) -> None:
    torch.save(good, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="damaged or of another kind"):
        read(tmp_path / "old.ckpt")
