"""infra.fast: what speed=fast gains, measured on one clip, and counted."""

from __future__ import annotations

import pytest

from infra import fast
from infra.reports import with_tables
from tasks.job import SHALLOW_COST, SHALLOW_COST_SDXL
from zs2 import ZS2Sampler
from zs2.speed import SPEEDS, steps_of


def test_one_clip_is_measured():
    """Calls and pictures of the sampler are those of the rules; every figure has its cell, and the
    report a place for the tables."""
    known = dict(SPEEDS)
    try:
        found = fast.measure(1)
    finally:
        SPEEDS.clear()
        SPEEDS.update(known)
    own = ZS2Sampler.from_pretrained("zs2-mini").defaults.num_inference_steps
    steps = steps_of("fast", None, None, own)[1]
    made = SPEEDS["fast"].pictures(steps, 2)
    assert found["fast", "calls"][0] == steps < found["exact", "calls"][0] == own
    assert found["fast", "pictures"][0] == fast.FRAMES * made.all
    assert found["fast", "deep"][0] == fast.FRAMES * (made.all - made.shallow)
    assert found["exact", "deep"][0] == found["exact", "pictures"][0] == fast.FRAMES * 2 * own
    assert len(fast.gains(found).splitlines()) == 2 + len(fast.VARIANTS)
    assert len(fast.costs(found).splitlines()) == 2 + len(fast.VARIANTS) * len(fast.SCORES)
    assert "a table" in with_tables(fast.REPORT.read_text("utf-8"), {"fast": "a table"})


def test_what_plans_take_a_shallow_picture_for():
    """The shares of operations that `zs2 plan` counts with are near those of the architectures."""
    shares = {name: fast.operations(config) for name, config in fast.ARCHITECTURES.items()}
    found = {name: shallow / whole for name, (whole, shallow) in shares.items()}
    assert found["SD 1.5"] == pytest.approx(SHALLOW_COST, abs=0.03)
    assert found["SD 2.1"] == pytest.approx(SHALLOW_COST, abs=0.07)
    assert found["SDXL"] == pytest.approx(SHALLOW_COST_SDXL, abs=0.005)
