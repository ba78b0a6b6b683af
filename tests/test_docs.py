"""The pages are true: links lead somewhere, CONTRIBUTING can be followed."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest
import torch
from conftest import run
from makers.pages import PAGES, ROOT, blocks
from makers.tiny import TINY, config

import ganzoo
from ganzoo import models
from ganzoo.config import CONF, trust
from ganzoo.errors import UserError
from ganzoo.train import train_config as train

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

TOUR_LINES = 4_500


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def test_tour_is_short() -> None:
    section = CONTRIBUTING.partition("## The tour")[2].partition("\n## ")[0]
    files = re.findall(r"`(ganzoo/\S+\.py)`", section)
    total = sum(len((ROOT / file).read_text().splitlines()) for file in files)
    stated = int(re.search(r"about ([\d,]+) lines", section)[1].replace(",", ""))
    assert len(files) == len(set(files)) > 10
    assert total <= TOUR_LINES
    assert abs(total - stated) < 150


# Two blocks, in the order of the page.
SECTION = CONTRIBUTING.partition("## Add a model")[2].partition("\n## ")[0]
MODEL, YAML = blocks("python", SECTION)[0], blocks("yaml", SECTION)[0]
SMALL = (*TINY, "model=mine", "model.nz=8")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The new model is in `ganzoo.models`; yields the override that finds its YAML."""
    package = tmp_path / "models" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(MODEL)
    copytree(CONF, tmp_path / "conf")  # what a checkpoint may name is what `conf/` names
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(YAML)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(package.parent)])
    monkeypatch.setattr(trust, "CONF", tmp_path / "conf")
    trust.offered.cache_clear()
    yield f"hydra.searchpath=[file://{tmp_path}/conf]"
    trust.offered.cache_clear()
    sys.modules.pop("ganzoo.models.mine", None)
    vars(models).pop("mine", None)


def test_new_model_trains_samples_and_walks(inside: str, tmp_path: Path) -> None:
    gan = train(config(*SMALL, inside, f"run_dir={tmp_path / 'run'}", tiny=False))
    assert gan.images_seen == 80
    again = ganzoo.load(tmp_path / "run")
    images = again.sample([1, 2])
    assert torch.equal(images[1:], again.sample([2]))
    middle = again.images(again.latents([1, 2]).mean(0, keepdim=True))
    assert middle.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("loss", ["relativistic", "wasserstein_gp", "hinge"])
def test_new_model_takes_any_loss(inside: str, loss: str, tmp_path: Path) -> None:
    keys = [f"loss={loss}", "model.discriminator.norm=none", f"run_dir={tmp_path / 'run'}"]
    assert train(config(*SMALL, inside, *keys, tiny=False)).images_seen == 80


def test_new_model_is_clean(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MODEL)
    for check in (
        ["ruff", "check", "--config", str(ROOT / "pyproject.toml")],
        ["ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml")],
        ["mypy", "--config-file", str(ROOT / "pyproject.toml")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *check, str(file)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_new_model_outside_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "mine.py").write_text(MODEL)
    (tmp_path / "myconf" / "model").mkdir(parents=True)
    text = YAML.replace("ganzoo.models.mine.Mine", "mypackage.mine.Mine")
    (tmp_path / "myconf" / "model" / "mine.yaml").write_text(text)
    command = next(b for b in blocks("sh", SECTION) if "--config-dir" in b).split()
    done = run([sys.executable, *command[1:], *TINY], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(UserError, match=r"mypackage\.mine"):
        ganzoo.load(tmp_path / "myrun")
    monkeypatch.syspath_prepend(tmp_path)
    gan = ganzoo.load(tmp_path / "myrun", trust=["mypackage."])
    assert type(gan).__module__ == "mypackage.mine"
    assert gan.sample([1, 2]).shape == (2, 3, 16, 16)
