"""The rooms of `ganzoo/` stay apart, and small enough to read."""

import ast
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

import ganzoo
from ganzoo.cli import COMMANDS as NAMES

PACKAGE = Path(ganzoo.__file__).parent
COMMANDS = ("train", "evaluate", "sample", "translate", "prepare", "doctor", "neighbors")
COMMANDS += ("workspace", "playground", "export", "__main__")

# A room may import the rooms on the lines above its own: what is general knows nothing of what is
# special. Rooms on one line may not import each other, except for the ground floor (line 2).
ORDER = (
    ("errors",),
    ("draws", "config", "disk", "cli", "nn", "schedules", "distributed", "sharing"),
    ("data", "engine"),
    ("models", "metrics", "pictures"),
    ("loggers",),
    ("callbacks",),
    ("runs",),
    COMMANDS,
)
NEVER = [
    pair
    for i, rooms in enumerate(ORDER)
    for pair in [
        *product(rooms, [room for later in ORDER[i + 1 :] for room in later]),
        *(p for p in product(rooms, rooms) if i not in (1, len(ORDER) - 1) and p[0] != p[1]),
    ]
]
SLOW = ("timm", "onnx")  # and onnxruntime
# Formulas stand on PyTorch alone.
PLAIN, NEVER_IN_PLAIN = ("nn", "schedules", "draws"), ("lightning", "hydra", "omegaconf", "wandb")

FILE_LINES = 450
GAN_LINES = 350
PACKAGE_LINES = 24_731  # 18,000 for training, metrics and runs, the rest for what 0.2.0 has added
OTHER_ROOT_FILES = 6  # besides the commands: errors, draws, disk, cli


class Import(NamedTuple):
    """A module that imports another; `at_start` if that runs when the first is imported."""

    importer: str
    imported: str
    at_start: bool


def module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str, source: str) -> Iterator[Import]:
    """What a module imports anywhere; of `from a import b`, a.b if that is a module."""

    def visit(node: ast.AST, at_start: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, at_start)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield Import(name, full if full in FILES else str(node.module), at_start)
        for child in ast.iter_child_nodes(node):
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(node, ast.If):
                test = ast.unparse(node.test)
                inside |= "TYPE_CHECKING" in test or "__name__" in test
            yield from visit(child, at_start and not inside)

    yield from visit(ast.parse(source), True)


def room(name: str) -> str:
    """`ganzoo.data.source` -> data; for other packages, the package."""
    parts = name.split(".")
    return (parts[1] if len(parts) > 1 else "") if parts[0] == "ganzoo" else parts[0]


def broken_walls(found: list[Import]) -> list[str]:
    """The imports that the walls forbid, in functions and for types, too: a type is knowledge."""
    never = {*NEVER, *product(PLAIN, NEVER_IN_PLAIN)}
    return [
        f"{importer} must not import {imported}"
        for importer, imported, _ in found
        if (room(importer), room(imported)) in never
        or (
            importer.startswith("ganzoo.models.")
            and imported.startswith("ganzoo.models.")
            and importer != "ganzoo.models.imports"  # recognizes checkpoints of every model
            and not imported.startswith("ganzoo.models.weights")  # what all imports share
            and importer.split(".")[2] != imported.split(".")[2]
        )
    ]


def circle(found: list[Import]) -> list[str]:
    """Modules that import each other when they start, the first one again at the end."""
    graph: dict[str, set[str]] = {}
    for importer, imported, at_start in found:
        if at_start and imported in FILES:
            graph.setdefault(importer, set()).add(imported)
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(graph.get(name, ())):
                if found := follow(other, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((c for name in sorted(graph) if (c := follow(name, []))), [])


LINES = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
ALL = [found for name, path in FILES.items() for found in imports(name, path.read_text())]


def test_rooms_import_one_way() -> None:
    assert broken_walls(ALL) == []


def test_no_command_waits_for_a_library_that_few_need() -> None:
    """At the start of each command Lightning alone takes seconds to import."""
    assert [found for found in ALL if found.at_start and found.imported.startswith(SLOW)] == []


def test_modules_import_in_no_circle() -> None:
    assert circle(ALL) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ganzoo.data.stream", "from ganzoo.engine.gan import GAN"),
        ("ganzoo.engine.gan", "def f():\n    import ganzoo.data.source"),
        ("ganzoo.nn.losses", "from ganzoo.callbacks import ticks"),
        ("ganzoo.nn.losses", "from hydra.utils import instantiate"),
        ("ganzoo.runs.folder", "import ganzoo.train"),
        ("ganzoo.models.dcgan", "from ganzoo.models.pggan import PGGAN"),
        ("ganzoo.metrics.suite", "if TYPE_CHECKING:\n    from ganzoo.pictures import grids"),
    ],
)
def test_forbidden_imports_are_found(name: str, line: str) -> None:
    assert len(broken_walls([*ALL, *imports(name, line)])) == len(broken_walls(ALL)) + 1


def test_circles_are_found() -> None:
    back = "from ganzoo.engine import gan"
    assert circle([*ALL, *imports("ganzoo.errors", back)])
    assert circle([*ALL, *imports("ganzoo.errors", f"def f():\n    {back}")]) == circle(ALL)


def test_every_file_has_a_room() -> None:
    rooms = {room for line in ORDER for room in line}
    assert {room(name) for name in FILES} - {""} <= rooms
    root = {path.stem for path in PACKAGE.glob("*.py")}
    assert len(root - {*COMMANDS, "__init__"}) <= OTHER_ROOT_FILES
    assert {*NAMES} <= {*COMMANDS, "runs"}


def test_files_stay_small() -> None:
    assert {name: n for name, n in LINES.items() if n > FILE_LINES} == {}


def test_engine_and_package_stay_small() -> None:
    assert LINES["ganzoo.engine.gan"] <= GAN_LINES
    assert sum(LINES.values()) <= PACKAGE_LINES


def test_tests_share_helpers_by_makers() -> None:
    tests = Path(__file__).parent
    borrowed = [path.name for path in tests.rglob("*.py")
                if re.search(r"^(from|import) test_", path.read_text(), re.MULTILINE)]  # fmt: skip
    assert borrowed == []
