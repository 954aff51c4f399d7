"""Processes that decode finished clips and score them: bounded, and none outlives its parent.

A clip that kills its process, as a broken file can kill a decoder, costs itself alone: what was in
flight with it is scored again, each clip in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from manifests.storage import RunFolder
from zs2.clip_score import ScorerInfo
from zs2.models import ModelError

if TYPE_CHECKING:
    from tasks.evaluate import Todo
    from zs2.clip_score import ClipScorer

AHEAD = 2  # clips a process has, at work and waiting
FRAMES_EMBEDDED = 8  # of a clip, at most, where only its mean embedding is wanted


Array = np.ndarray[Any, Any]
# What a process gives back: its work, why this clip has none, or why no clip has.
T = TypeVar("T")
Outcome = T | str | ModelError


@dataclass(frozen=True)
class Answer:
    """A clip's scores by name, and whether its prompt is longer than the scorer reads."""

    values: dict[str, float]
    is_truncated: bool


class ScorePool:
    """Works on the clips of one run folder with one scorer; a context manager.

    Args:
        workers: processes; default one a CPU core, on a GPU one.
        device: of the scorer.
    """

    def __init__(
        self, folder: RunFolder, info: ScorerInfo, *, workers: int | None, device: str
    ) -> None:
        self._begin = (folder.address, info, device)
        self.workers = workers or (usable_cores() if device == "cpu" else 1)
        self._executor = self._start(self.workers)

    def _start(self, workers: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # torch and OpenCV have threads: no fork
        return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=self._begin)

    def __enter__(self) -> ScorePool:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def run(
        self, work: Callable[[Todo], Outcome[T]], todo: Iterable[Todo]
    ) -> Iterator[tuple[Todo, T | str]]:
        """Each clip with what the work makes of it, or with why it makes nothing; as they end.

        Raises:
            ModelError: the scorer does not load.
        """
        flying: dict[Future[Outcome[T]], Todo] = {}
        for clip in todo:
            flying[_submit(self._executor, work, clip)] = clip
            if len(flying) >= AHEAD * self.workers:
                yield from self._ended(work, flying)
        while flying:
            yield from self._ended(work, flying)

    def _ended(
        self, work: Callable[[Todo], Outcome[T]], flying: dict[Future[Outcome[T]], Todo]
    ) -> Iterator[tuple[Todo, T | str]]:
        """Wait for at least one outcome and take what is there out of `flying`."""
        ended, _ = wait(flying, return_when=FIRST_COMPLETED)
        if any(isinstance(future.exception(), BrokenProcessPool) for future in ended):
            suspects = list(flying.items())
            flying.clear()
            self._executor.shutdown(wait=True, cancel_futures=True)
            for future, clip in suspects:
                yield clip, _usable(self._again(work, future, clip))
            self._executor = self._start(self.workers)
            return
        for future in ended:
            yield flying.pop(future), _usable(future.result())

    def _again(
        self, work: Callable[[Todo], Outcome[T]], future: Future[Outcome[T]], clip: Todo
    ) -> Outcome[T]:
        """The outcome of a clip that was in flight when a process died: in one of its own."""
        if future.done() and not future.cancelled() and future.exception() is None:
            return future.result()
        alone = self._start(1)
        try:
            return _submit(alone, work, clip).result()
        except BrokenProcessPool:
            return f"{clip.file_name} killed the process that decoded it; see whether it plays"
        finally:
            alone.shutdown(wait=True, cancel_futures=True)


def _submit(
    executor: ProcessPoolExecutor, work: Callable[[Todo], Outcome[T]], clip: Todo
) -> Future[Outcome[T]]:
    # A process begins at a submission and inherits what is blocked: Ctrl-C is its parent's to hear.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return executor.submit(work, clip)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _usable(outcome: Outcome[T]) -> T | str:
    if isinstance(outcome, ModelError):  # no clip's fault
        raise outcome
    return outcome


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_state: dict[str, Any] = {}  # of a process of the pool


def _begin(address: str, info: ScorerInfo, device: str) -> None:
    """What a process of the pool does first; the scorer is loaded with the first clip."""
    _end_with_parent()
    _state.update(address=address, info=info, device=device)


def _scorer() -> ClipScorer:
    if "scorer" not in _state:
        import torch

        from zs2.clip_score import ClipScorer

        torch.set_num_threads(1)
        _state["scorer"] = ClipScorer.from_pretrained(_state["info"], device=_state["device"])
    return _state["scorer"]


def _end_with_parent() -> None:
    """A parent that is killed cannot end its processes: each watches for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="zs2-parent", daemon=True).start()


def score(clip: Todo) -> Outcome[Answer]:
    """Decode and score a clip, in a process of a pool."""
    from tasks.evaluate import prompts_of, score_clip

    found = _decoded(clip)
    if not isinstance(found, tuple):
        return found
    frames, scorer = found
    try:
        values = score_clip(frames, prompts_of(clip, len(frames)), scorer)
    except ValueError as error:  # frames too small for optical flow
        return f"{clip.file_name} cannot be scored ({error})"
    return Answer(values, any(scorer.truncates(clip.prompts)))


def embed(clip: Todo) -> Outcome[Array]:
    """The mean of a clip's frame embeddings, of unit length, float32 (d,); of 8 frames of a longer
    clip, spread evenly. In a process of a pool."""
    found = _decoded(clip)
    if not isinstance(found, tuple):
        return found
    frames, scorer = found
    chosen = np.unique(np.linspace(0, len(frames) - 1, FRAMES_EMBEDDED).round().astype(int))
    mean = scorer.image_embeddings(frames[chosen]).mean(0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def _decoded(clip: Todo) -> tuple[Array, ClipScorer] | str | ModelError:
    """A clip's frames and the scorer; a text says why it has none, a ModelError why no clip has."""
    from tasks.assemble import decode

    try:
        scorer = _scorer()
    except ModelError as error:
        return error
    try:
        with RunFolder(_state["address"]).finished_file(clip.file_name) as path:
            frames, _ = decode(path)
    except Exception as error:  # a damaged file makes the decoders raise anything
        told = " ".join(str(error).split())[:300]
        return f"{clip.file_name} cannot be decoded ({type(error).__name__}: {told})"
    if clip.num_frames not in (None, len(frames)):
        return (
            f"{clip.file_name} cannot be decoded to its end: expected {clip.num_frames} frames, found "
            f"{len(frames)}"
        )
    return frames, scorer
