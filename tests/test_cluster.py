"""SLURM and torchrun without a cluster: their environment, and processes of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import assert_same_tensors, checkpoint, train_command
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from tiny import TINY, TINY_METRICS, config

from ganzoo.train import train

KNOWN = ("SLURM_", "MASTER_", "TORCHELASTIC_", "LOCAL_", "WORLD_SIZE", "RANK", "NODE_RANK")
# A trainer of its own, since that of `TINY` has no strategy.
TASK = tuple(key for key in TINY if not key.startswith("trainer"))
SLURM = ("trainer=slurm", "trainer.accelerator=cpu")
LONG = (
    "total_kimg=0.32",
    "callbacks.ticks.every_kimg=0.04",
    "callbacks.save.every_kimg=0.1",
    "callbacks.grid.every_kimg=0.5",
)
HERE = Path(__file__).resolve().parent
PATHS = os.pathsep.join([str(HERE), str(HERE.parent)])
WHOLE = ("state_dict", "optimizer_states")


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
        subprocess.Popen(
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


def scontrol(folder: Path, then: str = "kill -TERM $PPID") -> str:
    """A PATH with a scontrol that notes what it is asked for, and then does as the real one."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{then}\n')
    script.chmod(0o755)
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder of four tasks on two nodes, and one of one process that was given the same.

    Data is unpacked, and features of real images kept, on each node.
    """
    place = tmp_path_factory.mktemp("four")
    same = (
        *("precision=64-true", "sync_batchnorm=true", "data.mirror=false"),
        "+callbacks.seen={_target_: tiny.Seen}",
        "data.source._target_=tiny.Unpacked",
        "+data.source.root=${oc.env:UNPACKED}/${oc.env:SLURM_NODEID,0}",
        "callbacks.evaluate={_target_: ganzoo.metrics.Evaluate, suite: '${metrics}', "
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
    (folder,) = (place / "runs" / "dcgan" / "synthetic").iterdir()
    return folder, place / "alone"


def test_four_tasks_on_two_nodes_equal_one_process(four: tuple[Path, Path]) -> None:
    for part in WHOLE:
        ours, theirs = (checkpoint(folder)[part] for folder in four)
        assert_same_tensors(ours, theirs, atol=1e-10)


def test_one_of_four_tasks_writes_one_run_folder(four: tuple[Path, Path]) -> None:
    def files(of: Path) -> set[str]:
        return {str(p.relative_to(of)) for p in of.rglob("*") if not p.name.startswith("seen")}

    folder, alone = four
    assert folder.name == "slurm-4711"
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
    assert (first / "features.npy").read_bytes() == (second / "features.npy").read_bytes()
    assert {p.read_text() for p in (place / "four").glob("*/done")} == {"0", "2"}


def test_a_requeued_job_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    place = {name: tmp_path / name for name in ("straight", "stopped")}
    for folder in place.values():
        folder.mkdir()
    straight = start(place["straight"], 1, 2, *LONG)
    path = scontrol(tmp_path)
    tasks = start(place["stopped"], 2, 1, *LONG, PATH=path)
    run_dir = place["stopped"] / "runs" / "dcgan" / "synthetic" / "slurm-4711"
    wait_for(run_dir / "metrics.csv", "\n80,", tasks)
    tasks[1].send_signal(signal.SIGUSR1)  # the other will hear of it from this one
    codes, written = ended(tasks)
    assert codes == [128 + signal.SIGUSR1, 0], written
    assert written.count("stopped by SIGUSR1") == 1
    assert written.count("job 4711 is back in SLURM's queue") == 1
    assert "Traceback" not in written
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    seen = checkpoint(run_dir)["ganzoo"]["images_seen"]
    assert 80 <= seen < 320
    assert not (run_dir / "done").exists()

    codes, written = ended(start(place["stopped"], 2, 1, *LONG, PATH=path))
    assert codes == [0, 0], written
    assert "resuming at" in written
    codes, written = ended(straight)
    assert codes == [0, 0], written
    assert (run_dir / "done").exists()
    assert (tmp_path / "asked").read_text() == "requeue 4711\n", "a complete run is not requeued"
    other = place["straight"] / "runs" / "dcgan" / "synthetic" / "slurm-4711"
    for part in WHOLE:
        assert_same_tensors(checkpoint(run_dir)[part], checkpoint(other)[part])


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_leaves_a_checkpoint(tmp_path: Path, number: int) -> None:
    """As Ctrl-C and SLURM send it: to workers, too. Nobody is asked to requeue anything."""
    run_dir = tmp_path / "run"
    command = train_command(run_dir, *LONG, "data.workers=2", "logger=wandb")
    process = subprocess.Popen(
        command,
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
