"""The stages as plain functions, on the tiny model."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
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
from tasks.chunks import StageError
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
    fast = tiny_job(speed="fast", num_inference_steps=5, guidance_scale=3.0)
    with counted(sampler) as faster:
        sampling.sample(models, fast)
    assert len(faster) == fast.unet_calls and sum(faster) == fast.unet_pictures == 2 * 2 * 9
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


def test_finish_is_described(tiny_job: TinyJob, tmp_path: Path):
    """Temporal ×2 makes (n−1)·2+1 frames, spatial ×2 twice the size; the report holds what the ledger
    says of the file, measured on the file, and the seconds of the stages that the row has."""
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    path = tmp_path / "a.mkv"
    large = tiny_job(fps=12, temporal_scale=2, spatial_scale=2, codec="ffv1")
    report = stages.finish(large, [frames[:1], frames[1:]], path)
    content = path.read_bytes()
    seconds = {name: report.pop(name) for name in list(report) if name.startswith("seconds_")}
    assert report == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "num_frames": 7,
        "height": 64,
        "width": 64,
        "fps": 24.0,
    }
    assert set(seconds) == {"seconds_temporal", "seconds_spatial", "seconds_assemble"}
    assert all(value > 0 for value in seconds.values()), seconds
    plain = stages.finish(tiny_job(codec="ffv1"), [frames], path)
    assert np.array_equal(decode(path)[0], frames)
    assert "seconds_temporal" not in plain and "note" not in plain


def test_one_frame_has_none_in_between(tiny_job: TinyJob, tmp_path: Path):
    """A clip of one frame stays one, and the ledger is told."""
    job = tiny_job(num_frames=1, segment_frames=1, temporal_scale=4, codec="ffv1")
    report = stages.finish(job, [np.zeros((1, 32, 32, 3), np.uint8)], tmp_path / "a.mkv")
    assert report["num_frames"] == 1 and "none in between" in report["note"]


def test_chunks_make_the_same_file(tiny_job: TinyJob, tmp_path: Path):
    """However a clip is cut into chunks, its file is the same."""
    job = tiny_job(num_frames=6, temporal_scale=2, spatial_scale=2)
    frames = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
    sums = {
        stages.finish(job, np.split(frames, cuts), tmp_path / "a.mp4")["sha256"]
        for cuts in ([], [1], [3, 4], range(1, 6))
    }
    assert len(sums) == 1


def test_who_failed(tiny_job: TinyJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What goes wrong while the encoder waits for frames is told of the stage that should have made
    them; what the frames' source raises passes unchanged. Nothing is left of the file, nor a thread."""
    job = tiny_job(temporal_scale=2, spatial_scale=2)
    frames = np.zeros((4, 32, 32, 3), np.uint8)

    def source(error: Exception) -> Iterator[Any]:
        yield frames
        raise error

    for row in (tiny_job(), job):
        with pytest.raises(KeyError, match="lost"):
            stages.finish(row, source(KeyError("lost")), tmp_path / "a.mp4")

    def broken(chunks: Any, *_: Any, **__: Any) -> Iterator[Any]:
        yield next(chunks)
        raise ArithmeticError("no flow")

    monkeypatch.setattr("tasks.temporal_sr.interpolate_chunks", broken)
    with pytest.raises(StageError) as raised:
        stages.finish(job, [frames], tmp_path / "a.mp4")
    assert raised.value.stage == "temporal"
    assert isinstance(raised.value.__cause__, ArithmeticError)
    assert not list(tmp_path.iterdir())
    assert "zs2-ahead" not in {thread.name for thread in threading.enumerate()}


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


def test_render_alone_tells_what_was_cut(models: WarmModels, tiny_job: TinyJob, tmp_path: Path):
    """A prompt longer than the encoder reads is a note of the report, as it is one of the ledger."""
    job = tiny_job(prompt="a " * 100)
    report = stages.render_alone(models, job, tmp_path / "long.mp4")
    assert report["note"] == "prompt truncated: 102 tokens, the model reads 16"
    assert "note" not in stages.render_alone(models, tiny_job("short"), tmp_path / "short.mp4")


def test_output_path(tiny_job: TinyJob, tmp_path: Path):
    """videos/<first two hex of the digest>/<id> with the codec's suffix."""
    job = tiny_job(codec="gif")
    path = stages.output_path(RunFolder(tmp_path), job)
    assert path == tmp_path / "videos" / job.digest[:2] / "a.gif"


MEASURED = """
import re, sys
from pathlib import Path
import cv2, numpy as np
from manifests.row import parse_row
from tasks import assemble, decoding, previews, spatial_sr, stages, temporal_sr
from tasks.catalogue import Catalogue
from tasks.job import Engine, resolve

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def chunks(count, side):
    noise = np.random.default_rng(0).integers(0, 255, (side // 8, side // 2, 3), np.uint8)
    scene = cv2.resize(noise, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    for start in range(0, count, 64):
        shown = range(start, min(start + 64, count))
        yield np.stack([scene[:, i % side : i % side + side] for i in shown])

side = 64
for count in (130, 2000):
    values = {"id": "a", "prompt": "x", "num_frames": count, "temporal_scale": 2, "spatial_scale": 2}
    row = parse_row(values | {"height": side, "width": side, "codec": "ffv1"})
    catalogue = Catalogue()
    job = resolve(row, 0, *catalogue.find(row.model), Engine())
    done = stages.finish(job, chunks(count, side), Path(sys.argv[1]))
    previews.write_preview(Path(sys.argv[1]), Path(sys.argv[1]).parent / "preview", 16.0)
    print("PEAK", done["num_frames"], peak())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(tmp_path: Path):
    """A clip of 2,000 frames goes through temporal ×2 and spatial ×2, the encoder, the check of its
    file and its preview in the memory of one of 130, and 24 MB: an eighth of its larger frames."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "a.mkv")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    peaks = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("PEAK")]
    assert [int(frames) for frames, _ in peaks] == [259, 3999], done.stderr
    short, long = (int(memory) for _, memory in peaks)
    assert long - short < 24 * 2**20, (short, long)
