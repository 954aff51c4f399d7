"""Ray actors, one class a stage, and where they run. Every actor states its resources.

All have one method, `run(job, frames) -> (Report | StageFailure, frames)`, with two returns: the
small one goes to the driver, the pixels stay in the object store and travel as references.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
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
from tasks.previews import needs_preview, write_preview
from tasks.warm import WarmModels

log = logging.getLogger("zs2.ray")

Report = dict[str, Any]

KNOCK_SECONDS = 10.0


class ClusterError(RuntimeError):
    """Ray cannot be reached or lacks what was asked; the message says what to do."""


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

    @ray.method(num_returns=2)
    def run(self, job: Job, frames: stages.Frames) -> tuple[Report | StageFailure, Any]:
        """Frames in between; see the module."""
        return _timed("temporal", stages.interpolate_frames, job, frames)


class SpatialActor:
    """Spatial super-resolution."""

    def __init__(self) -> None:
        _hide_foreign_gpus()
        import_module("tasks.spatial_sr")

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


@dataclass(frozen=True)
class Placement:
    """How many actors there are of each stage and what each takes.

    Attributes:
        sampler_gpus: GPUs a sampler; 0 on the CPU.
        sampler_cpus: logical CPUs a sampler, its threads on the CPU.
        post_cpus: logical CPUs a post-processing actor; they mostly wait for the samplers.
    """

    samplers: int
    sampler_cpus: float
    sampler_gpus: float
    threads: int
    post_actors: int
    post_cpus: float = 0.25

    def spawners(self, root: str) -> dict[str, Callable[[], Any]]:
        """For each stage a function that starts one actor."""
        post = {"num_cpus": self.post_cpus, "num_gpus": 0, "max_restarts": 0}
        sampler = {
            "num_cpus": self.sampler_cpus,
            "num_gpus": self.sampler_gpus,
            "max_restarts": 0,
        }
        return {
            "sample": lambda: (
                ray.remote(SamplerActor).options(**sampler).remote(root, self.threads)
            ),
            "temporal": lambda: ray.remote(TemporalActor).options(**post).remote(),
            "spatial": lambda: ray.remote(SpatialActor).options(**post).remote(),
            "assemble": lambda: ray.remote(AssembleActor).options(**post).remote(root),
        }


def place(
    resources: dict[str, float],
    rows: int,
    *,
    samplers: int | None = None,
    threads: int = 1,
    gpus_per_sampler: float = 1.0,
) -> Placement:
    """Fit the actors to a cluster: one sampler a GPU, or one a CPU core where there are no GPUs.

    Args:
        resources: what the cluster has, as `ray.cluster_resources()` says.
        rows: to render; there are never more samplers than rows.
        samplers: exactly so many, instead.

    Raises:
        ClusterError: when what was asked does not fit.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    on_gpu = gpus > 0 and gpus_per_sampler > 0
    if gpus_per_sampler > 1 and gpus_per_sampler % 1:
        raise ClusterError(
            f"expected a part of one GPU or whole GPUs a sampler, found {gpus_per_sampler:g}"
        )
    post_cpus = 0.25
    per_sampler = 1.0 if on_gpu else float(threads)
    spare = cpus - 3 * post_cpus
    most = int(spare // per_sampler)
    if on_gpu:
        most = min(most, int(gpus / gpus_per_sampler))
    count = max(1, min(most, rows)) if samplers is None else samplers
    if count > most:
        raise ClusterError(
            f"expected room for {count} sampler actor(s) of {per_sampler:g} CPUs"
            f"{f' and {gpus_per_sampler:g} GPUs' if on_gpu else ''} beside 3 post-processing actors "
            f"of {post_cpus:g} CPUs, found {cpus:g} CPUs and {gpus:g} GPUs; "
            "ask for fewer samplers or threads, or add nodes"
        )
    post_actors = max(1, min(count // 4, int((cpus - count * per_sampler) / (3 * post_cpus))))
    return Placement(
        count, per_sampler, gpus_per_sampler if on_gpu else 0.0, threads, post_actors, post_cpus
    )


def connect(address: str | None = None, local_gpus: int | None = None) -> dict[str, float]:
    """Join the Ray cluster at `address`, or start a local one; returns its resources.

    Args:
        address: as `ray.init` takes it; None starts a local cluster, and never joins one by chance.
        local_gpus: GPUs of the local cluster; None lets Ray find them.

    Raises:
        ClusterError: no cluster there.
    """
    os.environ.update(stages.QUIET)
    # Ray prints what it hears of died workers to standard output, where `--json` has its result.
    ray._private.worker.print_to_stdstream = _log_what_ray_says  # pyright: ignore
    with _own_sigterm():
        _join(address, local_gpus)
    return dict[str, float](ray.cluster_resources())


@contextmanager
def _own_sigterm() -> Generator[None]:
    """Keep SIGTERM with who has it: Ray takes it for itself, and three seconds later it aborts the
    process, in the midst of a clean end. In C, since Python sets signals in its main thread only."""
    libc = ctypes.CDLL(None)
    saved = ctypes.create_string_buffer(512)  # room for any system's struct sigaction
    libc.sigaction(signal.SIGTERM, None, saved)
    try:
        yield
    finally:
        libc.sigaction(signal.SIGTERM, saved, None)


def _start_local(options: dict[str, Any]) -> None:
    """Start a cluster on this machine; once more where Ray gave its own parts too little time."""
    options |= {"address": "local", "include_dashboard": False}
    try:
        ray.init(**options)
    except Exception as error:  # a bare one: there is only its text to tell it by
        if "timed out during startup" not in str(error):
            raise
        log.warning("Ray did not come up in time, and is started once more")
        ray.shutdown()
        ray.init(**options)


def _log_what_ray_says(data: dict[str, Any], ignore_prefix: bool) -> None:
    log.info("Ray: %s", "\n".join(data["lines"]))


def _join(address: str | None, local_gpus: int | None) -> None:
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None:
        try:
            _knock(address)
            ray.init(address=address, **common)
        except Exception as error:  # Ray raises what comes, also bare Exceptions
            raise ClusterError(
                f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, "
                "or leave out --ray-address and RAY_ADDRESS to render on this machine"
            ) from error
    else:
        # One logical core more than there are: the post-processing actors wait most of the time,
        # and a machine of two cores still gets two samplers.
        cores = len(os.sched_getaffinity(0)) + 1
        try:
            _start_local({"num_cpus": cores, "num_gpus": local_gpus, **common})
        except Exception as error:  # Ray raises what comes, also bare Exceptions
            raise ClusterError(
                f"Ray does not start on this machine ({type(error).__name__}: {error}); it needs a "
                "HOME that can be written and a TMPDIR whose name is plain ASCII; on a crowded "
                "machine the same command may do a moment later"
            ) from error


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray itself tries for minutes.

    Raises:
        OSError: no connection to host:port. Other forms of address (`auto`) are left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def cluster_fault() -> str | None:
    """What this process cannot go on without and has lost of its cluster; None while all is well.

    Ray itself tells nobody: calls to a raylet that is gone wait for ever.
    """
    node = ray._private.worker._global_node  # pyright: ignore  # Ray has no public word for it
    dead = {kind for kind, _ in node.dead_processes()} if node is not None else set[str]()
    for kind in ("raylet", "gcs_server"):
        if kind in dead:
            return f"the {kind} of this machine's Ray has died"
    own = ray.get_runtime_context().get_node_id()
    try:
        nodes = ray.nodes()
    except Exception as error:  # of any kind: who asks must go on, and end the run
        return f"the Ray cluster does not answer ({type(error).__name__}: {error})"
    if any(found["NodeID"] == own and not found["Alive"] for found in nodes):
        return "the Ray node that this command runs on is dead"
    return None


def disconnect() -> None:
    """Leave the cluster; a local one that `connect` started ends."""
    if ray.is_initialized():
        ray.shutdown()
