"""Frames between a clip's frames, sampled by the model: noises on the arc, momentum state in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zs2 import ZS2Sampler, dependency_noise
from zs2.config import ClipConfig
from zs2.in_between import FineClip, arc


def sampled(pipe: Any, **more: Any) -> Any:
    values = {"num_frames": 5, "segment_frames": 2, "num_inference_steps": 3, "guidance_scale": 4.0}
    return ZS2Sampler(pipe)("a star", seed=7, **{**values, "kl_target": 0.3, **more})


@pytest.mark.parametrize(
    ("scheduler", "in_between", "speed"),
    [
        ("ddim", 4, "exact"),
        ("dpm++", 2, "exact"),
        ("euler_a", 2, "exact"),
        ("pndm", 2, "exact"),
        ("dpm++", 2, "fast"),
    ],
)
def test_given_frames_are_those_without(
    tiny_pipe: Any, scheduler: str, in_between: int, speed: str
) -> None:
    """(n−1)·k+1 frames, of which every k-th is bit by bit the clip's own, also where the scheduler adds
    noise, the clip has several segments and the last one is padded, and where deep features are reused
    and guidance ends; the others are new pictures."""
    settings = {"scheduler": scheduler, "speed": speed, "num_inference_steps": 4}
    plain = sampled(tiny_pipe, **settings)
    fine = sampled(tiny_pipe, **settings, in_between=in_between)
    assert fine.frames.shape[0] == 4 * in_between + 1
    assert torch.equal(fine.latents[::in_between], plain.latents)
    assert np.array_equal(fine.frames[::in_between], plain.frames)
    for at in range(len(fine.latents) - 1):
        assert not torch.equal(fine.latents[at], fine.latents[at + 1])


@pytest.mark.parametrize(
    ("chain", "noise"),
    [("exact", {"noise": "mixed", "alpha": 0.5}), ("anchor", {"noise": "iid"}), ("anchor", {})],
)
def test_every_noise_model_and_chain(tiny_pipe: Any, chain: str, noise: dict[str, Any]) -> None:
    """Whatever drew the clip's noise, however segments are chained, with a storyboard."""
    more = {"chain": chain, "segment_frames": 3, **noise}
    pipe = ZS2Sampler(tiny_pipe)
    values = {"num_frames": 5, "num_inference_steps": 2, "seed": [3]}
    plain = pipe([["a star", "a tree"]], **values, **more)[0]
    fine = pipe([["a star", "a tree"]], in_between=3, **values, **more)[0]
    assert torch.equal(fine.latents[::3], plain.latents)


def test_a_still_clip_stays_still(tiny_pipe: Any) -> None:
    """Where λ is 0 frames in between are the frame, up to the rounding of its average."""
    fine = sampled(tiny_pipe, kl_target=0.0, in_between=2)
    assert np.abs(fine.frames.astype(int) - fine.frames[0]).max() <= 1


def test_one_frame_has_nothing_in_between(tiny_pipe: Any) -> None:
    """A picture is the picture without."""
    values = {"num_frames": 1, "segment_frames": 1}
    assert torch.equal(
        sampled(tiny_pipe, in_between=8, **values).latents, sampled(tiny_pipe, **values).latents
    )


def test_noises_lie_on_the_arc() -> None:
    """Unit variance at every t, ends exact in direction, equal angles between steps."""
    eps, trace = dependency_noise((4, 64, 64), 2, 0.4, generator=torch.Generator().manual_seed(0))
    steps = torch.stack([arc(eps[0], eps[1], t / 8) for t in range(9)]).double()
    assert torch.allclose(steps[0], eps[0].double()) and torch.allclose(steps[8], eps[1].double())
    assert (steps.var((1, 2, 3)) - 1).abs().max() < 0.03
    flat = steps.flatten(1) / steps.flatten(1).norm(dim=1, keepdim=True)
    cosines = (flat[1:] * flat[:-1]).sum(1)
    assert (cosines - cosines[0]).abs().max() < 1e-3
    assert cosines[0] > float(trace.alpha[0]) ** 0.5


def test_equal_and_opposite_noises() -> None:
    """Equal noises give themselves; between opposite ones, which have no one arc, the nearer is held."""
    a = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(arc(a, a, 0.3), a)
    assert torch.equal(arc(a, -a, 0.3), a) and torch.equal(arc(a, -a, 0.8), -a)


def test_the_plan_covers_every_time_once() -> None:
    """Each call holds frames of one kind, and at most the segment's count of them; the frames in a gap
    come after the frame that it begins at, before the next segment."""
    for n, m, k in ((1, 1, 4), (5, 2, 2), (9, 4, 8), (8, 8, 4)):
        fine = FineClip(ClipConfig(num_frames=n, segment_frames=m), k)
        assert fine.num_frames == (n - 1) * k + 1
        times = [i * k + j for i, j in fine.places]
        assert sorted(times) == list(range((n - 1) * k + 1))
        for call in fine.plan:
            kinds = {bool(j) for _, j in fine.places[call.start : call.start + call.count]}
            assert len(kinds) == 1 and call.count <= call.padded_count == m


def test_what_says_nothing_of_frames_in_between(tiny_pipe: Any) -> None:
    """ValueError for what is given a frame at a time, and for no whole number of at least 1."""
    latents = torch.randn(5, 4, 8, 8)
    with pytest.raises(ValueError, match="in_between: expected 1 with latents"):
        sampled(tiny_pipe, in_between=2, latents=latents)
    with pytest.raises(ValueError, match="in_between"):
        sampled(tiny_pipe, in_between=0)
    with pytest.raises((TypeError, ValueError), match="in_between"):
        sampled(tiny_pipe, in_between=1.5)
