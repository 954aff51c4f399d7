"""Which rows are split over several samplers, and into how many shares (`zs2.relay`). Pure: no Ray."""

from __future__ import annotations

from typing import Literal

from tasks.job import Job
from tasks.post import wants_gpu
from zs2.decode_calls import frames_a_call

SplitClips = Literal["auto", "always", "never"]


def why_whole(job: Job) -> str | None:
    """Why a row has to be sampled by one actor; None where its segments can be spread over several."""
    if job.row.num_frames <= share_unit(job):
        return "it has one segment" if job.row.num_segments == 1 else "it is decoded in one call"
    if job.clips_per_call > 1:
        return "it is sampled side by side with others"
    if job.row.best_of > 1:
        return "its candidates are ranked by whole clips"
    if wants_gpu(job):
        return "its frames are enlarged by diffusion in the sampler, which needs their neighbours"
    return None


def most_shares(job: Job) -> int:
    """How many samplers one row can be spread over: one for each `share_unit`."""
    return 1 if why_whole(job) else -(-job.row.num_frames // share_unit(job))


def share_unit(job: Job) -> int:
    """Frames that a share, but for the last, has a multiple of: whole segments, and whole calls of
    decoding (of small frames several together), so that each frame has the company it always has."""
    row, model = job.row, job.model
    call = frames_a_call(row.height or model.height, row.width or model.width)
    unit = row.segment_frames
    while unit * row.in_between % call:
        unit += row.segment_frames
    return unit


def splits(split_clips: SplitClips, batches: int, samplers: int) -> bool:
    """Whether a run splits its rows: `auto` does so where some samplers would have none.

    It has no say in a clip's bytes, and so no place in its digest.
    """
    return split_clips == "always" or (split_clips == "auto" and batches < samplers)
