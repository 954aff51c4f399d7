"""`zs2 bench noise`, `post` and `encode`: they measure the real thing and say what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.bench import noise, stages
from flows.bench.moving_picture import moving_picture
from flows.errors import UsageError
from tasks.codecs import CODECS
from zs2.config import SOLVERS

SIDE = 32


def test_the_picture_moves():
    """2 pixels a frame to the side and 1 down, and is the same each time."""
    clip = moving_picture(3, SIDE)
    assert clip.shape == (3, SIDE, SIDE, 3) and clip.dtype == np.uint8
    assert np.array_equal(clip[0][1:, 2:], clip[1][:-1, :-2])
    assert np.array_equal(clip, moving_picture(3, SIDE))


@pytest.mark.parametrize("page", [stages.text, stages.markdown])
def test_codecs_are_measured(page: Any):
    """Each one's frames and bytes; the lossless ones' are more than h264's."""
    report = stages.encode(frames=3, sides=[SIDE], rounds=1)
    by_codec = {found["what"]: found for found in report["work"]}
    assert list(by_codec) == list(CODECS)
    for found in by_codec.values():
        assert found["frames"] == 3 and found["bytes_in"] == 3 * SIDE * SIDE * 3
        assert found["frames_per_second"] == pytest.approx(3 / found["seconds"])
    assert by_codec["ffv1"]["bytes_out"] > by_codec["h264"]["bytes_out"] > 0
    assert all(codec in page(report) for codec in CODECS)


def test_post_processing_is_measured():
    """(n−1)·k+1 frames of flow, n larger ones of the others, with their bytes."""
    report = stages.post(frames=3, sides=[SIDE], rounds=1)
    out = {found["what"]: (found["frames"], found["bytes_out"]) for found in report["work"]}
    frame = SIDE * SIDE * 3
    assert sorted(out.values()) == sorted(
        [(5, 5 * frame), (9, 9 * frame), (3, 12 * frame), (3, 12 * frame)]
    )
    assert json.loads(json.dumps(report)) == report


def test_solvers_are_measured(tiny_model: Path):
    """Every solver at the model's own size, with its share in the clip, and at three others."""
    report = noise.noise(model=str(tiny_model), frames=3, kl_target=0.01, rounds=1, threads=1)
    own = [found for found in report["solvers"] if found["share"] is not None]
    assert [found["solver"] for found in own] == list(SOLVERS)
    assert all(found["seconds_a_pair"] > 0 for found in report["solvers"])
    sizes = {found["shape"][1] for found in report["solvers"]}
    assert sizes == {16, 64, 128}
    assert all(name in noise.text(report) and name in noise.markdown(report) for name in SOLVERS)


def test_what_says_nothing_is_refused():
    """With what was expected and found."""
    for bench in (stages.post, stages.encode):
        with pytest.raises(UsageError, match=r"^--frames: expected at least 2, found 1$"):
            bench(frames=1, sides=[SIDE], rounds=1)
        with pytest.raises(UsageError, match=r"^--rounds: expected at least 1, found 0$"):
            bench(frames=3, sides=[SIDE], rounds=0)
        with pytest.raises(UsageError, match=r"^--side: expected at least 32, found 8$"):
            bench(frames=3, sides=[64, 8], rounds=1)
    with pytest.raises(UsageError, match=r"^--frames: expected at least 2, found 1$"):
        noise.noise(model="zs2-mini", frames=1, kl_target=0.01, rounds=1, threads=1)


def test_the_commands_answer():
    """As JSON and as a page, nothing beside it."""
    for options in (["--json"], ["--markdown"]):
        command = [sys.executable, "-m", "flows.cli", "bench", "encode", "--side", str(SIDE)]
        done = subprocess.run(
            [*command, "--frames", "2", "--rounds", "1", *options],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "h265" in done.stdout and (options == ["--markdown"]) == ("| ---" in done.stdout)
