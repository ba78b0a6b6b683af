"""Callbacks that make a run fail at a known moment."""

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from ganzoo.callbacks.sentinel import Sentinel
from ganzoo.engine.gan import GAN


class Once(Sentinel):
    """Sees a collapse after 400 images, unless the run has gone back."""

    def find(self, gan: GAN, *_: Any) -> dict[str, str]:
        healthy = gan.rollbacks or gan.images_seen < 400
        return {"collapse": "" if healthy else "seen"}


class Killed(Callback):
    """SIGKILL once `images` were seen after a rollback, in the middle of an iteration."""

    def __init__(self, images: int) -> None:
        self.images = images

    def on_before_optimizer_step(self, trainer: Any, gan: GAN, *_: Any) -> None:
        if gan.rollbacks and gan.images_seen >= self.images:
            (Path(trainer.default_root_dir).with_suffix(".killed")).touch()
            os.kill(os.getpid(), signal.SIGKILL)
