"""When a growing network grows, and what else depends on its size: functions of images seen.

The rules are those of the official code: level after level is trained for `train_kimg` and the next
is faded in over `fade_kimg`. Level i has a resolution of 4 * 2^i: the side of a square image, and
the name of that level for other images and in the tables below.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ganzoo.errors import UserError
from ganzoo.nn.layers import halved_grid

# 4x4 for any power of two, 7x7 for 28, (6, 10) for [48, 80].
base_grid = partial(halved_grid, least=4, times=1)

TICKS = {4: 160, 8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 20, 1024: 10}

MOST = 1_000_000  # images of an iteration, and repetitions; more never ends


@dataclass(frozen=True)
class Growth:
    """The schedule of progressive growing (Karras et al. 2018, appendix A, and the official code).

    As soon as a level begins to fade in, its own batch size, learning rate and tick length hold.

    Raises UserError: an image size that cannot grow, a negative time, a batch without images, a
    resolution that no level can have.
    """

    image_size: int | Sequence[int]  # of the full images, as the networks have it
    # Thousands of images that each level is trained with before the next, and over which a level
    # fades in. Both 0: no growth. None: see `within`.
    train_kimg: float | None = 600
    fade_kimg: float | None = 600
    batch_size: int = 16  # images of an iteration, over all processes
    batch_sizes: Mapping[int, int] = field(default_factory=dict)  # the same by resolution
    max_per_process: Mapping[int, int] = field(default_factory=dict)  # largest batch by resolution
    lr_factors: Mapping[int, float] = field(default_factory=dict)  # by resolution; else 1
    # Thousands of images over which the learning rate rises by exp(-5 (1 - kimg / rampup_kimg)^2);
    # 40 in the paper's code.
    rampup_kimg: float = 0
    # Thousands of images between two reports, by resolution; else 160.
    ticks_kimg: Mapping[int, float] = field(default_factory=TICKS.copy)
    repeats: int = 4  # iterations between two updates of the schedule; see `moment`
    initial_resolution: int = 4  # of the first level; the official `lod_initial_resolution`

    def __post_init__(self) -> None:
        base_grid(self.image_size)  # raises
        for name in ("train_kimg", "fade_kimg", "rampup_kimg"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise UserError(f"{name}={getattr(self, name)} is no length: give 0 or more.")
        counts = [self.batch_size, self.repeats, *self.batch_sizes.values()]
        if not 1 <= min(counts) <= max(counts) <= MOST:
            raise UserError(f"batch_size, batch_sizes and repeats have to be from 1 to {MOST}.")
        for name in ("batch_sizes", "max_per_process", "lr_factors", "ticks_kimg"):
            # From a command line a key is a string, and it comes after the file's own.
            table = {
                int(key) if str(key).isdecimal() else key: value
                for key, value in getattr(self, name).items()
            }
            object.__setattr__(self, name, table)
            for key in table:
                if not isinstance(key, int) or key < 4 or key.bit_count() != 1:
                    raise UserError(
                        f"{name} has an entry for {key}, which is not the resolution of a level: "
                        f"use 4, 8, 16 and further powers of two."
                    )
        if self.initial_resolution not in [4 * 2**level for level in range(self.levels + 1)]:
            raise UserError(
                f"initial_resolution={self.initial_resolution} is not the resolution of a level: "
                f"use a power of two from 4 to {4 * 2**self.levels}."
            )

    def within(self, total_kimg: float) -> "Growth":
        """This schedule with the lengths that are None, for a run of a length.

        Where one is None, it is the other. Where both are, all stages have the same length, but the
        last one, of full-size images, has twice that.
        """
        train, fade = self.train_kimg, self.fade_kimg
        if train is None and fade is None:
            train = total_kimg / (2 * (self.levels - self.first) + 2)
        return replace(
            self,
            train_kimg=fade if train is None else train,
            fade_kimg=train if fade is None else fade,
        )

    @property
    def levels(self) -> int:
        """How many doublings lead from the base grid to the whole image."""
        return base_grid(self.image_size)[1]

    @property
    def first(self) -> int:
        """The level that is trained first."""
        return int(math.log2(self.initial_resolution)) - 2

    # -- where the run is -------------------------------------------------------------------------

    def lod(self, images: int) -> float:
        """How many doublings are missing after so many images: 0 at the end."""
        train, fade = self._lengths()
        if train + fade == 0:
            return 0.0
        phase, rest = divmod(images, train + fade)
        faded = max(0, rest - train) / fade if fade else 0.0
        return max(0.0, self.levels - self.first - phase - faded)

    def resolution(self, images: int) -> int:
        """The resolution of the highest active level, 4 * 2^level; one that fades in counts."""
        return 4 * 2 ** (self.levels - math.floor(self.lod(images)))

    def stage(self, images: int) -> int:
        """0 for level 0; 2i - 1 while level i fades in, 2i when it has."""
        lod = self.lod(images)
        return 2 * self.levels - math.floor(lod) - math.ceil(lod)

    def stage_name(self, images: int) -> str:
        """The size of that stage's images, and whether it fades in, for a person to read."""
        lod = self.lod(images)
        (height, width), levels = base_grid(self.image_size)
        times = 2 ** (levels - math.floor(lod))
        return f"{times * height}x{times * width}" + (" fading in" if lod % 1 else "")

    def starts(self) -> dict[int, int]:
        """The images seen when each stage begins, by stage; stages without length are left out."""
        train, fade = self._lengths()
        if train + fade == 0:
            return {2 * self.levels: 0}
        starts = {}
        for level in range(self.first, self.levels + 1):
            phase = level - self.first
            if fade and phase:
                starts[2 * level - 1] = (phase - 1) * (train + fade) + train + 1
            if train or level == self.levels:
                starts[2 * level] = phase * (train + fade)
        return starts

    # -- what depends on it -----------------------------------------------------------------------

    def batch(self, images: int, processes: int = 1) -> int:
        """Images an iteration, over all processes; each has the same number.

        Raises UserError if there are more processes than images.
        """
        resolution = self.resolution(images)
        batch = self.batch_sizes.get(resolution, self.batch_size)
        each = batch // processes
        if resolution in self.max_per_process:
            each = min(each, self.max_per_process[resolution])
        if not each:
            raise UserError(
                f"a batch of {batch} at {resolution} px cannot be divided among {processes} "
                f"processes: add ++model.growth.batch_sizes.{resolution}={processes} or more."
            )
        return each * processes

    def lr_factor(self, images: int) -> float:
        """The factor of the learning rate."""
        factor = self.lr_factors.get(self.resolution(images), 1.0)
        if self.rampup_kimg:
            left = max(0.0, 1 - images / (1000 * self.rampup_kimg))
            factor *= math.exp(-5 * left**2)
        return factor

    def tick_kimg(self, images: int) -> float:
        """Thousands of images between two reports."""
        return self.ticks_kimg.get(self.resolution(images), 160)

    def moment(self, images: int, processes: int = 1, steps: int = 1) -> int:
        """The images seen when the schedule was last evaluated.

        The official loop evaluates it every `repeats` iterations, of `steps` batches each; lod,
        batch and learning rate stay the same in between. Only growth changes the batch, so
        evaluations are evenly spaced within each level; this walks over the levels.
        """
        train, fade = self._lengths()
        evaluated = 0
        for level in range(self.levels - self.first + 1):  # from the first on
            end = images
            if level < self.levels - self.first and train + fade:
                # The most images with this level as the highest; a fade begins just after.
                last = level * (train + fade) + train if fade else (level + 1) * train - 1
                end = min(images, last)
            if evaluated <= end:
                stride = self.batch(evaluated, processes) * self.repeats * steps
                evaluated += ((end - evaluated) // stride + 1) * stride
                if evaluated > images:
                    return evaluated - stride
        return evaluated

    def _lengths(self) -> tuple[int, int]:
        """In images."""
        if self.train_kimg is None or self.fade_kimg is None:
            raise UserError("This growth has no lengths: give train_kimg and fade_kimg.")
        return round(1000 * self.train_kimg), round(1000 * self.fade_kimg)
