"""What is exported is the model: in ganzoo again, in onnxruntime, in torch.export."""

import json
import re
from pathlib import Path

import pytest
import torch
from makers import shared
from makers.shared import exported

import ganzoo
from ganzoo import export
from ganzoo.data.choosing import training_data
from ganzoo.engine.kinds import FromSeeds, Translating
from ganzoo.engine.sharing import alone
from ganzoo.errors import UserError
from ganzoo.sharing import artifacts
from ganzoo.sharing.artifacts import Graph

needs_onnx = pytest.mark.skipif(
    not all(name in artifacts.versions() for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra export",
)


def session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", ["dcgan", "pggan", "biggan", "biggan_deep"])
def test_weights_are_the_average_bit_for_bit(kind: str, tmp_path: Path) -> None:
    out = exported(tmp_path, kind)
    gan, again = ganzoo.load(tmp_path), ganzoo.load(out)
    assert isinstance(gan, FromSeeds)
    assert isinstance(again, FromSeeds)
    assert torch.equal(gan.sample(range(5)), again.sample(range(5)))
    assert not torch.equal(gan.sample([0], raw=True), again.sample([0]))
    assert not any(name.startswith("average") for name in again.state_dict())
    assert not any(name.endswith(".u") for name in again.state_dict())  # spectral norms are baked
    assert again.images_seen == gan.images_seen == 10**6
    raw = tmp_path / "raw"
    export.main([str(tmp_path), str(raw), "--raw"])
    assert torch.equal(gan.sample([0], raw=True), ganzoo.load(raw).sample([0]))


def test_a_model_that_still_grows_is_shared_as_it_is(tmp_path: Path) -> None:
    growth = ("model.growth.train_kimg=600", "model.growth.fade_kimg=600")
    out = exported(tmp_path, "pggan", overrides=growth)
    gan, again = ganzoo.load(tmp_path), ganzoo.load(out)
    assert 0 < gan.lod < 2
    assert again.lod == gan.lod
    assert torch.equal(gan.sample(range(3)), again.sample(range(3)))


def test_translations_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    out = exported(tmp_path, "cyclegan")
    gan, again = ganzoo.load(tmp_path), ganzoo.load(out)
    images = torch.rand(2, 3, 21, 30) * 2 - 1
    for direction in ("AtoB", "BtoA"):
        assert torch.equal(gan.translate(images, direction), again.translate(images, direction))
    one = tmp_path / "one"
    export.main([str(tmp_path), str(one), "--directions", "BtoA"])
    single = ganzoo.load(one)
    assert isinstance(single, Translating)
    assert single.directions == ("BtoA",)
    assert torch.equal(single.translate(images, "BtoA"), gan.translate(images, "BtoA"))


def test_half_rounds_the_weights_and_says_by_how_much(tmp_path: Path) -> None:
    whole, half = exported(tmp_path, "dcgan"), tmp_path / "half"
    export.main([str(tmp_path), str(half), "--half"])
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.7 * sizes[0]
    gan, rounded = ganzoo.load(tmp_path), ganzoo.load(half)
    weights = rounded.generator.image[0].weight
    assert weights.dtype == torch.float32
    assert torch.equal(weights, gan.average.image[0].weight.half().float())
    told = json.loads((half / "parity.json").read_text())["files"]["model.safetensors"]
    off = (gan.sample(range(17)) - rounded.sample(range(17))).abs().max().item()
    assert told["difference_by_rounding"] == pytest.approx(off)
    assert told["largest_difference"] == 0.0
    assert off > 0


@needs_onnx
@pytest.mark.parametrize("kind", ["dcgan", "pggan", "biggan", "biggan_deep"])
def test_onnx_gives_the_images_of_any_batch(kind: str, graphs) -> None:
    out = graphs(kind)
    gan, run = ganzoo.load(out.parents[1]), session(out / "generator.onnx")
    assert isinstance(gan, FromSeeds)
    for n in (1, 3, 33):
        latents = gan.latents(range(n))
        given = {"latents": latents.numpy()}
        labels = None
        if gan.classes:
            labels = torch.arange(n) % gan.classes
            given["labels"] = labels.numpy()
        assert [each.name for each in run.get_inputs()] == list(given)
        found = torch.from_numpy(run.run(["images"], given)[0])
        torch.testing.assert_close(found, gan.images(latents, labels=labels), rtol=0, atol=1e-4)
    told = json.loads((out / "parity.json").read_text())
    cases = told["files"]["generator.onnx"]["cases"]
    assert {case["inputs"]["latents"][0] for case in cases} == {1, 2, 5, 17}
    assert told["versions"]["torch"] == str(torch.__version__).partition("+")[0]
    if kind.startswith("biggan"):  # three quarters of class 1 and one of class 2
        ends = gan.class_embeddings(torch.tensor([1, 2]))
        mixed = torch.lerp(ends[0], ends[1], 0.25).expand(4, -1)
        latents = gan.latents(range(4))
        given = {"latents": latents.numpy(), "labels": torch.zeros(4, dtype=torch.long).numpy()}
        found = run.run(["images"], {**given, "class_embedding": mixed.numpy()})[0]
        expected = gan.images(latents, labels=mixed)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)


@needs_onnx
def test_onnx_translates_images_of_any_size(graphs) -> None:
    """The traced size halves evenly; a graph that had kept that would crop or pad the others."""
    out = graphs("cyclegan")
    gan, run = ganzoo.load(out.parents[1]), session(out / "AtoB.onnx")
    for n, height, width in ((1, 16, 16), (2, 70, 50), (1, 7, 33), (3, 1, 9)):
        images = torch.rand(n, 3, height, width) * 2 - 1
        found = torch.from_numpy(run.run(["images"], {"source": images.numpy()})[0])
        torch.testing.assert_close(found, gan.translate(images), rtol=0, atol=1e-4)
    assert not (out / "BtoA.onnx").exists()


@pytest.mark.parametrize("kind", ["pggan", "biggan"])
def test_pt2_gives_the_images_of_any_batch(kind: str, graphs) -> None:
    out = graphs(kind)
    gan, module = ganzoo.load(out.parents[1]), torch.export.load(out / "generator.pt2").module()
    for n in (1, 3, 40):
        latents = gan.latents(range(n))
        given = [latents]
        if gan.classes:
            given += [gan.labels(range(n)), torch.full((n, 4), torch.nan)]
        torch.testing.assert_close(module(*given), gan.sample(range(n)), rtol=0, atol=1e-5)


def test_pt2_translates_images_of_any_size(graphs) -> None:
    out = graphs("cyclegan")
    gan, module = ganzoo.load(out.parents[1]), torch.export.load(out / "AtoB.pt2").module()
    for n, height, width in ((1, 16, 16), (2, 70, 50), (1, 7, 33)):
        images = torch.rand(n, 3, height, width) * 2 - 1
        torch.testing.assert_close(module(images), gan.translate(images))


# -- files that are not the model ------------------------------------------------------------------


class Drifting(torch.nn.Module):
    """Gives something else each time, as a graph of a traced branch does."""

    calls = 0

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return latents + 0.001 * self.calls


def test_a_graph_that_differs_is_deleted(tmp_path: Path) -> None:
    cases = [{"latents": torch.rand(n, 3)} for n in (2, 5)]
    graph = Graph("generator", Drifting(), {"latents": {0: "N"}}, cases)
    found = artifacts.write(graph, "pt2", tmp_path)
    assert found["deleted"]
    assert found["largest_difference"] == pytest.approx(0.002, rel=0.1)
    assert list(tmp_path.iterdir()) == []


class Stuck(torch.nn.Module):
    """Fits batches of two only."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents * 2 if len(latents) < 4 else latents * 3


def test_a_graph_of_one_size_only_is_deleted(tmp_path: Path) -> None:
    cases = [{"latents": torch.rand(n, 3)} for n in (2, 5)]
    graph = Graph("generator", Stuck(), {"latents": {0: "N"}}, cases)
    assert artifacts.write(graph, "pt2", tmp_path)["deleted"]
    assert list(tmp_path.iterdir()) == []


def test_the_exit_code_says_that_a_file_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "LIMIT", -1.0)
    with pytest.raises(SystemExit, match=r"model\.safetensors differed .* and was deleted") as stop:
        exported(tmp_path, "dcgan")
    assert isinstance(stop.value.code, str)  # printed; the code is 1
    assert not (tmp_path / "shared" / "dcgan" / "model.safetensors").exists()


def test_differences_are_infinite_where_there_is_nothing_to_compare() -> None:
    image = torch.zeros(1, 3, 70, 50)
    assert artifacts.difference(image, image + 0.25) == 0.25
    assert artifacts.difference(image, torch.zeros(1, 3, 72, 52)) == float("inf")
    assert artifacts.difference(image, image * torch.nan) == float("inf")


# -- options and folders ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("dcgan", ["--directions", "AtoB"], "translates nothing: leave out --directions"),
        ("dcgan", ["--size", "16", "16"], "translates nothing: leave out --size"),
        ("cyclegan", ["--directions", "AtoC"], "--directions must be one of AtoB, BtoA, not AtoC"),
    ],
)
def test_options_that_do_not_suit(kind, options, sentence, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=sentence):
        exported(tmp_path, kind, *options)
    assert not (tmp_path / "shared").exists() or not list((tmp_path / "shared").iterdir())


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shared" / "dcgan").mkdir(parents=True)
    (tmp_path / "shared" / "dcgan" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="exists: choose another name"):
        exported(tmp_path, "dcgan")
    (tmp_path / "shared" / "dcgan" / "mine.txt").unlink()
    export.main([str(tmp_path), str(tmp_path / "shared" / "dcgan")])  # empty, so it may be used


def test_weights_too_large_for_half_are_refused(tmp_path: Path) -> None:
    gan = shared.untrained("dcgan")
    gan.average.stages[0][1].running_var.fill_(1e6)
    with pytest.raises(UserError, match=r"running_var has values that float16 cannot hold"):
        alone(gan, half=True)


@needs_onnx
def test_nothing_says_where_or_whose_it_was(graphs) -> None:
    out = graphs("dcgan")
    assert "secret photos" in str(ganzoo.load(out.parents[1]).config)
    code = str(Path(export.__file__).parent).encode()
    assert len(list(out.iterdir())) == 7
    for file in out.iterdir():
        content = file.read_bytes()
        assert not re.search(rb"alice-folder|secret photos|wandb", content), file
        assert code not in content, file
    config = ganzoo.load(out).config
    with pytest.raises(UserError, match="does not say what it was trained on"):
        training_data(out, config)
