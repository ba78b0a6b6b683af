"""Checkpoints of tiny models that no run has written, with whatever config a test wants."""

from typing import Any

from makers.tiny import config

from ganzoo.config import make, resolved


def contents(*overrides: str) -> dict[str, Any]:
    """What the checkpoint of an untrained run contains."""
    cfg = config("sweep_dir=unused", *overrides)
    gan = make(cfg.model)
    gan.config = resolved(cfg)
    checkpoint: dict[str, Any] = {"state_dict": gan.state_dict()}
    gan.on_save_checkpoint(checkpoint)
    return checkpoint
