"""`zs2 bench chain`: its model and its tables, and one real measurement."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flows.bench.chain import chain, latency, text
from flows.errors import UsageError
from tests.flows.running import zs2


def test_the_model_of_latency() -> None:
    """One sampler takes what was measured; G take T+G−1 waves of 1/G of a step, and each wave waits for
    what is handed on."""
    assert latency(20.0, 10, 0.5, 1) == pytest.approx(20.0)
    assert latency(20.0, 10, 0.0, 2) == pytest.approx(11.0)
    assert latency(20.0, 10, 0.5, 2) == pytest.approx(11.0 + 11 * 0.5)
    assert latency(100.0, 50, 0.0, 8) * 8 / 100 == pytest.approx(57 / 50)


@pytest.mark.parametrize(
    "options",
    [
        {"frames": [0]},
        {"steps": 0},
        {"pairs": -1},
        {"relay_frames": 8},
        {"relay_steps": 0},
    ],
)
def test_nothing_to_measure_is_refused(options: dict[str, Any]) -> None:
    """Before anything is started."""
    usual: dict[str, Any] = {"frames": [], "steps": 1, "pairs": 0, "relay_frames": 16}
    option = f"--{next(iter(options)).replace('_', '-')}"
    with pytest.raises(UsageError, match=rf"^{option}: expected at least \d+, found -?\d+$"):
        chain(**{**usual, "relay_steps": 1, **options})


@pytest.mark.slow
def test_a_measurement() -> None:
    """Clips of two lengths, without and with a ControlNet, and a clip on one sampler and two, whose bytes
    are the same; the tables name what was measured."""
    sizes = ("--frames", 8, "--frames", 16, "--steps", 1, "--relay-frames", 16, "--relay-steps", 2)
    done = zs2("bench", "chain", *sizes, "--pairs", 1, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    for kind in ("plain", "controlnet"):
        assert [one["frames"] for one in report["lengths"][kind]] == [8, 16]
        assert all(one["mb"] > 0 and one["seconds"] > 0 for one in report["lengths"][kind])
    relay = report["relay"]
    assert relay["is_equal"] and relay["bytes_a_step"] > 10_000
    told = text(report)
    assert "one clip of 16 frames, 2 steps" in told and "with a ControlNet" in told
