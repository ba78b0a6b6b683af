"""Files of other projects: read without running them, taken over, sampled from."""

import pickle
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from makers.pggan_files import tf_arrays, tf_images, zoo_checkpoint, zoo_images

import ganzoo
from ganzoo import prepare
from ganzoo.errors import UserError
from ganzoo.models.imports import import_checkpoint, read
from ganzoo.models.pggan import Discriminator, Generator


class Settings:
    """A pickled class, as pytorch_GAN_zoo stores one beside its networks."""

    def __init__(self) -> None:
        self.depth = 3


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return shutil.copyfile, (__file__, str(self.path))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_of_gan_zoo_is_sampled_at_once(legacy, tmp_path) -> None:
    given = {**zoo_checkpoint(), "config": Settings()}
    torch.save(given, tmp_path / "zoo.pt", _use_new_zipfile_serialization=not legacy)
    prepare.main(["import", str(tmp_path / "zoo.pt"), str(tmp_path / "ours.ckpt")])
    gan = ganzoo.load(tmp_path / "ours.ckpt")
    z = gan.latents([0, 1, 2, 3]).double()
    scales = len(gan.generator.widths) - 1
    for name, raw in (("avgG", False), ("netG", True)):
        expected = zoo_images(given[name], z, scales, 0.0).float()
        torch.testing.assert_close(gan.images(z.float(), raw), expected, rtol=0, atol=1e-3)


def official_pickle(
    path: Path, lod: float = 0.0, protocol: int = 4, **more: Any
) -> list[dict[str, Any]]:
    """A `network-final.pkl` of tiny networks; returns the variables of the three."""

    class Network:
        def __init__(self, state: dict[str, Any]) -> None:
            self.state = state

        def __getstate__(self) -> dict[str, Any]:
            return self.state

    # The file names a module that is not installed here.
    Network.__module__, Network.__qualname__ = "tfutil", "Network"
    sys.modules["tfutil"] = ModuleType("tfutil")
    sys.modules["tfutil"].Network = Network  # type: ignore[attr-defined]
    told, networks = [], []
    for name, kind in (("G", Generator), ("D", Discriminator), ("Gs", Generator)):
        arrays = {k: v.float().numpy() for k, v in tf_arrays(kind, True).items()}
        arrays["lod"] = np.float32(lod)
        kwargs = {"num_channels": 3, "resolution": np.int64(16), "label_size": 0}
        kwargs |= {"fmap_base": 8192, "fmap_max": 8, "structure": None}
        kwargs |= {"mbstd_group_size": 4} if name == "D" else {"latent_size": 8}
        state = {"version": 2, "name": name, "static_kwargs": kwargs, "build_module_src": "1/0"}
        networks.append(Network({**state, "variables": list(arrays.items()), **more}))
        told.append(arrays)
    path.write_bytes(pickle.dumps(tuple(networks), protocol=protocol))
    del sys.modules["tfutil"]
    return told


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_of_the_official_code_is_sampled_at_once(protocol, tmp_path) -> None:
    torch.manual_seed(0)
    variables = official_pickle(tmp_path / "network-final.pkl", protocol=protocol)
    prepare.main(["import", str(tmp_path / "network-final.pkl"), str(tmp_path / "ours.ckpt")])
    gan = ganzoo.load(tmp_path / "ours.ckpt")
    z = gan.latents([0, 1, 2, 3])
    for arrays, raw in ((variables[0], True), (variables[2], False)):
        exact = {name: torch.from_numpy(np.asarray(a)).double() for name, a in arrays.items()}
        expected = tf_images(exact, z.double(), True).float()
        torch.testing.assert_close(gan.images(z, raw), expected, rtol=1e-3, atol=1e-3)


def test_official_networks_that_cannot_be(tmp_path) -> None:
    official_pickle(tmp_path / "early.pkl", lod=2.5)
    with pytest.raises(UserError, match=r"had not grown to the end \(lod 2.5\)"):
        import_checkpoint(tmp_path / "early.pkl", tmp_path / "ours.ckpt")
    objects = [("4x4/Dense/weight", np.array([object()], dtype=object))]
    official_pickle(tmp_path / "objects.pkl", variables=objects)
    with pytest.raises(UserError, match="not those of this network"):
        import_checkpoint(tmp_path / "objects.pkl", tmp_path / "ours.ckpt")


def test_nothing_in_a_file_is_run(tmp_path) -> None:
    marker = tmp_path / "made"
    torch.save({**zoo_checkpoint(), "config": Evil(marker)}, tmp_path / "evil.pt")
    import_checkpoint(tmp_path / "evil.pt", tmp_path / "ours.ckpt")
    assert not marker.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # as others would read it
    assert marker.exists()


def test_tensors_of_any_kind_are_read(tmp_path) -> None:
    given = {
        "float": torch.randn(3, 4),
        "half": torch.randn(2).half(),
        "long": torch.arange(3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    torch.save(given, tmp_path / "some.pt")
    found = read(tmp_path / "some.pt")
    for name, value in given.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ({"state_dict": {}}, r"of no kind that can be imported \(it holds state_dict\)"),
        ({}, r"\(it holds nothing\)\. Supported are networks of pytorch/examples' DCGAN"),
        ({"conv.weight": torch.ones(1)}, r"it holds conv\.weight\).*StudioGAN's BigGAN"),
        ([1, 2], "of no kind that can be imported"),
        (b"nothing", "damaged or of another kind"),
        (None, "There is no file"),
    ],
)
def test_files_that_cannot_be(contents, sentence, tmp_path) -> None:
    path = tmp_path / "file.pt"
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    elif contents is not None:
        torch.save(contents, path)
    with pytest.raises(UserError, match=sentence):
        import_checkpoint(path, tmp_path / "ours.ckpt")


def test_what_is_there_is_not_overwritten(tmp_path) -> None:
    torch.save(zoo_checkpoint(), tmp_path / "zoo.pt")
    (tmp_path / "ours.ckpt").write_text("mine")
    with pytest.raises(UserError, match="exists: choose another name"):
        import_checkpoint(tmp_path / "zoo.pt", tmp_path / "ours.ckpt")
    assert (tmp_path / "ours.ckpt").read_text() == "mine"


def test_classes_are_refused(tmp_path) -> None:
    torch.save(zoo_checkpoint(categories=3), tmp_path / "zoo.pt")
    with pytest.raises(UserError, match="this checkpoint has classes"):
        import_checkpoint(tmp_path / "zoo.pt", tmp_path / "ours.ckpt")
