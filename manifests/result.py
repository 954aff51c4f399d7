"""One result: what happened to one row of the manifest. The ledger and the journal hold these."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from manifests.columns import META
from manifests.kinds import plain

Status = Literal["ok", "failed", "invalid"]
STATUSES: tuple[Status, ...] = get_args(Status)
STAGES = ("sample", "temporal", "spatial", "assemble")  # those whose seconds a row has


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A row of the ledger. What a row never reached (an invalid one has no file) is None.

    `prompt` is text: a storyboard's prompts stand on one line each. `params` is JSON.
    `kl_achieved` has one value per frame pair. `file_name` is relative to the run folder.
    Times are aware datetimes; `meta` keeps the user's columns under their full names (`meta_…`).
    """

    id: str
    digest: str
    status: Status
    stage: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    attempts: int = 1
    file_name: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    prompt: str | None = None
    seed: int | None = None
    model: str | None = None
    model_revision: str | None = None
    params: str | None = None
    kl_achieved: tuple[float, ...] | None = None
    seconds_sample: float | None = None
    seconds_temporal: float | None = None
    seconds_spatial: float | None = None
    seconds_assemble: float | None = None
    device: str | None = None
    node: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    recipe: str | None = None
    meta: dict[str, Any] = field(default_factory=dict[str, Any])


RESULT_COLUMNS = tuple(f.name for f in fields(ResultRow) if f.name != "meta")
TIMES = ("started_at", "finished_at")


def to_record(row: ResultRow) -> dict[str, Any]:
    """A result as one flat JSON object, without its Nones; `id` comes first."""
    record: dict[str, Any] = {}
    for name in RESULT_COLUMNS:
        value = getattr(row, name)
        if value is not None:
            record[name] = _clean(value) if isinstance(value, str) else value
    for name in TIMES:
        if name in record:
            record[name] = record[name].astimezone(UTC).isoformat()
    for name, value in row.meta.items():
        if value is not None:
            record[name] = plain(value)
    return record


def _clean(text: str) -> str:
    # error texts quote file names, which need not be UTF-8; Arrow refuses their stray surrogates
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def from_record(record: dict[str, Any]) -> ResultRow:
    """The result that `to_record` or a ledger's batch made a record of."""
    known: dict[str, Any] = {name: record.get(name) for name in RESULT_COLUMNS}
    for name in TIMES:
        value = known[name]
        known[name] = datetime.fromisoformat(value) if isinstance(value, str) else value
    if known["kl_achieved"] is not None:
        known["kl_achieved"] = tuple(known["kl_achieved"])
    meta = {n: v for n, v in record.items() if n.startswith(META) and v is not None}
    return ResultRow(**known, meta=meta)
