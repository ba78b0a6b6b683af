"""SLURM and torchrun without a cluster: their environment, and processes of this machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import assert_same_tensors, checkpoint, group_is_gone, train_command
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from makers import warm
from makers.slurm import KNOWN, job, scontrol
from makers.tiny import TINY, TINY_METRICS, config

from ganzoo.runs.names import run_name
from ganzoo.train import train_config as train

# A trainer of its own, since that of `TINY` has no strategy.
TASK = tuple(key for key in TINY if not key.startswith("trainer"))
SLURM = ("trainer=slurm", "trainer.accelerator=cpu")
LONG = (
    "total_kimg=0.32",
    "callbacks.ticks.every_kimg=0.04",
    "callbacks.save.every_kimg=0.1",
    "callbacks.grid.every_kimg=0.5",
)
GIVEN = [key for key in (*TASK, *SLURM, *LONG) if not key.startswith("data=")]
FOLDER = Path("runs", "dcgan_small", "synthetic", f"slurm-4711_{run_name(GIVEN)}")
HERE = Path(__file__).resolve().parent
PATHS = os.pathsep.join([str(HERE), str(HERE.parent)])
WHOLE = ("state_dict", "optimizer_states")


def outside() -> dict[str, str]:
    """This environment, with nothing of a cluster in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(KNOWN)}


def start(
    folder: Path, nodes: int, here: int, *overrides: str, **variables: str
) -> list[subprocess.Popen[str]]:
    """What srun does: all tasks of a job, without a `run_dir`, each node with caches of its own."""
    port = str(find_free_network_port())
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": PATHS}
    return [
        warm.Popen(
            [sys.executable, "-m", "ganzoo.train", *TASK, *SLURM, *overrides],
            cwd=folder,
            env={
                **outside(),
                **job(nodes, here, task),
                **meet,
                "GANZOO_CACHE": str(folder / f"cache{task // here}"),
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for task in range(nodes * here)
    ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Exit codes, and all that was written."""
    try:
        written = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "".join(written)


def wait_for(path: Path, text: str, processes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 120
    while not (path.is_file() and text in path.read_text()):
        if any(p.poll() is not None for p in processes) or time.monotonic() > deadline:
            pytest.fail(f"no {text!r} in {path}: {ended(processes)}")
        time.sleep(0.01)


def torchrun(
    folder: Path, options: Sequence[str], *overrides: str, **variables: str
) -> subprocess.Popen[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", *options]
    return subprocess.Popen(
        [*run, "-m", "ganzoo.train", *TASK, "trainer=ddp", "trainer.accelerator=cpu", *overrides],
        cwd=folder,
        env={**outside(), "PYTHONPATH": PATHS, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def only(runs: Path) -> Path:
    """The run folder in a working directory."""
    (folder,) = (runs / "runs" / "dcgan_small" / "synthetic").iterdir()
    return folder


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder of four tasks on two nodes, and one of one process that was given the same.

    Data is unpacked, and features of real images kept, on each node.
    """
    place = tmp_path_factory.mktemp("four")
    same = (
        *("precision=64-true", "sync_batchnorm=true", "data.mirror=false"),
        "+callbacks.seen={_target_: makers.tiny.Seen}",
        "data.source._target_=makers.tiny.Unpacked",
        "+data.source.folder=${oc.env:UNPACKED}/${oc.env:SLURM_NODEID,0}",
        "callbacks.metrics={_target_: ganzoo.callbacks.evaluation.Evaluate, suite: '${metrics}', "
        "every_kimg: 0.08, monitor: fd}",
        *TINY_METRICS,
    )
    tasks = start(place, 2, 2, *same, UNPACKED=str(place / "four"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNPACKED", str(place / "one"))
        patch.setenv("GANZOO_CACHE", str(place / "cache"))
        train(config(*same, f"run_dir={place / 'alone'}"))
    codes, written = ended(tasks)
    assert codes == [0] * 4, written
    return only(place), place / "alone"


def test_four_tasks_on_two_nodes_equal_one_process(four: tuple[Path, Path]) -> None:
    for part in WHOLE:
        ours, theirs = (checkpoint(folder)[part] for folder in four)
        assert_same_tensors(ours, theirs, atol=1e-10)


def test_one_of_four_tasks_writes_one_run_folder(four: tuple[Path, Path]) -> None:
    def files(of: Path) -> set[str]:
        return {str(p.relative_to(of)) for p in of.rglob("*") if not p.name.startswith("seen")}

    folder, alone = four
    assert folder.name.startswith("slurm-4711_")
    assert files(folder) == files(alone)
    log = (folder / "train.log").read_text()
    assert log.count("run folder:") == log.count("done:") == log.count("tick 1 ") == 1


def test_each_image_is_shown_once_over_four_tasks(four: tuple[Path, Path]) -> None:
    shown = [(four[0] / f"seen-{rank}.txt").read_text().splitlines() for rank in range(4)]
    alone = (four[1] / "seen-0.txt").read_text().split()
    together = " ".join(" ".join(batches) for batches in zip(*shown, strict=True)).split()
    assert together == alone, "the ranks' shares, side by side, are the batches of one process"
    for rank in range(4):
        assert Counter(len(batch.split()) for batch in shown[rank]) == {2: 10}
    for epoch in (slice(0, 5), slice(5, 10)):
        each = [image for batches in shown for batch in batches[epoch] for image in batch.split()]
        assert len(set(each)) == len(each) == 40


def test_each_node_fills_its_own_caches_once(four: tuple[Path, Path]) -> None:
    place = four[1].parent
    kept = [list((place / f"cache{node}" / "reference").iterdir()) for node in (0, 1)]
    (first,), (second,) = kept  # one entry each, and nothing half written
    assert first.name == second.name
    one, other = (np.load(path)["features"] for path in (first, second))
    assert np.array_equal(one, other)
    assert {p.read_text() for p in (place / "four").glob("*/done")} == {"0", "2"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two tasks that nobody disturbed."""
    place = tmp_path_factory.mktemp("straight")
    codes, written = ended(start(place, 1, 2, *LONG))
    assert codes == [0, 0], written
    return only(place)


def test_a_requeued_job_ends_like_an_uninterrupted_one(straight: Path, tmp_path: Path) -> None:
    path = scontrol(tmp_path)
    run_dir = tmp_path / FOLDER
    tasks = start(tmp_path, 2, 1, *LONG, PATH=path)
    wait_for(run_dir / "metrics.csv", "\n80,", tasks)
    tasks[1].send_signal(signal.SIGUSR1)  # the other will hear of it from this one
    codes, written = ended(tasks)
    assert codes == [128 + signal.SIGUSR1, 0], written
    assert written.count("stopped by SIGUSR1") == 1
    assert written.count("job 4711 is back in SLURM's queue") == 1
    assert "Traceback" not in written
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert 80 <= checkpoint(run_dir)["ganzoo"]["images_seen"] < 320
    assert not (run_dir / "done").exists()

    codes, written = ended(start(tmp_path, 2, 1, *LONG, PATH=path))
    assert codes == [0, 0], written
    assert "resuming at" in written
    assert (run_dir / "done").exists()
    assert (tmp_path / "asked").read_text() == "requeue 4711\n", "a complete run is not requeued"
    for part in WHOLE:
        assert_same_tensors(checkpoint(run_dir)[part], checkpoint(straight)[part])


def test_torchrun_on_two_nodes_equals_one_process(four: tuple[Path, Path], tmp_path: Path) -> None:
    meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{find_free_network_port()}"]
    same = ("precision=64-true", "sync_batchnorm=true", "data.mirror=false")
    agents = [torchrun(tmp_path, ["1", "--nnodes=2", *meet], *same) for _ in range(2)]
    codes, written = ended(agents)
    assert codes == [0, 0], written
    ours, theirs = checkpoint(only(tmp_path)), checkpoint(four[1])
    for part in WHOLE:
        assert_same_tensors(ours[part], theirs[part], atol=1e-10)


@pytest.mark.slow
def test_torchrun_restarts_after_a_killed_worker(straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options = ["2", "--standalone", "--max-restarts=1"]
    # Its processes would find the addresses of those before them in a store that is shared.
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    agent = torchrun(tmp_path, options, *LONG, f"run_dir={run_dir}", **fresh)
    wait_for(run_dir / "metrics.csv", "\n120,", [agent])  # after the checkpoint at 104
    workers = psutil.Process(agent.pid).children()
    next(w for w in workers if w.environ().get("RANK") == "1").kill()
    codes, written = ended([agent])
    assert codes == [0], written
    assert "resuming at 0.1 of" in written
    for part in WHOLE:
        assert_same_tensors(checkpoint(run_dir)[part], checkpoint(straight)[part])


def test_a_run_folder_on_a_nodes_own_disk_is_refused(straight: Path, tmp_path: Path) -> None:
    """The first node would go on from its checkpoint, the second one would start anew."""
    shutil.copytree(straight, tmp_path / "0")
    longer = (*LONG, "total_kimg=0.4", "run_dir=${oc.env:SLURM_NODEID}")
    codes, written = ended(start(tmp_path, 2, 1, *longer))
    assert codes == [1, 1], written
    assert "they do not share a run folder" in written
    assert "Traceback" not in written


TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.mark.parametrize(
    ("number", "overrides"),
    [
        (signal.SIGTERM, ("data.workers=2", "logger=wandb")),
        (signal.SIGINT, TWO),
        (signal.SIGUSR1, ()),
    ],
)
def test_a_signal_to_all_processes_leaves_a_checkpoint(
    tmp_path: Path, number: int, overrides: tuple[str, ...]
) -> None:
    """As Ctrl-C and SLURM send it: to workers, too. Nobody is asked to requeue anything."""
    run_dir = tmp_path / "run"
    process = warm.Popen(
        train_command(run_dir, *LONG, *overrides),
        env={**outside(), "PATH": scontrol(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for(run_dir / "metrics.csv", "\n80,", [process])
    os.killpg(process.pid, number)
    codes, written = ended([process])
    assert codes == [128 + number], written
    assert f"stopped by {signal.Signals(number).name}" in written
    assert "Traceback" not in written
    assert "Error" not in written
    assert 80 <= checkpoint(run_dir)["ganzoo"]["images_seen"] < 320
    assert not (tmp_path / "asked").exists()
    assert group_is_gone(process.pid)


def test_the_script_to_submit_trains(tmp_path: Path) -> None:
    """With an srun that starts the tasks here, of a job as the script asks for, but for GPUs."""
    script = HERE.parent / "docs" / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    asked = re.findall(r"^#SBATCH (--\S+)", script.read_text(), re.MULTILINE)
    assert {"--signal=SIGUSR1@120", "--requeue", "--open-mode=append"} <= set(asked)
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text(
        """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_ID=0
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NODEID=0 "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || exit; done
"""
    )
    srun.chmod(0o755)
    submitted = {k: v for k, v in job(1, 2).items() if k != "SLURM_STEP_ID"}
    path = os.pathsep.join([str(srun.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = subprocess.run(
        ["bash", script, *TASK, "trainer.accelerator=cpu"],
        cwd=tmp_path,
        env={
            **outside(),
            **submitted,
            "PATH": path,
            "PYTHONPATH": PATHS,
            "MASTER_ADDR": "localhost",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert only(tmp_path).name.startswith("slurm-4711_")
    assert (only(tmp_path) / "done").exists()
