"""Folders of real pictures, scored by the command and by torch-fidelity, with the same weights."""

from pathlib import Path

import makers.inception
import pytest
import torch
import torch_fidelity
from makers.photos import crops
from makers.tiny import evaluated

NUM = 16


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(makers.inception.random_inception().state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp(name) for name in ("fake", "real")]
    for seed, folder in enumerate(folders):
        for i, photo in enumerate(crops(NUM, 48, 40, seed=seed)):
            photo.save(folder / f"{i:02d}.png")
    return folders


def test_every_number_is_that_of_torch_fidelity(
    folders: list[Path],
    random_inception: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path))
    fake, real = folders
    theirs = torch_fidelity.calculate_metrics(
        input1=str(fake),
        input2=str(real),
        feature_extractor_weights_path=random_inception,
        feature_extractor="inception-v3-compat",
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=12,
        kid_subsets=10,
        isc_splits=5,
        cuda=False,
        cache=False,
        verbose=False,
        batch_size=8,
    )
    ours = evaluated(
        "metrics=standard",
        "metrics/network=inception",
        f"metrics.network.weights={random_inception}",
        "metrics.scores.kid.subset_size=12",
        "metrics.scores.kid.subsets=10",
        "metrics.scores.is.splits=5",
        "+metrics.scores.manifold._target_=ganzoo.metrics.manifold.Manifold",
        f"fake={fake}",
        f"real={real}",
        tiny=False,
    ).values
    for name, key in {
        "fid": "frechet_inception_distance",
        "is": "inception_score_mean",
        "is_std": "inception_score_std",
        "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
        "precision": "precision",
        "recall": "recall",
    }.items():
        print(name, ours[name], theirs[key], ours[name] / theirs[key] - 1)
        assert ours[name] == pytest.approx(theirs[key], rel=1e-4), name
    assert torch.isfinite(torch.tensor(list(ours.values()))).all()
