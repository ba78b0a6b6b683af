"""Adaptive augmentation against closed forms: its transforms, their probabilities, its steering."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import checkpoint
from makers.tiny import TINY, config
from torch.autograd import gradcheck, gradgradcheck

import ganzoo
from ganzoo.draws import Draws
from ganzoo.engine.sharing import alone
from ganzoo.errors import UserError
from ganzoo.loggers.csv import read_rows
from ganzoo.nn import ada
from ganzoo.nn.ada import ADA
from ganzoo.nn.losses import LeastSquares, Relativistic
from ganzoo.nn.objective import Objective
from ganzoo.train import train_config as train

# Where the numbers of each transform are among the 28 of an image: its values, then whether.
ROWS = {
    "mirror": (0, 1), "quarters": (2, 3), "right": (5, 4), "down": (6, 4), "scale": (7, 8),
    "before": (9, 10), "stretch": (11, 12), "after": (13, 14), "shift_right": (16, 15),
    "shift_down": (17, 15), "brightness": (18, 19), "contrast": (20, 21), "luma": (22, 23),
    "hue": (24, 25), "saturation": (26, 27),
}  # fmt: skip
NEVER, ALWAYS = 1.0, -1.0  # draws that are below no probability, and below all


def images(n=4, c=3, h=16, w=16, dtype=torch.float32):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def only(x, **transforms):
    """Images after the transforms with these values in [0, 1), and no other."""
    u = torch.full((len(x), 28), 0.5)
    u[:, [gate for _, gate in ROWS.values()]] = NEVER
    for name, value in transforms.items():
        place, gate = ROWS[name]
        u[:, place], u[:, gate] = value, ALWAYS
    return ADA(p=0.5)(x, u.to(x.dtype))


def uniform(sigmas):
    """The u that stands for a normal number."""
    return 0.5 * (1 + math.erf(sigmas / math.sqrt(2)))


@pytest.mark.parametrize("shape", [(4, 3, 16, 16), (4, 1, 8, 12), (2, 3, 4, 4)])
def test_nothing_changes_at_probability_zero(shape):
    x = images(*shape)
    augment = ADA()
    u = augment.draw(Draws("test"), len(x))
    assert torch.equal(augment(x, u), x)
    assert not torch.equal(ADA(p=0.5)(x, u), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_chunks_are_augmented_as_the_whole(channels):
    augment, x = ADA(p=0.6), images(6, channels)
    u = augment.draw(Draws("test"), 6)
    assert u.shape == (6, 28)
    whole = augment(x, u)
    chunks = [augment(a, b) for a, b in zip(x.split(2), u.split(2), strict=True)]
    torch.testing.assert_close(torch.cat(chunks), whole, rtol=0, atol=1e-5)
    assert torch.equal(augment(x[:1], u[:1]), augment(torch.cat([x[:1], -x[1:2]]), u[:2])[:1])


def test_dtype_and_memory_format_are_kept():
    augment, x = ADA(p=0.6), images().to(memory_format=torch.channels_last)
    u = augment.draw(Draws("test"), 4)
    assert augment(x, u).is_contiguous(memory_format=torch.channels_last)
    assert augment(images(), u).is_contiguous()
    half = augment(images().bfloat16(), u)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), augment(images(), u), rtol=0.02, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(images(), u), augment(images().contiguous(), u))
        assert augment(images(), u).dtype == torch.float32


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_gradients_of_any_order(size):
    augment = ADA(p=0.9)
    u = augment.draw(Draws("test", dtype=torch.float64), 3)
    u[0, [8, 10, 12, 14, 15]] = 1.0  # an image that only moves by whole pixels
    x = images(3, 3, *size, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda x: augment(x, u), x, fast_mode=True)
    assert gradgradcheck(lambda x: augment(x, u).square(), x, fast_mode=True)


# -- pixel blitting -------------------------------------------------------------------------------


def test_mirroring_and_quarter_turns_are_exact():
    x = images()
    assert torch.equal(only(x, mirror=0.9), x.flip(3))
    assert torch.equal(only(x, mirror=0.1), x)
    for i in range(4):
        assert torch.equal(only(x, quarters=(i + 0.5) / 4), x.rot90(i, (2, 3)))


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, -1), (-2, 3), (0, 0)])
def test_whole_pixels_move_and_borders_mirror(right, down):
    x = images(h=24, w=16)  # at most 2 to the right and 3 down
    moved = only(x, right=(right / 2 + 1) / 2, down=(down / 3 + 1) / 2)
    around = F.pad(x, (3, 3, 3, 3), mode="reflect")
    expected = around[:, :, 3 - down : 27 - down, 3 - right : 19 - right]
    assert torch.equal(moved, expected)


# -- geometry, on waves, whose values between pixels are known ------------------------------------


def waves(places, period=12.0):
    """Three channels of long waves at places [..., 2], to the right of and below the center."""
    turn = torch.tensor([[1.0, 0.2], [-0.5, 0.9], [0.3, -0.8]]) * 2 * math.pi / period
    return torch.sin(torch.einsum("hwd,cd->chw", places, turn) + torch.arange(3.0)[:, None, None])


def pixels(size=32):
    step = torch.arange(size) - (size - 1) / 2
    return torch.stack(torch.meshgrid(step, step, indexing="xy"), -1)


def rotation(angle):
    return torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    ).float()


@pytest.mark.parametrize(
    ("transforms", "matrix", "offset"),
    [
        ({"scale": uniform(1)}, torch.eye(2) / 2**0.2, (0, 0)),
        ({"scale": uniform(-1)}, torch.eye(2) * 2**0.2, (0, 0)),
        ({"stretch": uniform(2)}, torch.diag(torch.tensor([2**-0.4, 2**0.4])), (0, 0)),
        ({"before": 0.5 + 0.1 / math.pi}, rotation(0.2), (0, 0)),
        ({"after": 0.5 - 0.3 / math.pi}, rotation(-0.6), (0, 0)),
        (
            {"shift_right": uniform(0.5), "shift_down": uniform(-0.3)},
            torch.eye(2),
            (-32 / 8 * 0.5, 32 / 8 * 0.3),
        ),
        (  # the stretching is between the two rotations
            {"before": 0.5 + 0.1 / math.pi, "stretch": uniform(1), "after": 0.5 - 0.2 / math.pi},
            rotation(0.2) @ torch.diag(torch.tensor([2**-0.2, 2**0.2])) @ rotation(-0.4),
            (0, 0),
        ),
        ({"mirror": 0.9, "scale": uniform(1)}, torch.tensor([[-1.0, 0], [0, 1]]) / 2**0.2, (0, 0)),
    ],
    ids=lambda p: "-".join(p) if isinstance(p, dict) else "",
)
def test_geometry_is_that_of_the_closed_form(transforms, matrix, offset):
    x = waves(pixels())[None]
    source = (pixels() + torch.tensor(offset)) @ matrix.T
    expected = waves(source)[None]
    near = source.abs().amax(-1) < 11  # away from the borders, which mirror
    assert near.float().mean() > 0.2
    found = only(x, **transforms)
    assert (found - expected)[..., near].abs().max() < 0.05
    assert (x - expected)[..., near].abs().max() > 0.3


def test_shrinking_does_not_alias():
    """Stripes that are too fine for the smaller image turn gray instead of into coarse ones."""
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 1, 32, 32)
    smaller = only(stripes, scale=uniform(-4))  # 2^-0.8
    nearest = stripes[..., ((torch.arange(32) - 15.5) * 2**0.8 + 15.5).round().long() % 32]
    middle = (..., slice(10, 22), slice(10, 22))
    assert smaller[middle].abs().max() < 0.15
    assert nearest[middle].abs().max() == 1


@pytest.mark.parametrize("size", [2, 4, 9])
def test_enlarging_is_undone_by_shrinking(size):
    up = ada.enlarging(size + 12, torch.float64, torch.device("cpu"))
    down = ada.shrinking(size, torch.float64, torch.device("cpu"))
    both = down @ up[2 * 6 - 5 : 2 * (6 + size) + 5]
    expected = F.pad(torch.eye(size, dtype=torch.float64), (6, 6))
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-9)


# -- color ----------------------------------------------------------------------------------------


def test_colors_against_matrices():
    x, axis = images(dtype=torch.float64), torch.full((3,), 1 / math.sqrt(3), dtype=torch.float64)
    along = torch.outer(axis, axis)
    eye = torch.eye(3, dtype=torch.float64)
    cross = torch.linalg.cross(axis.expand(3, 3), eye).T  # cross @ v is the product of axis and v

    def by(matrix):
        return torch.einsum("ij,njhw->nihw", matrix, x)

    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(only(x, brightness=uniform(1)), x + 0.2, **close)
    torch.testing.assert_close(only(x, contrast=uniform(-2)), x / 2, **close)
    torch.testing.assert_close(only(x, luma=0.9), by(eye - 2 * along), **close)
    turn = torch.linalg.matrix_exp(0.6 * cross)
    torch.testing.assert_close(only(x, hue=0.5 + 0.3 / math.pi), by(turn), **close)
    third = only(x, hue=0.5 + 1 / 3)  # red to green to blue to red
    torch.testing.assert_close(third, x.roll(1, 1), **close)
    vivid = along + 2 * (eye - along)
    torch.testing.assert_close(only(x, saturation=uniform(1)), by(vivid), **close)
    together = dict(
        brightness=uniform(1), contrast=uniform(-2), luma=0.9, hue=0.5 + 0.3 / math.pi,
        saturation=uniform(1),
    )  # fmt: skip
    expected = vivid @ turn @ (eye - 2 * along) / 2
    found = torch.einsum("ij,njhw->nihw", expected, x + 0.2)
    torch.testing.assert_close(only(x, **together), found, **close)


def test_gray_images_stay_gray():
    x = images(c=1)
    torch.testing.assert_close(only(x, hue=0.7, saturation=0.9), x)
    u = ADA().draw(Draws("test"), 4)
    gray = ADA(p=0.5)(x.expand(-1, 3, -1, -1).contiguous(), u)
    torch.testing.assert_close(ADA(p=0.5)(x, u).expand_as(gray), gray, rtol=0, atol=1e-5)


def test_opacity_has_no_colors():
    u = ADA().draw(Draws("test"), 4)
    with pytest.raises(UserError, match=r"4 channels: set model\.augment\.color=null"):
        ADA()(images(c=4), u)
    without = ADA(p=0.5, color=False)(images(c=4), u)
    assert torch.equal(ADA(p=0.5, color=None)(images(c=4), u), without)
    assert torch.equal(ADA(p=0.5, color=None)(images(), u), ADA(p=0.5)(images(), u))


# -- probabilities and magnitudes -----------------------------------------------------------------


def placed(p, n=20_000, size=64, **columns):
    """The places of n images, without blitting: [n, 2, 3], and which move by whole pixels only."""
    u = Draws("many").rows(n, 28, of=lambda shape, g: torch.rand(shape, generator=g))
    for name in columns:
        u[:, ROWS[name][1]] = NEVER
    p = torch.tensor(p)
    rows, still = ada.places(iter(u.unbind(1)), p, p, torch.empty(1, 1, size, size))
    return torch.stack(rows, 1), still


def test_each_transform_is_applied_with_its_probability():
    _, still = placed(0.3)
    assert still.float().mean() == pytest.approx(0.7**4, abs=0.01)  # the two rotations are one
    x = images(1, h=4, w=4).expand(4000, -1, -1, -1)
    for name in ("mirror", "quarters", "contrast", "hue"):
        place, gate = ROWS[name]
        u = torch.full((4000, 28), NEVER)
        u[:, place], u[:, gate] = 0.8, torch.arange(4000) / 4000
        changed = (ADA(p=0.3)(x, u) != x).flatten(1).any(1)
        assert changed.float().mean() == pytest.approx(0.3, abs=0.001), name


def test_magnitudes_have_their_distributions():
    no = dict.fromkeys(("mirror", "quarters", "right"))
    found, _ = placed(1.0, **no, before=1, stretch=1, after=1, shift_right=1)
    scale = -found[:, 0, 0].log2()
    assert scale.mean() == pytest.approx(0, abs=0.005)
    assert scale.std() == pytest.approx(0.2, rel=0.03)
    found, _ = placed(1.0, **no, scale=1, before=1, after=1, shift_right=1)
    torch.testing.assert_close(found[:, 0, 0] * found[:, 1, 1], torch.ones(20_000))
    assert found[:, 1, 1].log2().std() == pytest.approx(0.2, rel=0.03)
    found, _ = placed(1.0, **no, scale=1, stretch=1, after=1, shift_right=1)
    angle = torch.atan2(found[:, 1, 0], found[:, 0, 0]) / math.pi
    quantiles = torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99])
    torch.testing.assert_close(angle.quantile(quantiles), 2 * quantiles - 1, rtol=0, atol=0.02)
    found, _ = placed(1.0, **no, scale=1, before=1, stretch=1, after=1)
    assert found[:, :, 2].std(0).tolist() == pytest.approx([8, 8], rel=0.03)  # an eighth of 64
    found, _ = placed(
        1.0, mirror=1, quarters=1, scale=1, before=1, stretch=1, after=1, shift_right=1
    )
    steps, counts = found[:, 0, 2].unique(return_counts=True)
    assert steps.tolist() == list(range(-8, 9))
    assert counts[1:-1].min() > 20_000 / 16 * 0.85
    assert counts[[0, -1]].float().mean() == pytest.approx(20_000 / 32, rel=0.15)


def test_normal_numbers_are_finite_and_normal():
    assert ada.normal(torch.tensor([0.0, 1 - 2**-24, 1.0])).isfinite().all()
    sigmas = torch.linspace(-3, 3, 13, dtype=torch.float64)
    u = torch.distributions.Normal(0.0, 1.0).cdf(sigmas)
    torch.testing.assert_close(ada.normal(u), sigmas, rtol=0, atol=1e-5)


# -- steering -------------------------------------------------------------------------------------


def by_hand(p, batches, target=0.6, kimg=0.5, interval=4):
    """The probability after each iteration, by the paper's rule."""
    path, recent = [], []
    for number, signs in enumerate(batches, 1):
        recent += signs
        if number % interval == 0:
            mean = sum(recent) / len(recent)
            p += ((mean > target) - (mean < target)) * len(recent) / (kimg * 1000)
            p, recent = min(max(p, 0.0), 1.0), []
        path.append(p)
    return path


def test_p_follows_the_signs_as_by_hand():
    generator = torch.Generator().manual_seed(0)
    logits = []
    for strength in (1.5, 1.5, -1.0, 1.5):  # up to 1, down to 0, up
        logits += [torch.randn(8, generator=generator) + strength for _ in range(80)]
    augment = ADA(kimg=0.5, p=0.5)
    path, signs = [], []
    for batch in logits:
        for part in batch.split(4):  # micro-batches count together
            augment.watch(part, 0.0)
        reported = augment.adapt()
        signs.append(batch.sign().tolist())
        assert reported["augment/real_sign"] == pytest.approx(sum(signs[-1]) / 8)
        path.append(float(reported["augment/p"]))
    assert path == pytest.approx(by_hand(0.5, signs))
    assert max(path) == 1
    assert min(path) == 0


def test_p_stays_where_the_target_is_met_or_missing():
    met, without = ADA(p=0.25, interval=1), ADA(p=0.25, interval=1, target=None)
    for augment, logits in ((met, [1.0] * 8 + [-1.0] * 2), (without, [1.0] * 10)):
        for _ in range(3):
            augment.watch(torch.tensor(logits), 0.0)
            assert augment.adapt()["augment/p"] == 0.25


def test_signs_are_counted_from_the_boundary_of_the_loss():
    real, fake = torch.tensor([0.4, 0.6, 2.0, 0.1]), torch.tensor([0.5, 0.5, 3.0, 0.0])
    for loss, mean in ((LeastSquares(), 0.0), (Relativistic(), 0.0)):
        objective = Objective(loss, augment=ADA())
        objective.watch(real, fake)
        assert objective.adapt()["augment/real_sign"] == mean
    objective.watch(real, torch.zeros(4))
    assert objective.adapt()["augment/real_sign"] == 1
    assert Objective(LeastSquares()).adapt() == {}


# -- in a run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["dcgan", "pggan", "biggan"])
def test_p_moves_is_logged_and_saved(model, tmp_path):
    own = {
        "dcgan": ("model.generator.ngf=4", "model.discriminator.ndf=4"),
        "pggan": ("model.generator.fmap_base=64", "model.generator.fmap_max=8"),
        "biggan": ("model.generator.ch=4", "model.generator.attention=[]"),
    }
    keys = (key for key in TINY if not key.startswith("model."))
    cfg = config(
        *keys, f"model={model}", *own[model], "augment=ada", "model.augment.kimg=1",
        "model.augment.interval=1", "model.augment.p=0.5", f"run_dir={tmp_path}", tiny=False,
    )  # fmt: skip
    gan = train(cfg)
    rows = read_rows(tmp_path / "metrics.csv")
    assert all(0 < float(row["augment/p"]) < 1 for row in rows if row.get("losses/d_loss"))
    assert all(-1 <= float(row["augment/real_sign"]) <= 1 for row in rows if row.get("augment/p"))
    saved = checkpoint(tmp_path)["state_dict"]["objective.augment.level"]
    loaded = ganzoo.load(tmp_path)
    assert saved == loaded.objective.augment.level == gan.objective.augment.level
    assert saved != 500


def test_an_exported_model_has_no_augmentation(tmp_path):
    train(config("augment=ada", f"run_dir={tmp_path}"))
    network, entry = alone(ganzoo.load(tmp_path))
    assert not [key for key in network.state_dict() if "augment" in key]
    assert "augment" not in entry["config"]["model"]


def test_models_without_augmentation_refuse_it(tmp_path):
    cfg = config("model=cyclegan", "augment=ada", f"run_dir={tmp_path}", tiny=False)
    with pytest.raises(UserError, match=r"^model\.augment is not a key of CycleGAN"):
        train(cfg)
