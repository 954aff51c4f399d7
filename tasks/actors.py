"""Ray actors, one class a stage; `tasks.placement` says how many there are and what each takes.

All have one method, `run(job, frames) -> (Report | StageFailure, frames)`, with two returns: the
small one goes to the driver, the pixels stay in the object store and travel as references.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import ray

from manifests.object_store import UnreachableError
from manifests.storage import RunFolder
from tasks import sampling, stages
from tasks.best_of import sample_best
from tasks.disk import DiskFullError, lacks_room, write_with_room
from tasks.job import Job
from tasks.out_of_memory import Fallbacks, OutOfMemory
from tasks.overheard import overheard
from tasks.previews import needs_preview, write_preview
from tasks.warm import WarmModels

Report = dict[str, Any]


@dataclass(frozen=True)
class StageFailure:
    """Why a stage could not do a row: data, not an exception, so that it can name its row.

    Attributes:
        fatal: the actor is of no further use (a CUDA context is broken) and must be replaced; what
            the row did to it counts as a crash.
        again: something outside ended it; the row is tried again, as after its actor's death.
        ends_run: no further row would fare better (a full disk, a dead store); the run has to stop.
    """

    stage: str
    error_type: str
    message: str
    details: str
    fatal: bool = False
    again: bool = False
    ends_run: bool = False


# After an error with these words every further CUDA call of the process fails.
_POISON = ("CUDA error", "cuDNN error", "device-side assert")


def _failure(stage: str, error: Exception) -> StageFailure:
    """What the driver is told of an exception that a stage raised."""
    message = str(error) or type(error).__name__
    poisoned = type(error).__name__ == "AcceleratorError" or any(w in message for w in _POISON)
    return StageFailure(
        stage,
        type(error).__name__,
        message,
        traceback.format_exc(),
        fatal=poisoned and not isinstance(error, OutOfMemory),
        again=type(error).__name__ == "EncoderKilledError" or lacks_room(error),
        ends_run=isinstance(error, DiskFullError | UnreachableError),
    )


def _hide_foreign_gpus() -> None:
    """Ray no longer hides the GPUs of a machine from actors that asked for none."""
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


class SamplerActor:
    """Samples and decodes; keeps its models warm and switches what a row has otherwise.

    Args:
        root: the run folder, for latents.
        threads: CPU threads; fixed for a run, since the last bits depend on it.
    """

    def __init__(self, root: str, threads: int) -> None:
        os.environ.update(stages.QUIET)
        _hide_foreign_gpus()
        import torch

        import_module("zs2.sampler")  # takes seconds: now, not when the first row comes

        torch.set_num_threads(threads)
        self.folder = RunFolder(root)
        self.models = WarmModels()
        self.fallbacks = Fallbacks()

    @overheard  # outside: Ray reads what is beneath
    @ray.method(num_returns=2)
    def run(self, job: Job, frames: None) -> tuple[Report | StageFailure, Any]:
        """Latents, then frames; see the module."""
        stage = "sample"
        try:
            sampling.load_in_memory(self.models, self.fallbacks, job)
            started = time.monotonic()
            with self.folder.latents_file(job.sample_digest) as path:
                sampled, note = sample_best(self.models, self.fallbacks, job, path)
            stage = "decode"
            latents = sampled.latents
            decoded, more = sampling.decode_in_memory(self.models, self.fallbacks, job, latents)
        except Exception as error:  # of any kind: one row's failure, told to the ledger
            return _failure(stage, error), None
        return {
            "kl_achieved": sampled.kl,
            "unet_calls": 0 if sampled.reused else job.unet_calls,
            "native_pictures": 0.0 if sampled.reused else job.native_pictures,
            "device": self.models.device_name(job),
            "node": socket.gethostname(),
            "seconds_sample": time.monotonic() - started,
            **({"candidates": sampled.candidates} if sampled.candidates else {}),
            **({"note": told} if (told := sampling.joined(note, more)) else {}),
        }, decoded


class TemporalActor:
    """Temporal super-resolution."""

    def __init__(self) -> None:
        _hide_foreign_gpus()
        import_module("tasks.temporal_sr")

    @overheard
    @ray.method(num_returns=2)
    def run(self, job: Job, frames: stages.Frames) -> tuple[Report | StageFailure, Any]:
        """Frames in between; see the module."""
        return _timed("temporal", stages.interpolate_frames, job, frames)


class SpatialActor:
    """Spatial super-resolution."""

    def __init__(self) -> None:
        _hide_foreign_gpus()
        import_module("tasks.spatial_sr")

    @overheard
    @ray.method(num_returns=2)
    def run(self, job: Job, frames: stages.Frames) -> tuple[Report | StageFailure, Any]:
        """Larger frames; see the module."""
        return _timed("spatial", stages.upscale_frames, job, frames)


class AssembleActor:
    """Encodes, verifies and publishes the finished file."""

    def __init__(self, root: str) -> None:
        _hide_foreign_gpus()
        import_module("tasks.assemble")
        self.folder = RunFolder(root)

    @overheard
    @ray.method(num_returns=2)
    def run(self, job: Job, frames: stages.Frames) -> tuple[Report | StageFailure, None]:
        """The file; no frames come back."""
        started = time.monotonic()
        try:
            with self.folder.delivery(job.digest, job.row.id, job.row.codec) as path:
                report = write_with_room(
                    self.folder.root, lambda: stages.assemble_video(job, frames, path)
                )
        except Exception as error:  # of any kind: one row's failure, told to the ledger
            return _failure("assemble", error), None
        report["file_name"] = self.folder.file_name(stages.output_path(self.folder, job))
        if needs_preview(job.row.codec):
            try:
                with self.folder.preview_delivery(job.digest, job.row.id) as path:
                    write_with_room(
                        self.folder.root, lambda: write_preview(frames, path, report["fps"])
                    )
            except (DiskFullError, UnreachableError) as error:
                return _failure("assemble", error), None
            except Exception as error:  # of any kind: the clip itself is done
                report["note"] = f"no preview: {error}"
        return {**report, "seconds_assemble": time.monotonic() - started}, None


def _timed(
    stage: str, work: Callable[[Job, stages.Frames], stages.Frames], job: Job, frames: stages.Frames
) -> tuple[Report | StageFailure, Any]:
    started = time.monotonic()
    try:
        made = work(job, frames)
    except Exception as error:  # of any kind: one row's failure, told to the ledger
        return _failure(stage, error), None
    return {f"seconds_{stage}": time.monotonic() - started}, made
