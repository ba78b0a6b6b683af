"""The small networks of the mode test on MNIST-RGB (Karras et al. 2018, appendix E).

One 3x3 convolution a level, and a discriminator with fewer feature maps than the generator, so that
it has difficulty noticing which of the thousand modes are missing. The constants are those of the
paper's code; `conf/experiment/pggan_mnist_rgb.yaml` has the options.
"""

import math

from torch import nn

from ganzoo.models.pggan.layers import Layers, MinibatchDiscrimination, MinibatchStddev
from ganzoo.models.pggan.networks import Discriminator, Generator


class MNISTGenerator(Generator):
    """A generator whose level i has the feature maps of stage i, with a 3x3 convolution as toRGB.

    Leaky ReLU has a slope of 0.3.
    """

    first_stage, slope, rgb_kernel = 0, 0.3, 3

    def block(self, layers: Layers, first: nn.Module, maps: int) -> nn.Sequential:
        return nn.Sequential(first, layers.activation(), layers.pixel_norm())


class MNISTDiscriminator(Discriminator):
    """A discriminator whose levels are a convolution and average pooling.

    One dense layer scores the lowest level. The highest level has the image itself for features.
    """

    def lowest(self, layers: Layers, kernels: int) -> nn.Sequential:
        grouped = self.group_size > 1
        features = (self.widths[0] + grouped) * math.prod(self.grid)
        return nn.Sequential(
            MinibatchStddev(self.group_size) if grouped else nn.Identity(),
            nn.Flatten(),
            *([MinibatchDiscrimination(features, kernels)] if kernels else []),
            layers.scores(features + kernels, 1 + self.classes),
        )

    def block(self, layers: Layers, level: int) -> nn.Sequential:
        inputs = self.channels if level == self.levels else self.widths[level]
        return nn.Sequential(
            layers.down(inputs, self.widths[level - 1]), layers.activation(), layers.pool()
        )

    def features(self, layers: Layers, level: int) -> nn.Module:
        return nn.Identity() if level == self.levels else super().features(layers, level)
