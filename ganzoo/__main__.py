"""`ganzoo NAME ...` is `python -m ganzoo.NAME ...`."""

import runpy
import sys

COMMANDS = {
    "train": "train a model, or go on with a run",
    "runs": "what runs there are, how far and how good; ranked side by side",
    "sample": "images from a checkpoint",
    "translate": "images of a folder as the other domain would show them",
    "evaluate": "metrics of a checkpoint or of a folder of images",
    "prepare": "pack images for fast reading, download the networks of metrics",
    "doctor": "what would go wrong in training on this data",
    "workspace": "a view of the runs in wandb, with its panels laid out",
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print("usage: ganzoo COMMAND ...\n")
        for name, purpose in COMMANDS.items():
            print(f"  {name:10} {purpose}")
        sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)
    # As if started by `python -m`, so that a launcher can start the same command again.
    name = sys.argv.pop(1)
    runpy.run_module(f"ganzoo.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
