"""The stages as plain functions, on the tiny model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests.row import parse_row
from manifests.storage import RunFolder
from tasks import sampling, stages
from tasks.assemble import decode
from tasks.catalogue import Catalogue
from tasks.job import Engine, Job, resolve
from tasks.warm import WarmModels
from zs2.sampler import ZS2Sampler

TinyJob = Callable[..., Job]


@pytest.fixture
def tiny_job(tiny_model: Path) -> TinyJob:
    """A job of the tiny model: 4 frames in segments of 2, 2 steps."""
    catalogue = Catalogue()

    def make(row_id: str = "a", **columns: Any) -> Job:
        values = {"prompt": "a b", "num_frames": 4, "segment_frames": 2, "num_inference_steps": 2}
        row = parse_row({"id": row_id, "model": str(tiny_model), **values, **columns})
        return resolve(row, 0, *catalogue.find(row.model), Engine())

    return make


@pytest.fixture(scope="module")
def models() -> WarmModels:
    return WarmModels()


@pytest.fixture
def sampler(models: WarmModels, tiny_job: TinyJob) -> ZS2Sampler:
    """The tiny model's sampler, loaded once for the module."""
    return models.sampler(tiny_job())


@contextmanager
def counted(sampler: ZS2Sampler) -> Iterator[list[int]]:
    """The pictures of every UNet call that is made meanwhile, counted at its first layer."""
    calls: list[int] = []
    hook = sampler.pipe.unet.conv_in.register_forward_pre_hook(
        lambda module, args: calls.append(len(args[0]))
    )
    try:
        yield calls
    finally:
        hook.remove()


def test_latents_on_disk_are_not_sampled_again(
    models: WarmModels, sampler: ZS2Sampler, tiny_job: TinyJob, tmp_path: Path
):
    """An attempt that finds the latents of an earlier one makes no UNet call, and gives the same
    latents, λ and frames to the last bit; the first attempt made as many calls as the job says."""
    job, path = tiny_job(solver="exact"), tmp_path / "latents" / "x.safetensors"
    with counted(sampler) as calls:
        first = sampling.sample(models, job, path)
    assert len(calls) == job.unet_calls and sum(calls) == job.unet_pictures
    with counted(sampler) as calls:
        again = sampling.sample(models, job, path)
    assert calls == [] and (first.reused, again.reused) == (False, True)
    assert torch.equal(first.latents, again.latents) and first.kl == again.kl
    assert first.kl == pytest.approx([0.01] * 3, rel=1e-3)
    assert np.array_equal(sampler.decode(first.latents), sampler.decode(again.latents))
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def test_half_precision_latents_are_the_same_from_disk(tiny_job: TinyJob, tmp_path: Path):
    """Latents that were sampled in bfloat16 decode to the same frames before and after the disk."""
    job = tiny_job()
    job = resolve(job.row, 0, job.model, job.revision, Engine("bfloat16"))
    models = WarmModels()
    first, again = (sampling.sample(models, job, tmp_path / "x.safetensors") for _ in range(2))
    half = models.sampler(job)
    assert again.reused and first.latents.dtype == again.latents.dtype == torch.float32
    assert np.array_equal(half.decode(first.latents), half.decode(again.latents))


@pytest.mark.parametrize("content", [b"", b"no latents", None], ids=["empty", "other", "cut"])
def test_damaged_latents_are_sampled_again(
    models: WarmModels, tiny_job: TinyJob, tmp_path: Path, content: bytes | None
):
    """A latents file that cannot be read costs its row a sampling, not the row: it is replaced."""
    job, path = tiny_job(), tmp_path / "x.safetensors"
    first = sampling.sample(models, job, path)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    again = sampling.sample(models, job, path)
    assert not again.reused and torch.equal(first.latents, again.latents)
    assert sampling.sample(models, job, path).reused


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        (
            torch.float32,
            "look to the weights, the LoRAs and control_scale, or lower guidance_scale",
        ),
        (torch.bfloat16, "lower guidance_scale, or use --dtype float32 or bfloat16"),
    ],
)
def test_nan_latents_are_an_error(
    dtype: torch.dtype, remedy: str, tiny_job: TinyJob, tmp_path: Path
):
    """A clip that comes out as NaN is refused with a remedy that is not in force already, and its
    latents are not kept."""
    job, path = tiny_job(), tmp_path / "x.safetensors"
    broken = WarmModels()
    with torch.no_grad():
        broken.sampler(job).pipe.to(dtype).unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(sampling.SamplingError, match=f"found NaN or infinity; {remedy}$"):
        sampling.sample(broken, job, path)
    assert not path.exists()


def test_truncation_note(sampler: ZS2Sampler, tiny_job: TinyJob):
    """A prompt of more tokens than the text encoder reads is noted with both numbers; of a
    storyboard the longest counts; one that just fits is not noted."""
    limit = sampler.pipe.tokenizer.model_max_length  # begin and end included; a letter is a token
    fits, long = "a " * (limit - 2), "a " * (limit + 3)
    assert sampling.truncation_note(sampler, tiny_job(prompt=fits)) is None
    note = f"prompt truncated: {limit + 5} tokens, the model reads {limit}"
    assert sampling.truncation_note(sampler, tiny_job(prompt=long)) == note
    assert sampling.truncation_note(sampler, tiny_job(prompt=["a", long])) == note
    for other in ("chunk", "fail"):
        assert sampling.truncation_note(sampler, tiny_job(prompt=long, long_prompt=other)) is None
    negative = tiny_job(prompt=fits, negative_prompt=long)
    assert sampling.truncation_note(sampler, negative) == f"negative_{note}"


def test_post_processing(tiny_job: TinyJob):
    """Temporal ×2 makes (n−1)·2+1 frames, spatial ×2 twice the size; scale 1 changes nothing."""
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    job = tiny_job(temporal_scale=2, spatial_scale=2)
    longer = stages.interpolate_frames(job, frames)
    assert longer.shape == (7, 32, 32, 3)
    assert stages.upscale_frames(job, longer).shape == (7, 64, 64, 3)
    plain = tiny_job()
    same = stages.upscale_frames(plain, stages.interpolate_frames(plain, frames))
    assert np.array_equal(same, frames)


def test_assembled_video_is_described(tiny_job: TinyJob, tmp_path: Path):
    """The report holds what the ledger says of the file, measured on the file."""
    job = tiny_job(fps=12, temporal_scale=2, codec="ffv1")
    frames = np.zeros((7, 32, 32, 3), np.uint8)
    path = tmp_path / "a.mkv"
    report = stages.assemble_video(job, frames, path)
    content = path.read_bytes()
    assert report == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "num_frames": 7,
        "height": 32,
        "width": 32,
        "fps": 24.0,
    }


def test_render_alone(models: WarmModels, tiny_job: TinyJob, tmp_path: Path):
    """All stages in this process: a file with the frames that the row asked for, twice the same
    bytes; what was rendered between does not matter."""
    job = tiny_job(temporal_scale=2, spatial_scale=2, codec="ffv1")
    report = stages.render_alone(models, job, tmp_path / "one.mkv")
    stages.render_alone(models, tiny_job("other", prompt="c"), tmp_path / "other.mp4")
    again = stages.render_alone(models, job, tmp_path / "two.mkv")
    assert (report["num_frames"], report["height"], report["fps"]) == (7, 64, 16.0)
    assert report["sha256"] == again["sha256"] and len(report["kl_achieved"]) == 3
    frames, _ = decode(tmp_path / "one.mkv")
    assert frames.shape == (7, 64, 64, 3)


def test_output_path(tiny_job: TinyJob, tmp_path: Path):
    """videos/<first two hex of the digest>/<id> with the codec's suffix."""
    job = tiny_job(codec="gif")
    path = stages.output_path(RunFolder(tmp_path), job)
    assert path == tmp_path / "videos" / job.digest[:2] / "a.gif"
