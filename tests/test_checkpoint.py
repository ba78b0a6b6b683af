"""Checkpoints are whole, describe their model, and run no code of others."""

import errno
from pathlib import Path

import pytest
import torch
from conftest import assert_same_tensors, checkpoint
from makers.tiny import config

import ganzoo
from ganzoo import UserError
from ganzoo.config import make
from ganzoo.data.choosing import training_data
from ganzoo.data.pixels import to_uint8
from ganzoo.engine.checkpoint import AtomicCheckpointIO, find, initialize_from, read
from ganzoo.engine.gan import GAN
from ganzoo.engine.saving import FORMAT, check_fits
from ganzoo.train import train_config as train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GAN]:
    folder = tmp_path_factory.mktemp("run")
    overrides = ("~callbacks.ticks", "~callbacks.grid", "loss=hinge", "model.ema_kimg=0.02")
    return folder, train(config(f"run_dir={folder}", *overrides))


def test_a_checkpoint_rebuilds_its_model(trained) -> None:
    folder, gan = trained
    gan.eval()
    z = torch.randn(5, 8)
    for path in (folder, folder / "last.ckpt", str(folder)):
        loaded = ganzoo.load(path)
        assert type(loaded) is type(gan)
        assert type(loaded.loss).__name__ == "Hinge"
        assert not any(module.training for module in loaded.modules())
        assert loaded.images_seen == 80
        assert loaded.config == gan.config
        assert_same_tensors(dict(loaded.state_dict()), dict(gan.state_dict()))
        with torch.no_grad():
            assert torch.equal(loaded.generator(z), gan.generator(z))
            assert torch.equal(loaded.average(z), gan.average(z))
            assert not torch.equal(loaded.average(z), loaded.generator(z))


def test_a_checkpoint_says_what_it_is(trained) -> None:
    seen = checkpoint(trained[0])
    facts = {"version", "format", "images_seen", "config", "rollbacks", "class_names"}
    assert set(seen["ganzoo"]) == facts
    assert seen["ganzoo"]["version"] == ganzoo.__version__


def test_samples_depend_on_their_seed_alone(trained) -> None:
    gan = ganzoo.load(trained[0])
    many = gan.sample(list(range(70)))
    assert many.shape == (70, 3, 16, 16)
    assert many.abs().max() <= 1
    for seeds in ([7], [69, 7, 3], list(range(69, -1, -1))):
        some = gan.sample(seeds)
        torch.testing.assert_close(some, many[seeds], atol=1e-5, rtol=0)
        assert torch.equal(to_uint8(some), to_uint8(many[seeds]))
    assert len({tuple(image.flatten().tolist()) for image in many}) == 70
    assert not torch.allclose(gan.sample([7], raw=True), many[7:8], atol=1e-5)
    gan.train()
    assert torch.equal(to_uint8(gan.sample([7], raw=True)), to_uint8(gan.sample([7], raw=True)))
    assert gan.generator.training, "sampling leaves the mode as it was"


def test_truncation_and_labels(trained) -> None:
    gan = ganzoo.load(trained[0])
    assert gan.latents(range(50), 0.7).abs().max() <= 0.7
    assert gan.latents(range(50)).abs().max() > 2
    assert torch.equal(gan.latents([3], 0.7), gan.latents([5, 3], 0.7)[1:])
    torch.testing.assert_close(
        gan.sample([3], truncation=0.7), gan.sample([5, 3], truncation=0.7)[1:], atol=1e-5, rtol=0
    )
    with pytest.raises(UserError, match="no classes"):
        gan.sample([0], label=1)


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "made",)

    torch.save({"ganzoo": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        ganzoo.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "made").exists()


def test_what_is_no_checkpoint_is_named(trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        find(tmp_path)
    with pytest.raises(UserError, match="no checkpoint at"):
        ganzoo.load(tmp_path / "none.ckpt")
    assert find(trained[0]) == find(trained[0] / "last.ckpt") == trained[0] / "last.ckpt"
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not written by ganzoo"):
        read(tmp_path / "other.ckpt")
    contents = (trained[0] / "last.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(contents[: len(contents) // 2])
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path / "half.ckpt")


def test_a_checkpoint_without_config_says_so(trained, tmp_path: Path) -> None:
    contents = checkpoint(trained[0])
    contents["ganzoo"]["config"] = None
    torch.save(contents, tmp_path / "bare.ckpt")
    with pytest.raises(UserError, match=r"gan\.config"):
        ganzoo.load(tmp_path / "bare.ckpt")


def test_another_models_checkpoint_names_a_key_and_both_shapes(trained) -> None:
    gan = make(config("model.generator.ngf=8").model)
    with pytest.raises(UserError, match=r"another model.*average\..*\(.*x.* there, .*x.* here\)"):
        check_fits(gan, checkpoint(trained[0]))
    check_fits(make(config().model), checkpoint(trained[0]))
    with pytest.raises(UserError, match="none here"):
        check_fits(make(config("model.ema_kimg=0").model), checkpoint(trained[0]))


def test_init_from_takes_what_fits_and_says_what_does_not(trained, tmp_path: Path) -> None:
    folder, _ = trained
    gan = make(config("model.discriminator.ndf=8", "model.discriminator.norm=none").model)
    before = {k: v.clone() for k, v in gan.state_dict().items()}
    told = initialize_from(gan, folder)
    theirs = read(folder)["state_dict"]
    told_of = {sentence.split(":")[0] for sentence in told}
    for key, value in gan.state_dict().items():
        fits = key in theirs and theirs[key].shape == value.shape
        assert torch.equal(value, theirs[key] if fits else before[key]), key
        assert fits != (key in told_of), key
    assert set(theirs) - set(before) <= told_of
    assert any(key.startswith("generator") for key in set(before) - told_of)
    one = next(s for s in told if s.startswith("discriminator.stages.0.0.weight"))
    assert one == "discriminator.stages.0.0.weight: 4x3x4x4 there, 8x3x4x4 here; not taken"
    other = {"ganzoo": {"format": FORMAT}, "state_dict": {"x": torch.ones(1)}}
    torch.save(other, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="Nothing in"):
        initialize_from(gan, tmp_path / "x.ckpt")


def test_a_run_starts_from_the_weights_of_another(trained, tmp_path: Path, caplog) -> None:
    folder, gan = trained
    tiny = (f"run_dir={tmp_path}", "~callbacks.ticks", "~callbacks.grid", "loss=hinge")
    caplog.set_level("INFO")
    still = ("model.optimizers.generator.lr=0.0", "model.discriminator.ndf=8", "total_kimg=0.008")
    new = train(config(*tiny, *still, f"init_from={folder}"))
    assert new.images_seen == 8
    for name, value in new.generator.named_parameters():
        assert torch.equal(value, gan.generator.get_parameter(name)), name
    assert "init_from: discriminator.stages.0.0.weight: 4x3x4x4 there" in caplog.text


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "new" / "last.ckpt"
    io.save_checkpoint({"ganzoo": 1}, path)
    before = path.read_bytes()

    def fails(contents, file) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(UserError, match=r"the disk is full\)\. The previous .* is unchanged"):
        io.save_checkpoint({"ganzoo": 2}, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    with pytest.raises(UserError, match="There is none yet"):
        io.save_checkpoint({"ganzoo": 2}, tmp_path / "other.ckpt")


def test_a_checkpoint_of_the_first_version_is_refused(trained, tmp_path: Path) -> None:
    saved = checkpoint(trained[0])
    del saved["ganzoo"]["format"]
    saved["ganzoo"]["version"] = "0.1.0"
    torch.save(saved, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"written by ganzoo 0\.1\.0, .* install that version"):
        ganzoo.load(tmp_path)


def test_options_of_another_version_are_told(tmp_path: Path) -> None:
    train(config(f"run_dir={tmp_path}"))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    saved["ganzoo"]["version"] = "0.0.9"
    saved["ganzoo"]["config"]["model"]["forgotten"] = 1
    torch.save(saved, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"written by ganzoo 0\.0\.9.*forgotten") as told:
        ganzoo.load(tmp_path)
    assert "\n" not in str(told.value)


def test_a_run_with_the_old_name_of_its_classes_resumes(tmp_path: Path) -> None:
    """As 0.2 has written it while `data.only` was `data.classes`, and before `data.root`."""
    keys = ("data.only=[class 1,class 4]", f"run_dir={tmp_path}")
    train(config(*keys, "total_kimg=0.032"))
    path = tmp_path / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    config_ = saved["ganzoo"]["config"]
    config_["data"]["classes"] = config_["data"].pop("only")
    for part, old, new in (("callbacks", "evaluate", "metrics"), ("metrics", "metrics", "scores")):
        config_[part][old] = config_[part].pop(new)
    torch.save(saved, path)
    assert training_data(path, ganzoo.load(path).config).source.classes == ["class 1", "class 4"]
    assert train(config(*keys, "total_kimg=0.064")).images_seen == 64
    with pytest.raises(UserError, match=r"data\.only \(\['class 1', 'class 4'\] there, None now"):
        train(config(f"run_dir={tmp_path}", "total_kimg=0.096"))
