"""Shared models: loaded by every command, fetched from a Hub of this machine, and never trusted."""

import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from makers import shared
from makers.hub_server import COMMIT, TOKEN, Hub, serving
from makers.shared import exported
from makers.tiny import evaluated
from PIL import Image

import ganzoo
from ganzoo import export, sample, translate
from ganzoo.config import make
from ganzoo.data.sources.emoji import ATTRIBUTION
from ganzoo.engine.checkpoint import initialize_from
from ganzoo.engine.kinds import generator_of
from ganzoo.errors import UserError
from ganzoo.sharing import artifacts

needs_onnx = pytest.mark.skipif(
    not all(name in artifacts.versions() for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra export",
)

# -- every command that takes a run ----------------------------------------------------------------


def test_a_shared_model_is_sampled_like_the_run(tmp_path: Path) -> None:
    out = exported(tmp_path, "biggan")
    for source, name in ((tmp_path, "a.png"), (out, "b.png"), (out / "model.safetensors", "c.png")):
        sample.main(
            [str(source), "--num", "4", "--truncation", "0.5", "--out", str(tmp_path / name)]
        )
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in "abc"]
    assert pictures[0] == pictures[1] == pictures[2]


def test_classes_have_names(tmp_path: Path) -> None:
    gan = shared.untrained("biggan")
    gan.class_names = ["cat", "big dog", "7", *"defghij"]
    shared.save(gan, tmp_path / "last.ckpt")
    for text, name in (("1,0", "a.png"), ("big dog,cat", "b.png"), ("big dog,0", "c.png")):
        options = ["--classes", text, "--num", "2", "--out", str(tmp_path / name)]
        sample.main([str(tmp_path), *options])
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in "abc"]
    assert pictures[0] == pictures[1] == pictures[2]
    for text in ("bird", "cat,bird"):
        with pytest.raises(SystemExit, match="There is no class bird: this model has cat, big dog"):
            sample.main([str(tmp_path), "--classes", text, "--out", str(tmp_path / "d.png")])
    shared.write(tmp_path / "last.ckpt", "biggan")
    with pytest.raises(SystemExit, match="this model's classes have no names: give numbers"):
        sample.main([str(tmp_path), "--classes", "cat", "--out", str(tmp_path / "d.png")])


def test_a_shared_model_translates_like_the_run(tmp_path: Path) -> None:
    out = exported(tmp_path, "cyclegan")
    Image.radial_gradient("L").convert("RGB").resize((19, 23)).save(tmp_path / "photo.png")
    for source, name in ((tmp_path, "a.png"), (out, "b.png")):
        translate.main([str(source), str(tmp_path / "photo.png"), str(tmp_path / name)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_shared_model_has_the_scores_of_the_run(tmp_path: Path) -> None:
    data = ("data=synthetic", "image_size=16")
    out = exported(tmp_path, "dcgan")
    ours, theirs = evaluated(f"ckpt={tmp_path}", *data), evaluated(f"ckpt={out}", *data)
    assert theirs.values == ours.values
    assert theirs.protocol == ours.protocol
    assert theirs.protocol["fake"]["generator"] == "average"
    assert (out / "model.metrics.json").is_file()
    raw = tmp_path / "raw"
    export.main([str(tmp_path), str(raw), "--raw"])
    export.main([str(out), str(tmp_path / "again")])
    found = [generator_of(ganzoo.load(folder)) for folder in (raw, tmp_path / "again")]
    assert found == ["raw", "average"]


def test_training_starts_from_a_shared_model(tmp_path: Path) -> None:
    out = exported(tmp_path, "biggan")
    theirs, ours = ganzoo.load(out), shared.untrained("biggan")
    told = initialize_from(ours, out)
    assert torch.equal(ours.generator.image.weight, theirs.generator.image.weight)
    assert "generator.image.u: only here; left as initialized" in told


# -- the card --------------------------------------------------------------------------------------


def card_of(out: Path) -> ModelCard:
    return ModelCard.load(out / "README.md", ignore_metadata_errors=False)


def snippets(out: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (out / "README.md").read_text(), re.M | re.S)


@needs_onnx
@pytest.mark.parametrize("kind", ["dcgan", "biggan", "cyclegan"])
def test_the_snippets_of_the_card_run_as_they_stand(
    kind: str, graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = graphs(kind)
    inside, without = snippets(out)
    assert len(without.splitlines()) <= 10
    monkeypatch.chdir(out)
    outside: dict[str, Any] = {}
    exec(without, outside)
    assert "ganzoo" not in without
    gan = ganzoo.load(out)
    if kind == "cyclegan":
        expected = gan.translate(torch.from_numpy(outside["source"]))
        assert outside["pixels"].shape == (1, 70, 51, 3)
    else:
        labels = torch.from_numpy(outside["labels"]) if gan.classes else None
        expected = gan.images(torch.from_numpy(outside["latents"]), labels=labels)
        assert outside["pixels"].shape == (16, 16, 16, 3)
    torch.testing.assert_close(torch.from_numpy(outside["images"]), expected, rtol=0, atol=1e-4)
    monkeypatch.chdir(out.parent)
    given: dict[str, Any] = {"photos": torch.rand(1, 3, 16, 16)}
    exec(inside, given)
    assert given["images"].shape[1:] == (3, 16, 16)


def test_the_card_has_the_scores_of_these_weights(tmp_path: Path) -> None:
    shared.write(tmp_path / "last.ckpt", "dcgan")
    evaluated(f"ckpt={tmp_path}", "data=synthetic", "image_size=16")  # again: told once
    scores = evaluated(f"ckpt={tmp_path}", "data=synthetic", "image_size=16")
    evaluated(f"ckpt={tmp_path}", "data=synthetic", "image_size=16", "raw=true")  # of other weights
    out = exported(tmp_path, "dcgan")
    results = {r.metric_name.partition(" ")[0]: r for r in card_of(out).data.eval_results}
    assert {name: r.metric_value for name, r in results.items()} == {
        name: value for name, value in scores.values.items() if not name.endswith("_std")
    }
    assert len(results) >= 2
    for result in results.values():
        assert (
            f"generator average, seeds 0-{scores.protocol['fake']['images'] - 1}"
            in result.metric_name
        )
        assert result.dataset_name == "synthetic"
    kept = json.loads((out / "config.json").read_text())["scores"]
    assert [entry["protocol"] for entry in kept] == [scores.protocol]


def test_the_card_of_a_translating_model_shows_before_and_after(tmp_path: Path) -> None:
    out = exported(tmp_path, "cyclegan")
    card = (out / "README.md").read_text()
    assert "![Samples](samples.png)" in card
    assert " ".join(ATTRIBUTION.split()) in card.replace("\\", "")
    assert "emoji (noto, train) and emoji (twemoji, train)" in card
    sheet = np.asarray(Image.open(out / "samples.png"))
    tests = make(ganzoo.load(out).config["data"]).held_out()
    for row, domain in enumerate("AB"):
        first = tests[domain].read([0])[0].movedim(0, 2).numpy()
        top, left = 2 * row * 66, sheet.shape[1] - 8 * 66 + 2  # four times as large
        assert np.array_equal(sheet[top : top + 64 : 4, left : left + 64 : 4], first)


def test_images_of_a_folder_are_shown_only_if_they_are_given(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(20):
        Image.radial_gradient("L").save(photos / f"{i}.png")
    folder = ("data=unpaired_folder", f"data.a.root={photos}", f"data.b.root={photos}")
    out = exported(tmp_path, "cyclegan", "--directions", "AtoB", overrides=folder)
    assert not (out / "samples.png").exists()
    card = (out / "README.md").read_text()
    assert "under which license, is not stated yet" in card
    assert "photos" not in card.partition("## Training")[2]
    options = ["--directions", "AtoB", "--samples", str(photos)]
    export.main([str(tmp_path), str(tmp_path / "shown"), *options])
    assert Image.open(tmp_path / "shown" / "samples.png").height == 2 * 66 - 2
    with pytest.raises(SystemExit, match="needs a file or folder for each of AtoB, BtoA"):
        export.main([str(tmp_path), str(tmp_path / "x"), *options[2:]])


def test_the_card_is_what_the_hub_reads(tmp_path: Path) -> None:
    overrides = ("data.source.classes=3", "model.labels=data")
    out = exported(tmp_path, "biggan", overrides=overrides)
    data = card_of(out).data
    assert data.library_name == "ganzoo"
    assert data.pipeline_tag == "unconditional-image-generation"
    assert data.license == "unknown"
    assert {"gan", "biggan"} <= set(data.tags)
    assert Image.open(out / "samples.png").width > 8 * 16


def test_names_of_classes_stay_in_their_cell(tmp_path: Path) -> None:
    gan = shared.untrained("biggan")
    gan.class_names = ["a|b", "[x](http://y)", "<script>", *"defghij"]
    shared.save(gan, tmp_path / "last.ckpt")
    export.main([str(tmp_path), str(tmp_path / "out")])
    row = next(r for r in (tmp_path / "out" / "README.md").read_text().split("\n") if "script" in r)
    assert row.startswith(r"| Classes | a\|b, \[x\](http://y), \<script\>, d")
    assert ganzoo.load(tmp_path / "out").class_names == gan.class_names


# -- files that mean harm --------------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    return exported(tmp_path, "dcgan")


def change(config: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        config = config[part]
    config[last] = value


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("config.model._target_", "os.system", r"wants to call os\.system.*nothing was called"),
        ("config.model.loss", {"_target_": "torch.hub.load"}, r"wants to call torch\.hub\.load"),
        ("config.model.prior", {"_target_": "hydra.utils.get_method", "path": "os.system"}, "call"),
        ("config.model.loss._args_", ["x"], "entry _args_"),
        ("config.model.nz", "${oc.env:HOME}", "interpolation"),
        ("config.model._target_", "mine.Model", "add --trust mine"),
        ("config.model.surprise", 1, "surprise"),
        ("images_seen", "many", r"images_seen in .* must be a whole number"),
        ("images_seen", -5, r"images_seen in .* must be a whole number of at least 0"),
        ("format", 1, "install that version"),
        ("config", [], "has no model"),
    ],
)
def test_a_config_that_means_harm(key: str, value: Any, sentence: str, victim: Path) -> None:
    file = victim / "config.json"
    config = json.loads(file.read_text())
    change(config, key, value)
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=sentence):
        ganzoo.load(victim)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "is damaged: it is not JSON"),
        (b"[" * 10**5, "is damaged: it is not JSON"),
        (b"[1, 2]", "was not written by ganzoo"),
        (b"\xff\xfe", "is damaged: it is not JSON"),
    ],
)
def test_a_config_that_is_none(content: bytes, sentence: str, victim: Path) -> None:
    (victim / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        ganzoo.load(victim)
    (victim / "config.json").unlink()
    with pytest.raises(UserError, match=r"needs config\.json"):
        ganzoo.load(victim)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writes", [pickle.dump, torch.save])
def test_a_pickle_in_place_of_safetensors(writes: Callable, victim: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with (victim / "model.safetensors").open("wb") as file:
        writes({"generator.x": Touch(mark)}, file)
    with pytest.raises(UserError, match=r"not a file of safetensors.*never a pickle"):
        ganzoo.load(victim)
    assert not mark.exists()
    with (victim / "model.safetensors").open("rb") as file:  # as others would read it
        torch.load(file, weights_only=False) if writes is torch.save else pickle.load(file)
    assert mark.exists()


def test_weights_of_another_model(victim: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (exported(other, "pggan") / "model.safetensors").replace(victim / "model.safetensors")
    with pytest.raises(UserError, match="belongs to another model"):
        ganzoo.load(victim)


# -- the Hub ---------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on this machine, a cache of its own, and a user who is logged in."""
    with serving() as found:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def test_what_is_pushed_can_be_loaded(world: Hub, tmp_path: Path, capsys) -> None:
    shared.write(tmp_path / "last.ckpt", "dcgan")
    (tmp_path / "secret.txt").write_text("mine")
    export.main([str(tmp_path), "--push", "me/model", "--private"])
    assert f"{world.url}/me/model" in capsys.readouterr().out
    files = ["README.md", "config.json", "model.safetensors", "parity.json", "samples.png"]
    assert sorted(world.files["me/model"]) == files
    assert world.private["me/model"]
    assert 'ganzoo.load("hf:me/model")' in world.files["me/model"]["README.md"].decode()
    world.files["me/model"]["pytorch_model.bin"] = pickle.dumps(Touch(tmp_path / "mark"))
    expected = ganzoo.load(tmp_path).sample(range(3))
    for name in ("hf:me/model", "hf:me/model@v1", f"hf:me/model@{COMMIT}"):
        assert torch.equal(ganzoo.load(name).sample(range(3)), expected)
    sample.main(["hf:me/model", "--num", "1", "--out", str(tmp_path / "one.png")])
    assert not any("pytorch_model.bin" in line for line in world.asked)


def test_both_a_folder_and_the_hub(world: Hub, tmp_path: Path) -> None:
    shared.write(tmp_path / "last.ckpt", "dcgan")
    export.main([str(tmp_path), str(tmp_path / "out"), "--push", "me/model"])
    assert not world.private["me/model"]
    for name, content in world.files["me/model"].items():
        assert (tmp_path / "out" / name).read_bytes() == content


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../x",
        "me/..",
        "me/a..b",
        "me",
        "me/model/x",
        "/me/x",
        "me/mo del",
        "me\\x/y",
        "/",
        "",
    ],
)
def test_names_that_lead_elsewhere(name: str, world: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a repository on the Hub"):
        ganzoo.load(f"hf:{name}")
    if name:
        with pytest.raises(SystemExit, match="is not a repository on the Hub"):
            export.main([str(tmp_path), "--push", name])
    assert world.asked == []


@pytest.mark.parametrize("revision", ["..", "../x", "", "/x", "a//b", "x/../y"])
def test_revisions_that_lead_elsewhere(revision: str, world: Hub) -> None:
    with pytest.raises(UserError, match="is not a revision"):
        ganzoo.load(f"hf:me/model@{revision}")
    assert world.asked == []


def test_what_is_not_there(world: Hub) -> None:
    world.files["me/empty"] = {"pytorch_model.bin": b"x"}
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        ganzoo.load("hf:me/empty")
    with pytest.raises(UserError, match="there is no such model, or it is private"):
        ganzoo.load("hf:me/none")
    with pytest.raises(UserError, match="there is no such model"):
        ganzoo.load("hf:me/empty@v9")


def test_without_a_connection_or_a_token(
    world: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.write(tmp_path / "last.ckpt", "dcgan")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(SystemExit, match=r"could not be pushed: the Hub answered 401"):
        export.main([str(tmp_path), "--push", "me/model"])
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="could not be fetched: no connection to the Hub"):
        ganzoo.load("hf:me/model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(SystemExit, match="could not be pushed: no connection to the Hub"):
        export.main([str(tmp_path), "--push", "me/model"])
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    with pytest.raises(SystemExit, match="There is no token for the Hub: run hf auth login"):
        export.main([str(tmp_path / "nothing"), "--push", "me/model"])
    assert "HF_TOKEN" not in os.environ
