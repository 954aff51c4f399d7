"""Scores of a run's finished clips: which, of one clip, and of all that have none yet.

A pool of processes decodes and scores; the parent alone writes. What it has of a clip is in the
journal of `manifests.scores` at once, so an interrupted evaluation goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np
from jaxtyping import UInt8

from manifests.ledger import ledger_batches
from manifests.scores import (
    SCORE_NAMES,
    ScoreJournal,
    ScoreRow,
    Scores,
    iter_scores,
    read_scores,
    scores_file,
)
from manifests.storage import RunFolder, StorageError
from tasks.publish import publish_scores
from tasks.score_pool import ScorePool, score
from zs2.clip_score import (
    BUNDLED_SCORER,
    clip_score,
    describe_scorer,
    fetch_scorer,
    frame_consistency,
)
from zs2.metrics import dynamic_degree, flicker, sharpness, warp_error

if TYPE_CHECKING:
    from zs2.clip_score import ClipScorer


class Score(NamedTuple):
    """A score as tables and pages show it.

    Attributes:
        better: what is better, `higher` or `lower`; None where neither is by itself.
    """

    name: str
    label: str
    better: str | None
    unit: str


SCORES = (
    Score("clip_score", "CLIP score", "higher", "100·cos"),
    Score("frame_consistency", "frame consistency", "higher", "100·cos"),
    Score("dynamic_degree", "dynamic degree", None, "px/frame"),
    Score("warp_error", "warp error", "lower", "intensity²"),
    Score("flicker", "flicker", "lower", "grey levels"),
    Score("sharpness", "sharpness", None, "grey levels²"),
)
"""Every score, in the order of tables: consistency and the motion it must be read with, side by side."""

assert {score.name for score in SCORES} == set(SCORE_NAMES)


def score_clip(
    frames: UInt8[np.ndarray, "frame height width 3"],
    prompts: str | Sequence[str],
    scorer: ClipScorer,
) -> dict[str, float]:
    """All scores of one clip by name; NaN where a clip is too short to have one.

    Args:
        prompts: one for the whole clip, or one for each frame.

    Raises:
        ValueError: another number of prompts.
    """
    of_frames = [prompts] * len(frames) if isinstance(prompts, str) else list(prompts)
    if len(of_frames) != len(frames):
        raise ValueError(
            f"prompts: expected one, or one for each of {len(frames)} frames; found {len(of_frames)}"
        )
    different = list(dict.fromkeys(of_frames))
    texts = scorer.text_embeddings(different)
    images = scorer.image_embeddings(frames)
    return {
        "clip_score": clip_score(images, texts[[different.index(text) for text in of_frames]]),
        "frame_consistency": frame_consistency(images),
        "warp_error": warp_error(frames),
        "flicker": flicker(frames),
        "dynamic_degree": dynamic_degree(frames),
        "sharpness": sharpness(frames),
    }


class Todo(NamedTuple):
    """A finished clip to score.

    Attributes:
        prompts: of its segments; one for all.
        segment_frames: sampled frames of a segment. scale: output frames for each sampled one.
        num_frames: of the finished video; None where the ledger does not say.
    """

    id: str
    digest: str
    file_name: str
    prompts: tuple[str, ...]
    segment_frames: int
    scale: int
    num_frames: int | None = None


def prompts_of(todo: Todo, num_frames: int) -> list[str]:
    """The prompt of each frame of a finished clip.

    An interpolated frame has the prompt of the sampled frame before it.
    """
    last = len(todo.prompts) - 1
    sampled = (number // todo.scale for number in range(num_frames))
    return [todo.prompts[min(frame // todo.segment_frames, last)] for frame in sampled]


def todo_of(record: Mapping[str, Any]) -> Todo:
    """A clip to score from its ledger row: id, digest, file_name, prompt, params."""
    params: dict[str, Any] = json.loads(record["params"] or "{}")
    prompt: str = record["prompt"] or ""
    frames = params.get("num_frames") or 1
    segment_frames = params.get("segment_frames") or frames
    segments = -(-frames // segment_frames)
    lines = prompt.split("\n")
    # a storyboard's prompts stand on one line each; any other number of lines is one prompt
    storyboard = tuple(lines) if len(lines) == segments > 1 else (prompt,)
    scale = params.get("temporal_scale") or 1
    return Todo(
        *(record["id"], record["digest"], record["file_name"]),
        *(storyboard, segment_frames, scale),
        record.get("num_frames"),
    )


@dataclass
class Evaluation:
    """What an evaluation did.

    Attributes:
        scorer: its identity (name@revision).
        ok: finished clips of the run. scored: of them, now. had: scored before.
        failed: id → why a clip could not be scored.
        truncated: clips, of both, whose prompt is longer than the scorer reads.
    """

    scorer: str
    ok: int = 0
    scored: int = 0
    had: int = 0
    truncated: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def left(self) -> int:
        """Clips without scores, for whatever reason."""
        return self.ok - self.scored - self.had


def evaluate(
    folder: RunFolder,
    scorer: str = BUNDLED_SCORER,
    *,
    trusted: Sequence[str] = (),
    workers: int | None = None,
    device: str = "cpu",
    on_clip: Callable[[Evaluation], None] = lambda _: None,
) -> Evaluation:
    """Score every finished clip whose digest this scorer has not scored, and publish the scores.

    The run's lock is held: while a run goes on, this is refused, and the other way round.

    Args:
        scorer: see `zs2.clip_score.describe_scorer`; trusted: those that may be pickles.
        workers: processes; default one a CPU core.
        device: of the scorer, in each of them.
        on_clip: called after each clip.

    Raises:
        StorageError: there is no run. LockedError: a run goes on. ModelError: no such scorer.
    """
    if not folder.exists(folder.run_file):
        raise StorageError(
            f"{folder.name}: expected a run folder, found no run.json there; render first, or check "
            "the path"
        )
    info = describe_scorer(scorer, trusted=trusted)
    done = Evaluation(info.identity)
    run_id = f"eval-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
    with folder.lock(run_id):
        folder.pull()
        folder.bring(scores_file(folder.root))
        before = read_scores(folder.root)
        for batch in ledger_batches(folder.root, ["id", "digest"], statuses=["ok"]):
            pairs = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            had = [before.has(row_id, digest, info.identity) for row_id, digest in pairs]
            done.ok, done.had = done.ok + len(had), done.had + sum(had)
        try:
            if done.left:
                fetch_scorer(info)
                with ScorePool(folder, info, workers=workers, device=device) as pool:
                    _score_all(folder, pool, before, done, on_clip)
        finally:  # an interrupted evaluation leaves what it has, too
            publish_scores(folder)
        done.truncated = sum(
            row.truncated for row in iter_scores(folder.root) if row.scorer == done.scorer
        )
    return done


def _score_all(
    folder: RunFolder,
    pool: ScorePool,
    before: Scores,
    done: Evaluation,
    on_clip: Callable[[Evaluation], None],
) -> None:
    with ScoreJournal(folder.root) as journal:
        for clip, answer in pool.run(score, _todo(folder, before, done.scorer)):
            if isinstance(answer, str):
                done.failed[clip.id] = answer
            else:
                told = (answer.values, answer.is_truncated)
                journal.append(ScoreRow(clip.id, clip.digest, done.scorer, *told))
                done.scored += 1
            on_clip(done)


def _todo(folder: RunFolder, before: Scores, scorer: str) -> Iterator[Todo]:
    columns = ["id", "digest", "file_name", "prompt", "params", "num_frames"]
    for batch in ledger_batches(folder.root, columns, statuses=["ok"]):
        for record in batch.to_pylist():
            if not before.has(record["id"], record["digest"], scorer):
                yield todo_of(record)
