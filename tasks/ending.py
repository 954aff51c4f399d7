"""How a row ended, and what the ledger says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from manifests.result import ResultRow, Status
from tasks.job import RECIPE, Job, columns_of


@dataclass(frozen=True)
class Ending:
    """How a job ended, as the pipeline saw it.

    Attributes:
        stage: the one that failed; None when all went well.
        report: what the stages said of their work: seconds, λ reached, the finished file.
        attempts: 1, and one more for every time an actor died with the row.
    """

    job: Job
    status: Status
    started_at: datetime
    finished_at: datetime
    attempts: int = 1
    stage: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    report: dict[str, Any] | None = None


def result_row(ending: Ending) -> ResultRow:
    """The ledger row of a job that ended."""
    job, row, report = ending.job, ending.job.row, ending.report or {}
    kl = report.get("kl_achieved")
    return ResultRow(
        id=row.id,
        digest=job.digest,
        status=ending.status,
        stage=ending.stage,
        error_type=ending.error_type,
        error_message=ending.error_message,
        attempts=ending.attempts,
        file_name=report.get("file_name"),
        sha256=report.get("sha256"),
        bytes=report.get("bytes"),
        num_frames=report.get("num_frames"),
        height=report.get("height"),
        width=report.get("width"),
        fps=report.get("fps"),
        prompt="\n".join(row.prompt),
        seed=row.seed,
        model=row.model,
        model_revision=job.revision,
        params=parameters(job, report.get("candidates")),
        kl_achieved=tuple(kl) if kl else None,
        seconds_sample=report.get("seconds_sample"),
        seconds_temporal=report.get("seconds_temporal"),
        seconds_spatial=report.get("seconds_spatial"),
        seconds_assemble=report.get("seconds_assemble"),
        device=report.get("device"),
        node=report.get("node"),
        started_at=ending.started_at,
        finished_at=ending.finished_at,
        recipe=RECIPE,
        meta=row.meta,
    )


def parameters(job: Job, candidates: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Everything that renders the clip again, as JSON: the row's resolved columns and the engine; as
    `inputs` what its files and add-ons were, by content and revision; and the candidates that it was
    chosen from."""
    columns = {k: v for k, v in columns_of(job.row).items() if k not in ("id", "prompt", "seed")}
    engine = asdict(job.engine) | {"clips_per_call": job.clips_per_call}
    if job.clips_per_call == 1:  # whatever the run has: the file is the same
        del engine["clips_per_call"]
    known = {**job.conditions.identity, **job.conditions.post}
    inputs = {"inputs": known} if known else {}
    chosen = {"candidates": list(candidates)} if candidates else {}
    return json.dumps({**columns, **engine, **inputs, **chosen}, ensure_ascii=False)
