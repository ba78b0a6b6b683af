"""Data parallelism for networks that take turns.

Plain DDP registers all parameters of the module once and expects each of them to have a gradient
after every backward pass; a GAN breaks that at its second backward pass. Here the module is not
wrapped at all: after the backward passes of one network, that network's gradients are averaged, and
nothing else is sent. So accumulation is a for loop, and any number of forward and backward passes,
double backward included, may come before a step. During the last of them, gradients that are final
already travel; see `buckets`.

One condition: the graph of a loss must not differ between processes, so every branch in a model's
step must be a function of the images seen.
"""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from ganzoo.distributed import cluster
from ganzoo.distributed.buckets import Buckets
from ganzoo.distributed.collectives import largest
from ganzoo.errors import UserError


class Replicated(DDPStrategy):
    """One replica per process, all starting alike; gradients are averaged at each optimizer step.

    Args:
        timeout: minutes that processes wait for each other, when they meet and later.
        cluster_environment: what has started the processes; None to find out.
    """

    def __init__(
        self,
        timeout: float = 30.0,
        cluster_environment: ClusterEnvironment | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            timeout=timedelta(minutes=timeout),
            cluster_environment=cluster_environment or cluster.environment(),
            **options,
        )
        self.minutes = timeout
        self.buckets = Buckets()

    def set_world_ranks(self) -> None:
        assert self.cluster_environment is not None
        cluster.check_number(self.cluster_environment, self.num_processes, self.num_nodes)
        super().set_world_ranks()

    def setup_distributed(self) -> None:
        cluster.check_backend(self.process_group_backend, self.root_device.type)
        with cluster.explained(self.minutes):
            super().setup_distributed()

    def configure_ddp(self) -> None:
        assert self.lightning_module is not None
        module: Any = self.lightning_module  # a GAN, which this room does not know
        # Each process has read its own run folder by now, maybe another checkpoint than the others.
        seen = int(module.images_seen)
        if largest(seen, self.root_device) != -largest(-seen, self.root_device):
            raise UserError(
                "The processes would resume from different checkpoints because they do not share a "
                "run folder: choose a run_dir that all nodes share."
            )
        # The seed is the same, but initialization may round differently on other hardware.
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Compute gradients; in the last pass before a step, start to average them."""
        module: Any = self.lightning_module
        last: bool = module.turns.last_pass
        with self.buckets.leaving(closure_loss) if last else nullcontext():
            return super().backward(closure_loss, optimizer, *args, **kwargs)

    def optimizer_step(
        self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any
    ) -> Any:
        """Average the gradients of the optimizer's parameters, then step."""
        self.buckets.arrive([p for group in optimizer.param_groups for p in group["params"]])
        return super().optimizer_step(optimizer, closure, model, **kwargs)
