"""Build the site: `make docs`, or `python -m website.build`.

The pages of docs/ are copied to build/website/pages, with those next to docs/ that they link to;
what a comment `<!-- keys: ... -->` and the like stands for is filled in; links are made to fit; and
zensical builds build/website/site, strictly. Open its index.html: it needs no server, no network.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

from ganzoo.cli import COMMANDS
from website import keys, notebook

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DOCS = ROOT / "docs"

# Pages outside of docs/, and where they are on the site.
ALSO = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "background/benchmarks.md",
    "examples/first_gan.ipynb": "tutorials/first_gan.md",
    "examples/translate.ipynb": "tutorials/translate_notebook.md",
    "README.md": "index.md",
}
ROOMS = ("nn", "schedules", "engine", "models", "data", "metrics", "callbacks", "loggers",
         "pictures", "distributed", "runs", "sharing", "config")  # fmt: skip
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?(\))")
# What stands before the comment on its line is for those who read the page in the repository.
MARKER = re.compile(r"^.*<!-- (keys|recipes|help|api): ?(.*?) ?-->$", re.MULTILINE)
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|link)\b[^>]*?(?:src|href|srcset)=\"?([^\">\s]*)"
)
OUTSIDE = re.compile(r"(?:https?:)?//")
STYLED = re.compile(r"(?:url\(|@import\s*)['\"]?((?:https?:)?//[^'\")]*)")
HOSTS = re.compile(r"https?://([\w.-]+\.\w+)")
HARMLESS = {"www.w3.org", "fontawesome.com"}
ELSEWHERE = re.compile(r"https://(?:unpkg\.com|cdn\.jsdelivr\.net|api\.github\.com)/[\w@./-]*")


def main(out: Path = ROOT / "build" / "website") -> int:
    """Build the site into `out`; returns zensical's exit code."""
    shutil.rmtree(out, ignore_errors=True)
    pages = out / "pages"
    stage(pages)
    shutil.copy(HERE / "zensical.toml", out)
    shutil.copy(HERE / "worker.js", pages)
    config = out / "zensical.toml"
    config.write_text(config.read_text().replace("PATHS", str(ROOT)))
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(config)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    said = re.sub(r"\x1b\[[\d;]*m", "", done.stderr).partition("Traceback")[0]
    print(said, file=sys.stderr, end="")
    if done.returncode:
        return done.returncode
    keep_to_itself(out / "site")
    if found := elsewhere(out / "site"):
        print("The site would load from elsewhere:", *found, sep="\n", file=sys.stderr)
        return 1
    print(f"open {out / 'site' / 'index.html'}")
    return 0


# -- pages -----------------------------------------------------------------------------------------


def stage(pages: Path) -> None:
    """Write all pages to a folder, as zensical needs them."""
    shutil.copytree(DOCS, pages)
    for page in sorted(pages.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        text = MARKER.sub(lambda found: filled(found[1], found[2].split(), pages), text)
        source = DOCS / page.relative_to(pages)
        page.write_text(relinked(text, source, page, pages), encoding="utf-8")
    for name, place in ALSO.items():
        source, page = ROOT / name, pages / place
        if page.name == "index.md":
            continue  # the site has its own
        page.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".ipynb":
            notebook.page(source, page)
        else:
            text = source.read_text(encoding="utf-8")
            page.write_text(relinked(text, source, page, pages), encoding="utf-8")


def relinked(text: str, source: Path, page: Path, pages: Path) -> str:
    """A page's text with its relative links as they are on the site.

    Args:
        text: Markdown.
        source: its file in the repository.
        page: the file that it will be.
        pages: the folder of all pages.
    """

    def link(found: re.Match[str]) -> str:
        target = (source.parent / found[2]).resolve()
        if target.is_relative_to(pages):
            return found[0]  # generated
        name = target.relative_to(ROOT).as_posix()
        moved = pages / (ALSO.get(name) or target.relative_to(DOCS))
        relative = os.path.relpath(moved, page.parent)
        return f"{found[1]}{relative}{found[3] or ''}{found[4]}"

    return LINK.sub(link, text)


def filled(kind: str, names: list[str], pages: Path) -> str:
    """What a comment in a page stands for, as Markdown."""
    if kind == "keys":
        return keys.markdown(names)
    if kind == "recipes":
        return "\n\n".join(keys.recipes(name) for name in names)
    if kind == "help":
        return helps(names or list(COMMANDS))
    return api(names or list(ROOMS), pages)


def helps(commands: list[str]) -> str:
    """What `--help` of commands prints, and of their subcommands."""

    def sections(command: str) -> str:
        text = printed(command)
        named = text.partition("\n  COMMAND\n")[2].partition("\n\n")[0]
        inner = re.findall(r"^    (\w+)", named, re.MULTILINE)
        parts = {command: text} | {f"{command} {name}": printed(command, name) for name in inner}
        return "\n\n".join(f"## ganzoo.{n}\n\n```text\n{t.rstrip()}\n```" for n, t in parts.items())

    def printed(command: str, *rest: str) -> str:
        arguments = [sys.executable, "-m", f"ganzoo.{command}", *rest, "--help"]
        environment = {**os.environ, "COLUMNS": "88", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            arguments, capture_output=True, text=True, check=True, env=environment
        ).stdout

    with ThreadPoolExecutor(2) as pool:
        return "\n\n".join(pool.map(sections, commands))


def api(rooms: list[str], pages: Path) -> str:
    """A list of the rooms of `ganzoo`; writes the page of each."""
    lines = []
    for room in rooms:
        package = ROOT / "ganzoo" / room
        modules = [path.relative_to(ROOT).with_suffix("") for path in sorted(package.rglob("*.py"))]
        names = [".".join(module.parts).removesuffix(".__init__") for module in modules]
        texts = [f"::: {name}" for name in sorted(names)]
        page = pages / "reference" / "api" / f"{room}.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"# ganzoo.{room}\n\n" + "\n\n".join(texts) + "\n", encoding="utf-8")
        docstring = (package / "__init__.py").read_text(encoding="utf-8")
        summary = docstring.strip('"').partition("\n")[0].rstrip('"')
        lines.append(f"- [`ganzoo.{room}`](api/{room}.md): {summary}")
    return "\n".join(lines)


# -- no request leaves the origin ------------------------------------------------------------------


def keep_to_itself(site: Path) -> None:
    """Replace what zensical would load from elsewhere.

    Its search runs in a worker, which browsers refuse to start from the file system; the stand-in
    that it would fetch from a CDN is our worker.js. Its scripts can fetch more, for diagrams and
    the like that no page here has: those addresses are taken out, so that they cannot.
    """
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        base = os.path.relpath(site, page.parent)
        text = text.replace("https://unpkg.com/iframe-worker/shim", f"{base}/worker.js")
        page.write_text(text, encoding="utf-8")
    for script in (site / "assets").rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        text = re.sub(
            r"https://(?:unpkg\.com|cdn\.jsdelivr\.net|api\.github\.com)/[\w@./-]*",
            "about:blank",
            text,
        )
        script.write_text(text, encoding="utf-8")


def elsewhere(site: Path) -> list[str]:
    """What the files of a site would load from another origin, or that is missing.

    Links that somebody has to click are fine. Scripts may name no host at all, except for names of
    XML and the licenses in their comments.
    """
    found = []
    for page in sorted(site.rglob("*.html")):
        for address in LOADED.findall(page.read_text(encoding="utf-8")):
            folder = site if address.startswith("/") else page.parent
            file = folder / unescape(address).partition("#")[0].partition("?")[0].lstrip("/")
            if OUTSIDE.match(address) or not (address.startswith("data:") or file.exists()):
                found.append(f"{page.relative_to(site)}: {address}")
    for style in sorted(site.rglob("*.css")):
        found += [f"{style.name}: {a}" for a in STYLED.findall(style.read_text(encoding="utf-8"))]
    for script in sorted(site.rglob("*.js")):
        if script.name != "search.js":  # the text of all pages
            hosts = HOSTS.findall(script.read_text(encoding="utf-8"))
            found += [f"{script.name}: {host}" for host in sorted({*hosts} - HARMLESS)]
    return found


if __name__ == "__main__":
    sys.exit(main())
