"""ClipConfig: derived values and refusals."""

from __future__ import annotations

import pytest

from zs2.config import ClipConfig


@pytest.mark.parametrize(
    ("num_frames", "segment_frames", "per_call", "segments"),
    [
        (1, None, 1, 1),
        (5, None, 5, 1),
        (8, None, 8, 1),
        (24, None, 8, 3),
        (24, 5, 5, 5),
        (7, 7, 7, 1),
    ],
)
def test_segments_follow_frames(num_frames, segment_frames, per_call, segments):
    """m is min(8, n) unless given, and there are ⌈n/m⌉ segments."""
    config = ClipConfig(num_frames=num_frames, segment_frames=segment_frames)
    assert (config.frames_per_call, config.num_segments) == (per_call, segments)


def test_scalars_and_lists_spread_over_frames():
    """λ has n−1 values, μ has n; a list of one is the scalar."""
    config = ClipConfig(num_frames=4, kl_target=(0.1,), momentum=(0.1, 0.2, 0.3, 0.4))
    assert config.kl_targets == (0.1, 0.1, 0.1)
    assert config.momentums == (0.1, 0.2, 0.3, 0.4)
    assert ClipConfig(num_frames=1).kl_targets == ()


def test_frame_prompts_by_segment():
    """Each frame has its own segment's prompt, also in a short last segment."""
    config = ClipConfig(num_frames=5, segment_frames=2)
    assert config.frame_prompts(["a", "b", "c"]) == [0, 0, 1, 1, 2]
    assert config.frame_prompts(["a"]) == [0] * 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 0}, "num_frames"),
        ({"noise_candidates": 0}, "noise_candidates"),
        ({"segment_frames": 0}, "segment_frames"),
        ({"solver": "x"}, "solver: expected one of expected, exact, search, algorithm1"),
        (
            {"noise": "progressive", "alpha": 1.5},
            r"alpha: expected a number in \[0, 1\], found 1.5",
        ),
        ({"kl_target": float("inf")}, "kl_target: expected ≥ 0, found inf"),
    ],
)
def test_refusals_name_the_field(fields, message):
    """A wrong value raises ValueError that names its field."""
    with pytest.raises(ValueError, match=message):
        ClipConfig(**fields)
