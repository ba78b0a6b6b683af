"""What a run and its callbacks have to say to each other: stop, end, give up, go back."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Control:
    """The notice board of one process of a run: `gan.control`.

    Callbacks write it and `ganzoo.train` reads it, so that no callback has to know another one.

    Args:
        dry: whether the run only checks everything, and trains nothing.
        signal: number of the signal that this process has received; 0 for none.
        stopped_by: number of the signal that ends the run early, the same in all processes; 0 for
            none.
        given_up: sentence on why the run ends early; empty while there is no reason.
        enough: sentence on why the run is complete before its last image; empty while it is not.
        go_back_to: checkpoint that the run continues from after this attempt; None to end with it.
        doing: what the run does besides training at the moment, for people; "" while it trains.
        maintenance_seconds: seconds spent on anything but training, such as metrics, so far.
        last_checkpoint: path and images of the newest checkpoint, for messages; None before it.
        savable: whether a checkpoint made now would be sound. It would not be in the middle of an
            iteration, before all callbacks have acted on it, or after a number was NaN or infinite.
    """

    dry: bool = False
    signal: int = 0
    stopped_by: int = 0
    given_up: str = ""
    enough: str = ""
    go_back_to: Path | None = None
    doing: str = ""
    maintenance_seconds: float = 0.0
    last_checkpoint: str | None = None
    savable: bool = True
