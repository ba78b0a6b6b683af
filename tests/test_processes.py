"""One process equals two; what travels; what is drawn; who may train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same_tensors, in_worlds
from lightning.pytorch import Trainer
from makers.tiny import PlainDiscriminator, PlainGenerator, adam

from ganzoo.errors import UserError
from ganzoo.models.dcgan import DCGAN

SCRIPT = str(Path(__file__).parent / "makers" / "worlds.py")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, int], Any]:
    """Result of a scenario of `worlds.py`, by world size and rank."""
    return in_worlds(tmp_path_factory.mktemp("worlds"), SCRIPT)


def test_two_processes_equal_one_in_float64(result: Callable) -> None:
    assert_same_tensors(result("float64", 1), result("float64", 2), atol=1e-12)


def test_two_processes_equal_one_in_float32(result: Callable) -> None:
    assert_same_tensors(result("float32", 1), result("float32", 2), atol=1e-5)


def test_ten_iterations_moved_the_weights(result: Callable) -> None:
    torch.manual_seed(0)
    networks = {"generator": PlainGenerator(), "discriminator": PlainDiscriminator()}
    end = result("float64", 2)["state_dict"]
    for network, module in networks.items():
        for name, before in module.named_parameters():
            if name != "layers.3.bias":  # D's last bias cancels out of the Wasserstein loss
                moved = (end[f"{network}.{name}"] - before).abs().mean()
                assert moved > 1e-3, name


@pytest.mark.parametrize("world", [1, 2])
def test_accumulation_equals_the_whole_batch(result: Callable, world: int) -> None:
    assert_same_tensors(result("float64", 1), result("accumulated", world), atol=1e-12)


@pytest.mark.parametrize("scenario", ["adapted", "adapted_in_parts"])
@pytest.mark.parametrize("world", [1, 2])
def test_an_augmentation_is_steered_alike(result: Callable, scenario: str, world: int) -> None:
    assert_same_tensors(result("adapted", 1), result(scenario, world), atol=1e-12)
    steered = result(scenario, world)["state_dict"]
    assert steered["objective.augment.iterations"] == 10
    assert steered["objective.augment.recent"][1] == 2 * 16
    assert steered["objective.augment.level"] in (160 + 128, 160, 160 - 128)


@pytest.mark.parametrize("world", [1, 2])
def test_a_steered_augmentation_resumes_exactly(result: Callable, world: int) -> None:
    assert_same_tensors(result("adapted_straight", world), result("adapted_resumed", world))


def test_synced_batchnorm_equals_one_process(result: Callable) -> None:
    assert_same_tensors(result("synced", 1), result("synced", 2), atol=1e-11)


def test_unsynced_batchnorm_agrees_on_its_buffers(result: Callable) -> None:
    first, second = result("unsynced", 2, 0), result("unsynced", 2, 1)
    assert_same_tensors(first, second)
    # It is not the one process's: each half batch was normalized by itself.
    alone = result("unsynced", 1)
    name = "generator.base.2.running_mean"
    assert not torch.allclose(first[name], alone[name], atol=1e-6)


def test_processes_draw_the_rows_of_one_global_draw(result: Callable) -> None:
    one = result("noise", 1)["latents"]
    first, second = (result("noise", 2, rank)["latents"] for rank in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([first, second], 1), one)
    preflight, drawn = one[:2], one[2:]  # the rehearsed iteration is the first one
    assert torch.equal(preflight, drawn[:2])
    assert len({tuple(row.tolist()) for row in drawn.flatten(0, 1)}) == drawn.shape[:2].numel()


def test_only_the_stepped_networks_gradients_travel(result: Callable) -> None:
    seen = result("traffic", 2)
    assert seen["sent"] == [seen["discriminator"]] * 2 + [seen["generator"]]


def test_resume_in_two_processes_is_exact(result: Callable) -> None:
    assert_same_tensors(result("straight", 2), result("resumed", 2))


def test_resume_in_one_process_is_exact(result: Callable) -> None:
    assert_same_tensors(result("straight", 1), result("resumed", 1))


def test_plain_ddp_is_refused(tmp_path: Path) -> None:
    gan = DCGAN(
        PlainGenerator(), PlainDiscriminator(), optimizers={"generator": adam()}, total_kimg=1
    )
    trainer = Trainer(strategy="ddp", accelerator="cpu", devices=1, logger=False)
    gan._trainer = trainer
    with pytest.raises(UserError, match="trainer=ddp"):
        gan.setup("fit")
