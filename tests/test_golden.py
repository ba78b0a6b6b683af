"""Tiny runs of all models still arrive where they did when `golden.json` was recorded."""

import json

import golden
import pytest
import torch

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in golden.ALIKE,
    reason="normal numbers are drawn a little differently on this kind of CPU",
)

RECORDED = json.loads(golden.PORTABLE.read_text())


@pytest.fixture(scope="module")
def now() -> dict[str, golden.Record]:
    return golden.record(list(RECORDED["runs"]))


@pytest.mark.parametrize("run", golden.TESTED)
def test_runs_arrive_where_they_did(run: str, now: dict[str, golden.Record]) -> None:
    moved = golden.numbers_moved(RECORDED["runs"][run]["numbers"], now[run]["numbers"])
    far = {part: value for part, value in moved.items() if not value <= golden.TOLERANCE}
    told = ", ".join(f"{part} by {value:.1e}" for part, value in far.items())
    assert not far, (
        f"the run {run} ends elsewhere than when tests/golden.json was recorded: of its norm, "
        f"{told} (rounding on other machines moves them by less than {golden.TOLERANCE:.0e}). "
        f"Something that is computed or drawn has changed, or torch has: {RECORDED['torch']} then. "
        f"If that is intended, say so in the commit and record anew: "
        f"python tests/golden.py record tests/golden.json"
    )
