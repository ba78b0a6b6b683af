"""What can go wrong where several processes meet, each in one sentence."""

import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning_utilities.core.rank_zero import rank_zero_only as utils_rank_zero_only
from makers.slurm import KNOWN, job, scontrol
from makers.tiny import config

from ganzoo.distributed import cluster
from ganzoo.distributed.strategy import Replicated
from ganzoo.errors import UserError
from ganzoo.runs.names import start_time
from ganzoo.train import make_trainer

SLURM = ("trainer=slurm", "trainer.accelerator=cpu")
DDP = ("trainer=ddp", "trainer.accelerator=cpu")
TWO = (*DDP, "trainer.devices=2")
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "2",
}
NO_STEP = {"SLURM_STEP_ID": None}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], None]:
    """Sets the environment's part that tells of clusters, after emptying it."""
    for rank in (rank_zero_only, utils_rank_zero_only):  # which trainers set for the whole process
        monkeypatch.setattr(rank, "rank", 0)
    for name in list(os.environ):
        if name.startswith(KNOWN):
            monkeypatch.delenv(name)

    def set_(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                monkeypatch.delenv(name)
            else:
                monkeypatch.setenv(name, value)

    return set_


def trainer(tmp_path: Path, *overrides: str) -> None:
    make_trainer(config(*overrides), tmp_path, 0)


@pytest.mark.parametrize(
    ("started", "overrides", "sentence"),
    [
        ({}, SLURM, "trainer=slurm is for SLURM jobs, and this is not one"),
        (job(1, 2) | {"SLURM_NTASKS_PER_NODE": None}, SLURM, "--nodes=1 --ntasks-per-node=2"),
        (job(2, 3) | {"SLURM_NTASKS_PER_NODE": None}, SLURM, "--nodes=2 --ntasks-per-node=3"),
        (job(1, 2) | NO_STEP, SLURM, "this process is not one of them: put srun before"),
        (job(1, 1) | {"SLURM_PROCID": None}, SLURM, "put srun before"),
        (job() | {"SLURM_JOB_NAME": "bash"}, SLURM, "The SLURM job is named bash"),
        (job() | {"SLURM_JOB_NAME": "interactive"}, SLURM, "The SLURM job is named interactive"),
        (job(1, 2), (*SLURM, "trainer.devices=4"), r"SLURM runs 2 .*trainer\.devices is 4"),
        (job(2, 2), (*SLURM, "trainer.num_nodes=1"), r"SLURM runs 4 .*trainer\.num_nodes is 1"),
        (job(1, 2), (), r"SLURM has started 2 processes.*trainer=slurm"),
        (job(2, 2), TWO, r"SLURM runs 4 task\(s\), 2 on each of 2"),
        (TORCHRUN, (), r"torchrun has started 4 processes.*trainer=ddp"),
        (TORCHRUN, (*DDP, "trainer.devices=4"), r"trainer\.devices=2 trainer\.num_nodes=2"),
        (TORCHRUN, (*DDP, "trainer.num_nodes=1"), r"trainer\.devices=2 trainer\.num_nodes=2"),
        (TORCHRUN | job(2, 1), SLURM, "torchrun starts the processes by itself: use trainer=ddp"),
        ({}, (*TWO, "trainer.num_nodes=2"), "torchrun on each of them, or srun"),
        ({}, ("trainer=gpu",), r"PyTorch sees no GPU"),
    ],
)
def test_processes_that_do_not_fit(
    started: dict, overrides: tuple, sentence: str, variables: Callable, tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "trainer=gpu" in overrides:
        pytest.skip("there is a GPU")
    variables({name: value for name, value in started.items() if value is not None})
    with pytest.raises(UserError, match=sentence) as told:
        trainer(tmp_path, *overrides)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("started", "overrides", "world"),
    [
        (job(2, 2, task=3), SLURM, 4),
        (job(), SLURM, 1),
        (job(1, 2, task=1), TWO, 2),
        (job(), TWO, 2),  # a job of one task: processes are started as on any machine
        (job(1, 2) | {"SLURM_JOB_NAME": "bash"}, TWO, 2),
        (TORCHRUN, DDP, 4),
        (TORCHRUN | job(2, 1), DDP, 4),
        (job(), (), 1),
    ],
)
def test_processes_that_fit(
    started: dict, overrides: tuple, world: int, variables: Callable, tmp_path: Path
) -> None:
    variables(started)
    made = make_trainer(config(*overrides), tmp_path, 0)
    assert made.world_size == world
    # Lightning would save and requeue by itself.
    environment = made._accelerator_connector.cluster_environment
    assert not getattr(environment, "auto_requeue", False)


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch, variables: Callable) -> None:
    """Lightning's complaint, with the number that PyTorch sees."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    lightnings = MisconfigurationException("You requested gpu: [0, 1, 2, 3]\n But your machine ...")
    sentence = r"trainer\.devices=4 asks for more GPUs than the 2 .*set trainer\.devices=2"
    with pytest.raises(UserError, match=sentence) as told, cluster.devices_explained(4):
        raise lightnings
    assert "SLURM" not in str(told.value)
    variables(job(1, 4))
    with pytest.raises(UserError, match="--gpus-per-node"), cluster.devices_explained(4):
        raise lightnings


def strategy(backend: str | None = None, seconds: float = 3) -> Replicated:
    """Of the first of two processes, whose second one never comes."""
    made = Replicated(timeout=seconds / 60, process_group_backend=backend)
    made.parallel_devices = [torch.device("cpu")] * 2
    made.cluster_environment = cluster.LightningEnvironment()
    return made


@pytest.fixture
def meet(variables: Callable) -> Callable[..., str]:
    """What two processes are told that are to meet somewhere."""

    def call(address: str, port: int, rank: int = 0) -> str:
        variables({"MASTER_ADDR": address, "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)})
        assert not dist.is_initialized()
        with pytest.raises(UserError) as told:
            strategy().setup_distributed()
        assert "\n" not in str(told.value)
        return str(told.value)

    return call


def test_a_port_in_use(meet: Callable) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"could not meet at 127.0.0.1:{port}" in meet("127.0.0.1", port)


def test_a_process_that_does_not_come(meet: Callable) -> None:
    port = cluster.LightningEnvironment().main_port
    told = meet("127.0.0.1", port)
    assert f"could not meet at 127.0.0.1:{port} within 0.05 minutes" in told
    assert "1/2" in told
    assert "trainer.strategy.timeout" in told


@pytest.mark.parametrize("address", ["127.0.0.1", "no-such-machine.invalid"])
def test_an_address_where_nobody_answers(meet: Callable, address: str) -> None:
    told = meet(address, 9, rank=1)
    assert f"could not meet at {address}:9" in told
    assert "MASTER_ADDR" in told


def test_nccl_is_for_gpus() -> None:
    with pytest.raises(UserError, match="NCCL connects GPUs, and this run is on CPUs"):
        strategy("nccl").setup_distributed()


@pytest.mark.parametrize(
    ("script", "said", "level"),
    [
        ("exit 0", "job 4711_3 is back in SLURM's queue", logging.INFO),
        (
            "echo Access denied >&2; exit 1",
            "could not be requeued (Access denied)",
            logging.WARNING,
        ),
        (None, "could not be requeued ([Errno 2] No such file", logging.WARNING),
    ],
)
def test_requeueing_is_one_line(
    script: str | None,
    said: str,
    level: int,
    variables: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    path = scontrol(tmp_path, script) if script else str(tmp_path)
    array = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3"}
    variables(job(number="4714") | array)
    made = make_trainer(config(*SLURM), tmp_path, 0)
    caplog.clear()
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    cluster.requeue_if_asked(made)
    (record,) = caplog.records
    assert said in record.message
    assert record.levelno == level
    if script:
        assert (tmp_path / "asked").read_text() == "requeue 4711_3\n"


@pytest.mark.parametrize(
    ("started", "overrides"),
    [
        (job(), (*SLURM, "trainer.strategy.cluster_environment.requeue=false")),
        (job(), ("trainer=cpu",)),
        ({}, ("trainer=cpu",)),
    ],
)
def test_nothing_is_requeued_unasked(
    started: dict,
    overrides: tuple,
    variables: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables(started)
    monkeypatch.setenv("PATH", scontrol(tmp_path, "exit 0"))
    cluster.requeue_if_asked(make_trainer(config(*overrides), tmp_path, 0))
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("started", "name"),
    [
        (job(), "slurm-4711"),
        (job(2, 2, task=3), "slurm-4711"),
        (job(number="9") | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, "slurm-7_2"),
        (job() | {"SLURM_JOB_NAME": "interactive"}, r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"),
        ({}, r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"),
    ],
)
def test_run_folders_are_called_after_jobs(started: dict, name: str, variables: Callable) -> None:
    variables(started)
    assert re.fullmatch(name, start_time())
