"""Ray actors: one samples and decodes, one makes a finished file of the frames; `tasks.placement` says
how many there are of each and what they take.

Both have one method, `run(job, chunks)`, a generator: it yields frames chunk by chunk, and last a
`Report` or a `StageFailure`. That goes to the driver; the pixels stay in the object store, and the other
actor is given references to them.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

from manifests.object_store import UnreachableError
from manifests.storage import RunFolder
from tasks import sampling, stages
from tasks.allocator import keep_freed_memory
from tasks.best_of import sample_best
from tasks.chunks import Frames, StageError
from tasks.companions import Companions
from tasks.disk import DiskFullError, lacks_room, write_with_room
from tasks.handover import Line
from tasks.job import Job
from tasks.out_of_memory import Fallbacks, OutOfMemory
from tasks.overheard import overheard
from tasks.post import wants_gpu
from tasks.previews import needs_preview, write_preview
from tasks.sampling import Sampled
from tasks.share import sample_share
from tasks.startup import POST_NICENESS, SAMPLER_NICENESS, make_way
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


# What something outside ended, which another attempt may not meet.
_AGAIN = ("EncoderKilledError", "HandoverError")


def _failure(stage: str, error: Exception) -> StageFailure:
    """What the driver is told of an exception that a stage raised, or another whose frames it read."""
    if isinstance(error, StageError) and isinstance(error.__cause__, Exception):
        stage, error = error.stage or stage, error.__cause__
    message = str(error) or type(error).__name__
    poisoned = type(error).__name__ == "AcceleratorError" or any(w in message for w in _POISON)
    return StageFailure(
        stage,
        type(error).__name__,
        message,
        traceback.format_exc(),
        fatal=poisoned and not isinstance(error, OutOfMemory),
        again=type(error).__name__ in _AGAIN or lacks_room(error),
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
        first: the others make way for it while it starts.
    """

    def __init__(self, root: str, threads: int, first: bool = False) -> None:
        if not first:
            make_way(SAMPLER_NICENESS)
        keep_freed_memory()
        os.environ.update(stages.QUIET)
        _hide_foreign_gpus()
        import torch

        import_module("zs2.sampler")  # takes seconds: now, not when the first row comes

        torch.set_num_threads(threads)
        self.folder = RunFolder(root)
        self.models = WarmModels()
        self.fallbacks = Fallbacks()
        self.companions = Companions()
        make_way(SAMPLER_NICENESS)

    def warm_up(self, job: Job) -> None:
        """Load a job's checkpoint before there is a row. What is wrong with it, its rows will tell."""
        with suppress(Exception):
            sampling.load_in_memory(self.models, self.fallbacks, job)

    @overheard  # outside: Ray reads what is beneath
    @ray.method(num_returns="streaming")
    def run(
        self, job: Job, chunks: None, line: Line | None = None, others: Sequence[Job] = ()
    ) -> Generator[Frames | Report | StageFailure]:
        """Latents, then frames; see the module.

        Args:
            line: to the other samplers of a clip that is split: then those of its share. What it tells
                of seconds is its own, of the rest the clip's.
            others: the rows that come next, to be sampled in the same UNet calls.
        """
        stage = "sample"
        try:
            sampling.load_in_memory(self.models, self.fallbacks, job)
            started = time.monotonic()
            with self.folder.latents_file(job.sample_digest) as path:
                sampled, note = self._sampled(job, path, line, others)
            stage, notes = "decode", [note]
            decoded = self._decoded(job, sampled.latents, notes)
            larger = stages.SuperResolved(job, decoded) if wants_gpu(job) else None
            yield from decoded if larger is None else larger
        except Exception as error:  # of any kind: one row's failure, told to the ledger
            yield _failure(stage, error)
            return
        after = {} if larger is None else larger.seconds()
        yield {
            "kl_achieved": sampled.kl,
            "unet_calls": 0 if sampled.reused else job.unet_calls,
            "native_pictures": 0.0 if sampled.reused else job.clips_per_call * job.native_pictures,
            "device": self.models.device_name(job),
            "node": socket.gethostname(),
            "seconds_sample": (
                time.monotonic() - started - sum(after.values()) + sampled.seconds_elsewhere
            ),
            **after,
            **({"share": line.report()} if line else {}),
            **({"candidates": sampled.candidates} if sampled.candidates else {}),
            **({"note": told} if (told := sampling.joined(*notes)) else {}),
        }

    def _sampled(
        self, job: Job, path: Path, line: Line | None, others: Sequence[Job]
    ) -> tuple[Sampled, str | None]:
        if line is not None:
            return sample_share(self.models, job, line, path)
        if job.clips_per_call > 1:
            return self.companions.sample(self.models, self.fallbacks, job, others, path)
        return sample_best(self.models, self.fallbacks, job, path)

    def _decoded(self, job: Job, latents: Any, notes: list[str | None]) -> Generator[Frames]:
        for chunk, note in sampling.decode_in_chunks(self.models, self.fallbacks, job, latents):
            notes[1:] = [note]
            yield chunk


class PostActor:
    """Temporal and spatial super-resolution, and the finished file: encoded, verified, published.

    Args:
        root: the run folder, for videos.
    """

    def __init__(self, root: str) -> None:
        make_way(POST_NICENESS)
        keep_freed_memory()
        _hide_foreign_gpus()
        for name in ("assemble", "temporal_sr", "spatial_sr"):
            import_module(f"tasks.{name}")
        self.folder = RunFolder(root)

    @overheard
    @ray.method(num_returns="streaming")
    def run(self, job: Job, chunks: Sequence[Any]) -> Generator[Report | StageFailure]:
        """The file; no frames come back. See the module.

        Raises:
            ObjectLostError, GetTimeoutError: a node is gone, and the frames with it.
        """
        try:
            with self.folder.delivery(job.digest, job.row.id, job.row.codec) as path:
                report = write_with_room(
                    self.folder.root, lambda: stages.finish(job, _received(chunks), path)
                )
                if needs_preview(job.row.codec):
                    report |= self._preview(job, path, report["fps"])
        except (ObjectLostError, GetTimeoutError):
            raise
        except Exception as error:  # of any kind: one row's failure, told to the ledger
            yield _failure("assemble", error)
            return
        report["file_name"] = self.folder.file_name(stages.output_path(self.folder, job))
        yield report

    def _preview(self, job: Job, video: Path, fps: float) -> Report:
        """Beside a clip that browsers do not play; the clip itself is done without it."""
        try:
            with self.folder.preview_delivery(job.digest, job.row.id) as path:
                write_with_room(self.folder.root, lambda: write_preview(video, path, fps))
        except (DiskFullError, UnreachableError):
            raise
        except Exception as error:
            return {"note": f"no preview: {error}"}
        return {}


def _received(chunks: Sequence[Any]) -> Iterator[Frames]:
    """The pixels behind references, a chunk at a time."""
    return (ray.get(chunk) for chunk in chunks)
