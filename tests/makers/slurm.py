"""What SLURM gives to a task: its environment, and a command that answers."""

import os
from pathlib import Path

KNOWN = ("SLURM_", "MASTER_", "TORCHELASTIC_", "LOCAL_", "GROUP_", "WORLD_SIZE", "RANK", "NODE_")


def job(nodes: int = 1, here: int = 1, task: int = 0, number: str = "4711") -> dict[str, str]:
    """The environment of a task, as srun would have it."""
    return {
        "SLURM_JOB_ID": number,
        "SLURM_JOB_NAME": "gan",
        "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS": str(nodes * here),
        "SLURM_NTASKS_PER_NODE": str(here),
        "SLURM_NODELIST": "node[1-9]",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task % here),
        "SLURM_NODEID": str(task // here),
    }


def scontrol(folder: Path, then: str = "kill -TERM $PPID") -> str:
    """A PATH with a scontrol that notes what it is asked for, and then does as the real one."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{then}\n')
    script.chmod(0o755)
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
