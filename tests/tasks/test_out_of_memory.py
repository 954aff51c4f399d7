"""Out of memory: real errors, real models, and rows that end well all the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from manifests.row import parse_row
from manifests.storage import RunFolder
from tasks import out_of_memory, sampling
from tasks.actors import SamplerActor, StageFailure
from tasks.catalogue import Catalogue
from tasks.job import Engine, Job, resolve
from tasks.out_of_memory import Fallbacks, OutOfMemory, fallbacks_of, is_out_of_memory
from tasks.warm import WarmModels
from zs2.clip import Clip

TinyJob = Callable[..., Job]


@pytest.fixture
def tiny_job(tiny_model: Path) -> TinyJob:
    catalogue = Catalogue()

    def make(row_id: str = "a", **columns: Any) -> Job:
        values = {"prompt": "a b", "num_frames": 4, "num_inference_steps": 2, **columns}
        row = parse_row({"id": row_id, "model": str(tiny_model), **values})
        return resolve(row, 0, *catalogue.find(row.model), Engine())

    return make


def _raised(cause: Exception) -> Exception:
    try:
        raise ValueError("the pipeline cannot be loaded") from cause
    except ValueError as error:
        return error


def _allocation() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**14)
    return caught.value


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (lambda: torch.AcceleratorError("CUDA error: out of memory"), True),
        (lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (_allocation, True),
        (MemoryError, True),
        (lambda: _raised(torch.OutOfMemoryError("CUDA out of memory")), True),
        (lambda: torch.AcceleratorError("CUDA error: an illegal memory access"), False),
        (lambda: RuntimeError("expected all tensors on one device"), False),
        (lambda: ValueError("out of memory is what the prompt says"), False),
    ],
)
def test_what_counts_as_out_of_memory(make: Callable[[], Exception], expected: bool):
    """Torch's own error, a real allocation that fails, and those of the libraries below, also where
    another error was raised from one; nothing else."""
    assert is_out_of_memory(make()) is expected


def test_fallbacks_are_tried_in_order_and_remembered(monkeypatch: pytest.MonkeyPatch):
    """Each time memory runs out one fallback more is tried. Rows like it start with what it needed,
    others do not; with nothing left to try the row fails and is told what to lower. Other errors
    are not touched."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fallbacks_of("sample") == ("offload",)
    assert fallbacks_of("decode") == ("offload", "tiles")
    fallbacks = Fallbacks()
    tried: list[list[str]] = []

    def needs(*wanted: str) -> Callable[[Sequence[str]], str]:
        def work(given: Sequence[str]) -> str:
            tried.append(list(given))
            if not set(wanted) <= set(given):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return "done"

        return work

    both = ["offload", "tiles"]
    assert fallbacks.attempt("large", "decode", needs(*both)) == ("done", both)
    assert tried == [[], ["offload"], both]
    tried.clear()
    assert fallbacks.attempt("large", "decode", needs(*both)) == ("done", both)
    assert fallbacks.attempt("small", "decode", needs()) == ("done", [])
    assert fallbacks.attempt("large", "sample", needs("offload")) == ("done", ["offload"])
    assert tried == [both, [], [], ["offload"]]
    with pytest.raises(OutOfMemory, match=r"also with offload \(CUDA.*lower height"):
        fallbacks.attempt("huge", "sample", needs("more"))
    with pytest.raises(ZeroDivisionError):
        fallbacks.attempt("large", "decode", lambda given: 1 // 0)


def test_a_frame_that_does_not_fit_is_decoded_in_tiles(
    tiny_job: TinyJob, monkeypatch: pytest.MonkeyPatch
):
    """Where the autoencoder has no memory for a whole frame it gets tiles of at most half its side:
    the row ends, the frames are near those of the whole frame (seams apart), a second row of the
    size is decoded so at once, a smaller one as a whole; the autoencoder is as before."""
    models, fallbacks = WarmModels(), Fallbacks()
    job, small = tiny_job(height=64, width=96), tiny_job(height=32, width=32)
    sampler = models.sampler(job)
    vae = sampler.pipe.vae
    before = (vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size)
    latents = sampling.sample(models, job).latents
    whole = sampler.decode(latents)
    asked: list[tuple[int, ...]] = []
    decoder = vae.decoder.forward

    def forward(z: torch.Tensor, *rest: Any) -> torch.Tensor:
        asked.append(tuple(z.shape[-2:]))
        if max(z.shape[-2:]) > latents.shape[-1] // 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        return decoder(z, *rest)

    monkeypatch.setattr(vae.decoder, "forward", forward)
    frames, note = sampling.decode_in_memory(models, fallbacks, job, latents)
    assert frames.shape == whole.shape and note == "decoded in tiles: memory ran out without"
    assert np.abs(frames.astype(int) - whole).mean() < 8
    assert (vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size) == before
    asked.clear()
    again, _ = sampling.decode_in_memory(models, fallbacks, job, latents)
    assert (again == frames).all()
    assert max(max(sides) for sides in asked) <= latents.shape[-1] // 2
    _, note = sampling.decode_in_memory(models, fallbacks, small, latents[..., :16, :16])
    assert note is None


def test_offloading_changes_no_byte(tiny_job: TinyJob, monkeypatch: pytest.MonkeyPatch):
    """A row that does not fit beside the other parts of its checkpoint is sampled with those in the
    machine's memory: the same latents, and the ledger is told. Here the CPU stands in for the GPU:
    the hooks that move the parts are diffusers' own."""
    monkeypatch.setattr(out_of_memory, "fallbacks_of", lambda stage: ("offload",))
    models, fallbacks = WarmModels(), Fallbacks()
    job = tiny_job()
    expected = sampling.sample(models, job).latents
    pipe = models.sampler(job).pipe
    sample = sampling.sample

    def short_of_memory(*arguments: Any) -> sampling.Sampled:
        if not hasattr(pipe.text_encoder, "_hf_hook"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        return sample(*arguments)

    monkeypatch.setattr(sampling, "sample", short_of_memory)
    sampled, note = sampling.sample_in_memory(models, fallbacks, job)
    assert torch.equal(sampled.latents, expected)
    assert note == "sampled with offload: memory ran out without"
    frames, _ = sampling.decode_in_memory(models, fallbacks, job, sampled.latents)
    assert len(frames) == 4
    fresh = WarmModels().sampler(job, offload=True).pipe
    assert hasattr(fresh.unet, "_hf_hook")


class Unlucky(SamplerActor):
    """A sampler actor in which a row meets the error that its id names."""

    def __init__(self, root: str) -> None:
        super().__init__(root, 1)
        sample_clips = sampling.sample_clips

        def faulty(models: WarmModels, jobs: list[Job], *rest: Any) -> list[Clip]:
            if jobs[0].row.id == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if jobs[0].row.id == "poison":
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            return sample_clips(models, jobs, *rest)

        sampling.sample_clips = faulty


# Ray's workers do not import test modules.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("local_ray")
def test_what_the_driver_is_told(tiny_job: TinyJob, tmp_path: Path):
    """Of a real actor: a row out of memory is that row's failure and the actor goes on; an error
    that breaks the CUDA context of the process is fatal to the actor."""
    folder = RunFolder(tmp_path).create()
    actor = ray.remote(Unlucky).options(num_cpus=0.1).remote(str(folder.root))
    told = {
        row_id: ray.get(list(actor.run.remote(tiny_job(row_id), None))[-1])
        for row_id in ("memory", "poison", "good")
    }
    ray.kill(actor)
    memory, poison = told["memory"], told["poison"]
    assert isinstance(memory, StageFailure) and isinstance(poison, StageFailure)
    assert (memory.stage, memory.error_type, memory.fatal) == ("sample", "OutOfMemory", False)
    assert "lower height, width or segment_frames" in memory.message
    assert (poison.error_type, poison.fatal) == ("AcceleratorError", True)
    assert told["good"]["unet_calls"] == 2
