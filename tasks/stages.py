"""The five stages of one row as plain functions: sample → decode → temporal → spatial → assemble.

Ray actors call them in a run, `zs2 sample` calls them one after the other: the same bytes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from manifests.links import check_own
from manifests.storage import RunFolder
from tasks.best_of import sample_best
from tasks.job import Job, parameters
from tasks.out_of_memory import Fallbacks
from tasks.sampling import Frames, decode_in_memory
from tasks.warm import WarmModels

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


def interpolate_frames(job: Job, frames: Frames) -> Frames:
    """The temporal stage: (n−1)·k+1 frames."""
    from tasks.temporal_sr import interpolate

    return interpolate(frames, job.row.temporal_scale, job.row.temporal_sr)


def upscale_frames(job: Job, frames: Frames) -> Frames:
    """The spatial stage: frames `spatial_scale` times as high and wide."""
    from tasks.spatial_sr import upscale

    return upscale(frames, job.row.spatial_scale, job.row.spatial_sr)


def assemble_video(job: Job, frames: Frames, path: Path) -> dict[str, Any]:
    """The last stage: the finished, verified file at `path`, as the ledger describes it."""
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
            {"zs2": job.digest, "id": row.id, "seed": row.seed, **json.loads(parameters(job))}
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
    sampled, _ = sample_best(models, fallbacks, job)
    frames, _ = decode_in_memory(models, fallbacks, job, sampled.latents)
    report |= {"kl_achieved": sampled.kl, "seconds_sample": time.monotonic() - started}
    if sampled.candidates:
        report["candidates"] = sampled.candidates
    frames = upscale_frames(job, interpolate_frames(job, frames))
    return report | assemble_video(job, frames, path)


def output_path(folder: RunFolder, job: Job) -> Path:
    """Where the job's video belongs.

    Raises:
        LinkError: a link on the way there, which may lead out of the folder.
    """
    return check_own(folder.root, folder.video_path(job.digest, job.row.id, job.row.codec))
