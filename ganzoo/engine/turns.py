"""Networks that take turns at being updated, each with its own optimizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ganzoo.errors import UserError


class Turns:
    """A model's optimizers: whose turn it is, gradients, clipping, learning rates; see `GAN`."""

    def __init__(
        self,
        model: L.LightningModule,
        optimizers: Mapping[str, Callable[..., Optimizer]],
        clip: Mapping[str, float],
        lr_factors: Mapping[str, Callable[[int], float]],
    ) -> None:
        self.model = model
        self.makers = dict(optimizers)
        self.clip, self.lr_factors = dict(clip), dict(lr_factors)
        self.current = ""  # the network that is being updated
        self.last_pass = False  # whether a backward pass now is known to be its step's last one
        for kind, names in (
            ("optimizers", self.makers),
            ("clip", self.clip),
            ("lr_factors", self.lr_factors),
        ):
            check_names(model, kind, names)

    @property
    def networks(self) -> list[str]:
        """Names of the networks that have an optimizer, in the order of the optimizers."""
        return list(self.makers)

    def make_optimizers(self) -> list[Optimizer]:
        """Build the optimizers. Raises `UserError` if their options do not work."""
        optimizers = []
        for name, make in self.makers.items():
            try:
                optimizer = make(self.model.get_submodule(name).parameters())
            except (TypeError, ValueError) as error:
                raise UserError(f"model.optimizers.{name} does not work: {error}.") from error
            for group in optimizer.param_groups:
                group["base_lr"] = group["lr"]  # what `set_learning_rates` multiplies
            optimizers.append(optimizer)
        return optimizers

    def optimizer(self, name: str) -> Any:
        """The optimizer of a network, as Lightning wraps it."""
        optimizers = self.model.optimizers()
        if not isinstance(optimizers, list):  # as Lightning gives a single one
            optimizers = [optimizers]
        return optimizers[self.networks.index(name)]

    @contextmanager
    def updating(self, name: str) -> Iterator[None]:
        """One optimizer step of network `name`, after the backward passes made inside.

        Inside, only that network's parameters require gradients. Without an exception its gradients
        are averaged over the processes, clipped, and applied; in any case they are then freed and
        `requires_grad` is restored.
        """
        own = {id(p) for p in self.model.get_submodule(name).parameters()}
        # A generator's loss flows through the discriminator, whose gradients nobody needs then.
        frozen = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        for parameter in frozen:
            parameter.requires_grad_(False)
        optimizer = self.optimizer(name)
        self.current = name
        try:
            yield
            optimizer.step()  # averages over processes and clips before it steps
        finally:
            self.last_pass = False
            optimizer.zero_grad(set_to_none=True)  # frees the memory until this network's next turn
            for parameter in frozen:
                parameter.requires_grad_(True)

    def update(self, name: str, loss: Callable[..., Tensor], *parts: Sequence[Any]) -> Tensor:
        """One optimizer step of network `name` on `loss(*part)`; returns the loss, detached.

        `parts` are micro-batches from `GAN.split`, of images, latents and other draws. Their losses
        are averaged, so a run does not depend on their number (unless samples see each other, as in
        BatchNorm).
        """
        total = torch.zeros((), device=self.model.device)
        micro_batches = list(zip(*parts, strict=True))
        with self.updating(name):
            for number, part in enumerate(micro_batches, start=1):
                # The mean over equal micro-batches is the mean over the batch.
                value = loss(*part) / len(micro_batches)
                self.last_pass = number == len(micro_batches)
                self.model.manual_backward(value)
                total = total + value.detach()
        return total

    def clip_gradients(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """Clip the current network's gradients; returns their norm before that, by its name."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if (limit := self.clip.get(self.current)) is not None:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return {f"gradient_norms/{self.current}": norm}

    def set_learning_rates(self, images_seen: int) -> None:
        """Set every learning rate to what it is after so many images."""
        for name, factor in self.lr_factors.items():
            for group in self.optimizer(name).param_groups:
                group["lr"] = group["base_lr"] * factor(images_seen)

    def learning_rates(self) -> dict[str, float]:
        """The learning rate of each network now."""
        return {name: self.optimizer(name).param_groups[0]["lr"] for name in self.networks}

    @torch.no_grad()
    def weight_norms(self) -> dict[str, float]:
        """The norm of all parameters of each network."""
        norms = {
            name: nn.utils.get_total_norm(self.model.get_submodule(name).parameters())
            for name in self.networks
        }
        return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))


def check_names(model: nn.Module, kind: str, names: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise `UserError` if the option `model.<kind>` names a network that is not there."""
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise UserError(
                f"model.{kind} names a network {name!r}, which this model does not have: use "
                f"'generator', 'discriminator' or a part of one of them."
            )
