"""One iteration of training, and what all models share.

The path of a batch through a run:

    train: data, gan, trainer = make(cfg.data), make(cfg.model), make_trainer(cfg)
    trainer.fit:                                                    # Lightning loops for ever over
      batch = data: Stream(images_seen) -> source uint8 -> device: crop, mirror, [-1, 1]
      gan.training_step(batch):
        draws, learning rates = functions of images_seen
        model.step(batch):
          with gan.updating("discriminator"): losses.backward()     # only D requires gradients
            -> all-reduce of D's gradients, clip, Adam
          with gan.updating("generator"): ...
        images_seen += batch; average; after_step                   # all progress is here
      callbacks: ticks, grid, evaluation, sentinel, saving          # each at its period

`GAN` has the clock and the iteration; next to it, `turns` updates networks, `report` collects
numbers, `average` follows the generator, `fitting` splits batches, and `control` is what callbacks
tell a run. A model subclasses one of the two kinds in `kinds`, and defines `step`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from ganzoo import __version__
from ganzoo.config.values import Count, Kimg, NotNegative, Seed, Share
from ganzoo.distributed.collectives import average_over_processes, world_size
from ganzoo.distributed.strategy import Replicated
from ganzoo.draws import Draws, seed_of
from ganzoo.engine.average import Averaging
from ganzoo.engine.control import Control
from ganzoo.engine.fitting import Fitting
from ganzoo.engine.modes import in_train_mode
from ganzoo.engine.report import Report
from ganzoo.engine.saving import FORMAT, check_fits
from ganzoo.engine.turns import Turns, check_names
from ganzoo.errors import UserError
from ganzoo.nn.losses import Loss
from ganzoo.nn.objective import Objective

Batch = dict[str, Tensor]


class GAN(L.LightningModule):
    """A generator, a discriminator, and one clock: `images_seen`.

    Args:
        generator, discriminator: the networks; a `ModuleDict` if a model has several of a kind.
        optimizers: for each network that is updated by itself (a submodule's name), a function
            from parameters to an optimizer.
        total_kimg: length of the run, in thousands of images shown to the discriminator.
        seed: seed of every random number of the run.
        ema_kimg: half-life of the average generator in thousands of images; 0 for no average.
        ema_rampup: largest half-life as a share of the images seen; None for no such limit.
        ema_beta: fixed decay per iteration instead of a half-life, for papers that fix it.
        ema_start_kimg: thousands of images until which the average is a copy of the generator.
        ema_buffers: whether to average buffers (BatchNorm statistics), too, instead of copying.
        discriminator_steps: updates of the discriminator per iteration, each with new images.
        generator_steps: updates of the generator per iteration.
        accumulate: number of micro-batches that a batch is split into; their gradients add up to
            those of the batch. "auto": as many as each stage of training needs to fit into memory.
        clip: for each named network, the largest gradient norm; longer gradients are scaled down.
        lr_factors: for each named network, a function of the images seen that its learning rate
            is multiplied with.
        penalty_every: iterations from one penalty to the next. Its weight is multiplied by this, so
            that its mean stays: lazy regularization (Karras et al. 2020, appendix B).
        compile: names of the networks to run through `torch.compile`.
        channels_last: whether to keep weights and images in the channels-last memory format.
    """

    domains: tuple[str, ...] = ("",)  # that images come from; one without a name if there is one
    loss: Loss  # of both networks, as functions of logits
    objective: Objective  # that loss, penalties and augmentation; see `minimize`

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        optimizers: Mapping[str, Callable[..., Optimizer]],
        total_kimg: Kimg,
        seed: Seed = 0,
        ema_kimg: NotNegative = 10.0,
        ema_rampup: NotNegative | None = 0.05,
        ema_beta: Share | None = None,
        ema_start_kimg: NotNegative = 0.0,
        ema_buffers: bool = False,
        discriminator_steps: Count = 1,
        generator_steps: Count = 1,
        accumulate: Count | str = 1,
        clip: Mapping[str, float] | None = None,
        lr_factors: Mapping[str, Callable[[int], float]] | None = None,
        penalty_every: Count = 1,
        compile: Sequence[str] = (),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # Lightning steps once an iteration; here networks do
        self.generator = generator
        self.discriminator = discriminator
        self.averaging = Averaging(ema_kimg, ema_rampup, ema_beta, ema_start_kimg, ema_buffers)
        self.average: nn.Module | None = None
        if self.averaging.wanted:
            self.average = deepcopy(generator).eval().requires_grad_(False)
        self.control = Control()
        self.report = Report(self.control)
        self.turns = Turns(self, optimizers, clip or {}, lr_factors or {})
        self.fitting = Fitting(accumulate)
        self.compiled, self.channels_last = tuple(compile), channels_last
        check_names(self, "compile", self.compiled)
        self.total_images = round(total_kimg * 1000)
        self.seed = seed
        self.discriminator_steps, self.generator_steps = discriminator_steps, generator_steps
        # The logit above which an image is taken for real; None if only differences count.
        self.boundary: float | None = 0.0
        self.loss_at_chance: float | None = None  # the discriminator's; None if there is no such
        # For each discriminator, the names under which its loss without penalties and its mean
        # logits of reals and of fakes are reported.
        self.discriminator_reports = {
            "discriminator": ("losses/adversarial_loss", "logits/real", "logits/fake")
        }
        self.classes = 0
        self.class_names: list[str] | None = None
        # The clock: images shown to the discriminator, over all processes; before the last step.
        self.images_seen = self.images_before = 0
        self.penalty_every, self.penalty_strength = penalty_every, 1  # of the current iteration
        self.rollbacks = 0  # how often the run went back to an earlier state
        self.draws = Draws(seed)  # of the current iteration
        self.config: dict[str, Any] | None = None  # that `ganzoo.load` rebuilds the model from
        # For models that grow; see the section below.
        self.batch_size: Callable[[int], int] | None = None
        self.shown_size: Callable[[int], tuple[int, int]] | None = None

    # -- what a model defines ---------------------------------------------------------------------

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update every network; return the losses by name (scalars, detached)."""
        raise NotImplementedError

    @torch.no_grad()
    def logits_of(self, images: Tensor, labels: Tensor | None = None, domain: str = "") -> Tensor:
        """The discriminator's logits [N] of images [N, C, H, W] in [-1, 1], as in training.

        So BatchNorm uses the statistics of these very images, which should be all real or all fake.
        The running statistics, which are of both, stay unchanged. If the discriminator has several
        logits for an image, this is their mean. `domain` says which discriminator, if there are
        several.
        """
        with in_train_mode(self.discriminator):
            logits = self.discriminator(images.to(self.number_type))
            return logits.reshape(len(images), -1).mean(1)

    # -- what a model that grows or changes in the course of a run may define besides --------------
    #
    # `batch_size(images)`: images of a discriminator step over all processes; None: the data's.
    # `shown_size(images)`: height and width of the images that the networks make use of. Smaller
    #     images may then arrive, shrunk by means over boxes, but need not; None: always all pixels.

    def stage(self, images: int) -> int:
        """The number of the phase of training that the run is in after so many images."""
        return 0

    def stages(self) -> dict[int, str]:
        """The phases still to come, the present one first: images seen when each begins -> name."""
        return {self.images_seen: ""}

    def tick_kimg(self, images: int) -> float:
        """Thousands of images between two reports, for callbacks that leave that to the model."""
        return 1.0

    def differs_from(self, checkpoint: dict[str, Any]) -> list[str]:
        """Sentences on what a run does not take from the checkpoint of its first weights."""
        return []

    def after_step(self) -> None:
        """What changes once the clock has advanced, before anything is saved."""

    # -- what a model uses ------------------------------------------------------------------------

    def minimize(self, objective: Objective) -> None:
        """Train on an objective: sets `objective`, `loss`, and what callbacks ask about the loss.

        Raises `UserError` if a network cannot be compiled with it.
        """
        objective.check_compiled(self.compiled)
        self.objective, self.loss = objective, objective.loss
        self.boundary, self.loss_at_chance = objective.loss.boundary, objective.at_chance

    @contextmanager
    def updating(self, name: str) -> Iterator[None]:
        """One optimizer step of network `name`, after the backward passes inside; see `Turns`."""
        with self.turns.updating(name):
            yield

    def update(self, name: str, loss: Callable[..., Tensor], *parts: Sequence[Any]) -> Tensor:
        """One optimizer step of network `name` on `loss(*part)` of micro-batches; see `Turns`."""
        return self.turns.update(name, loss, *parts)

    @property
    def accumulate(self) -> int:
        """Number of micro-batches that a batch is split into now."""
        return self.fitting.parts(self.stage(self.images_seen))

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The `accumulate` micro-batches of a batch of images or draws."""
        return self.fitting.split(rows, self.stage(self.images_seen))

    def note(self, **values: Tensor) -> None:
        """Report scalars besides the losses. Means are logged; NaN or infinity ends the run.

        A name may start with a group and a slash, such as "logits/real"; see docs/logging.md.
        """
        self.report.note(self.images_seen, values)

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, name: str = "discriminator", scale: float = 1.0
    ) -> Tensor:
        """The loss of a discriminator before penalties are added, times `scale`: a scalar.

        Reports it and the mean logits under the names in `discriminator_reports`. The logits of
        reals and fakes, [N] or [N, ...], are equally many.
        """
        loss = scale * self.loss.discriminator(real, fake)
        numbers = (loss, real.mean(), fake.mean())
        self.note(**dict(zip(self.discriminator_reports[name], numbers, strict=True)))
        return loss

    def network(self, raw: bool = False) -> Any:
        """The average generator; the one being trained with `raw` or if there is no average."""
        return self.generator if raw or self.average is None else self.average

    @property
    def number_type(self) -> torch.dtype:
        """The dtype of the weights, and so of latents and images."""
        return next(self.parameters()).dtype

    # -- one iteration ----------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """One iteration. All progress happens here, so a checkpoint made after it is complete."""
        self.control.savable = False  # until the last callback has acted on this iteration
        self._reseed()
        self.turns.set_learning_rates(self.images_seen)
        if self.channels_last:
            batch = {
                k: v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v
                for k, v in batch.items()
            }
        images = self.images_in(batch)
        now = self.images_seen // images % self.penalty_every == 0
        self.penalty_strength = self.penalty_every if now else 0
        losses = self.step(batch)
        self.note(**{f"losses/{name}": loss for name, loss in losses.items()})
        # Statistics of batches, which differ between processes.
        average_over_processes([*self.generator.buffers(), *self.discriminator.buffers()])
        # The clock first: how far the average follows depends on the images seen by now.
        self.images_before, self.images_seen = self.images_seen, self.images_seen + images
        if self.average is not None:
            self.averaging.update(self.average, self.generator, images, self.images_seen)
        self.after_step()
        if self.report.should_check(self.device):
            self.report.check_finite()
        if self.trained:
            self.trainer.should_stop = True

    @property
    def trained(self) -> bool:
        """Whether training is over; pictures and metrics of the end may be missing."""
        return self.images_seen >= self.total_images or self.control.enough != ""

    def images_in(self, batch: Batch) -> int:
        """How far a batch advances the clock: the number of its images over all processes."""
        return len(next(iter(batch.values()))) * world_size()

    def _reseed(self) -> None:
        """Start this iteration's random numbers, a function of seed, clock and process."""
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

    # -- Lightning's hooks ------------------------------------------------------------------------

    def configure_optimizers(self) -> list[Optimizer]:
        return self.turns.make_optimizers()

    def setup(self, stage: str) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not isinstance(strategy, Replicated):
            raise UserError(
                "Plain DDP cannot train two networks that take turns: start with trainer=ddp "
                "(from Python: Trainer(strategy=ganzoo.distributed.strategy.Replicated()))."
            )
        # Lightning does so only after it has restored the weights, which float32 would round.
        self.trainer.strategy.precision_plugin.convert_module(self)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        for name in self.compiled:
            # Networks that grow are compiled in each stage; torch gives up after 8 by itself.
            torch._dynamo.config.recompile_limit = 64
            network = self.get_submodule(name)
            for part in network.values() if isinstance(network, nn.ModuleDict) else [network]:
                part.compile()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Measure and clip gradients, which have been averaged over the processes by now."""
        self.note(**self.turns.clip_gradients(optimizer))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ganzoo"] = {
            "version": __version__,
            "format": FORMAT,
            "images_seen": self.images_seen,
            "rollbacks": self.rollbacks,
            "config": self.config,
            "class_names": self.class_names,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_fits(self, checkpoint)
        self.images_seen = self.images_before = checkpoint["ganzoo"]["images_seen"]
        self.rollbacks = checkpoint["ganzoo"]["rollbacks"]
        self.class_names = checkpoint["ganzoo"].get("class_names")

    def train(self, mode: bool = True) -> "GAN":
        super().train(mode)
        if self.average is not None:
            self.average.eval()  # it is never trained, so its mode stays
        return self
