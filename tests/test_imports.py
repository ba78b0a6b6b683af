"""Files of other projects: read without running them, taken over, sampled from."""

import os
from pathlib import Path

import pytest
import torch
from test_pggan_import import zoo_checkpoint, zoo_images

import ganzoo
from ganzoo import prepare
from ganzoo.errors import UserError
from ganzoo.imports import import_checkpoint, read


class Settings:
    """A pickled class, as pytorch_GAN_zoo stores one beside its networks."""

    def __init__(self) -> None:
        self.depth = 3


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


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
