"""Sampling and decoding one clip: a job becomes latents, latents become frames.

With what memory there is: what does not fit is tried again with the fallbacks of `out_of_memory`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.links import is_own_file
from manifests.storage import write_aside
from tasks.chunks import Frames, frames_a_chunk
from tasks.disk import write_with_room
from tasks.job import Job
from tasks.out_of_memory import OFFLOAD, TILES, Fallbacks
from tasks.warm import WarmModels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from zs2.clip import Clip
    from zs2.relay import Share
    from zs2.sampler import ZS2Sampler


class SamplingError(RuntimeError):
    """A clip whose latents are unusable; the message says what to change."""


@dataclass(frozen=True)
class Sampled:
    """A clip before decoding.

    Attributes:
        kl: λ reached per frame pair.
        reused: found on disk, left there by an earlier attempt, or sampled with another row; no UNet
            call was made for it.
        seconds_elsewhere: spent on it in another row's turn; below 0, in this row's turn on others.
        candidates: those it was chosen from, if any; see `tasks.best_of`.
    """

    latents: torch.Tensor
    kl: list[float]
    reused: bool
    seconds_elsewhere: float = 0.0
    candidates: tuple[dict[str, Any], ...] = ()


def load_in_memory(models: WarmModels, fallbacks: Fallbacks, job: Job) -> None:
    """Make the job's checkpoint warm, with what memory there is.

    Raises:
        ModelError: the weights cannot be loaded. OutOfMemory: they do not fit.
    """
    fallbacks.attempt(
        job.signature, "load", lambda needed: models.sampler(job, offload=OFFLOAD in needed)
    )


def sample_in_memory(
    models: WarmModels,
    fallbacks: Fallbacks,
    job: Job,
    how: Callable[[], Sampled] | None = None,
) -> tuple[Sampled, str | None]:
    """As `sample`, with what memory there is; also what the ledger should know.

    Args:
        how: samples the job, by its warm sampler; default `sample`.

    Raises:
        OutOfMemory: the row does not fit, whatever was tried. Else as `sample`.
    """

    def work(needed: Sequence[str]) -> tuple[Sampled, str | None]:
        sampler = models.sampler(job, offload=OFFLOAD in needed)
        return (sample(models, job) if how is None else how()), truncation_note(sampler, job)

    (sampled, truncated), needed = fallbacks.attempt(_shape(job), "sample", work)
    return sampled, joined(truncated, _memory_note("sampled", needed))


def decode_in_memory(
    models: WarmModels, fallbacks: Fallbacks, job: Job, latents: torch.Tensor
) -> tuple[Frames, str | None]:
    """Latents to frames, with what memory there is; also what the ledger should know.

    Raises:
        OutOfMemory: a frame does not fit, whatever was tried.
    """
    chunks, notes = zip(*decode_in_chunks(models, fallbacks, job, latents), strict=True)
    return np.concatenate(chunks), notes[-1]


def decode_in_chunks(
    models: WarmModels, fallbacks: Fallbacks, job: Job, latents: torch.Tensor
) -> Iterator[tuple[Frames, str | None]]:
    """As `decode_in_memory`, some frames at a time; with each, what the ledger should know by then."""
    from zs2.decode_calls import frames_a_call
    from zs2.decoding import decode, in_tiles

    def decoded_part(part: torch.Tensor, needed: Sequence[str]) -> Frames:
        sampler = models.sampler(job, offload=OFFLOAD in needed)
        if TILES not in needed:
            return decode(sampler.pipe, part, call)
        with in_tiles(sampler.pipe, part):
            return decode(sampler.pipe, part, call)

    side = job.model.scale_factor
    size = [side * length for length in latents.shape[-2:]]
    call = 1 if job.row.sampled_frames == 1 else frames_a_call(*size)
    for part in latents.split(max(1, frames_a_chunk(*size) // call) * call):
        decoded, needed = fallbacks.attempt(_shape(job), "decode", partial(decoded_part, part))
        yield decoded, _memory_note("decoded", needed)


def _shape(job: Job) -> tuple[object, ...]:
    """What rows share that need the same memory."""
    row = job.row
    shape = (row.height, row.width, row.segment_frames, job.is_guided, row.speed)
    return (job.signature, job.clips_per_call, *shape)


def _memory_note(done: str, needed: Sequence[str]) -> str | None:
    if not needed:
        return None
    how = " and ".join({OFFLOAD: "with offload", TILES: "in tiles"}[name] for name in needed)
    return f"{done} {how}: memory ran out without"


def joined(*notes: str | None) -> str | None:
    """Notes for the ledger as one; None where there are none."""
    return "; ".join(note for note in notes if note) or None


def sample(
    models: WarmModels, job: Job, latents_file: Path | None = None, share: Share | None = None
) -> Sampled:
    """Sample the job's latents, or read them where an earlier attempt left them; or a share of them.

    Raises:
        ModelError: weights that cannot be loaded. ClipError: an unusable clip or picture.
        PromptError: too long a prompt, with long_prompt `fail`.
        SamplingError: NaN or infinite latents. DiskFullError: no room for them.
    """
    found = read_latents(latents_file, job) if latents_file else None
    if found is not None:
        return found
    [clip] = sample_clips(models, [job], share)
    sampled = sampled_of(models, job, clip)
    if latents_file:
        write_latents(latents_file, sampled)
    return sampled


def sample_clips(models: WarmModels, jobs: Sequence[Job], share: Share | None = None) -> list[Clip]:
    """Sample the clips of jobs that agree in all but `tasks.together.OWN`, in calls of as many clips as
    their engine says; or a share of one.

    Raises:
        ModelError: weights that cannot be loaded. ClipError: an unusable clip or picture.
        PromptError: too long a prompt, with long_prompt `fail`.
    """
    job, rows = jobs[0], [job.row for job in jobs]
    row = job.row
    return models.sampler(job)(
        [list(each.prompt) for each in rows],
        negative_prompt=[each.negative_prompt or None for each in rows],
        seed=[each.seed for each in rows],
        num_frames=row.num_frames,
        segment_frames=row.segment_frames,
        chain=row.chain,
        noise=row.noise,
        alpha=row.alpha,
        kl_target=[_listed(each.kl_target) for each in rows],
        solver=row.solver,
        noise_candidates=row.noise_candidates,
        momentum=row.momentum,
        speed=row.speed,
        height=row.height,
        width=row.width,
        num_inference_steps=row.num_inference_steps,
        guidance_scale=row.guidance_scale,
        scheduler=row.scheduler,
        long_prompt=row.long_prompt,
        in_between=row.in_between,
        share=share,
        clips_per_call=job.clips_per_call,
        output_type="latent",
        **models.equip(job),
    )


def _listed(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def sampled_of(models: WarmModels, job: Job, clip: Clip) -> Sampled:
    """A job's clip, checked.

    Raises:
        SamplingError: NaN or infinite latents.
    """
    import torch

    latents = clip.latents.detach().to("cpu", torch.float32).contiguous()
    if not torch.isfinite(latents).all():
        remedy = (
            "look to the weights, the LoRAs and control_scale, or lower guidance_scale"
            if models.sampler(job).pipe.unet.dtype == torch.float32
            else "lower guidance_scale, or use --dtype float32 or bfloat16"
        )
        raise SamplingError(f"expected finite latents, found NaN or infinity; {remedy}")
    kl = [] if clip.trace is None else [float(value) for value in clip.trace.kl]
    # Half-precision latents pass through float32 here as they do on disk: the same bytes both ways.
    return Sampled(latents, kl, reused=False)


def write_latents(path: Path, sampled: Sampled) -> None:
    """Leave a sampled clip for a later attempt.

    Raises:
        DiskFullError: no room for it.
    """
    from safetensors.torch import save

    metadata = {"kl": json.dumps(sampled.kl)}
    if sampled.candidates:
        metadata["candidates"] = json.dumps(sampled.candidates)

    content = save({"latents": sampled.latents}, metadata=metadata)

    def write() -> None:  # by Python, whose errors tell a full disk from others
        with write_aside(path) as aside:
            aside.write_bytes(content)

    write_with_room(path.parent, write)


def read_latents(path: Path, job: Job) -> Sampled | None:
    """What an earlier attempt left: finite latents of the job's own shape, or None."""
    import torch
    from safetensors import SafetensorError, safe_open

    if not is_own_file(path):
        return None
    row, model = job.row, job.model
    side = model.scale_factor
    size = (row.height or model.height) // side, (row.width or model.width) // side
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if tuple(file.get_slice("latents").get_shape()) != (
                *(row.sampled_frames, model.latent_channels),
                *size,
            ):
                return None
            latents, kl = file.get_tensor("latents"), json.loads(metadata["kl"])
            candidates = tuple(json.loads(metadata.get("candidates", "[]")))
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError):
        return None  # not what was written there
    is_sound = latents.dtype == torch.float32 and bool(torch.isfinite(latents).all())
    is_sound &= isinstance(kl, list) and all(type(value) is float for value in kl)
    is_sound &= len(candidates) == (row.best_of if row.best_of > 1 else 0)
    return Sampled(latents, kl, reused=True, candidates=candidates) if is_sound else None


def truncation_note(sampler: ZS2Sampler, job: Job) -> str | None:
    """What to tell the ledger when a prompt is cut, longer than the text encoder reads."""
    if job.row.long_prompt != "truncate":
        return None
    tokenizer = sampler.pipe.tokenizer
    limit = tokenizer.model_max_length
    notes: list[str] = []
    for name, texts in (("prompt", job.row.prompt), ("negative_prompt", [job.row.negative_prompt])):
        longest = max(len(tokenizer(text, truncation=False).input_ids) for text in texts)
        if longest > limit:
            notes.append(f"{name} truncated: {longest} tokens, the model reads {limit}")
    return "; ".join(notes) or None
