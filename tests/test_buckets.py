"""Gradients in buckets: the same as all at once, in one order, and only when they are final."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same_tensors, run
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ganzoo.distributed import buckets
from ganzoo.distributed.buckets import Buckets, leaves

SCRIPT = str(Path(__file__).parent / "makers" / "bucket_worlds.py")
SCENARIOS = ("accumulated", "growing", "synced", "translating")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Result of a scenario of `bucket_worlds.py` in two processes, by rank."""
    folder = tmp_path_factory.mktemp("buckets")
    done = run([sys.executable, SCRIPT, str(folder), *SCENARIOS], processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    return lambda name, rank=0: torch.load(folder / f"{name}-{rank}.pt", weights_only=True)


def updates(events: list[str | int]) -> list[list[str | int]]:
    """The events of each update, and the number of gradients that it had as the last one."""
    found = []
    for start in (i for i, event in enumerate(events) if event == "update"):
        stepped = events.index("stepped", start)
        found.append([*events[start + 1 : stepped], events[stepped + 1]])
    return found


# Of two numbers there is only one sum. From three on, it is rounded by the place in the buffer.
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_buckets_equal_all_at_once_bit_for_bit(result: Callable, scenario: str) -> None:
    both = result(scenario)
    assert_same_tensors(both["at_once"], both["in_buckets"])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_gradient_travels_once_and_in_one_order(result: Callable, scenario: str) -> None:
    events = result(scenario)["events"]
    assert events == result(scenario, 1)["events"]
    for *during, having in updates(events):
        assert sum(n for n in during if isinstance(n, int)) == having


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_buckets_leave_in_the_last_backward_pass_only(result: Callable, scenario: str) -> None:
    passes = 2 if scenario == "accumulated" else 1
    for *during, _ in updates(result(scenario)["events"]):
        assert during.count("backward") == passes
        start = len(during) - during[::-1].index("backward")
        assert not any(isinstance(event, int) for event in during[:start])
        assert during.index("end", start) - start >= 2, "nothing left early"


def test_synced_batchnorm_waits_between_buckets(result: Callable) -> None:
    *during, _ = updates(result("synced")["events"])[0]
    inside = during[during.index("backward") : during.index("end")]
    waits = [i for i, event in enumerate(inside) if str(event).startswith("waits")]
    sent = [i for i, event in enumerate(inside) if isinstance(event, int)]
    assert sent[0] < waits[-1]


def test_growing_networks_have_parameters_without_gradients(result: Callable) -> None:
    assert len({having for *_, having in updates(result("growing")["events"])}) > 2


@pytest.mark.slow
def test_resume_in_four_processes_is_exact(tmp_path: Path) -> None:
    done = run([sys.executable, SCRIPT, str(tmp_path), "resumed"], processes=4)
    assert done.returncode == 0, done.stderr[-3000:]
    both = torch.load(tmp_path / "resumed-0.pt", weights_only=True)
    assert_same_tensors(both["straight"], both["parts"])


# -- without other processes -----------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be sent to another process: the gradients of each bucket, as they are then."""
    log: list[Any] = []

    def start(gradients: Any) -> Callable[[], None]:
        log.append([gradient.clone() for gradient in gradients])
        return lambda: None

    monkeypatch.setattr(buckets, "world_size", lambda: 2)
    monkeypatch.setattr(buckets, "start_averaging", start)
    monkeypatch.setattr(buckets, "capacity", lambda: 1)
    return log


def network(depth: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth)))


def penalty(network: nn.Module) -> Tensor:
    x = torch.randn(2, 3, requires_grad=True)  # a leaf that is no parameter
    (slope,) = torch.autograd.grad(network(x).tanh().sum(), x, create_graph=True)
    return slope.square().sum()


@pytest.mark.parametrize("name", ["chain", "two passes", "penalty"])
def test_leaves_are_in_the_order_of_the_engine(name: str) -> None:
    net = network()
    loss = net(torch.randn(2, 3)).sum()
    if name != "chain":
        loss = loss + (penalty(net) if name == "penalty" else net(torch.randn(2, 3)).sum())
    order: list[int] = []
    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: order.append(id(p)))
    predicted = [id(parameter) for parameter in leaves(loss)]
    loss.backward()
    assert sorted(predicted) == sorted(order)
    layer = {id(p): i for i, part in enumerate(net) for p in part.parameters()}
    assert [layer[i] for i in predicted] == [layer[i] for i in order] == [3, 3, 2, 2, 1, 1, 0, 0]


def test_what_leaves_is_final(sent: list[Any]) -> None:
    net, unused = network(), nn.Linear(3, 3)
    parameters = [*net.parameters(), *unused.parameters()]
    net(torch.randn(2, 3)).sum().backward()
    loss = net(torch.randn(2, 3)).sum() + penalty(net)
    travelling = Buckets()
    with travelling.leaving(loss):
        loss.backward()
    assert len(sent) == 8, "each parameter leaves alone"
    travelling.arrive(parameters)
    assert [len(bucket) for bucket in sent] == [1] * 8 + [0]
    left = {tuple(gradient.flatten().tolist()) for bucket in sent for gradient in bucket}
    assert left == {
        tuple(p.grad.flatten().tolist()) for p in net.parameters() if p.grad is not None
    }
    travelling.arrive(parameters)  # a step whose passes let nothing leave early
    assert len(sent[-1]) == 8


def test_gradients_of_earlier_passes_alone_leave_at_the_step(sent: list[Any]) -> None:
    earlier, later = nn.Linear(3, 1), nn.Linear(3, 1)
    earlier(torch.ones(1, 3)).sum().backward()
    loss = later(torch.ones(1, 3)).sum()
    travelling = Buckets()
    with travelling.leaving(loss):
        loss.backward()
    travelling.arrive([*earlier.parameters(), *later.parameters()])
    assert [len(bucket) for bucket in sent] == [1, 1, 2]


def test_a_network_that_was_frozen_after_its_use_holds_nothing_up(sent: list[Any]) -> None:
    stepped, frozen = network(1), network(1)
    loss = frozen(stepped(torch.ones(1, 3))).sum()
    frozen.requires_grad_(False)
    with Buckets().leaving(loss):
        loss.backward()
    assert [len(bucket) for bucket in sent] == [1, 1]


def test_a_gradient_that_changes_after_it_left_ends_the_run(sent: list[Any]) -> None:
    first, shared = network(1), network(1)
    hidden = checkpoint(shared, first(torch.ones(1, 3)), use_reentrant=True)  # inside of backward
    loss = shared(hidden).sum()
    with pytest.raises(RuntimeError, match="use_reentrant=False"), Buckets().leaving(loss):
        loss.backward()
