"""The keys of `conf/` as tables: default, comment, and what the constructor declares."""

import inspect
import re
from dataclasses import dataclass, field
from functools import cache
from html import escape
from typing import Any

from hydra.utils import get_object

from ganzoo.config import CONF
from ganzoo.config.values import EVALUATE, TRAIN, described, parameters

COMMENT = re.compile(r"(?:^|\s)#\s?(.*)$")
KEY = re.compile(r"(?P<indent> *)(?P<name>[\w]+):(?: (?P<rest>.*))?$")


@dataclass
class Key:
    """A key as a file sets it."""

    path: str
    default: str
    comment: str


@dataclass
class File:
    """A file of `conf/`: what its header says, and its keys in their order."""

    name: str
    header: str
    bases: list[str] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)

    @property
    def group(self) -> str:
        """The keys' place in a composed config, such as "data"; "" for the top."""
        if self.name.startswith("hydra/sweeper/pruner"):
            return "hydra.sweeper.pruner"
        if self.name.startswith("augment"):
            return "model"
        folder = self.name.rpartition("/")[0].removesuffix("/base")
        return folder.replace("/", ".")


@cache
def read(name: str) -> File:
    """Read `conf/NAME.yaml` with its comments.

    A comment at the end of a key's line, or on lines right above it, is the key's; the one at the
    top is the file's.
    """
    lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header = "\n".join(line[1:].removeprefix(" ") for line in lines[:start])
    file = File(name, header.strip())
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in lines[start:]:
        text = line.strip()
        if not text or text.startswith("#"):
            above = [*above, text[1:].strip()] if text else []
            continue
        comment = COMMENT.search(line)
        found = KEY.match(line[: comment.start()].rstrip() if comment else line)
        if found is None:  # an entry of a list
            if parents and parents[0][1] == "defaults":
                file.bases += _base(text, name)
            continue
        indent = len(found["indent"])
        parents = [p for p in parents if p[0] < indent] + [(indent, found["name"])]
        path = ".".join(name for _, name in parents)
        words = comment[1] if comment else " ".join(above)
        above = []
        if path.partition(".")[0] not in ("defaults", "hydra"):
            file.keys.append(Key(path, (found["rest"] or "").strip(), words))
    return file


def _base(entry: str, name: str) -> list[str]:
    """The file that an entry of a defaults list merges into this one's keys, if it does."""
    entry = entry.partition("#")[0].strip().removeprefix("- ")
    if entry == "_self_" or ":" in entry:
        return []
    folder, entry = name.rpartition("/")[0], entry.partition("@")[0]
    return [f"{folder}/{entry}" if folder else entry]


def inherited(file: File) -> dict[str, Key]:
    """The keys of the files that this one is based on, and of this one, by path."""
    keys: dict[str, Key] = {}
    for base in file.bases:
        keys |= inherited(read(base))
    for key in file.keys:
        if not key.comment and key.path in keys:
            key = Key(key.path, key.default, keys[key.path].comment)
        keys[key.path] = key
    return keys


def files(pattern: str = "**/*") -> list[str]:
    """The files of `conf/` that have keys of their own; experiments only set other files' keys."""
    found = sorted(CONF.glob(f"{pattern}.yaml"))
    names = [path.relative_to(CONF).with_suffix("").as_posix() for path in found]
    return [name for name in names if not name.startswith("experiment/")]


# -- what the constructors say ---------------------------------------------------------------------


def declared(name: str, path: str) -> tuple[str, str]:
    """The type of a key in words, and its line in the docstring of the class that takes it.

    Args:
        name: file, such as "model/dcgan".
        path: key in that file, such as "generator.ngf".
    """
    parent, _, own = path.rpartition(".")
    kinds = {"train": TRAIN, "evaluate": EVALUATE}.get(name, {})
    if own in kinds and not parent:
        return described(kinds[own]), ""
    target = inherited(read(name)).get(f"{parent}._target_" if parent else "_target_")
    if target is None:
        return "", ""
    called = get_object(target.default)
    if not called.__module__.startswith(("ganzoo", "hydra_plugins")):
        return "", ""  # torch's, Lightning's and Optuna's own pages say it
    kind = parameters(called)[0].get(own, Any)
    words = "" if kind in (Any, inspect.Parameter.empty) else described(kind)
    return words, argument(called, own)


def argument(called: Any, name: str) -> str:
    """What the docstrings of a class and its bases say about an argument; "" if nothing."""
    makers = called.__mro__ if inspect.isclass(called) else [called]
    for maker in makers:
        section = (inspect.cleandoc(maker.__doc__ or "")).partition("Args:\n")[2]
        section = section.split("\n\n")[0]
        for names, text in re.findall(r"^    ([\w, ]+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
            if name in names.split(", "):
                return " ".join(text.split())
    return ""


# -- pages -----------------------------------------------------------------------------------------


def markdown(patterns: list[str]) -> str:
    """The sections of a page: one for each file that the patterns match."""
    names = [name for pattern in patterns for name in files(pattern)]
    return "\n\n".join(_section(read(name)) for name in names)


def _section(file: File) -> str:
    folder, _, option = file.name.rpartition("/")
    base = folder.endswith("base")
    choice = f"{folder}={option}" if folder and not base else f"{file.name}.yaml"
    header = prose(file.header)
    parts = [f"## `{choice}` {{ #{file.name.replace('/', '-')} }}", header]
    if based := [b for b in file.bases if read(b).keys]:
        links = ", ".join(f"[`{b}.yaml`](#{b.replace('/', '-')})" for b in based)
        parts.append(f"It also has the keys of {links}.")
    if rows := [_row(file, key) for key in file.keys if is_shown(file, key)]:
        parts.append("\n".join(["| key and default | meaning |", "| --- | --- |", *rows]))
    return "\n\n".join(part for part in parts if part)


CODE = re.compile(
    r"`[^`]*`"
    r"|(?:srun |torchrun [-\w ]* )?(?:python )?-m ganzoo\.\w+"  # a command
    r"(?: [\w.]+=\S+| \[[^\]]*\]| [A-Z]{2,}| --\w+)*"
    r"|pip install -e \S+?\"(?=[\s);.])"
    r"|(?<!\w)[\w./~-]*(?:=|\w_)(?:\[[^\]]*\]|\{[^}]*\}|[^\s\[\]{}()`])+"  # a key, a name
    r"|\[[^\]]*\]"
)
PAGE = re.compile(r"docs/(\w+)\.md")


def prose(text: str) -> str:
    """A comment as Markdown: commands, keys, names with an underscore and lists are code."""
    result, end = [], 0
    for found in CODE.finditer(text):
        core = found[0].strip("`").rstrip(".,;:)")
        result += [_escaped(text[end : found.start()]), f"`{core}`"]
        end = found.end() if found[0].startswith("`") else found.start() + len(core)
    return "".join([*result, _escaped(text[end:])])


def _escaped(text: str) -> str:
    text = escape(text, quote=False).replace("*", "&#42;").replace("_", "\\_")
    text = text.replace("benchmarks/README.md", "[benchmarks](../background/benchmarks.md)")
    return PAGE.sub(r"[docs/\1.md](../\1.md)", text)


def is_shown(file: File, key: Key) -> bool:
    """Whether a key has a row of its own: if it has a value or a comment, and is not Hydra's."""
    inside = any(other.path.startswith(f"{key.path}.") for other in file.keys)
    return not key.path.rpartition(".")[2].startswith("_") and bool(key.comment or not inside)


def _row(file: File, key: Key) -> str:
    full = f"{file.group}.{key.path}" if file.group else key.path
    kind, line = declared(file.name, key.path)
    meaning = inherited(file)[key.path].comment
    if not meaning and (other := re.fullmatch(r"\$\{([\w.]+)\}", key.default)):
        meaning = f"as `{other[1]}`"
    cell = prose(meaning or ("" if line.startswith("see ") else line)).replace("|", "\\|")
    if kind and kind != "a config with _target_":
        cell += f"<br><small>{escape(kind)}</small>"
    default = f"<br>`= {key.default}`" if key.default else ""
    breaking = full.replace(".", ".<wbr>")  # long keys do not fit on a phone
    return f"| <code>{breaking}</code>{default} | {cell} |"


def recipes(pattern: str) -> str:
    """The lab notes of experiments: one section each."""
    sections = []
    for path in sorted((CONF / "experiment").glob(f"{pattern}.yaml")):
        text = path.read_text(encoding="utf-8")
        head = re.match(r"(?:#.*\n)+", text)
        lines = [line[1:].strip() for line in (head[0] if head else "").splitlines()]
        title, _, *rest = [line for line in lines if not line.startswith("@package")]
        notes = [f"- **{k}**: `{v}`" if k == "Command" else f"- **{k}**: {prose(v)}"
                 for k, v in (line.split(": ", 1) for line in rest[:6])]  # fmt: skip
        more = prose(" ".join(rest[6:]).strip())
        sections.append("\n\n".join([f"### `{path.stem}`", title, "\n".join(notes), more]).strip())
    return "\n\n".join(sections)
