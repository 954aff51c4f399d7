"""The stages of one row that come after its latents: decode → temporal → spatial → assemble.

Ray actors call them in a run, `zs2 sample` calls them in its own process: the same bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.links import check_own
from manifests.storage import RunFolder
from tasks import post
from tasks.best_of import sample_best
from tasks.chunks import Frames, StageError, Timed, ahead
from tasks.ending import parameters
from tasks.job import Job
from tasks.out_of_memory import Fallbacks
from tasks.sampling import decode_in_chunks, joined
from tasks.warm import WarmModels

if TYPE_CHECKING:
    from torch import Tensor

# What makes the libraries quiet and private; set before they are imported.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class SuperResolved:
    """The job's clip after temporal and spatial super-resolution, chunk by chunk; made as it is read.

    Raises, where chunks are read:
        StageError: of the stage that failed; of none where it was `chunks`.
    """

    def __init__(self, job: Job, chunks: Iterable[Frames]) -> None:
        stages = [Timed(chunks)]
        if job.row.temporal_scale > 1 and job.row.in_between == 1:  # else it was sampled so
            stages.append(Timed(post.interpolated(job, stages[-1]), "temporal"))
        if job.row.spatial_scale > 1:
            stages.append(Timed(post.upscaled(job, stages[-1]), "spatial"))
        self._stages = stages

    def __iter__(self) -> Iterator[Frames]:
        return iter(self._stages[-1])

    def seconds(self) -> dict[str, float]:
        """What each stage has taken by now, as the ledger names it."""
        return {
            f"seconds_{after.stage}": after.seconds - before.seconds
            for before, after in pairwise(self._stages)
        }


def finish(job: Job, chunks: Iterable[Frames], path: Path) -> dict[str, Any]:
    """All that comes after decoding: temporal and spatial super-resolution and the finished, verified
    file at `path`, which is encoded while the earlier stages still work.

    In memory: a few chunks, however long the clip is.

    Args:
        chunks: decoded frames; of a job for whom `post.wants_gpu`, those of its `SuperResolved`.

    Returns:
        What the ledger has of the stages and of the file.

    Raises:
        StageError: of the stage that failed. What `chunks` raises passes unchanged.
    """
    row, started = job.row, time.monotonic()
    larger = None if post.wants_gpu(job) else SuperResolved(job, chunks)
    try:
        with ahead(chunks if larger is None else larger) as made:
            awaited = Timed(made)
            report = _assemble(job, awaited, path)
    except StageError as error:
        if error.stage is not None or error.__cause__ is None:
            raise
        raise error.__cause__ from None
    if larger is not None:
        report |= larger.seconds()
    report["seconds_assemble"] = time.monotonic() - started - awaited.seconds
    if row.num_frames == 1 and row.temporal_scale > 1:
        report["note"] = f"temporal_scale {row.temporal_scale}: one frame has none in between"
    return report


def _assemble(job: Job, frames: Iterable[Frames], path: Path) -> dict[str, Any]:
    from tasks.assemble import assemble

    row = job.row
    done = assemble(
        frames,
        path,
        fps=row.fps * row.temporal_scale,
        codec=row.codec,
        quality=row.quality,
        title=" | ".join(row.prompt),
        comment=json.dumps(
            {
                **{"zs2": job.digest, "id": row.id, "seed": row.seed},
                **({"prompt": row.prompt} if len(row.prompt) > 1 else {}),
                **json.loads(parameters(job)),
            }
        ),
    )
    return {
        "sha256": done.sha256,
        "bytes": done.bytes,
        "num_frames": done.num_frames,
        "height": done.height,
        "width": done.width,
        "fps": done.fps,
    }


def render_alone(models: WarmModels, job: Job, path: Path) -> dict[str, Any]:
    """All stages of one job in this process: what `zs2 sample` runs. Returns the report."""
    report: dict[str, Any] = {}
    started = time.monotonic()
    fallbacks = Fallbacks()
    sampled, note = sample_best(models, fallbacks, job)
    report |= {"kl_achieved": sampled.kl, "seconds_sample": time.monotonic() - started}
    if sampled.candidates:
        report["candidates"] = sampled.candidates
    report |= finish_alone(models, fallbacks, job, sampled.latents, path)
    if told := joined(note, report.get("note")):
        report["note"] = told
    return report


def finish_alone(
    models: WarmModels, fallbacks: Fallbacks, job: Job, latents: Tensor, path: Path
) -> dict[str, Any]:
    """Decode, and `finish`, in this process. Raises what the stage that failed did."""
    note: str | None = None

    def decoded() -> Iterator[Frames]:
        nonlocal note
        for chunk, told in decode_in_chunks(models, fallbacks, job, latents):
            note = told
            yield chunk

    try:
        if post.wants_gpu(job):
            larger = SuperResolved(job, decoded())
            report = {**finish(job, larger, path), **larger.seconds()}
        else:
            report = finish(job, decoded(), path)
    except StageError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None
    return {**report, **({"note": note} if note else {})}


def output_path(folder: RunFolder, job: Job) -> Path:
    """Where the job's video belongs.

    Raises:
        LinkError: a link on the way there, which may lead out of the folder.
    """
    return check_own(folder.root, folder.video_path(job.digest, job.row.id, job.row.codec))
