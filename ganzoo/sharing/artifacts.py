"""Graphs of a network in files that run without ganzoo, each compared with the network itself."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganzoo.errors import UserError

LIMIT = 1e-4  # largest difference of a value in [-1, 1] that a file may have
OUTPUT = "images"
NEEDED = 'run pip install -e ".[export]"'

Inputs = dict[str, Tensor]  # by name, in the order of the network's arguments


@dataclass(frozen=True)
class Graph:
    """A network and what is needed to write it as a graph and to test that.

    Args:
        name: name of the files, without ending.
        network: takes the inputs in their order, and returns images.
        free: for each input, the axes of any length, with their names.
        cases: inputs to compare with, from which the graph is traced, too.
        optional: an input that may be left out in ONNX: all of it is NaN then.
    """

    name: str
    network: nn.Module
    free: dict[str, dict[int, str]]
    cases: Sequence[Inputs]
    optional: str = ""

    @torch.no_grad()
    def images(self, case: Inputs) -> Tensor:
        """What the network itself makes of a case."""
        images: Tensor = self.network(*case.values())
        return images


def write_onnx(graph: Graph, path: Path) -> None:
    """Write a graph for ONNX, weights included, with its free axes.

    Raises:
        UserError: packages are missing, or the network cannot be written as a graph.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  needed soon
        import onnxscript  # noqa: F401  torch asks for it
    except ImportError as error:
        raise UserError(f"ONNX needs the package {error.name}: {NEEDED}.") from error
    example, shapes = _example(graph)
    with _quietly(f"{path.name} cannot be written"):
        program = torch.onnx.export(
            graph.network,
            tuple(example.values()),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(example),
            output_names=[OUTPUT],
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    for node in model.graph.input:
        for axis, name in graph.free[node.name].items():
            node.type.tensor_type.shape.dim[axis].dim_param = name
        if node.name == graph.optional:
            # An input with a value is one that may be left out. One row of NaN fits any number.
            row = torch.full((1, *example[node.name].shape[1:]), torch.nan)
            model.graph.initializer.append(onnx.numpy_helper.from_array(row.numpy(), node.name))
            node.type.tensor_type.shape.dim[0].dim_param = "N or 1"
    for part in (*model.graph.node, *(node for f in model.functions for node in f.node)):
        del part.metadata_props[:]  # where the lines of code are on this machine
    onnx.checker.check_model(model)
    onnx.save(model, path)


def run_onnx(graph: Graph, path: Path) -> Iterator[Tensor]:
    """The images of each case by the file, through onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of inputs that have a value
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for case in graph.cases:
        given = {
            name: value.numpy()
            for name, value in case.items()
            if name != graph.optional or not value.isnan().all()
        }
        yield torch.from_numpy(session.run([OUTPUT], given)[0])


def write_pt2(graph: Graph, path: Path) -> None:
    """Write a graph for `torch.export.load`. Raises `UserError` if it cannot be."""
    example, shapes = _example(graph)
    with _quietly(f"{path.name} cannot be written"):
        program = torch.export.export(graph.network, tuple(example.values()), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # where the lines of code are on this machine
        torch.export.save(program, path)


@torch.no_grad()
def run_pt2(graph: Graph, path: Path) -> Iterator[Tensor]:
    """The images of each case by the file, through `torch.export`."""
    module = torch.export.load(path).module()
    for case in graph.cases:
        yield module(*case.values())


# Name of the ending, how to write a file, how to run it.
KINDS = {"onnx": (write_onnx, run_onnx), "pt2": (write_pt2, run_pt2)}


def write(graph: Graph, kind: str, folder: Path) -> dict[str, Any]:
    """Write a graph as one of `KINDS`; returns how far it is from the network itself.

    A file that differs by more than `LIMIT` is deleted again.
    """
    write_file, run = KINDS[kind]
    path = folder / f"{graph.name}.{kind}"
    write_file(graph, path)
    compared: list[dict[str, Any]] = []
    try:
        for case, found in zip(graph.cases, run(graph, path), strict=True):
            shapes = {name: list(value.shape) for name, value in case.items()}
            compared.append({"inputs": shapes, "difference": difference(graph.images(case), found)})
        worst = max(each["difference"] for each in compared)
    except Exception as error:  # the graph fits no other size than that it was traced with
        compared.append({"error": f"{type(error).__name__}: {str(error).strip()[:300]}"})
        worst = float("inf")
    if not worst <= LIMIT:
        path.unlink()
    return {
        "largest_difference": worst,
        "deleted": not worst <= LIMIT,
        "bytes": path.stat().st_size if path.is_file() else 0,
        "cases": compared,
    }


def difference(expected: Tensor, found: Tensor) -> float:
    """The largest difference of two tensors; infinite if shapes differ or there is a NaN."""
    if expected.shape != found.shape:
        return float("inf")
    worst = (expected - found.to(expected)).abs().max().item()
    return worst if worst == worst else float("inf")


def versions() -> dict[str, str]:
    """Versions of the packages that write and run the files."""
    found = {}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _example(graph: Graph) -> tuple[Inputs, tuple[Any, ...]]:
    """Inputs to trace with, and which of their axes are free."""
    # torch takes an axis of length 1 for a constant.
    example = next(c for c in graph.cases if all(len(value) > 1 for value in c.values()))
    # A named `Dim` fails for networks that are longer than one; AUTO finds out by itself.
    auto = torch.export.Dim.AUTO
    return example, tuple(dict.fromkeys(graph.free[name], auto) for name in example)


@contextmanager
def _quietly(what: str) -> Iterator[None]:
    """Without the exporter's own messages; its errors in a sentence."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter wraps what went wrong
            cause = cause.__cause__
        first = str(cause).strip().partition("\n")[0]
        raise UserError(f"{what}: {type(cause).__name__}, {first}") from error
    finally:
        logger.setLevel(level)
