"""Alarms: sentences for numbers of a sick run, silence for those of a healthy one."""

import math

import pytest

from ganzoo.callbacks import alarms

NAN = math.nan


@pytest.mark.parametrize(
    ("share", "least", "real", "fake", "sentence"),
    [
        (1.5, 0.5, 1.0, -1.0, "1.5 times as much as at chance"),
        (0.99, 0.5, 0.301, 0.3, "no longer distinguishes"),
        (0.99, 0.5, 1.0, -1.0, ""),  # still apart
        (1.5, 0.9, 1.0, -1.0, ""),  # it never learned anything
        (0.5, 0.5, 0.3, 0.3, ""),
        (NAN, 0.5, 0.3, 0.3, ""),
    ],
)
def test_collapse(share, least, real, fake, sentence) -> None:
    said = alarms.collapse(share, least, real, fake, widest=2.0)
    assert bool(said) == bool(sentence)
    assert sentence in said


@pytest.mark.parametrize(
    ("share", "real", "fake", "alarm"),
    [
        (0.01, 3.0, -3.0, True),
        (0.03, 3.0, -3.0, False),
        (0.01, -3.0, 3.0, False),  # it is wrong about both
        (NAN, 3.0, -3.0, False),
    ],
)
def test_discriminator_wins(share, real, fake, alarm) -> None:
    assert bool(alarms.discriminator_wins(share, real, fake)) == alarm


@pytest.mark.parametrize(
    ("training", "held_out", "alarm"),
    [(0.98, 0.55, True), (0.97, 0.5, False), (1.0, 0.6, False), (NAN, 0.5, False)],
)
def test_memorization(training, held_out, alarm) -> None:
    accuracy = {"training": training, "held_out": held_out}
    assert bool(alarms.memorization(accuracy)) == alarm


def test_spectrum_explodes() -> None:
    assert "layers.3.weight has grown 9 times" in alarms.spectrum_explodes(9, "layers.3.weight")
    assert not alarms.spectrum_explodes(5, "layers.3.weight")


@pytest.mark.parametrize(
    ("diversity", "best", "alarm"),
    [(0.1, 0.8, True), (0.3, 0.8, False), (0.0, 0.15, False), (NAN, 0.8, False)],
)
def test_diversity_gone(diversity, best, alarm) -> None:
    assert bool(alarms.diversity_gone(diversity, best)) == alarm


def test_every_alarm_has_advice() -> None:
    names = {value for name, value in vars(alarms).items() if name.isupper() and type(value) is str}
    assert names == alarms.ADVICE.keys()
