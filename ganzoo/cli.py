"""What the commands share: arguments, exit codes, and the script `ganzoo`.

`ganzoo NAME ...` does what `python -m ganzoo.NAME ...` does. Exit codes: 0 for success, 1 for an
error that the user can fix (one sentence on stderr), 2 for a wrong command line, 130 for Ctrl-C.
Nothing here imports torch before a command needs it, so that `--help` is quick.
"""

import argparse
import difflib
import io
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ganzoo import __version__
from ganzoo.disk import reason
from ganzoo.errors import UserError, WrongUsage, shown

if TYPE_CHECKING:
    import torch

COMMANDS = {
    "train": "train a model, or resume a run",
    "runs": "list runs with their progress and best metric, or rank them",
    "sample": "write images that a trained model generates",
    "translate": "translate a folder of images into the other domain",
    "evaluate": "compute metrics of a checkpoint or of a folder of images",
    "export": "write a model to share: weights, card, ONNX; push it to the Hub",
    "playground": "make a web page that runs a model in the visitor's browser",
    "neighbors": "show the training images most similar to samples",
    "doctor": "check images for problems before training",
    "prepare": "pack images, fetch networks and programs, import checkpoints",
    "workspace": "create a view of the runs in wandb",
}


def main() -> None:
    """The script `ganzoo`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(f"ganzoo {__version__}")
    elif name == "completion":
        print(COMPLETION.replace("NAMES", " ".join(COMMANDS)), end="")
    elif name in COMMANDS:
        del sys.argv[1]
        sys.path.insert(0, os.getcwd())  # `python -m` finds models in the current folder, too
        # Under the name __main__, so that Lightning can start the same command in more processes.
        runpy.run_module(f"ganzoo.{name}", run_name="__main__", alter_sys=True)
    else:
        usage = "usage: ganzoo COMMAND ... (ganzoo COMMAND --help: its arguments)\n"
        lines = [usage, *(f"  {command:10} {does}" for command, does in COMMANDS.items())]
        lines.append('\neval "$(ganzoo completion)" completes these and their keys in bash')
        known = name in ("-h", "--help")
        print("\n".join(lines), file=sys.stdout if known else sys.stderr)
        sys.exit(0 if known else 2)


# Options of Hydra that ask something, for which no model or data is needed.
QUESTIONS = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-p", "--package", "-i",
             "--info", "-sc", "--shell-completion")  # fmt: skip


def answer(name: str) -> None:
    """Let Hydra answer --help, --cfg and the like, and exit; else return.

    To be called before anything else is imported, since torch and Lightning take seconds.
    """
    if not any(argument.partition("=")[0] in QUESTIONS for argument in sys.argv[1:]):
        return
    import hydra

    from ganzoo.config import CONF

    sys.argv[1:] = for_hydra(sys.argv[1:])
    with key_hints(name):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(lambda _: None)()
    sys.exit()


COMPLETION = """\
_ganzoo() {
  local word=${COMP_WORDS[COMP_CWORD]}
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "NAMES" -- "$word"))
  elif [[ ${COMP_WORDS[1]} == train || ${COMP_WORDS[1]} == evaluate ]]; then
    local line="ganzoo ${COMP_LINE#*${COMP_WORDS[1]} }"
    COMPREPLY=($(COMP_LINE=$line COMP_POINT=${#line} COMP_CWORD=$((COMP_CWORD - 1)) \
      "${COMP_WORDS[0]}" "${COMP_WORDS[1]}" -sc query=bash 2> /dev/null))
  fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _ganzoo ganzoo
"""


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Arguments in the words of Hydra, which knows neither a home folder nor several loggers.

    KEY=~/x becomes KEY=HOME/x, because shells only expand ~ at the start of a word; logger=[A,B]
    becomes logger=A +logger@logger.B=B. The option of a group is text, whatever it looks like.

    Raises UserError: a name of an earlier version; a run folder without a name, for which Hydra
    would take the current folder; a sweeper or launcher without -m, which Hydra would ignore.
    """
    from ganzoo.config import CONF
    from ganzoo.config.renamed import check_names

    own = any(re.match(r"--config-dir|-cd|hydra\.searchpath", word) for word in arguments)
    check_names((re.split("[=@]", word)[0].lstrip("+~") for word in arguments), own)
    several = [word for word in arguments if word in ("-m", "--multirun")]
    result, home = several[:], os.path.expanduser("~")  # first: Hydra takes no keys on both sides
    for argument in (word for word in arguments if word not in several):
        if not several and re.match(r"hydra[/.](sweeper|launcher)\b", argument):
            raise UserError(f"{argument} is for several runs: add -m.")
        if nowhere := re.fullmatch(
            r"""(run_dir|sweep_dir)=(null|\[.*\]|\{.*\}|''|""|\s*)""", argument
        ):
            raise UserError(f"{argument} is not the path of a folder: give {nowhere[1]}=FOLDER.")
        key, found, rest = argument.partition("=~/")
        if loggers := re.fullmatch(r"logger=\[(.*)\]", argument):
            words = (word.strip(" \"'") for word in loggers[1].split(","))
            names = [word for word in words if word] or ["none"]
            result.append(f"logger={names[0]}")
            result += [f"+logger@logger.{name}={name}" for name in names[1:]]
        elif (group := argument.partition("="))[2] and (CONF / group[0]).is_dir():
            literal = re.fullmatch(r"null|true|false|nan|[-+.\d]+(e\d+)?", group[2])
            result.append(f"{group[0]}='{group[2]}'" if literal else argument)
        else:
            result.append(f"{key}={home}/{rest}" if found else key)
    return result


@contextmanager
def exits(name: str) -> Iterator[None]:
    """End the command `name` with the right exit code, and at most one sentence on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals that do not know every letter
    try:
        yield
        sys.stdout.flush()  # where a broken pipe shows
    except UserError as error:
        said = str(error)
        if name in ("doctor", "prepare"):  # whose keys are those of data.source
            said = re.sub(r"\bdata\.(source\.|(?=[ab]\.|root\b))", "", said)
        said = f"ganzoo.{name}: {shown(said)}"
        if not isinstance(error, WrongUsage):
            sys.exit(said)
        print(said, file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise  # torch has no type of its own for the memory of a CPU
        sys.exit(
            f"ganzoo.{name}: not enough memory: use fewer or smaller images, or a smaller network."
        )
    except BrokenPipeError:  # as in `ganzoo runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        path = f" {error.filename}" if error.filename else ""
        sys.exit(f"ganzoo.{name}: cannot read or write{shown(path)} ({reason(error)}).")
    except KeyboardInterrupt:
        print(f"ganzoo.{name}: interrupted.", file=sys.stderr)
        sys.exit(130)


@contextmanager
def key_hints(name: str) -> Iterator[None]:
    """After an error of Hydra, name the keys that were meant; its own advice is to add others."""
    try:
        yield
    except SystemExit as stop:
        if stop.code == 1:  # our own errors are sentences
            for given, meant in _near_keys(name, sys.argv[1:]).items():
                print(f"There is no key {given}: did you mean {meant}?", file=sys.stderr)
        raise


def _near_keys(name: str, arguments: list[str]) -> dict[str, str]:
    """For each key that a config does not have, the most similar ones."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from ganzoo.config import CONF

    pairs = [argument.partition("=") for argument in arguments if "=" in argument]
    groups = [
        f"{key}={value}" for key, _, value in pairs if (CONF / key / f"{value}.yaml").is_file()
    ]
    GlobalHydra.instance().clear()  # Hydra's own attempt has failed
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            cfg = compose(name, groups)
        except HydraException:  # a group that this command does not have, which Hydra has said
            return {}
    keys = list(_dotted(OmegaConf.to_container(cfg)))
    found = {}
    ours = [key for key, _, _ in pairs if not key.startswith("hydra")]
    for key in (key for key in ours if not (key in keys or (CONF / key).is_dir())):
        same_end = [other for other in keys if other.endswith(f".{key.rpartition('.')[2]}")]
        if same_end:
            found[key] = " or ".join(difflib.get_close_matches(key, same_end, 3, cutoff=0.0))
        elif near := difflib.get_close_matches(key, keys, 1):
            found[key] = near[0]
    return found


def _dotted(node: object, key: str = "") -> Iterator[str]:
    """The dotted names of all keys in nested mappings."""
    if isinstance(node, dict):
        for name, value in node.items():
            full = f"{key}.{name}" if key else str(name)
            yield full
            yield from _dotted(value, full)


# -- arguments -------------------------------------------------------------------------------------

MOST, MOST_PIXELS = 1_000_000, 16_384  # more never ends, or fits into no memory


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for the command `name`, described by the docstring of its module."""
    return argparse.ArgumentParser(
        prog=f"python -m ganzoo.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_checkpoint(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """The arguments of commands that load a trained model: which one, and where it runs."""
    add = parser.add_argument
    what = "a .ckpt file, a run folder, a folder of ganzoo.export, or hf:USER/NAME[@REVISION]"
    add("checkpoint", type=text, help=what)
    add("--raw", action="store_true", help="use the raw weights, not the average")
    if device:
        where = "cpu, cuda, or auto: a GPU if available (%(default)s)"
        add("--device", type=text, default="auto", help=where)
    mine = "a package of your own that the checkpoint may be made of; may be repeated"
    add("--trust", action="append", default=[], metavar="PACKAGE", help=mine)


def add_data(parser: argparse.ArgumentParser) -> None:
    """The arguments of commands that read images before there is a model, but for their name."""
    add = parser.add_argument
    what = "keys of data.source, such as root=PHOTOS crop=center160 (see conf/data)"
    add("keys", nargs="*", metavar="KEY=VALUE", type=key_value, help=what)
    add("--workers", type=at_least(0, 256), help="number of processes (one per core)")
    add("--size", type=size, default=(64, 64), help="64, or height and width such as 48x80")
    add("--channels", type=at_least(1), default=3, help="channels (%(default)s)")
    where = "a folder with data/NAME.yaml of data sets of your own"
    add("--config-dir", metavar="FOLDER", help=where)


def device(name: str) -> "torch.device":
    """A device by its name; "auto" is a GPU if available. Raises `UserError` if it is not."""
    import torch

    if name == "auto":
        local = os.environ.get("LOCAL_RANK", 0)
        name = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    try:
        if (found := torch.empty(0, device=name).device).type != "meta":
            return found
    except (RuntimeError, AssertionError):  # AssertionError: torch built without CUDA
        pass
    raise UserError(f"Device {name} is not available: use cpu or cuda.")


def at_least(least: int, most: int = MOST) -> Callable[[str], int]:
    """A type of whole numbers for argparse."""

    def number(text: str) -> int:
        if not text.lstrip("-").isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most:,}")
        return int(text)

    return number


def text(given: str) -> str:
    """Text that is not empty, as an unset variable of a shell leaves it."""
    if not given.strip():
        raise argparse.ArgumentTypeError("nothing is given")
    return given


def path(given: str) -> Path:
    """A path, which is not empty: that would be the current folder."""
    return Path(text(given))


def numbers(text: str) -> list[int]:
    """Numbers from text such as `0-63` or `1,5,8-11`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0-63 or 1,5,9")
        if max(int(first), int(last or 0)) >= 2**32 or int(last or 0) - int(first) >= MOST:
            raise argparse.ArgumentTypeError(f"{text!r} has numbers that are too large")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is empty: the larger number comes last")
    return found


def classes(text: str) -> list[int | str]:
    """Numbers and names of classes from text such as `0-9` or `cat,dog`."""
    found: list[int | str] = []
    for part in text.split(","):
        found += numbers(part) if part.replace("-", "").isdecimal() else [part]
    return found


def size(text: str) -> tuple[int, int]:
    """Height and width from text such as `64` or `48x80`."""
    height, _, width = text.partition("x")
    if not height.isdecimal() or (width and not width.isdecimal()) or text.endswith("x"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 64 or 48x80")
    if not all(1 <= int(side) <= MOST_PIXELS for side in (height, width or height)):
        raise argparse.ArgumentTypeError(f"sides of {text} are not from 1 to {MOST_PIXELS} pixels")
    return int(height), int(width or height)


def key_value(text: str) -> str:
    """Text of the form KEY=VALUE."""
    if not text.partition("=")[0] or "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return text
