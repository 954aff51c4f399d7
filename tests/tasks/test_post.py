"""A job's in-between and larger frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import post
from tasks.job import Conditions, Job
from tasks.spatial_sr import upscale
from tasks.temporal_sr import interpolate
from tests import tiny_models
from tests.tasks.conftest import MakeJob
from tests.tiny_interpolators import NotANumber, script
from zs2 import diffusion_upscaler
from zs2.post_models import PostModelError, describe_interpolator, describe_upscaler
from zs2.upscaler import Words


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(4, 32, 32, 3), dtype=np.uint8)


def whole(chunks: Any) -> np.ndarray:
    return np.concatenate(list(chunks))


def with_conditions(job: Job, **changes: Any) -> Job:
    return replace(job, conditions=Conditions(**changes))


def test_a_jobs_columns_hold(make_job: MakeJob, frames: np.ndarray):
    """Scales and methods are the row's; without either the frames pass as they are."""
    chunks = np.split(frames, 4)
    job = make_job(num_frames=4, temporal_scale=2, spatial_scale=2, spatial_sr="lanczos")
    between = interpolate(frames, 2)
    np.testing.assert_array_equal(whole(post.interpolated(job, chunks)), between)
    larger = whole(post.upscaled(job, [between]))
    np.testing.assert_array_equal(larger, upscale(between, 2, "lanczos"))
    plain = make_job(temporal_sr="model:nowhere.pt", spatial_sr="diffusers:no/where")
    np.testing.assert_array_equal(
        whole(post.upscaled(plain, post.interpolated(plain, chunks))), frames
    )
    assert not post.wants_gpu(plain) and not post.wants_gpu(job)


def test_frames_that_the_sampler_put_in_between_are_not_interpolated(
    make_job: MakeJob, frames: np.ndarray
):
    """Of temporal_sr latent the clip comes with its in-between frames: it passes as it is."""
    job = make_job(num_frames=4, temporal_scale=2, temporal_sr="latent")
    np.testing.assert_array_equal(whole(post.interpolated(job, [frames])), frames)


def test_a_model_that_fails_raises(make_job: MakeJob, frames: np.ndarray, tmp_path: Path):
    """The error of a row's own model passes, with what to do."""
    path = script(tmp_path / "nan.pt", NotANumber)
    model = describe_interpolator(f"model:{path}", trusted=[str(path)])
    job = with_conditions(make_job(temporal_scale=2), interpolator=model)
    smooth = frames // 64 + np.arange(4, dtype=np.uint8)[:, None, None, None]
    with pytest.raises(PostModelError, match="found NaN or infinity; try"):
        whole(post.interpolated(job, [smooth]))


def test_a_diffusion_upscaler_follows_the_row(
    make_job: MakeJob, frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each frame gets the prompt of its segment, and all the same noise: equal frames of one segment
    are equal afterwards. Such a job belongs where the GPU is."""
    for settings in diffusion_upscaler.SETTINGS.values():
        monkeypatch.setitem(settings, "num_inference_steps", 1)
    seen: list[Words] = []
    true_call = diffusion_upscaler.call
    monkeypatch.setattr(
        diffusion_upscaler, "call", lambda *a: (seen.append(a[3]), true_call(*a))[1]
    )
    (tmp_path / "parts").mkdir()
    tiny_models.upscaler_x4(tmp_path / "parts").save_pretrained(tmp_path / "x4")
    model = describe_upscaler(f"diffusers:{tmp_path / 'x4'}")
    row = {"prompt": ["one", "two"], "num_frames": 4, "segment_frames": 2, "seed": 5}
    job = with_conditions(make_job(**row, spatial_scale=4), upscaler=model)
    still = np.repeat(frames[:1], 4, 0)
    larger = whole(post.upscaled(job, np.split(still, 2)))
    assert larger.shape == (4, 128, 128, 3) and post.wants_gpu(job)
    assert [said.prompt for said in seen] == ["one", "one", "two", "two"]
    assert {said.seed for said in seen} == {5}
    assert (larger[0] == larger[1]).all() and (larger[2] == larger[3]).all()
    assert (larger[1] != larger[2]).any()
