"""Metrics of features and logits; what all metrics have in common."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import run
from makers.metric_worlds import FAKES, REALS, all_metrics, feed, samples, values
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

from ganzoo.errors import UserError
from ganzoo.metrics.frechet import FrechetDistance, frechet_distance, moments
from ganzoo.metrics.inception_score import InceptionScore
from ganzoo.metrics.kernel import KernelDistance, mmd2
from ganzoo.metrics.manifold import Manifold
from ganzoo.metrics.sliced import SlicedWasserstein
from ganzoo.metrics.ssim import MSSSIM

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")

SCRIPT = str(Path(__file__).parent / "makers" / "metric_worlds.py")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def skewed(n, dim, seed=0):
    """Features as networks give them: float32, not negative, of unequal and dependent columns."""
    mix = normal(dim, dim, seed=99) * torch.logspace(0, -2, dim)
    return (normal(n, dim, seed=seed) @ mix).relu().float()


def given_all(metric, real, fake):
    """The metric's value of two sets of features."""
    for features, is_real in ((real, True), (fake, False)):
        feed(metric, {"features": features, "index": torch.arange(len(features))}, [...], is_real)
    return metric.compute()


def close(a, b, rel=1e-6):
    assert float(a) == pytest.approx(float(b), rel=rel, abs=1e-12)


# -- Frechet distance ------------------------------------------------------------------------------


def test_frechet_distance_equals_torch_fidelity():
    real, fake = skewed(300, 40), skewed(200, 40, seed=1) * 1.2
    statistics = [metric_fid.fid_features_to_statistics(x.double()) for x in (fake, real)]
    expected = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    value = given_all(FrechetDistance(), real, fake)
    assert value.dtype == torch.float64
    close(value, expected[metric_fid.KEY_METRIC_FID], rel=1e-9)


def test_moments_are_mean_and_unbiased_covariance():
    metric, x = FrechetDistance(), skewed(50, 6)
    feed(metric, {"features": x}, torch.arange(50).split(7), True)
    n, mean, cov = metric.moments_of(True)
    assert n == 50
    np.testing.assert_allclose(mean, np.mean(x.double().numpy(), 0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(x.double().numpy().T), rtol=1e-9, atol=1e-12)


def test_frechet_distance_of_independent_columns_has_a_closed_form():
    a, b = torch.rand(2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean1, mean2 = normal(20), normal(20, seed=1)
    expected = ((mean1 - mean2) ** 2).sum() + ((a.sqrt() - b.sqrt()) ** 2).sum()
    close(frechet_distance(mean1, a.diag(), mean2, b.diag()), expected, rel=1e-12)
    # Rotating both Gaussians alike changes nothing.
    q = torch.linalg.qr(normal(20, 20)).Q
    rotated = frechet_distance(q @ mean1, q @ a.diag() @ q.T, q @ mean2, q @ b.diag() @ q.T)
    close(rotated, expected, rel=1e-10)


def test_eigenvalues_that_do_not_converge_are_found_otherwise(monkeypatch) -> None:
    torch.manual_seed(0)
    few, other = torch.randn(5, 12, dtype=torch.float64), torch.randn(40, 12, dtype=torch.float64)
    arguments = few.mean(0), few.T.cov(), other.mean(0), other.T.cov()
    expected = frechet_distance(*arguments)

    def fails(*_: object) -> None:
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    close(frechet_distance(*arguments), expected, rel=1e-9)


@pytest.mark.parametrize(("n_real", "n_fake"), [(20, 30), (20, 200), (200, 20), (60, 61)])
def test_frechet_distance_of_fewer_samples_than_dimensions(n_real, n_fake):
    real, fake = skewed(n_real, 60).double(), skewed(n_fake, 60, seed=1).double()
    # tr (C1 C2)^(1/2) is the sum of the singular values of X1 X2ᵀ, with Ci = XiᵀXi: no roots.
    x1, x2 = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (real, fake))
    mean = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    expected = mean + (x1**2).sum() + (x2**2).sum() - 2 * torch.linalg.svdvals(x1 @ x2.T).sum()
    close(given_all(FrechetDistance(), real.float(), fake.float()), expected, rel=1e-9)
    root = scipy.linalg.sqrtm(np.cov(real.numpy().T) @ np.cov(fake.numpy().T))
    close(mean + (x1**2).sum() + (x2**2).sum() - 2 * np.trace(root).real, expected, rel=1e-4)


def test_frechet_distance_of_a_set_from_itself_is_zero():
    for n in (30, 300):
        x = skewed(n, 50)
        spread = x.double().var(0).sum()
        assert abs(given_all(FrechetDistance(), x, x)) < 1e-8 * spread
    constant = torch.ones(5, 3)
    assert given_all(FrechetDistance(), constant, constant + 2) == pytest.approx(12)


def test_moments_do_not_lose_a_small_variance_beside_a_large_mean():
    x = normal(100, 3) * 1e-3 + 100
    _, cov = moments(100, x.sum(0), x.T @ x)
    np.testing.assert_allclose(cov.diag(), x.var(0), rtol=1e-3)


# -- Inception score -------------------------------------------------------------------------------


def inception_score(logits, **options):
    metric = InceptionScore(len(logits), **options)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(5))
    feed(metric, {"logits": logits, "index": torch.arange(len(logits))}, order.split(13), False)
    return metric.compute()


@pytest.mark.parametrize("seed", [2020, 7, None])
@pytest.mark.parametrize(("n", "splits"), [(200, 10), (103, 10), (50, 1), (11, 4)])
def test_inception_score_equals_torch_fidelity(seed, n, splits):
    logits = normal(n, 30, dtype=torch.float32) * 4
    expected = metric_isc.isc_features_to_metric(logits, splits, seed is not None, seed)
    value = inception_score(logits, splits=splits, shuffle_seed=seed)
    close(value["is"], expected[metric_isc.KEY_METRIC_ISC_MEAN], rel=1e-12)
    close(value["is_std"], expected[metric_isc.KEY_METRIC_ISC_STD], rel=1e-9)


def test_inception_score_is_between_one_and_the_number_of_classes():
    certain = torch.eye(8).repeat(5, 1) * 1e4
    value = inception_score(certain, splits=5, shuffle_seed=None)
    close(value["is"], 8)
    close(value["is_std"], 0)
    close(inception_score(torch.ones(20, 8))["is"], 1)


def test_total_may_be_told_later_and_anew():
    metric = InceptionScore(splits=2)
    for n in (10, 24):
        logits = normal(n, 5)
        metric.total = n
        feed(metric, {"logits": logits, "index": torch.arange(n)}, [...], False)
        close(metric.compute()["is"], inception_score(logits, splits=2)["is"], rel=1e-12)
        metric.reset()


# -- kernel distance -------------------------------------------------------------------------------


def test_kernel_distance_equals_torch_fidelity():
    real, fake = skewed(150, 64), skewed(120, 64, seed=1) * 1.1
    expected = metric_kid.kid_features_to_metric(
        fake.double(), real.double(), kid_subsets=10, kid_subset_size=50, verbose=False
    )
    value = given_all(KernelDistance(subsets=10, subset_size=50), real, fake)
    close(value["kid"], expected[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-10)
    close(value["kid_std"], expected[metric_kid.KEY_METRIC_KID_STD], rel=1e-10)


def test_kernel_distance_equals_its_sums_written_out():
    x, y = normal(5, 3), normal(5, 3, seed=1) + 1

    def mean_kernel(a, b, same):
        pairs = [(i, j) for i in range(5) for j in range(5) if not (same and i == j)]
        return sum((float(a[i] @ b[j]) / 3 + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)
    close(mmd2(x, y), expected, rel=1e-12)


def test_kernel_distance_is_unbiased():
    estimates = torch.stack(
        [mmd2(normal(10, 4, seed=i), normal(10, 4, seed=-i)) for i in range(600)]
    )
    error = estimates.std() / 600**0.5
    assert abs(estimates.mean()) < 3 * error
    # A biased estimate would have been found out: its diagonal adds far more than that.
    diagonal = 2 * float(((normal(100, 4) ** 2).sum(1) / 4 + 1).pow(3).mean()) / 10
    assert diagonal > 10 * error


# -- manifold --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 5])
def test_manifold_equals_prdc_and_torch_fidelity(k, capsys):
    compute_prdc = pytest.importorskip("prdc").compute_prdc
    real, fake = skewed(150, 20), skewed(110, 20, seed=1) * 1.3
    value = given_all(Manifold(k), real, fake)
    for name, expected in compute_prdc(real.numpy(), fake.numpy(), k).items():
        close(value[name], expected)
    theirs = metric_prc.prc_features_to_metric(fake, real, prc_neighborhood=k, verbose=False)
    close(value["precision"], theirs["precision"])
    close(value["recall"], theirs["recall"])
    assert 0 < value["precision"] < 1
    assert 0 < value["recall"] < 1


def test_manifold_on_the_surface_of_the_balls():
    """There the two sources differ: prdc's balls are open, those of precision and recall closed."""
    compute_prdc = pytest.importorskip("prdc").compute_prdc
    real = torch.arange(4.0)[:, None]
    fake = torch.tensor([[-2.0], [-1.0], [4.0], [5.0]])
    value = given_all(Manifold(1), real, fake)
    closed = metric_prc.prc_features_to_metric(fake, real, prc_neighborhood=1, verbose=False)
    opened = compute_prdc(real.numpy(), fake.numpy(), 1)
    assert closed["precision"] == value["precision"] == 0.5 != opened["precision"]
    assert closed["recall"] == value["recall"] == 0.5 != opened["recall"]
    assert opened["density"] == value["density"] == 0
    assert opened["coverage"] == value["coverage"] == 0


def test_manifold_does_not_depend_on_blocks(monkeypatch):
    real, fake = skewed(50, 20), skewed(31, 20, seed=1)
    whole = given_all(Manifold(), real, fake)
    monkeypatch.setattr("ganzoo.metrics.manifold._BLOCK", 310)
    assert given_all(Manifold(), real, fake) == whole


def test_manifold_tells_apart_what_differs_by_little():
    """Steps of 1e-4 far from zero: float32 products would make noise of their distances."""
    real = 100 + 1e-4 * torch.arange(40.0)[:, None] * torch.ones(8)
    within, beyond = real + 2e-5, real + torch.tensor([3e-4, -3e-4] * 4)
    assert given_all(Manifold(1), real, within)["precision"] == 1
    assert given_all(Manifold(1), real, beyond)["precision"] == 0
    assert given_all(Manifold(1), real, beyond)["coverage"] == 0


def test_manifold_of_a_set_with_itself_and_with_something_far():
    x = skewed(60, 10)
    same = given_all(Manifold(), x, x)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    far = given_all(Manifold(), x, x + 1e3)
    assert set(map(float, far.values())) == {0}


# -- what all have in common -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def batched() -> dict[str, torch.Tensor]:
    """All values, from one batch of each kind."""
    metrics = all_metrics()
    for metric in metrics.values():
        for real in (True, False):
            feed(metric, samples(real), [...], real)
    return values(metrics)


def assert_equal(a, b, rel=1e-9):
    assert a.keys() == b.keys()
    for name, value in a.items():
        close(value, b[name], rel)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_batches_and_their_order_do_not_matter(batched, size):
    metrics = all_metrics()
    for metric in metrics.values():
        for real in (False, True):
            n = REALS if real else FAKES
            order = torch.randperm(n, generator=torch.Generator().manual_seed(size))
            feed(metric, samples(real), order.split(size), real)
    assert_equal(values(metrics), batched)


def test_two_processes_equal_one(batched, tmp_path):
    done = run([sys.executable, SCRIPT, str(tmp_path)], processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        assert_equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), batched)


def test_values_are_finite_and_depend_on_the_samples(batched):
    metrics = all_metrics()
    for metric in metrics.values():
        for real in (True, False):
            feed(metric, samples(real, seed=4), [...], real)
    for name, value in values(metrics).items():
        assert value.isfinite()
        assert value.shape == ()
        assert value != batched[name] or name in Manifold.names  # which are counts


def test_keep_real_keeps_the_reals_and_forgets_the_fakes(batched):
    metrics = all_metrics(keep_real=True)
    metrics.pop("is")
    for metric in metrics.values():
        feed(metric, samples(True), [...], True)
        for seed in (1, 0):
            feed(metric, samples(False, seed), torch.arange(FAKES).split(20), False)
            value = metric.compute()
            metric.reset()
        for name, part in value.items() if isinstance(value, dict) else ():
            close(part, batched[name], 1e-9)
        with pytest.raises(UserError, match="seen"):
            metric.compute()


def test_reset_forgets_everything():
    for metric in all_metrics().values():
        for real in (True, False):
            feed(metric, samples(real), [...], real)
        metric.reset()
        with pytest.raises(UserError, match="seen"):
            metric.compute()


def test_no_global_random_numbers_are_drawn_and_none_matter(batched):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    metrics = all_metrics()
    for metric in metrics.values():
        for real in (True, False):
            feed(metric, samples(real), [...], real)
    assert_equal(values(metrics), batched, rel=1e-15)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_half_precision_and_inference_mode(batched):
    metrics = all_metrics()
    for metric in metrics.values():
        metric.to(torch.bfloat16)  # as Lightning does to a whole module
        for real in (True, False):
            rounded = {
                k: v.bfloat16() if v.is_floating_point() else v for k, v in samples(real).items()
            }
            with torch.inference_mode():
                feed(metric, rounded, torch.arange(8).split(3), real)
            feed(metric, rounded, [torch.arange(8, len(rounded["index"]))], real)
    for name, value in values(metrics).items():
        assert value.dtype in (torch.float32, torch.float64)
        assert float(value) == pytest.approx(float(batched[name]), rel=0.1, abs=0.1), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(batched):
    metrics = {name: metric.cuda() for name, metric in all_metrics().items()}
    for metric in metrics.values():
        for real in (True, False):
            feed(metric, {k: v.cuda() for k, v in samples(real).items()}, [...], real)
    assert_equal(values(metrics), batched, rel=1e-4)


# -- errors ----------------------------------------------------------------------------------------


def features(n, real, value=1.0):
    return {"features": torch.full((n, 4), value), "index": torch.arange(n), "real": real}


@pytest.mark.parametrize(
    ("metric", "reals", "fakes", "remedy"),
    [
        (FrechetDistance, 1, 9, "at least 2 real .* seen 1 and 9: use more images"),
        (FrechetDistance, 9, 1, "at least 2 real .* seen 9 and 1: use more images"),
        (lambda: KernelDistance(subset_size=8), 9, 7, "at least 8 .* or lower subset_size"),
        (lambda: Manifold(4), 4, 9, "at least 5 .* or lower neighbors"),
    ],
)
def test_too_few_samples(metric: Callable, reals, fakes, remedy):
    metric = metric()
    for n, real in ((reals, True), (fakes, False)):
        metric.update(**metric._filter_kwargs(**features(n, real)))
    with pytest.raises(UserError, match=remedy):
        metric.compute()


@pytest.mark.parametrize(
    "metric", [FrechetDistance, lambda: KernelDistance(1, 4), Manifold, InceptionScore]
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite(metric: Callable, bad):
    metric = metric()
    for real in (True, False):
        given = features(12, real, 1.0 if real else bad)
        if isinstance(metric, InceptionScore):
            if real:
                continue
            metric.total, given["logits"] = 12, given["features"]
        metric.update(**metric._filter_kwargs(**given))
    with pytest.raises(UserError, match="not finite"):
        metric.compute()


def test_inception_score_wants_its_total_exactly():
    logits, index = torch.ones(20, 3), torch.arange(20)
    metric = InceptionScore(21)
    metric.update(logits, index)
    with pytest.raises(UserError, match="20 of 21"):
        metric.compute()


@pytest.mark.parametrize("make", [SlicedWasserstein, MSSSIM, lambda: SlicedWasserstein(num=4)])
def test_images_that_do_not_fit(make: Callable):
    metric = make()
    index = torch.arange(2)
    images = torch.zeros(2, 3, 16, 20, dtype=torch.uint8)
    with pytest.raises(UserError, match="seen 0"):
        metric.compute()
    with pytest.raises(UserError, match="at least 16 x 16 pixels, but got 15 x 20"):
        metric.update(images[:, :, 1:], index, True)
    metric.update(images, index, True)
    metric.update(images, index, False)
    if metric.num:
        with pytest.raises(UserError, match=r"at least 4 real and 4 fake .* lower num"):
            metric.compute()


def test_too_few_pairs():
    metric = MSSSIM(num_pairs=2)
    metric.update(torch.zeros(3, 1, 16, 16, dtype=torch.uint8), torch.arange(3), False)
    with pytest.raises(UserError, match=r"at least 4 real and 4 fake .* lower num_pairs"):
        metric.compute()
