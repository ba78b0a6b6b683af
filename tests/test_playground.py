"""The page of `ganzoo.playground` as files; test_playground_browser.py opens it."""

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from makers import shared, warm
from makers.browser import TOOLS
from makers.tiny import config
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from ganzoo import playground as command
from ganzoo import prepare
from ganzoo.config import resolved
from ganzoo.disk import sha256
from ganzoo.engine.kinds import FromSeeds
from ganzoo.engine.playing import STOPS, WithStatistics, directions, played, statistics
from ganzoo.engine.sharing import alone
from ganzoo.errors import UserError
from ganzoo.runs import playing
from ganzoo.runs.playing import Options, build, title
from ganzoo.sharing import playground
from ganzoo.sharing.playground import Page, runtime, server

SCRIPTS = Path(playground.__file__).parent


def model(kind: str) -> FromSeeds:
    found, _ = alone(shared.untrained(kind))
    assert isinstance(found, FromSeeds)
    return found


@pytest.fixture
def fake_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the right shape, with two small files instead of onnxruntime-web's."""
    package = tmp_path / "npm"
    (package / "dist").mkdir(parents=True)
    files = {}
    for name, (of, _) in runtime.FILES.items():
        (package / "dist" / of).write_text(of)
        files[name] = (of, sha256(package / "dist" / of))
    monkeypatch.setattr(runtime, "FILES", files)
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))
    return package


# -- what the page is made of ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dcgan", "pggan", "biggan", "biggan_deep"])
def test_directions_are_singular_vectors_of_the_first_layer(kind: str) -> None:
    gan = model(kind)
    network: Any = gan.network()
    weight = {
        "dcgan": lambda: network.base[1].weight.flatten(1).T,
        "pggan": lambda: next(p for p in network.parameters() if p.ndim >= 2),
        "biggan": lambda: network.linear.weight,
        "biggan_deep": lambda: network.linear.weight[:, 4:],  # the class comes first
    }[kind]()
    if kind == "pggan" and weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1).flatten(0, 2)
    found = directions(gan, 3).double()
    assert found.shape == (3, gan.nz)
    torch.testing.assert_close(found @ found.T, torch.eye(3).double())
    used = min(weight.shape[1], gan.nz)  # of hierarchical latents, the first layer sees a piece
    vectors = torch.linalg.svd(weight[:, :used].double()).Vh[:3]
    torch.testing.assert_close((vectors @ found[:, :used].T).abs().diag(), torch.ones(3).double())
    assert not found[:, used:].any()


@pytest.mark.parametrize("kind", ["dcgan", "biggan"])
def test_statistics_are_those_of_each_truncation(kind: str) -> None:
    gan = model(kind)
    rows = statistics(gan, [0.5, None])
    norms = [m for m in gan.network().modules() if isinstance(m, _BatchNorm)]
    own = torch.cat([torch.cat([m.running_mean, m.running_var]) for m in norms])
    assert torch.equal(rows[1], own)
    with gan.standing_statistics(0.5, 16):
        standing = torch.cat([torch.cat([m.running_mean, m.running_var]) for m in norms])
        images = gan.sample(range(3), 0 if gan.classes else None, truncation=0.5)
    assert torch.equal(rows[0], standing)
    graph = played(gan, [0.5, None]).graph
    assert isinstance(graph.network, WithStatistics)
    case = {"statistics": rows[0], "latents": gan.latents(range(3), 0.5)}
    if gan.classes:
        case["labels"] = torch.zeros(3, dtype=torch.long)
        case["class_embedding"] = torch.full((3, 4), torch.nan)
    assert torch.equal(graph.images(case), images)


def test_truncations_suit_the_latents() -> None:
    """No values of U[-1, 1) are beyond 1, and a page that cannot draw cannot draw again."""
    assert played(model("dcgan")).facts["stops"][0]["name"] == "0.2"
    assert max(stop or 0 for stop in STOPS["uniform"]) < 1
    gan = model("pggan")
    gan.prior = lambda shape, generator: torch.zeros(shape)
    found = played(gan)
    assert found.facts["prior"] == ""
    assert [stop["limit"] for stop in found.facts["stops"]] == [None]
    assert "statistics" not in found.arrays


def test_scripts_become_one_module() -> None:
    app = playground.app().decode()
    assert not re.search(r"^(import|export)\b", app, re.MULTILINE)
    assert "</script" not in app.lower()
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", app, re.MULTILINE)
    assert len(names) == len(set(names))
    for name in playground.SCRIPTS:
        assert len((SCRIPTS / name).read_text().splitlines()) < 450


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.skipif(not (TOOLS / ".bin" / "tsc").exists(), reason="run make test-browser-tools")
def test_types_of_the_scripts_are_right(tmp_path: Path) -> None:
    config = json.loads((TOOLS.parent / "tsconfig.json").read_text())
    folder = shutil.copytree(SCRIPTS, tmp_path / "scripts")
    (tmp_path / "tsconfig.json").write_text(json.dumps({**config, "include": ["scripts/*.js"]}))
    tsc = [str(TOOLS / ".bin" / "tsc"), "-p", str(tmp_path)]
    ended = subprocess.run(tsc, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")
    with (folder / "random.js").open("a") as file:
        file.write("latent('0', 8, 'normal', 1);\n")
    assert subprocess.run(tsc, capture_output=True, check=False).returncode != 0


def test_names_are_escaped_and_files_embedded(fake_runtime: Path) -> None:
    hostile = "</script><script>alert(1)</script>\"'>"
    facts = {"kind": "seeds", "arrays": {}, "classes": [hostile]}
    files = {"generator.onnx": b"\x00</script>", "samples.png": b"png"}
    page = Page(hostile, "x", facts, {hostile: hostile}, [], "1", "samples.png", (), files)
    made = page.folder()
    html = made["index.html"].decode()
    assert hostile not in html
    assert html.count("<script") == 1
    assert playground.POLICY.replace("'", "&#39;") in html
    assert json.loads(made["playground.json"])["classes"] == [hostile]
    single = page.single().decode()
    assert hostile not in single
    assert single.count("</script>") == 4  # three files and the scripts
    assert "http:" not in single.replace("http://www.w3.org", "")
    assert base64.b64encode(b"png").decode() in single


@pytest.mark.parametrize(
    ("data", "subject"),
    [
        (["data=smileys"], "Smileys & Emotion"),
        (["data=emoji"], "Emoji"),
        (["data=folder", "data.root=photos", "data.only=[secret]"], "Pictures"),
    ],
)
def test_a_page_without_a_title_is_called_after_its_data(data: list[str], subject: str) -> None:
    cfg = resolved(config(*data, tiny=False))
    assert title("DCGAN", cfg, translates=False) == f"{subject} drawn by a DCGAN"
    assert title("CycleGAN", cfg, translates=True) == "Photos repainted by a CycleGAN"


def test_examples_are_small_copies_without_their_exif(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"  # turned by 90 degrees; a description
    for name, size in {"large": (40, 1000), "small": (30, 20)}.items():
        pixels = numbers.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg", exif=exif)
    page = Page("", "", {"examples": []}, {}, [], "1")
    playing._add_examples(page, tmp_path)
    assert [e["name"] for e in page.facts["examples"]] == ["large.jpg", "small.jpg"]
    large, small = (page.files[e["file"]] for e in page.facts["examples"])
    assert [Image.open(io.BytesIO(d)).size for d in (large, small)] == [(20, 512), (30, 20)]
    assert b"where I live" not in large + small


# -- the command -----------------------------------------------------------------------------------


def test_wrong_options_are_refused(
    fake_runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("dcgan", "cyclegan"):
        (tmp_path / kind).mkdir()
        shared.write(tmp_path / kind / "last.ckpt", kind)
    dcgan, cyclegan = tmp_path / "dcgan", tmp_path / "cyclegan"
    with pytest.raises(UserError, match=r"python -m ganzoo\.prepare playground"):
        build(dcgan, Options())
    prepare.main(["playground", "--from", str(fake_runtime)])
    with pytest.raises(UserError, match="translates no photos: leave out --examples"):
        build(dcgan, Options(examples=tmp_path))
    with pytest.raises(UserError, match="has no latents: leave out --truncations"):
        build(cyclegan, Options(truncations=[0.5]))
    with pytest.raises(UserError, match="leave out --directions"):
        build(dcgan, Options(directions=["AtoB"]))
    with pytest.raises(UserError, match="must be one of AtoB, BtoA"):
        build(cyclegan, Options(directions=["CtoD"]))
    with pytest.raises(SystemExit) as stop:
        command.main([str(dcgan), "--single-file"])
    assert stop.value.code == 2
    monkeypatch.setattr(playing, "build", lambda *_: pytest.fail("built in vain"))
    with pytest.raises(SystemExit, match="exists: choose another name"):
        command.main([str(dcgan), str(cyclegan)])


def test_a_page_is_served_until_it_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the page")
    code = (
        "from pathlib import Path; from ganzoo import playground; "
        f"playground.serve(Path({str(tmp_path)!r}), 0, False)"
    )
    process = warm.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(re.findall(r"http://127.0.0.1:(\d+)/", process.stdout.readline())[0])
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"the page")
    assert answer.headers["Content-Security-Policy"] == playground.POLICY
    connection.request("GET", "/", headers={"Host": f"elsewhere.example:{port}"})
    assert connection.getresponse().status == 403
    process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
    assert process.wait(10) == 0


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with server.server(tmp_path) as first:
        Thread(target=first.serve_forever, args=[0.01], daemon=True).start()
        port = first.server_address[1]
        with pytest.raises(UserError, match=f"Port {port} cannot be used"):
            server.server(tmp_path, port)
        first.shutdown()


# -- the program that runs networks ----------------------------------------------------------------


def test_the_runtime_comes_from_a_folder_once(fake_runtime: Path, capsys: Any) -> None:
    prepare.main(["playground", "--from", str(fake_runtime)])
    assert "complete and unchanged" in capsys.readouterr().out
    cache = playing.runtime_cache()
    found = runtime.load(cache)
    assert found[runtime.MODULE].decode() == runtime.FILES[runtime.MODULE][0]
    assert found[runtime.WASM][:2] == b"\x1f\x8b"
    shutil.rmtree(fake_runtime)
    prepare.main(["playground"])  # it is there
    (cache / runtime.VERSION / runtime.MODULE).write_text("other")
    with pytest.raises(UserError, match="is damaged"):
        runtime.load(cache)


def test_another_package_is_refused(fake_runtime: Path, tmp_path: Path) -> None:
    (fake_runtime / "dist" / runtime.FILES[runtime.WASM][0]).write_text("another")
    with pytest.raises(UserError, match="is not that of"):
        runtime.fetch(tmp_path / "cache", fake_runtime)
    with tarfile.open(tmp_path / runtime.TARBALL, "w:gz") as tar:
        tar.add(fake_runtime, "package")
    with pytest.raises(UserError, match=r"is not onnxruntime-web@.* as published"):
        runtime.fetch(tmp_path / "cache", tmp_path)
    with pytest.raises(UserError, match="has neither"):
        runtime.fetch(tmp_path / "cache", tmp_path / "cache")


def test_without_npm_there_is_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm, which downloads .* is missing: .* with --from"):
        runtime.fetch(tmp_path / "cache")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(UserError, match=r"could not download .* \(no network\)"):
        runtime.fetch(tmp_path / "cache")
