"""The site builds strictly, loads nothing from elsewhere, and leaves out no key."""

import json
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from makers.tiny import TINY, TINY_METRICS, TRANSLATING

import ganzoo
from ganzoo.config import CONF

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT))

from website import build, keys  # noqa: E402

PAGES = [*DOCS.rglob("*.md"), *(ROOT / name for name in build.ALSO if name.endswith(".md"))]
FILES = keys.files()


# -- keys ------------------------------------------------------------------------------------------


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a YAML file by dotted path, without those that are Hydra's."""
    for name, value in node.items():
        inner = f"{path}.{name}" if path else str(name)
        if str(name).startswith("_") or inner in ("defaults", "hydra"):
            continue
        if isinstance(value, dict) and all(isinstance(key, str) for key in value) and value:
            yield from flat(value, inner)
        else:
            yield inner, value


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_explained(name: str) -> None:
    """By a comment in its file or in the one that it is based on, or by the key that it follows."""
    found = keys.inherited(keys.read(name))
    for path, value in flat(yaml.safe_load((CONF / f"{name}.yaml").read_text()) or {}):
        follows = isinstance(value, str) and re.fullmatch(r"\$\{[\w.]+\}", value)
        assert found[path].comment or follows, f"conf/{name}.yaml: {path} has no comment"


def test_the_reference_has_every_key() -> None:
    """Compared with the files as YAML reads them; the tables come from their text."""
    pages = {page.name: page.read_text() for page in (DOCS / "reference").glob("keys*.md")}
    patterns = [
        found[2].split() for text in pages.values() for found in build.MARKER.finditer(text)
    ]
    tables = "\n".join(keys.markdown(names) for names in patterns)
    rows = set(re.findall(r"^\| <code>(.*?)</code>", tables.replace("<wbr>", ""), re.MULTILINE))
    for name in FILES:
        group = keys.read(name).group
        for path, _ in flat(yaml.safe_load((CONF / f"{name}.yaml").read_text()) or {}):
            assert (f"{group}.{path}" if group else path) in rows, f"conf/{name}.yaml: {path}"


def test_types_and_ranges_come_from_the_code() -> None:
    assert keys.declared("train", "seed")[0] == "a whole number from 0 to 4294967295"
    assert keys.declared("model/dcgan", "discriminator.norm")[0] == "one of batch, layer, none"
    assert keys.declared("model/base/gan", "ema_kimg") == ("", "")  # which class is not yet known
    kind, line = keys.declared("model/dcgan", "nz")
    assert kind.startswith("a whole number")
    assert line


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_help_explains_what_can_be_chosen(name: str) -> None:
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    text = config["hydra"]["help"]["template"].partition("$APP_CONFIG_GROUPS")[0]
    chosen = [key for entry in config["defaults"] if isinstance(entry, dict) for key in entry]
    for group in [key for key in chosen if not key.startswith("override")]:
        assert re.search(rf"^ *{group}[ =]", text, re.MULTILINE), group
    for key in re.findall(r"^ *([a-z_.]+)=", text, re.MULTILINE):
        assert key in config or key in chosen or key == "data.root", key


# -- pages -----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target
        inside = other.is_relative_to(DOCS) or other.relative_to(ROOT).as_posix() in build.ALSO
        assert inside or page == ROOT / "README.md" or DOCS not in page.parents, target


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r'= "([\w/-]+\.md)"', (ROOT / "website" / "zensical.toml").read_text())
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    made = {*build.ALSO.values(), *(f"reference/api/{room}.md" for room in build.ROOMS)}
    assert sorted(listed) == sorted(pages | made)


def test_what_a_site_loads_from_elsewhere_is_found(tmp_path: Path) -> None:
    fine = '<a href="https://there.org/">x</a><img src="a.png"><script src=b.js></script>'
    (tmp_path / "a.png").touch()
    (tmp_path / "b.js").write_text('fetch("c.json"); const ns = "http://www.w3.org/2000/svg"')
    (tmp_path / "index.html").write_text(fine)
    (tmp_path / "c.css").write_text("a { background: url(a.png) }")
    assert build.elsewhere(tmp_path) == []
    bad = (
        '<link rel=stylesheet href="//fonts.org/x.css"><img src="gone.png"><img src=http://i.org/1>'
    )
    (tmp_path / "index.html").write_text(bad)
    (tmp_path / "b.js").write_text('import("https://cdn.org/x.js")')
    (tmp_path / "c.css").write_text("@import 'https://fonts.org/y.css'")
    found = build.elsewhere(tmp_path)
    assert found == [
        "index.html: //fonts.org/x.css", "index.html: gone.png", "index.html: http://i.org/1",
        "c.css: https://fonts.org/y.css", "b.js: cdn.org",
    ]  # fmt: skip


@pytest.mark.skipif(
    find_spec("zensical") is None or find_spec("mkdocstrings_handlers") is None,
    reason='needs pip install -e ".[docs]"',
)
@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly, and without anything from elsewhere, which `build.main` checks."""
    assert build.main(tmp_path) == 0
    site = tmp_path / "site"
    pages = {page.relative_to(site).as_posix(): page.read_text() for page in site.rglob("*.html")}
    assert {"reference/api/nn.html", "tutorials/translate_notebook.html"} <= pages.keys()
    assert "<!-- keys" not in "".join(pages.values())
    assert "python -m ganzoo.sample" in pages["reference/commands.html"]
    items = json.loads((site / "search.json").read_text())["items"]
    assert "reference/keys.html#train" in {item["location"] for item in items}
    for question, answer in QUESTIONS.items():
        found = [item["location"] for item in items if has_all(question.split(), item)]
        assert answer in found, question
        assert len(found) < 10, question


# What a newcomer types, and the section that has to be found; the search wants every word.
PHOTOS = "tutorials/photos.html#my-photos-have-different-sizes-and-shapes"
QUESTIONS = {
    "resume on another machine": "howto/resume.html#resume-on-another-machine",
    "FID without internet": "howto/offline.html#fid-without-internet",
    "my photos have different sizes": PHOTOS,
    "classes from folders": "tutorials/classes.html#1-classes-from-folders",
    "use from my own training code": "howto/own-code.html",
}


def has_all(words: list[str], item: dict[str, Any]) -> bool:
    text = f"{item['title']} {item['text']} {' '.join(item['path'])}"
    return all(re.search(rf"\b{word}", text, re.IGNORECASE) for word in words)


# Keys that have a value only if somebody gives them one.
GIVEN = {"model.clip.generator", "trainer.max_time", "trainer.strategy.process_group_backend"}
NAMED = re.compile(
    r"(?<![\w./-])((?:model|data|callbacks|metrics|trainer|logger|loss)\.[a-z_][\w.]*\w)",
    re.IGNORECASE,
)


def test_keys_on_the_pages_exist() -> None:
    """Every key that stands in backticks, with its full name."""
    known = set(GIVEN)
    for name in FILES:
        group = keys.read(name).group
        for path in keys.inherited(keys.read(name)):
            parts = f"{group}.{path}".strip(".").split(".")
            known |= {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
    for path in (CONF / "experiment").glob("*.yaml"):
        known |= {key for key, _ in flat(yaml.safe_load(path.read_text()))}
    files = (".csv", ".json", ".safetensors", ".callback_metrics")
    for page in DOCS.rglob("*.md"):
        for span in re.findall(r"`([^`\n]+)`", page.read_text()):
            for key in NAMED.findall(span):
                assert key in known or key.endswith(files), f"{page.name}: {key}"


# -- code on the pages -----------------------------------------------------------------------------


def titled(page: str) -> dict[str, str]:
    """The files that a page shows, by the names in their titles."""
    pattern = r'^```\w+ title="([^"]+)"\n(.*?)^```$'
    return dict(re.findall(pattern, (DOCS / page).read_text(), re.MULTILINE | re.DOTALL))


def test_a_package_of_the_pages_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set, the metric, the callback and the logger that the pages add, in one run."""
    shown = {}
    for page in ("add-data", "add-metric", "add-callback", "add-logger"):
        shown |= titled(f"howto/{page}.md")
    assert len(shown) == 6
    for name, text in shown.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    tiny = [key for key in TINY if not key.startswith(("data", "logger", "callbacks.metrics"))]
    metrics = [key for key in TINY_METRICS if "num_real" not in key]
    ganzoo.train(
        f"hydra.searchpath=[file://{tmp_path}/myconf]", "data=stripes", "data.source.num=40",
        "logger=lines", "callbacks.metrics.every_kimg=0.08", "run_dir=run", *tiny, *metrics,
        "metrics.num_real=40", "callbacks.metrics.monitor=brightness",
        "+metrics.scores.brightness._target_=mypackage.brightness.Brightness",
        "+callbacks.hello._target_=mypackage.hello.Hello", "+callbacks.hello.every_kimg=0.04",
    )  # fmt: skip
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert any(line.startswith("40 hello/mean ") for line in lines)
    assert any(re.match(r"80 pictures/samples \(", line) for line in lines)
    gan = ganzoo.load("run", trust=["mypackage"])
    fakes = (gan.sample(range(24)) * 127.5 + 127.5).round().clamp(0, 255)
    truth = abs(float(fakes.mean()) - 127.5)  # as many black stripes as white ones
    (value,) = (line.split()[2] for line in lines if line.startswith("80 metrics/brightness "))
    assert float(value) == pytest.approx(truth, abs=1)
    assert (tmp_path / "run" / "best.ckpt").is_file()


def test_code_for_programs_of_your_own_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of the page, in another order, so that there is a model to load."""
    text = (DOCS / "howto" / "own-code.md").read_text()
    loop, loaded, metric, trainer = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"ganzoo": ganzoo}
    exec(loop, names)
    assert names["fake"].shape == (16, 3, 32, 32)
    exec(metric, names)
    assert float(names["metric"].compute()) > 0
    exec(trainer.replace("max_steps=8", 'max_steps=2, accelerator="cpu"'), names)
    assert names["again"].images_seen == names["gan"].images_seen > 0
    exec(loaded.replace("RUN", "mine.ckpt"), names)
    assert names["images"].shape == (8, 3, 32, 32)


def test_the_notebook_that_translates_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells in their order, with a tiny model and few images."""
    notebook = json.loads((ROOT / "examples" / "translate.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(cell["outputs"]) for cell in cells) > 2, "outputs are kept"
    skipped = ("model=", "data=", "callbacks.")
    tiny = [key for key in TRANSLATING if not key.startswith(skipped)]
    named = dict(key.split("=", 1) for key in (*tiny, "callbacks.metrics=null"))
    train = ganzoo.train
    monkeypatch.setattr(
        ganzoo,
        "train",
        lambda *given, **keyed: train(
            *(key for key in given if key.partition("=")[0] not in named), **{**keyed, **named}
        ),
    )
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert len(list((tmp_path / "translated").glob("*.png"))) == 12
    assert (tmp_path / "translated" / "index.html").is_file()
    assert ganzoo.load(tmp_path / "shared").images_seen == 48
