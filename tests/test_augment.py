from itertools import product

import pytest
import torch
from torch.autograd import gradcheck

from ganzoo.draws import Draws
from ganzoo.nn.augment import DiffAugment, cut_out, translate

COLOR = DiffAugment(translation=False, cutout=False)


def images(n=4, c=3, h=16, w=24, dtype=torch.float32):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def color(x, brightness=0.5, saturation=0.5, contrast=0.5):
    return COLOR(x, torch.tensor([[brightness, saturation, contrast]]).expand(len(x), 3))


def middle_of(i, n):
    """The u in the middle of the i-th of n equal parts of [0, 1)."""
    return torch.tensor([(i + 0.5) / n])


@pytest.mark.parametrize(
    "parts",
    [p for p in product([False, True], repeat=3)],
    ids=lambda p: "".join("01"[i] for i in p),
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_chunks_are_augmented_as_the_whole(parts, channels):
    augment, x = DiffAugment(*parts), images(6, channels)
    u = augment.draw(Draws("test"), 6)
    assert u.shape == (6, 3 * parts[0] + 2 * parts[1] + 2 * parts[2])
    whole = augment(x, u)
    assert whole.shape == x.shape
    assert torch.equal(whole, x) == (not any(parts))
    chunks = [augment(a, b) for a, b in zip(x.split(2), u.split(2), strict=True)]
    torch.testing.assert_close(torch.cat(chunks), whole, rtol=0, atol=1e-6)


def test_gradients():
    augment, x = DiffAugment(), images(2, 3, 8, 6, torch.float64).requires_grad_()
    u = augment.draw(Draws("test", dtype=torch.float64), 2)
    assert gradcheck(lambda x: augment(x, u), x)


def test_colors_at_one_half_are_left_alone():
    torch.testing.assert_close(color(images()), images())


def test_brightness_adds():
    torch.testing.assert_close(color(images(), brightness=0.75), images() + 0.25)


def test_saturation_zero_is_gray_and_one_doubles_the_distance():
    x = images()
    gray = x.mean(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(color(x, saturation=0), gray)
    torch.testing.assert_close(color(x, saturation=1), 2 * x - gray)
    torch.testing.assert_close(color(images(c=1), saturation=0), images(c=1))


def test_contrast_scales_about_the_mean_of_each_image():
    x = images()
    lower = color(x, contrast=0)
    torch.testing.assert_close(lower.mean((1, 2, 3)), x.mean((1, 2, 3)))
    torch.testing.assert_close(lower.std((1, 2, 3)), x.std((1, 2, 3)) / 2)


def test_colors_together_are_brightness_then_saturation_then_contrast():
    x, u = images(), torch.tensor([0.9, 0.1, 0.8])
    expected = x + 0.4
    gray = expected.mean(1, keepdim=True)
    expected = (expected - gray) * 0.2 + gray
    mean = expected.mean((1, 2, 3), keepdim=True)
    expected = (expected - mean) * 1.3 + mean
    torch.testing.assert_close(color(x, *u), expected)


@pytest.mark.parametrize("down", [-2, -1, 0, 2])
@pytest.mark.parametrize("right", [-4, 0, 1, 4])
def test_translation_moves_by_whole_pixels_and_zeros_move_in(down, right):
    x = images(1, w=28)  # 16x28: up to 2 down and, rounded, 4 to the right
    expected = torch.zeros_like(x)
    for i, j in product(range(16), range(28)):
        if 0 <= i - down < 16 and 0 <= j - right < 28:
            expected[0, :, i, j] = x[0, :, i - down, j - right]
    moved = translate(x, middle_of(down + 2, 5), middle_of(right + 4, 9))
    assert torch.equal(moved, expected)


def test_translation_reaches_an_eighth_and_no_further():
    ramp = torch.arange(1.0, 17).view(1, 1, 16, 1).expand(1000, 1, 16, 16)
    u = Draws("reach").rows(1000, of=lambda shape, g: torch.rand(shape, generator=g))
    shifts = 9 - translate(ramp, u, u)[:, 0, 8, 8]  # where the ramp was 9
    values, counts = shifts.unique(return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2]
    assert counts.min() > 140  # of 200


@pytest.mark.parametrize(("height", "width"), [(16, 24), (7, 9)])
def test_cutout_zeroes_half_the_height_and_width(height, width):
    x = torch.ones(1, 3, height, width)
    for_height, for_width = (height + 1) // 2, (width + 1) // 2
    holes = cut_out(x, middle_of(height // 2, height), middle_of(width // 2, width)) == 0
    assert holes.sum() == 3 * for_height * for_width
    rows, columns = holes[0, 0].any(1), holes[0, 0].any(0)
    assert torch.equal(holes[0, 0], rows[:, None] & columns[None])
    assert rows.nonzero().flatten().diff().eq(1).all()
    assert columns.nonzero().flatten().diff().eq(1).all()


def test_cutout_is_clipped_at_the_borders():
    x = torch.ones(2, 1, 16, 24)
    u = torch.tensor([0.0, 1 - 2**-24])
    holes = cut_out(x, u, u)[:, 0] == 0
    assert holes[0, :4, :6].all()
    assert holes[1, -4:, -6:].all()
    assert holes.sum() == 2 * 4 * 6


def test_rounded_up_draws_stay_in_range():
    x = images(2)
    almost, one = torch.full((2, 7), 1 - 2**-24), torch.ones(2, 7)
    torch.testing.assert_close(DiffAugment()(x, one), DiffAugment()(x, almost))


def test_dtype_and_memory_format_are_kept():
    u = DiffAugment().draw(Draws("test"), 4)
    x = images().to(memory_format=torch.channels_last)
    y = DiffAugment()(x, u)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, DiffAugment()(x, u).contiguous())
    assert DiffAugment()(images(), u).is_contiguous()
    assert DiffAugment()(images().bfloat16(), u).dtype == torch.bfloat16


def test_images_do_not_depend_on_each_other():
    augment, x = DiffAugment(), images()
    u = augment.draw(Draws("test"), 4)
    changed = torch.cat([x[:1], -x[1:]])
    assert torch.equal(augment(x, u)[0], augment(changed, u)[0])
