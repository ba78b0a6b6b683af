"""What a run and its callbacks have to say to each other: stop, end, give up, go back."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Control:
    """The notice board of one process of a run: `gan.control`.

    Callbacks write it and `ganzoo.train` reads it, so that no callback has to know another one.
    """

    dry: bool = False  # whether the run only checks everything, and trains nothing
    signal: int = 0  # number of the signal that this process has received
    stopped_by: int = 0  # number of the signal that ends the run early, the same in all processes
    given_up: str = ""  # why the run ends early
    enough: str = ""  # why the run is complete before its last image
    go_back_to: Path | None = None  # checkpoint that the run continues from after this attempt
    doing: str = ""  # what the run does besides training at the moment, for people
    maintenance_seconds: float = 0.0  # spent on anything but training, such as metrics, so far
    last_checkpoint: str | None = None  # path and images of the newest checkpoint, for messages
    # Whether a checkpoint made now would be sound. It would not be in the middle of an iteration,
    # before all callbacks have acted on it, or after a number was NaN or infinite.
    savable: bool = True
