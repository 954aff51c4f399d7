"""What follows decoding, for a job: its in-between frames and its larger frames, chunk by chunk.

Models stay loaded from one job to the next that names the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tasks.job import Job

Array = np.ndarray[Any, Any]


def interpolated(job: Job, chunks: Iterable[Array]) -> Iterator[Array]:
    """The job's clip with its in-between frames; as it is with temporal_scale 1, or where they were
    sampled.

    Raises:
        PostModelError: the row's model fails.
    """
    from tasks.temporal_sr import interpolate_chunks

    row, scale = job.row, job.row.temporal_scale if job.row.in_between == 1 else 1
    method = job.conditions.interpolator or (row.temporal_sr if scale > 1 else "flow")
    return interpolate_chunks(chunks, scale, method)


def upscaled(job: Job, chunks: Iterable[Array]) -> Iterator[Array]:
    """The job's clip in larger frames; as it is with spatial_scale 1.

    A diffusers upscaler computes on the GPU where this process sees one, in the job's dtype; it follows
    the prompt of each frame's segment, with noise from the row's seed.

    Raises:
        PostModelError: the row's model fails, or has another scale.
    """
    from tasks.spatial_sr import upscale_chunks
    from zs2.upscaler import Words

    row, scale = job.row, job.row.spatial_scale
    if scale == 1:
        return upscale_chunks(chunks, 1)

    def words(number: int) -> Words:
        segment = number // row.temporal_scale // row.segment_frames
        return Words(row.prompt[min(segment, len(row.prompt) - 1)], row.negative_prompt, row.seed)

    method = job.conditions.upscaler or row.spatial_sr
    dtype = None if job.engine.dtype == "auto" else job.engine.dtype
    return upscale_chunks(chunks, scale, method, words=words, dtype=dtype)


def wants_gpu(job: Job) -> bool:
    """Whether the job's frames are enlarged by diffusion: where the sampler is, not on a CPU actor."""
    upscaler = job.conditions.upscaler
    return upscaler is not None and upscaler.kind == "diffusers"
