"""What all models share: the clock, turns at updating, the average generator, losses watched.

A model subclasses `GAN`, hands it a generator and a discriminator, and defines `step` (update every
network once) and `sample`. See `ganzoo/models/dcgan` for a whole one.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ganzoo import __version__ as version_now
from ganzoo.distributed.strategy import (
    Replicated,
    average_over_processes,
    local_batchnorm,
    world_size,
)
from ganzoo.draws import Draws, seed_of
from ganzoo.engine.checkpoint import check_fits
from ganzoo.errors import NotFinite, UserError
from ganzoo.nn.losses import Loss
from ganzoo.schedules.images import ema_beta

Batch = dict[str, Tensor]

PIXELS = 2**19  # of images that are translated together
STANDING = 2**40  # the seeds of standing statistics: none that one would sample


class GAN(L.LightningModule):
    """A generator, a discriminator, and one clock: `images_seen`.

    Args:
        generator, discriminator: the networks; a `ModuleDict` where a model has several of a kind.
        optimizers: for each network that is updated by itself (a submodule's name), a function
            from parameters to an optimizer.
        total_kimg: length of the run, in thousands of images shown to the discriminator.
        seed: of every draw of the run.
        ema_kimg: half-life of the average generator in thousands of images; 0 for no average.
        ema_rampup: the half-life is at most this share of the images seen; None for no such limit.
        ema_beta: a fixed decay per iteration instead of a half-life, for papers that fix it.
        ema_start_kimg: until then the average is a copy of the generator.
        ema_buffers: average buffers (BatchNorm statistics), too, instead of copying them.
        discriminator_steps: updates of the discriminator an iteration, each with new images.
        generator_steps: updates of the generator an iteration.
        accumulate: micro-batches that a batch is split into; gradients add up to the whole batch's.
            "auto": as many as each stage of training needs to fit into the memory.
        clip: largest gradient norm for each named network; longer gradients are scaled down.
        lr_factors: for each named network, a function of the images seen that its learning rate
            is multiplied with.
        compile: networks to run through `torch.compile`.
        channels_last: keep weights and images in the channels-last memory format.

    Attributes:
        directions: what a model that translates between domains of images does, such as "AtoB";
            none where images are made from seeds.
        channels: of the images of each domain, where there are several.
        loss: of the two networks, as functions of logits.
    """

    directions: tuple[str, ...] = ()
    channels: dict[str, int]
    loss: Loss

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        optimizers: Mapping[str, Callable[..., Optimizer]],
        total_kimg: float,
        seed: int = 0,
        ema_kimg: float = 10.0,
        ema_rampup: float | None = 0.05,
        ema_beta: float | None = None,
        ema_start_kimg: float = 0.0,
        ema_buffers: bool = False,
        discriminator_steps: int = 1,
        generator_steps: int = 1,
        accumulate: int | str = 1,
        clip: Mapping[str, float] | None = None,
        lr_factors: Mapping[str, Callable[[int], float]] | None = None,
        compile: Sequence[str] = (),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        self.average: nn.Module | None = None
        if ema_kimg or ema_beta:
            self.average = deepcopy(generator).eval().requires_grad_(False)
        self.optimizer_makers = dict(optimizers)
        self.total_images = round(total_kimg * 1000)
        self.seed = seed
        self.ema_kimg, self.ema_rampup, self.ema_beta = ema_kimg, ema_rampup, ema_beta
        self.ema_start_kimg, self.ema_buffers = ema_start_kimg, ema_buffers
        self.discriminator_steps, self.generator_steps = discriminator_steps, generator_steps
        self.auto_accumulate = accumulate == "auto"
        if not (self.auto_accumulate or (isinstance(accumulate, int) and accumulate > 0)):
            raise UserError(f"model.accumulate must be a number or auto, not {accumulate}.")
        self.splits: dict[int, int] = {}  # micro-batches of stages that need more than one
        self.fixed_accumulate = 1 if isinstance(accumulate, str) else accumulate
        self.clip, self.lr_factors = dict(clip or {}), dict(lr_factors or {})
        self.compiled, self.channels_last = tuple(compile), channels_last
        for kind, names in (
            ("optimizers", self.optimizer_makers),
            ("clip", self.clip),
            ("lr_factors", self.lr_factors),
            ("compile", self.compiled),
        ):
            self._check_names(kind, names)

        # Images of a discriminator step over all processes, where the model decides that.
        self.batch_size: Callable[[int], int] | None = None
        # Height and width of the images that the model makes use of, where these are not all.
        # Smaller ones may arrive then, means over boxes, and need not.
        self.shown_size: Callable[[int], tuple[int, int]] | None = None
        self.boundary: float | None = 0.0  # of logits; None where only differences count
        # Loss of a discriminator that tells nothing apart; None where losses have no such scale.
        self.ignorance: float | None = None
        # What is reported of each discriminator: its loss without penalties, its mean logits of
        # reals and of fakes.
        self.contests = {"discriminator": ("adversarial_loss", "real_score", "fake_score")}
        self.classes = 0  # of images; 0 for none
        self.class_names: list[str] | None = None  # of the data that it was trained on
        self.images_seen = 0  # the clock: images shown to the discriminator, over all processes
        self.images_before = 0  # the clock before the last iteration
        self.whole = True  # false in the middle of an iteration, when a checkpoint would be torn
        self.aside = 0.0  # seconds spent on other things than training, such as metrics
        self.rollbacks = 0  # how often the run went back to an earlier state, each with other draws
        self.going_back: Path | None = None  # the checkpoint to go back to, when training has ended
        self.signal = 0  # that asked this process to stop
        self.stopped_by = 0  # the signal that ended the run early
        self.given_up = ""  # a sentence on why the run ended early
        self.listeners: list[Callable[[str, float], None]] = []  # told of every number noted
        self.config: dict[str, Any] | None = None  # what `ganzoo.load` rebuilds the model from
        self.last_checkpoint: str | None = None
        self.draws = Draws(seed)
        self.stands = False  # inside of `standing`
        self._network = ""  # being updated
        self._recent: list[tuple[int, dict[str, Tensor]]] = []  # not yet looked at
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    # -- what a model defines ---------------------------------------------------------------------

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update every network; return the losses by name (scalars, detached)."""
        raise NotImplementedError

    def sample(
        self,
        prompts: Any,
        label: int | None = None,
        truncation: float | None = None,
        raw: bool = False,
    ) -> Tensor:
        """Images, float NCHW in [-1, 1], for seeds (or for what else the model starts from).

        `label` picks a class, `truncation` limits the latents, `raw` takes the generator instead of
        its average.
        """
        raise NotImplementedError

    def latents(self, seeds: Sequence[int], truncation: float | None = None) -> Tensor:
        """One latent vector per seed, [len(seeds), nz]; a model without latents has none."""
        raise UserError(f"{type(self).__name__} has no latent space to draw from or walk in.")

    def images(
        self,
        latents: Tensor,
        raw: bool = False,
        labels: int | Tensor | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Images of latents, float NCHW in [-1, 1].

        `labels` is a class, one for each, int64 [N], or vectors of classes as `class_vectors` gives
        them; `truncation` is what the latents were limited to.
        """
        raise UserError(f"{type(self).__name__} has no latent space to draw from or walk in.")

    def class_vectors(self, labels: Tensor, raw: bool = False) -> Tensor:
        """What the generator makes of labels [N], [N, D]; what lies between two is between them."""
        raise UserError(f"{type(self).__name__} has no classes that one could walk between.")

    def labels(self, seeds: Sequence[int]) -> Tensor | None:
        """The class that `sample` takes for each seed, int64 [len(seeds)]; None: no classes."""
        return None

    def translate(self, images: Tensor, direction: str = "AtoB", raw: bool = False) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] as the other domain would show them, of the same size."""
        raise UserError(f"{type(self).__name__} makes images from seeds: it translates none.")

    def network(self, raw: bool = False) -> Any:
        """The average generator, or with `raw`, or without an average, the one that is trained."""
        return self.generator if raw or self.average is None else self.average

    @property
    def stored_statistics(self) -> bool:
        """Whether the generator came with statistics of BatchNorm for several truncations."""
        return False

    @contextmanager
    def standing(
        self,
        truncation: float | None = None,
        batches: int = 16,
        size: int = 64,
        raw: bool = False,
        seed: int = 0,
    ) -> Iterator[bool]:
        """Inside, images are made with standing statistics (Brock et al. 2019, appendix).

        BatchNorm's statistics of the average (or the raw) generator are estimated anew: means over
        fresh batches of latents limited by `truncation`, with labels as `labels` gives them.
        Running statistics follow a generator that changes, with latents that are not limited.
        Afterwards all is as before. Every process does the same by itself.

        Args:
            truncation: of the latents.
            batches: how many.
            size: of each.
            raw: for the generator instead of its average.
            seed: of latents and labels.

        Yields:
            whether there are any such statistics.
        """
        network = self.network(raw)
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        before = [(b, b.clone()) for b in network.buffers()]
        momenta = [norm.momentum for norm in norms]
        try:
            with evaluating(network), local_batchnorm(network), torch.no_grad():
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # plain means
                    norm.train()
                for batch in range(batches if norms else 0):
                    first = STANDING + (seed * batches + batch) * size
                    seeds = range(first, first + size)
                    y = self.labels(seeds)
                    network(self.latents(seeds, truncation), *([] if y is None else [y]))
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            self.stands = bool(norms)
            yield self.stands
        finally:
            self.stands = False
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)

    @torch.no_grad()
    def judge(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The discriminator's logits [N] for images [N, C, H, W] in [-1, 1], as in training.

        So BatchNorm takes the statistics of these very images, which should be all real or all
        fake; the running ones, which are of both, stay as they are. Where there are several logits
        for an image, their mean. Those above `boundary` are taken for real.
        """
        with trying(self.discriminator):
            logits = self.discriminator(images.to(self.number_type))
            return logits.reshape(len(images), -1).mean(1)

    def after_step(self) -> None:
        """What a model does when the clock has moved on, before anything is saved."""

    def stage(self, images: int) -> int:
        """The number of the phase of training that the run is in after so many images."""
        return 0

    def stages(self) -> dict[int, str]:
        """The phases still to come, the present one first: images seen when each begins -> name."""
        return {self.images_seen: ""}

    def tick_kimg(self, images: int) -> float:
        """Thousands of images between two reports, for callbacks that leave that to the model."""
        return 1.0

    # -- what a model uses ------------------------------------------------------------------------

    @contextmanager
    def updating(self, name: str) -> Iterator[None]:
        """One optimizer step of network `name`, after the backward passes made inside.

        Inside, only that network's parameters require gradients. Without an exception its gradients
        are averaged over the processes, clipped and stepped with; in any case they are then freed
        and `requires_grad` is as before.
        """
        own = {id(p) for p in self.get_submodule(name).parameters()}
        frozen = [p for p in self.parameters() if p.requires_grad and id(p) not in own]
        for parameter in frozen:
            parameter.requires_grad_(False)
        optimizer = self._optimizer(name)
        self._network = name
        try:
            yield
            optimizer.step()
        finally:
            optimizer.zero_grad(set_to_none=True)
            for parameter in frozen:
                parameter.requires_grad_(True)

    def update(self, name: str, loss: Callable[..., Tensor], *parts: Sequence[Any]) -> Tensor:
        """One optimizer step of network `name` on `loss(*part)`; returns the loss, detached.

        `parts` are micro-batches as `split` makes them, of images, latents and other draws. Their
        losses are averaged, so a run does not depend on how many there are (unless samples see each
        other, as in BatchNorm).
        """
        total = torch.zeros((), device=self.device)
        with self.updating(name):
            for part in zip(*parts, strict=True):
                value = loss(*part) / self.accumulate
                self.manual_backward(value)
                total = total + value.detach()
        return total

    @property
    def accumulate(self) -> int:
        """Micro-batches that a batch is split into now."""
        return self.splits.get(self.stage(self.images_seen), self.fixed_accumulate)

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The `accumulate` micro-batches of a batch of images or draws.

        Raises `UserError` if they would not be equal.
        """
        if len(rows) % self.accumulate:
            raise UserError(
                f"{len(rows)} images a device do not split into model.accumulate="
                f"{self.accumulate} equal parts: change batch_size or model.accumulate."
            )
        return rows.chunk(self.accumulate)

    def note(self, **values: Tensor) -> None:
        """Report scalars beside the losses. Means are logged; not finite ones stop the run."""
        self._recent.append((self.images_seen, {k: v.detach() for k, v in values.items()}))

    def contest(
        self, real: Tensor, fake: Tensor, name: str = "discriminator", scale: float = 1.0
    ) -> Tensor:
        """The loss of a discriminator, before penalties are added: a scalar.

        Reports it and the mean logits, by the names that `contests` has for them.

        Args:
            real, fake: logits of as many reals and fakes, [N] or [N, ...].
            name: of the discriminator, where there are several.
            scale: that `self.loss` is multiplied with.
        """
        loss = scale * self.loss.discriminator(real, fake)
        told = (loss, real.mean(), fake.mean())
        self.note(**dict(zip(self.contests[name], told, strict=True)))
        return loss

    @property
    def number_type(self) -> torch.dtype:
        """Of the weights, and so of latents and images."""
        return next(self.generator.parameters()).dtype

    def learning_rates(self) -> dict[str, float]:
        """What each network's optimizer steps with now."""
        return {n: self._optimizer(n).param_groups[0]["lr"] for n in self.optimizer_makers}

    @torch.no_grad()
    def weight_norms(self) -> dict[str, float]:
        """The norm of all parameters of each network that is updated by itself."""
        norms = {
            name: nn.utils.get_total_norm(self.get_submodule(name).parameters())
            for name in self.optimizer_makers
        }
        return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))

    # -- one iteration ----------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """One iteration. All progress happens here, so a checkpoint made after it is whole."""
        self.whole = False
        self._reseed()
        self._set_learning_rates()
        if self.channels_last:
            batch = {
                k: v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v
                for k, v in batch.items()
            }
        self.note(**self.step(batch))
        average_over_processes(self._synced_buffers())
        images = self.images_in(batch)
        self.images_before, self.images_seen = self.images_seen, self.images_seen + images
        self._update_average(images)
        self.after_step()
        self.whole = True
        # Looking at a number waits for the device, so on a GPU many iterations are looked at once.
        if self.device.type == "cpu" or len(self._recent) >= 256:
            self.check_finite()
        if self.images_seen >= self.total_images:
            self.trainer.should_stop = True

    def images_in(self, batch: Batch) -> int:
        """By how much the clock moves on with a batch: its images, over all processes."""
        return len(next(iter(batch.values()))) * world_size()

    def validation_step(self, prompts: Any, batch_idx: int = 0) -> Tensor:
        return self.sample(prompts)

    def check_finite(self) -> None:
        """Raise `NotFinite` if a loss, gradient or noted value was NaN or infinite."""
        recent, self._recent = self._recent, []
        flat = [(seen, name, value) for seen, values in recent for name, value in values.items()]
        if not flat:
            return
        numbers = torch.stack([value.float().reshape(()) for *_, value in flat]).tolist()
        for (seen, name, _), number in zip(flat, numbers, strict=True):
            if not math.isfinite(number):
                self.whole = False  # what there is now must not be saved
                raise NotFinite(
                    f"{name} became {number} after {seen:,} images: training cannot go on. "
                    f"Last good checkpoint: {self.last_checkpoint or 'none yet'}. Start a new "
                    f"run_dir, with init_from=CHECKPOINT to keep its weights, and a lower learning "
                    f"rate, model.clip or precision=32-true."
                )
            for listener in self.listeners:
                listener(name, number)
            self._sums[name] += number
            self._counts[name] += 1

    def forget_report(self) -> None:
        """Drop everything noted since the last report."""
        self._recent = []
        self._sums.clear()
        self._counts.clear()

    def drain_report(self) -> dict[str, float]:
        """Means of everything noted since the last call, over all processes."""
        self.check_finite()
        names = sorted(self._sums)
        means = torch.tensor([self._sums[n] / self._counts[n] for n in names], device=self.device)
        average_over_processes([means])
        self.forget_report()
        return dict(zip(names, means.tolist(), strict=True))

    # -- Lightning's hooks ------------------------------------------------------------------------

    def configure_optimizers(self) -> list[Optimizer]:
        optimizers = []
        for name, make in self.optimizer_makers.items():
            try:
                optimizer = make(self.get_submodule(name).parameters())
            except (TypeError, ValueError) as error:
                raise UserError(f"model.optimizers.{name} does not work: {error}.") from error
            for group in optimizer.param_groups:
                group["base_lr"] = group["lr"]
            optimizers.append(optimizer)
        return optimizers

    def setup(self, stage: str) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not isinstance(strategy, Replicated):
            raise UserError(
                "Plain DDP cannot train two networks that take turns: start with trainer=ddp "
                "(from Python: Trainer(strategy=ganzoo.distributed.strategy.Replicated()))."
            )
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        for name in self.compiled:
            network = self.get_submodule(name)
            for part in network.values() if isinstance(network, nn.ModuleDict) else [network]:
                part.compile()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Gradients are averaged by now: measure them, and clip where asked."""
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norm = nn.utils.get_total_norm(gradients)
        self.note(**{f"{self._network}_grad_norm": norm})
        if (limit := self.clip.get(self._network)) is not None:
            nn.utils.clip_grads_with_norm_(
                [p for group in optimizer.param_groups for p in group["params"]], limit, norm
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ganzoo"] = {
            "version": version_now,
            "images_seen": self.images_seen,
            "rollbacks": self.rollbacks,
            "config": self.config,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_fits(self, checkpoint)
        self.images_seen = self.images_before = checkpoint["ganzoo"]["images_seen"]
        self.rollbacks = checkpoint["ganzoo"].get("rollbacks", 0)

    def train(self, mode: bool = True) -> "GAN":
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    # -- details ----------------------------------------------------------------------------------

    def _optimizer(self, name: str) -> Any:
        optimizers = self.optimizers()
        if not isinstance(optimizers, list):
            optimizers = [optimizers]
        return optimizers[list(self.optimizer_makers).index(name)]

    def _check_names(self, kind: str, names: Sequence[str] | Mapping[str, Any]) -> None:
        modules = dict(self.named_modules())
        for name in names:
            if name not in modules:
                raise UserError(
                    f"model.{kind} names a network {name!r}, which this model does not have: use "
                    f"'generator', 'discriminator' or a part of one of them."
                )

    def _reseed(self) -> None:
        again = ("again", self.rollbacks) if self.rollbacks else ()
        key: tuple[int | str, ...] = (self.seed, "step", self.images_seen, *again)
        rank = self.global_rank
        # Layers that draw for themselves (dropout) use the default generator: one stream a process.
        # (`torch.manual_seed` asks every kind of device there might be, which takes longer.)
        torch.default_generator.manual_seed(seed_of(*key, rank))
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed_of(*key, rank))
        self.draws = Draws(
            *key, rank=rank, world=world_size(), device=self.device, dtype=self.number_type
        )

    def _set_learning_rates(self) -> None:
        for name, factor in self.lr_factors.items():
            for group in self._optimizer(name).param_groups:
                group["lr"] = group["base_lr"] * factor(self.images_seen)

    def _synced_buffers(self) -> list[Tensor]:
        """Buffers that differ between processes because their batches do.

        They are averaged each iteration, so that whoever reads them, a checkpoint or a sample grid,
        finds the same everywhere and changes nothing by reading.
        """
        return [b for net in (self.generator, self.discriminator) for b in net.buffers()]

    @torch.no_grad()
    def _update_average(self, images: int) -> None:
        if self.average is None:
            return
        beta = self.ema_beta
        if self.images_seen <= self.ema_start_kimg * 1000:
            beta = 0.0
        elif beta is None:
            beta = ema_beta(images, self.ema_kimg, self.ema_rampup, self.images_seen)
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.generator.parameters()), 1 - beta
        )
        for target, source in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            if self.ema_buffers and target.is_floating_point():
                target.lerp_(source, 1 - beta)
            else:
                target.copy_(source)


def translated(gan: GAN, images: Tensor, direction: str, raw: bool = False) -> Tensor:
    """`gan.translate` of any number of images, a few at a time."""
    few = max(1, PIXELS // (images.shape[2] * images.shape[3]))
    return torch.cat([gan.translate(part, direction, raw) for part in images.split(few)])


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """`network` in eval mode, and as it was afterwards."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@contextmanager
def trying(network: nn.Module) -> Iterator[None]:
    """`network` in training mode; afterwards its mode and buffers are as they were."""
    training, buffers = network.training, [(b, b.clone()) for b in network.buffers()]
    network.train()
    try:
        yield
    finally:
        network.train(training)
        for buffer, before in buffers:
            buffer.copy_(before)
