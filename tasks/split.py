"""Which rows are split over several samplers, and into how many shares (`zs2.relay`). Pure: no Ray."""

from __future__ import annotations

from typing import Literal

from tasks.job import Job
from tasks.post import wants_gpu

SplitClips = Literal["auto", "always", "never"]


def why_whole(job: Job) -> str | None:
    """Why a row has to be sampled by one actor; None where its segments can be spread over several."""
    if job.row.num_segments == 1:
        return "it has one segment"
    if job.row.best_of > 1:
        return "its candidates are ranked by whole clips"
    if wants_gpu(job):
        return "its frames are enlarged by diffusion in the sampler, which needs their neighbours"
    return None


def most_shares(job: Job) -> int:
    """How many samplers one row can be spread over: one a segment."""
    return 1 if why_whole(job) else job.row.num_segments


def splits(split_clips: SplitClips, rows: int, samplers: int) -> bool:
    """Whether a run splits its rows: `auto` does so where some samplers would have none.

    It has no say in a clip's bytes, and so no place in its digest.
    """
    return split_clips == "always" or (split_clips == "auto" and rows < samplers)
