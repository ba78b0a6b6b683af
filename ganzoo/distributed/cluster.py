"""Processes that torchrun or SLURM has started: what they are part of, and checks that it fits.

The checks come before training: without them, processes wait for each other until a timeout.
"""

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ganzoo.errors import UserError

log = logging.getLogger(__name__)

INTERACTIVE = ("bash", "interactive")  # names that Lightning takes for interactive jobs


class Slurm(SLURMEnvironment):
    """Processes that are the tasks of a SLURM job, one per device, started by `srun`.

    With `requeue`, a job that SIGUSR1 has stopped is put back into SLURM's queue.

    Raises UserError: tasks were asked for without saying how many there are on each node.
    """

    def __init__(self, requeue: bool = True) -> None:
        number = tasks()
        if number > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            nodes = int(os.environ.get("SLURM_NNODES", 1))
            raise UserError(
                f"SLURM was asked for {number} tasks, but not how many on each node: replace "
                f"--ntasks by --nodes={nodes} --ntasks-per-node={-(-number // nodes)}."
            )
        # Lightning's own requeueing saves in the middle of whatever the signal interrupts.
        super().__init__(auto_requeue=False)
        self.requeue = requeue

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raise `UserError` unless this is one of as many tasks as there are devices."""
        if TorchElasticEnvironment.detect():
            raise UserError("torchrun starts the processes by itself: use trainer=ddp with it.")
        name = os.environ.get("SLURM_JOB_NAME", "")
        if "SLURM_JOB_ID" not in os.environ:
            raise UserError(
                "trainer=slurm is for SLURM jobs, and this is not one: submit a script that calls "
                "srun (docs/clusters.md has one), or use trainer=ddp on this machine."
            )
        if name in INTERACTIVE:
            raise UserError(
                f"The SLURM job is named {name}, which is taken for an interactive job: use "
                "another --job-name, or use trainer=ddp on this machine."
            )
        if "SLURM_PROCID" not in os.environ or (tasks() > 1 and "SLURM_STEP_ID" not in os.environ):
            raise UserError(
                f"The SLURM job has {tasks()} task(s), but this process is not one of them: put "
                "srun before the command (srun python -m ganzoo.train trainer=slurm ...)."
            )
        here, nodes = int(os.environ.get("SLURM_NTASKS_PER_NODE", 1)), nodes_of_job()
        if (here, nodes) != (num_devices, num_nodes) or here * nodes != tasks():
            raise UserError(
                f"SLURM runs {tasks()} task(s), {here} on each of {nodes} node(s), but "
                f"trainer.devices is {num_devices} and trainer.num_nodes is {num_nodes}: leave "
                f"both to trainer=slurm, and set --ntasks-per-node to the number of GPUs of a node."
            )


def under_slurm() -> bool:
    """Whether this process belongs to a SLURM job that is not interactive."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def tasks() -> int:
    return int(os.environ.get("SLURM_NTASKS", 1)) if under_slurm() else 1


def nodes_of_job() -> int:
    return int(os.environ.get("SLURM_NNODES", 1))


def job() -> str | None:
    """The job's number, or `<number>_<task>` in a job array; the same after a requeue.

    None without a job, and in jobs in which people type, since they start many runs in one.
    """
    if not under_slurm() or "SLURM_JOB_ID" not in os.environ:
        return None
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def requeue(number: str) -> None:
    """Have SLURM put this job back into its queue; it ends the job's processes for that.

    Whether it did is a line in the log. To be called by one process, after all is written.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM's, which comes before this process ends
    try:
        subprocess.run(
            ["scontrol", "requeue", number], check=True, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        failed = isinstance(error, subprocess.CalledProcessError) and error.stderr
        reason = " ".join((failed or str(error)).split())
        log.warning("job %s could not be requeued (%s): submit it again to resume", number, reason)
    else:
        log.info("job %s is back in SLURM's queue and will resume from here", number)


def requeue_if_asked(trainer: Trainer) -> None:
    """`requeue` the job if its `Slurm` environment says so."""
    if not isinstance(trainer.strategy, ParallelStrategy):  # a run of one process
        return
    started_by = trainer.strategy.cluster_environment
    if isinstance(started_by, Slurm) and started_by.requeue and (number := job()):
        requeue(number)


# -- who started the processes, and how many -------------------------------------------------------


def environment() -> ClusterEnvironment | None:
    """The environment of processes of `trainer=ddp`; None to let Lightning find out."""
    if TorchElasticEnvironment.detect() or not under_slurm():
        return None
    # In a job of one task, the processes are started as on any machine.
    return Slurm(requeue=False) if tasks() > 1 else LightningEnvironment()


def check_alone() -> None:
    """Raise `UserError` if this process is one of several but would train by itself."""
    number = int(os.environ["WORLD_SIZE"]) if TorchElasticEnvironment.detect() else tasks()
    if number > 1:
        who, trainer = (
            ("torchrun", "ddp") if TorchElasticEnvironment.detect() else ("SLURM", "slurm")
        )
        raise UserError(
            f"{who} has started {number} processes, each of which would train by itself into the "
            f"same run folder: use trainer={trainer} to train together, or start only one."
        )


def check_number(environment: ClusterEnvironment, devices: int, nodes: int) -> None:
    """Raise `UserError` unless the number of processes is `devices` times `nodes`."""
    if isinstance(environment, TorchElasticEnvironment):
        here, all_ = int(os.environ["LOCAL_WORLD_SIZE"]), environment.world_size()
        if (here, all_) != (devices, devices * nodes):
            raise UserError(
                f"torchrun has started {here} process(es) on each of {all_ // here} node(s), but "
                f"trainer.devices is {devices} and trainer.num_nodes is {nodes}: use "
                f"trainer.devices={here} trainer.num_nodes={all_ // here}."
            )
    elif isinstance(environment, LightningEnvironment) and nodes > 1:
        raise UserError(
            f"trainer.num_nodes={nodes} needs something that starts processes on all nodes: "
            "torchrun on each of them, or srun with trainer=slurm (docs/clusters.md)."
        )
    else:
        environment.validate_settings(devices, nodes)


@contextmanager
def devices_explained(devices: object, accelerator: str = "gpu") -> Iterator[None]:
    """Inside, Lightning looks for devices. Raises `UserError` if there are not enough."""
    try:
        yield
    except (MisconfigurationException, TypeError, ValueError, ImportError) as error:
        number = torch.cuda.device_count()
        gpus = accelerator in ("gpu", "cuda") or (accelerator == "auto" and number > 0)
        if not (gpus and isinstance(error, MisconfigurationException)):
            reason = " ".join(str(error).split()).removesuffix(".")
            raise UserError(
                f"Lightning refuses trainer.devices={devices} or another key of trainer: {reason}."
            ) from error
        if number == 0:
            raise UserError(
                "PyTorch sees no GPU: check nvidia-smi, CUDA_VISIBLE_DEVICES, and that PyTorch was "
                "built with CUDA; or set trainer.accelerator=cpu."
            ) from error
        bound = (
            " If SLURM gives each task its own GPU (--gpus-per-task, --gpu-bind), make all GPUs of "
            "a node visible to all of its tasks: --gpus-per-node."
        )
        raise UserError(
            f"trainer.devices={devices} asks for more GPUs than the {number} that this process "
            f"sees: set trainer.devices={number}, or check CUDA_VISIBLE_DEVICES."
            f"{bound if under_slurm() else ''}"
        ) from error


# -- where they meet -------------------------------------------------------------------------------


def check_backend(backend: str | None, device: str) -> None:
    """Raise `UserError` if this backend cannot exchange tensors of this kind of device."""
    if device == "cpu" and backend == "nccl":
        raise UserError(
            "NCCL connects GPUs, and this run is on CPUs: remove "
            "trainer.strategy.process_group_backend, or set it to gloo."
        )


@contextmanager
def explained(minutes: float) -> Iterator[None]:
    """Inside, the processes meet. Raises `UserError` on what to check if they do not."""
    try:
        yield
    except dist.DistError as error:
        at = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"The processes could not meet at {at} within {minutes:g} minutes ({reason}): check in "
            "their logs that all of them started, that MASTER_ADDR is a name of the first one's "
            "machine that every node knows, and that MASTER_PORT is free and open; for slow "
            "starts, raise trainer.strategy.timeout."
        ) from error
