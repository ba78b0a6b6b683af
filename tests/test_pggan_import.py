"""PGGANs of pytorch_GAN_zoo and of the official code give the same images and scores here."""

import pytest
import torch
from makers.pggan_files import (
    WIDTHS,
    tf_arrays,
    tf_images,
    tf_scores,
    zoo_checkpoint,
    zoo_images,
    zoo_scores,
)

from ganzoo.errors import UserError
from ganzoo.models.pggan.imports import from_gan_zoo, load_tf, tf_names
from ganzoo.models.pggan.networks import Discriminator, Generator

NARROW = {"fmap_base": 64, "fmap_max": 8}


# -- pytorch_GAN_zoo ------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
@pytest.mark.parametrize(("categories", "stddev"), [(0, True), (3, False)])
def test_networks_of_gan_zoo_give_its_images_and_scores(scales, alpha, categories, stddev):
    torch.manual_seed(scales)
    checkpoint = zoo_checkpoint(WIDTHS[: scales + 1], 10, 3, categories, stddev)
    networks = {name: net.double() for name, net in from_gan_zoo(checkpoint).items()}
    z, images = torch.randn(8, 10).double(), torch.randn(8, 3, 4 * 2**scales, 4 * 2**scales)
    lod = min(alpha, 1 - 1e-9)  # an alpha of 1 has no lod of its own, but a limit
    for ours, theirs in (("generator", "netG"), ("average", "avgG")):
        expected = zoo_images(checkpoint[theirs], z, scales, alpha)
        torch.testing.assert_close(networks[ours](z, lod=lod), expected, rtol=1e-6, atol=1e-6)
    scores = networks["discriminator"](images.double(), lod)
    expected = zoo_scores(checkpoint["netD"], images.double(), scales, alpha, stddev)
    assert scores.shape == ((8, 4) if categories else (8,))
    torch.testing.assert_close(scores.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6)


def test_gan_zoo_files_may_be_older_and_without_an_average():
    checkpoint = zoo_checkpoint()
    del checkpoint["avgG"]
    older = {
        name: {key.replace(".module", ""): value for key, value in checkpoint[name].items()}
        for name in ("netG", "netD")
    }
    expected, networks = from_gan_zoo(checkpoint), from_gan_zoo(older)
    assert set(networks) == {"generator", "discriminator"}
    z = torch.randn(2, 8)
    assert torch.equal(networks["generator"](z), expected["generator"](z))


def test_default_widths_of_gan_zoo_are_those_of_the_paper():
    widths = [512, 512, 512, 512, 256, 128]
    with torch.device("meta"):
        networks = from_gan_zoo(zoo_checkpoint(widths, 512))
    assert networks["generator"].widths == networks["discriminator"].widths == widths
    assert networks["generator"].resolution() == (128, 128)


def test_what_is_no_gan_zoo_checkpoint_is_refused():
    with pytest.raises(UserError, match="it has no netD and netG"):
        from_gan_zoo({"generator": {}})
    extra = zoo_checkpoint()
    extra["netD"]["more.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"differ from ours in more\.weight"):
        from_gan_zoo(extra)
    less = zoo_checkpoint()
    del less["netG"]["scaleLayers.1.0.module.bias"]
    with pytest.raises(UserError, match=r"differ from ours in blocks\.2\.0\.bias"):
        from_gan_zoo(less)
    with pytest.raises(UserError, match=r"\[8, 4, 4\] do not follow"):
        from_gan_zoo(zoo_checkpoint([8, 4, 4]))


# -- the official code ----------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
def test_official_variables_give_the_official_images_and_scores(fused):
    torch.manual_seed(0)
    arrays = tf_arrays(Generator, fused)
    generator = Generator(16, fused_scale=fused, **NARROW).double()
    plain = {name: array.numpy() for name, array in arrays.items()}
    assert load_tf(generator, plain) is generator
    z, x = torch.randn(8, 8).double(), torch.randn(8, 3, 16, 16).double()
    torch.testing.assert_close(generator(z), tf_images(arrays, z, fused))
    arrays = tf_arrays(Discriminator, fused)
    discriminator = load_tf(Discriminator(16, fused_scale=fused, **NARROW).double(), arrays)
    torch.testing.assert_close(discriminator(x)[:, None], tf_scores(arrays, x, fused))


def test_every_parameter_has_an_official_name():
    for build in (Generator, Discriminator):
        for options in ({}, {"fused_scale": False}, {"classes": 3}):
            network = build(32, **options, **NARROW)
            table = tf_names(network)
            names = [variable.name for variable in table.values()]
            assert sorted(names) == sorted(dict(network.named_parameters()))
    names = tf_names(Generator(1024, fmap_max=2))
    assert names["1024x1024/Conv0_up/weight"] == ("blocks.8.0.weight", (2, 3, 0, 1), True)
    assert names["ToRGB_lod8/bias"] == ("to_rgb.0.bias", (0,), False)


def test_variables_of_another_network_are_refused():
    arrays = tf_arrays(Generator, True)
    with pytest.raises(UserError, match="differ in 16x16/Conv0/bias"):
        load_tf(Generator(16, fused_scale=False, **NARROW), arrays)
    with pytest.raises(UserError, match="4x4/Dense/weight gives weights of shape"):
        load_tf(Generator(16, nz=9, **NARROW), arrays)
    with pytest.raises(UserError, match=r"ToRGB_lod\d/weight gives weights of shape"):
        load_tf(Generator(16, channels=1, **NARROW), arrays)
    for wrong in (object(), [1.0, 2.0], "text"):
        with pytest.raises(UserError, match=r"8x8/Conv1/weight is no array of 4 dimensions"):
            load_tf(Generator(16, **NARROW), arrays | {"8x8/Conv1/weight": wrong})
