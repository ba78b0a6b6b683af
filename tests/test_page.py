"""What a person sees: the panel, the page of a run, curves, the page of many runs."""

import html.parser
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from makers.tiny import PAGE, TINY_METRICS, config
from PIL import Image
from rich.console import Console

import ganzoo
from ganzoo.pictures.curves import curves_of, panels_of, plot_curves
from ganzoo.pictures.panel import LINE, Progress, distinct, line, panel
from ganzoo.runs.folder import runs_under
from ganzoo.runs.html import write_page
from ganzoo.train import train_config as train

FULL = Progress(
    kimg=12.0,
    total_kimg=80.0,
    images_per_second=213.4,
    seconds_left=252,
    losses={
        "adversarial_loss": 0.7,
        "d_loss": 0.7,
        "g_loss": 2.0,
        **{f"x{i}": i for i in range(9)},
    },
    metrics={"fd_effnet": 153.4, "kid_effnet": 0.1},
    floors={"fd_effnet": 41.6},
    written="samples/000010.png written 00:03 ago",
)


class Elements(html.parser.HTMLParser):
    """All elements of a page with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def screen(width: int, progress: Progress) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(panel(progress))
    return captured.get().splitlines()


def test_the_line_fits_and_has_what_matters() -> None:
    told = line(FULL, measured=True)
    assert told.startswith("12.0/80 kimg  213 images/s  04:12 left  d_loss 0.700  g_loss 2.000  ")
    assert "fd_effnet 153.4" in told
    assert len(told) <= LINE == 120
    assert "fd_effnet" not in line(FULL, measured=False)
    assert line(Progress(0.0, 80.0, doing="measuring the metrics"), False).endswith(
        "kimg  measuring the metrics"
    )


def test_a_loss_that_repeats_another_is_left_out() -> None:
    assert distinct({"adversarial_loss": 0.5, "d_loss": 0.5, "g_loss": 1.0}) == {
        "d_loss": 0.5,
        "g_loss": 1.0,
    }
    assert "adversarial_loss" in distinct({"adversarial_loss": 0.5, "d_loss": 0.6})


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_panel_fits_its_terminal(width: int) -> None:
    lines = screen(width, FULL)
    assert max(map(len, lines)) <= width
    assert "12.0/80 kimg" in lines[0]
    assert "04:12 left" in lines[0]
    text = re.sub(r"\s+", " ", " ".join(lines))
    assert "fd_effnet 153.4 (real 41.6)" in text
    assert "samples/000010.png" in text


def rows(count: int) -> list[dict[str, str]]:
    return [
        {
            "images_seen": str(1000 * i),
            "losses/d_loss": str(i),
            "losses/adversarial_loss": str(i),
            "losses/g_loss": "1",
            "sentinel/d_loss": "7",
            "metrics/fd_tiny": str(9 - i) if i == count else "",
            "metrics/fd_tiny_std": "1" if i == count else "",
        }
        for i in range(1, count + 1)
    ]


def test_curves_say_nothing_twice() -> None:
    panels = panels_of(curves_of(rows(3)))
    assert {title: list(curves) for title, curves in panels.items()} == {
        "loss": ["losses/d_loss", "losses/g_loss"],
        "fd_tiny": ["metrics/fd_tiny"],
    }


def test_a_single_point_is_visible_and_the_floor_a_line(tmp_path: Path) -> None:
    def ink(name: str, floors: dict[str, float]) -> int:
        plot_curves([{"images_seen": "1000", "metrics/fd_tiny": "5"}], tmp_path / name, floors)
        colors = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
        blue = (colors[..., 2] - colors[..., 0]) > 80
        return int(blue[60:].sum())  # without the legend above

    point = ink("a.png", {})
    assert point > 10
    assert ink("b.png", {"fd_tiny": 3.0}) > point + 200


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "<b>run & more"
    evaluate = (
        "callbacks.metrics={_target_: ganzoo.callbacks.evaluation.Evaluate, "
        "suite: ${metrics}, every_kimg: 0.04, monitor: fd}"
    )
    train(config(f"run_dir='{folder}'", PAGE, evaluate, *TINY_METRICS))
    alarm = {"images_seen": 40, "alarm": "<script>", "saw": "a & b", "try": "this", "rollbacks": 0}
    (folder / "warnings.json").write_text(json.dumps([alarm]))
    train(config(f"run_dir='{folder}'", PAGE, evaluate, *TINY_METRICS, "total_kimg=0.12"))
    return folder


def check_page(page: Path) -> Elements:
    """The page links to nothing that is not there, and needs nothing from elsewhere."""
    text = page.read_text(encoding="utf-8")
    elements = Elements(text)
    for tag, name in (("img", "src"), ("a", "href")):
        for attributes in elements.of(tag):
            target = attributes[name] or ""
            assert (page.parent / unquote(target)).is_file(), target
    assert not [a for _, a in elements.found if any(key.startswith("on") for key in a)]
    assert not elements.of("link")
    (policy,) = [m["content"] for m in elements.of("meta") if "content" in m and "http-equiv" in m]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src 'self' file:; style-src 'sha256-")
    return elements


def test_the_page_of_a_run(run_dir: Path) -> None:
    elements = check_page(run_dir / "index.html")
    assert elements.of("script") == [], "nothing is needed, and names cannot add one"
    sources = [attributes["src"] for attributes in elements.of("img")]
    assert sources == ["samples/000000.120.png", "progress.png", "curves.png"]
    text = (run_dir / "index.html").read_text()
    assert "&lt;script&gt;" in text
    assert "a &amp; b" in text
    metrics = json.loads((run_dir / "metrics.json").read_text())["evaluations"][-1]
    assert f"{metrics['values']['fd_tiny']:.4g}" in text
    assert f"{metrics['floors']['fd_tiny']:.4g}" in text
    assert metrics["protocol"] in text
    assert "python -m ganzoo.evaluate ckpt=" in text


def test_the_page_says_what_is_not_as_by_default(tmp_path: Path, monkeypatch: Any) -> None:
    from makers.tiny import TINY

    monkeypatch.chdir(tmp_path)
    ganzoo.train(*TINY, PAGE, "loss=hinge", run_dir="r", total_kimg=0.016)
    text = (tmp_path / "r" / "index.html").read_text()
    assert re.search(r"image_size</td>\s*<td[^>]*>16</td>\s*<td[^>]*>32</td>", text)
    assert "ganzoo.nn.losses.Hinge" in text
    assert "License unknown" in text, "the program draws these, and says no more"


def test_the_page_of_many_runs(run_dir: Path) -> None:
    runs = runs_under(run_dir.parent)
    elements = check_page(write_page(runs, run_dir.parent))
    assert len(elements.of("script")) == 1
    assert len(elements.of("img")) == 1
    assert not elements.of("b"), "a name is text"
