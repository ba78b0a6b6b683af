"""SWD and MS-SSIM against computations of their own in NumPy and SciPy."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.stats
import torch

from ganzoo.metrics.sliced import SlicedWasserstein, _descriptors, _laplacian, sliced_wasserstein
from ganzoo.metrics.ssim import MSSSIM, ms_ssim

BINOMIAL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def pictures(n, channels, height, width, seed=0, detail=6):
    """uint8 images with structure at several scales."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, channels, detail, detail), generator=generator)
    fine = torch.rand((n, channels, height, width), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return ((0.8 * smooth + 0.2 * fine).clamp(0, 1) * 255).round().byte()


def value(metric, real, fake):
    metric.update(real, torch.arange(len(real)), True)
    metric.update(fake, torch.arange(len(fake)), False)
    return {name: float(part) for name, part in metric.compute().items()}


# -- SWD -------------------------------------------------------------------------------------------


def pyramid(image, least=16):
    """Laplacian pyramid of one channel [H, W]."""
    levels = [image.astype(np.float64)]
    while (min(levels[-1].shape) + 1) // 2 >= least:
        fine = levels[-1]
        small = scipy.ndimage.convolve(fine, BINOMIAL, mode="mirror")[::2, ::2]
        spread = np.zeros_like(fine)
        spread[::2, ::2] = small
        levels[-1] = fine - scipy.ndimage.convolve(spread, 4 * BINOMIAL, mode="mirror")
        levels.append(small)
    return levels


@pytest.mark.parametrize("size", [(64, 64), (35, 70), (16, 31)])
def test_pyramid_equals_scipy(size):
    images = pictures(2, 2, *size)
    expected = [[pyramid(channel) for channel in image] for image in images.numpy()]
    count = len(expected[0][0])
    assert count == {64: 3, 35: 2, 16: 1}[size[0]]
    for level in range(count):
        ours = _laplacian(images.double(), level, last=level == count - 1)
        theirs = np.array([[channel[level] for channel in image] for image in expected])
        np.testing.assert_allclose(ours, theirs, atol=1e-11)


def test_pyramid_of_a_constant_is_the_constant():
    images = torch.full((1, 1, 32, 32), 7.0)
    assert _laplacian(images, 0, last=False).abs().max() < 1e-5
    torch.testing.assert_close(_laplacian(images, 1, last=True), torch.full((1, 1, 16, 16), 7.0))


def test_descriptors_are_normalized_patches():
    images = pictures(3, 2, 20, 24)
    y, x = torch.tensor([[0, 13], [5, 2], [7, 7]]), torch.tensor([[17, 0], [1, 9], [3, 4]])
    patches = np.array([
        images.numpy()[i, :, y[i, j] : y[i, j] + 7, x[i, j] : x[i, j] + 7]
        for i in range(3) for j in range(2)
    ], dtype=np.float64)  # fmt: skip
    for channel in range(2):
        patches[:, channel] = scipy.stats.zscore(patches[:, channel], axis=None)
    ours = _descriptors(images, 0, True, y, x)
    np.testing.assert_allclose(ours, patches.reshape(6, -1), rtol=1e-5, atol=1e-6)


def test_sliced_distance_equals_scipy():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 30, 5, generator=generator)
    b = b * 2 + 1
    directions = torch.nn.functional.normalize(torch.randn(20, 5, generator=generator))
    expected = np.mean([scipy.stats.wasserstein_distance(a @ d, b @ d) for d in directions])
    assert float(sliced_wasserstein(a, b, directions)) == pytest.approx(expected, rel=1e-5)


def direct_swd(real, fake, patches, rng):
    """SWD of each level, all written out, with draws of its own."""
    result = []
    sets = [[[pyramid(c) for c in image] for image in images.numpy()] for images in (real, fake)]
    directions = rng.standard_normal((512, real.shape[1] * 49))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for level in range(len(sets[0][0][0])):
        projections = []
        for images in sets:
            found = []
            for image in images:
                planes = np.stack([channel[level] for channel in image])
                for _ in range(patches):
                    y, x = (rng.integers(0, side - 6) for side in planes.shape[1:])
                    found.append(planes[:, y : y + 7, x : x + 7])
            found = np.array(found)
            found -= found.mean((0, 2, 3), keepdims=True)
            found /= found.std((0, 2, 3), keepdims=True)
            projections.append(np.sort(directions @ found.reshape(len(found), -1).T))
        result.append(1000 * np.abs(projections[0] - projections[1]).mean())
    return result


def test_swd_equals_a_direct_computation_with_other_draws():
    real, fake = pictures(12, 3, 32, 40), pictures(12, 3, 32, 40, seed=1, detail=14)
    expected = direct_swd(real, fake, 128, np.random.default_rng(0))
    ours = value(SlicedWasserstein(), real, fake)
    assert list(ours) == ["swd", "swd_32", "swd_16"]
    assert ours["swd"] == pytest.approx((ours["swd_32"] + ours["swd_16"]) / 2)
    assert [ours["swd_32"], ours["swd_16"]] == pytest.approx(expected, rel=0.06)
    assert min(expected) > 1.5 * max(direct_swd(real, real, 128, np.random.default_rng(1)))


def test_swd_of_equal_sets_is_zero_and_of_flat_images_finite():
    images = pictures(4, 1, 16, 16)
    assert value(SlicedWasserstein(), images, images) == {"swd": 0, "swd_16": 0}
    flat = torch.full_like(images, 9)
    assert 0 < value(SlicedWasserstein(), images, flat)["swd"] < 1e4


def test_swd_uses_the_first_images_of_both():
    real, fake = pictures(9, 1, 16, 16), pictures(6, 1, 16, 16, seed=1)
    few = SlicedWasserstein(patches=8, directions=8)
    cut = SlicedWasserstein(num=6, patches=8, directions=8)
    expected = value(SlicedWasserstein(patches=8, directions=8), real[:6], fake)
    assert value(few, real, fake) == expected
    assert value(cut, real, fake) == expected
    assert expected != value(SlicedWasserstein(patches=8, directions=8), real[3:], fake)
    assert expected != value(SlicedWasserstein(patches=8, directions=8, seed=1), real[:6], fake)


# -- MS-SSIM ---------------------------------------------------------------------------------------


def direct_ms_ssim(a, b):
    """MS-SSIM of two images [C, H, W], with windows and means in two dimensions."""
    a, b = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    result = 1.0
    for scale, weight in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):
        size = min(11, *a.shape[1:])
        axis = np.arange(size) - (size - 1) / 2
        sigma = 1.5 * size / 11
        window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * sigma**2))
        window /= window.sum()

        def mean(x, window=window):
            return np.stack([scipy.signal.convolve2d(plane, window, mode="valid") for plane in x])

        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
        c1, c2 = 6.5025, 58.5225
        structure = (2 * cov + c2) / (va + vb + c2)
        ssim = structure * (2 * ma * mb + c1) / (ma * ma + mb * mb + c1)
        result *= max(0, float((ssim if scale == 4 else structure).mean())) ** weight
        a, b = (
            scipy.ndimage.convolve(x, np.full((1, 2, 2), 0.25), mode="reflect")[:, ::2, ::2]
            for x in (a, b)
        )
    return result


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 192, 176), (2, 37, 50), (3, 16, 16)])
def test_ms_ssim_equals_a_direct_computation(shape):
    a, b = pictures(2, *shape), pictures(2, *shape, seed=1)
    b = (0.6 * a + 0.4 * b).byte()
    expected = [direct_ms_ssim(*pair) for pair in zip(a, b, strict=True)]
    assert all(0.1 < each < 0.99 for each in expected)
    assert ms_ssim(a.double(), b.double()).tolist() == pytest.approx(expected, rel=1e-9)


def test_ms_ssim_of_equals_is_one_and_of_opposites_zero():
    images = pictures(2, 1, 32, 32).double()
    torch.testing.assert_close(ms_ssim(images, images), torch.ones(2, dtype=torch.float64))
    assert ms_ssim(images, 255 - images).tolist() == [0, 0]


def test_pairs_are_neighbors_by_number():
    fake, real = pictures(7, 3, 32, 32), pictures(6, 3, 32, 32, seed=1)
    pairs = [direct_ms_ssim(fake[i], fake[i + 1]) for i in (0, 2, 4)]
    ours = value(MSSSIM(), real, fake)
    assert ours["ms_ssim"] == pytest.approx(np.mean(pairs), rel=1e-9)
    assert ours["ms_ssim_real"] == value(MSSSIM(), fake, real)["ms_ssim"]
    first = value(MSSSIM(num_pairs=2), real, fake)
    assert first["ms_ssim"] == pytest.approx(np.mean(pairs[:2]), rel=1e-9)


def test_more_alike_is_more_similar():
    varied = pictures(20, 3, 32, 32)
    collapsed = (0.7 * varied[:1] + 0.3 * varied).byte()
    ours = value(MSSSIM(), varied, collapsed)
    assert ours["ms_ssim"] > ours["ms_ssim_real"] + 0.2
