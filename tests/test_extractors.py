"""Extractors: they see what their originals see, and bad weights and images are told."""

import hashlib
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import makers.inception
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from makers.photos import crops, photographs
from PIL import Image
from torch import Tensor

from ganzoo import UserError, prepare
from ganzoo.metrics import pretrained as weights
from ganzoo.metrics.extractors import (
    Clean,
    DINOv2,
    EffNet,
    Extractor,
    Inception,
    auto,
    pillow_bicubic,
    positions,
)

INCEPTION = weights.PUBLISHED["inception"].file


def stack(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).movedim(2, 0) for image in images])


def refusal(call: Callable[..., object], *args: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.fixture(scope="module")
def images() -> Tensor:
    return stack(crops(4))


@pytest.fixture(scope="module")
def fidelity() -> torch.nn.Module:
    return makers.inception.random_inception()


@pytest.fixture(scope="module")
def random_inception(fidelity: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(fidelity.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def inception(random_inception: str) -> Inception:
    return Inception(random_inception)


@pytest.fixture(scope="module")
def effnet() -> EffNet:
    return EffNet()


@pytest.fixture
def nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an empty folder of torch.hub."""
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "cache" / "weights"


def test_inception_is_that_of_torch_fidelity(
    inception: Inception, fidelity: torch.nn.Module, images: Tensor
) -> None:
    features, logits = inception(images)
    expected, expected_logits = fidelity(images)
    assert features.shape == (4, 2048)
    assert expected.std(0).mean() > 0.01, "images can be told apart"
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)


def test_clean_feeds_the_same_network_what_pillow_resizes(
    inception: Inception, fidelity: torch.nn.Module, random_inception: str, images: Tensor
) -> None:
    clean = Clean(random_inception)
    enlarged = images[:, :, 40:104, 40:104]
    for given in (images, enlarged):
        expected = torch.stack([by_pillow(image) for image in given])
        resized = clean.prepared(given.float())
        torch.testing.assert_close(resized * 128 + 128, expected, rtol=0, atol=0.01)
    at_size = stack(crops(2, 299, 299))  # where neither resizes anything
    torch.testing.assert_close(clean(at_size)[0], inception(at_size)[0])
    assert (clean(images[:2])[0] - inception(images[:2])[0]).abs().max() > 0.01


def by_pillow(image: Tensor) -> Tensor:
    """uint8 [3, H, W] as clean-fid resizes it to 299: each channel as a picture of floats."""
    channels = [Image.fromarray(channel.float().numpy()) for channel in image]
    resized = [np.array(c.resize((299, 299), Image.Resampling.BICUBIC)) for c in channels]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255)


def test_effnet_recognizes_a_photograph(effnet: EffNet) -> None:
    features, logits = effnet(stack(photographs()[:1]))
    assert (features.shape, logits.shape) == ((1, 1280), (1, 1000))
    assert 652 in logits[0].topk(5).indices, "a military uniform"


def test_effnet_has_the_file_that_its_name_says(effnet: EffNet) -> None:
    assert effnet.weights.startswith("57934424")
    assert len(effnet.weights) == 64


def test_bf16_is_near_float32(
    effnet: EffNet, inception: Inception, random_inception: str, images: Tensor
) -> None:
    for exact, fast, some in (
        (effnet, EffNet("bf16"), images),
        (inception, Inception(random_inception, "bf16"), images[:2]),
    ):
        (features, logits), (expected, expected_logits) = fast(some), exact(some)
        assert features.dtype == logits.dtype == torch.float32
        assert 0 < (features - expected).norm() / expected.norm() < 0.08
        assert 0 < (logits - expected_logits).norm() / expected_logits.norm() < 0.08
    assert "one of float32, bf16, not float16" in refusal(EffNet, "float16")


def test_composition_of_batches_does_not_matter(effnet: EffNet, images: Tensor) -> None:
    whole, _ = effnet(images)
    parts = torch.cat([effnet(part)[0] for part in images.split([1, 3])])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    strided = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(effnet(strided)[0], whole, rtol=1e-4, atol=1e-4)


def test_extractors_are_frozen_in_eval_mode_and_float32(effnet: EffNet, images: Tensor) -> None:
    expected, _ = effnet(images)
    effnet.train()
    assert not any(module.training for module in effnet.modules())
    assert not any(p.requires_grad for p in effnet.parameters())
    tf32 = torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = effnet(images)
    assert torch.equal(features, expected)
    assert not features.requires_grad
    features += 1  # not allowed to tensors of inference mode
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_making_an_extractor_takes_no_random_numbers(random_inception: str) -> None:
    before = torch.get_rng_state()
    EffNet()
    Inception(random_inception)
    assert torch.equal(torch.get_rng_state(), before)


def test_names_call_only_inceptions_numbers_fid(
    effnet: EffNet, inception: Inception, random_inception: str
) -> None:
    def names(extractor: Extractor) -> list[str]:
        return [extractor.named(label) for label in ("fd", "kid", "is")]

    assert names(inception) == ["fid", "kid", "is"]
    assert names(Clean(random_inception)) == ["fid_clean", "kid_clean", "is_clean"]
    assert names(effnet) == ["fd_effnet", "kid_effnet", "is_effnet"]


def test_images_that_are_no_images_are_refused(effnet: EffNet, images: Tensor) -> None:
    for bad in (images.float(), images[0], images[:, :1], images.movedim(1, 3)):
        assert "to_uint8" in refusal(effnet, bad)


@pytest.fixture(scope="module")
def dino_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of ViT-S/14 in a file laid out as the official ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict()
        state = {key: 0.02 * torch.randn(value.shape) for key, value in state.items()}
    path = tmp_path_factory.mktemp("dino") / "dinov2_vits14_pretrain.pth"
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, path)
    return path


class SmallDINOv2(DINOv2):
    arch = "vit_small_patch14_dinov2"


def test_dinov2_sees_224_pixels_as_pillow_resizes_them(dino_file: Path, images: Tensor) -> None:
    dino = SmallDINOv2(str(dino_file))
    features, logits = dino(images[:2])
    assert features.shape == (2, 384) == (2, dino.num_features)
    assert logits is None
    assert dino.named("fd") == "fd_dinov2"
    pixels = (dino.prepared(images.float()) * dino.std + dino.mean) * 255
    expected = stack([image.resize((224, 224), Image.Resampling.BICUBIC) for image in crops(4)])
    difference = (pixels - expected).abs()
    assert difference.max() < 2.1  # Pillow's weights are of 8 bits too
    assert (difference > 0.1).float().mean() < 0.02


def test_positions_are_resampled_as_in_dinov2(dino_file: Path) -> None:
    state = torch.load(dino_file, weights_only=True)
    kept = SmallDINOv2(str(dino_file)).network.pos_embed
    assert kept.shape == (1, 257, 384)
    assert torch.equal(kept[:, 0], state["pos_embed"][:, 0])
    assert positions(state["pos_embed"], 37) is state["pos_embed"]
    # By Keys' cubic with a = -0.75 at the points ((i + 0.5) * 37 / 16.1 - 0.5), edges repeated.
    point = (torch.arange(16)[:, None] + 0.5) * 37 / 16.1 - 0.5
    taps = point.floor() + torch.arange(-1, 3)
    d, a = (point - taps).abs(), -0.75
    near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
    kernel = torch.zeros(16, 37).scatter_add_(
        1, taps.long().clamp(0, 36), torch.where(d <= 1, near, far)
    )
    grid = state["pos_embed"][0, 1:].view(37, 37, 384)
    expected = torch.einsum("im,jn,mnd->ijd", kernel, kernel, grid).flatten(0, 1)
    torch.testing.assert_close(kept[0, 1:], expected, rtol=0, atol=1e-5)


def test_dinov2_without_its_weights_is_refused(
    dino_file: Path, random_inception: str, nothing_there: Path
) -> None:
    assert "python -m ganzoo.prepare weights dinov2" in refusal(DINOv2)
    for other in (str(dino_file), random_inception):
        assert "does not contain the weights of DINOv2's ViT-L/14" in refusal(DINOv2, other)


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was_run"),))


def test_files_that_are_no_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_inception: str, dino_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = Path(random_inception).read_bytes()
    bad = tmp_path / "bad.pth"
    for contents in (b"", b"<html>", whole[:100_000], pickle.dumps(Code(), protocol=2)):
        bad.write_bytes(contents)
        assert "cannot be read as weights" in refusal(Inception, str(bad))
    torch.save({"network": Code()}, bad)
    assert "cannot be read as weights" in refusal(Inception, str(bad))
    assert not Path("was_run").exists()
    for what in (torch.zeros(3), {"epoch": 3}, [1]):
        torch.save(what, bad)
        assert "not a state dict" in refusal(Inception, str(bad))
    assert "does not contain the weights of Inception" in refusal(Inception, str(dino_file))
    assert "There are no weights at" in refusal(Inception, str(tmp_path / "absent.pth"))
    published = tmp_path / INCEPTION
    published.write_bytes(whole)
    told = refusal(Inception, str(published))
    assert "is corrupt or incomplete" in told
    assert "delete it and download it again with python -m ganzoo.prepare weights inception" in told


def test_weights_are_found_where_they_are_kept(
    tmp_path: Path, nothing_there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights.find("inception") is None
    hub = tmp_path / "torch" / "hub" / "checkpoints" / INCEPTION
    hub.parent.mkdir(parents=True)
    hub.touch()
    assert weights.find("inception") == hub
    nothing_there.mkdir(parents=True)
    (nothing_there / INCEPTION).touch()
    assert weights.find("inception") == nothing_there / INCEPTION
    assert weights.find("inception", str(hub)) == hub
    monkeypatch.delenv("GANZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / "ganzoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / ".cache" / "ganzoo"


def test_auto_takes_inception_if_it_is_there_and_says_if_not(
    nothing_there: Path, random_inception: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(auto(random_inception, precision="bf16"), Inception)
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, "ganzoo"):
        extractor = auto(precision="bf16")
    assert (extractor.name, extractor.precision) == ("effnet", "bf16")
    short, details = (record.getMessage() for record in caplog.records)
    assert "no FID" in short
    assert "effnet" in short
    assert "ganzoo.prepare weights" in short
    for part in (INCEPTION, str(nothing_there), "hub"):
        assert part in details
    assert "There are no weights" in refusal(auto, "absent.pth")


CONTENTS = b"weights" * 1000


def publish(
    monkeypatch: pytest.MonkeyPatch, url: str, digest: str = hashlib.sha256(CONTENTS).hexdigest()
) -> None:
    published = weights.Published(url, digest[:8])
    monkeypatch.setitem(weights.PUBLISHED, "inception", published)


def test_weights_are_fetched_once_and_whole(
    tmp_path: Path, nothing_there: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    source = tmp_path / "some.pth"
    source.write_bytes(CONTENTS)
    publish(monkeypatch, source.as_uri())
    prepare.main(["weights", "inception"])
    fetched = nothing_there / "some.pth"
    assert str(fetched) in capsys.readouterr().out
    assert [p.read_bytes() for p in nothing_there.iterdir()] == [CONTENTS]
    source.unlink()
    assert weights.fetch("inception") == fetched, "what is there is not fetched again"
    fetched.write_bytes(CONTENTS[:-1])
    assert "corrupt or incomplete" in refusal(weights.fetch, "inception")


def test_fetched_file_with_a_wrong_checksum_is_not_kept(
    tmp_path: Path, nothing_there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some.pth").write_bytes(CONTENTS[:-1])
    publish(monkeypatch, (tmp_path / "some.pth").as_uri())
    assert "invalid hash value" in refusal(weights.fetch, "inception")
    assert not list(nothing_there.iterdir())


def test_fetching_without_a_network_says_what_to_put_where(
    nothing_there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    for name, digest in (("inception", "6726825d"), ("dinov2", "d5383ea8")):
        published = weights.PUBLISHED[name]
        told = refusal(weights.fetch, name)
        for part in ("Name or service", published.url, published.file, digest, str(nothing_there)):
            assert part in told
    with pytest.raises(SystemExit, match=r"ganzoo.prepare: https://.*yourself"):
        prepare.main(["weights", "inception"])


def test_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "file"))
    assert "set GANZOO_CACHE" in refusal(weights.fetch, "inception")


def test_bicubic_keeps_what_has_the_size_and_stays_in_range() -> None:
    x = torch.randint(0, 256, (2, 3, 20, 30)).float()
    assert torch.equal(pillow_bicubic(x, (20, 30)), x)
    edges = F.pad(torch.full((1, 3, 8, 8), 255.0), (8, 8, 8, 8))
    assert pillow_bicubic(edges, 100).aminmax() == (0, 255)
