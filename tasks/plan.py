"""The plan: which rows are wrong, which are done, which are to be rendered, in which order. Pure.

No torch, no Ray, no Prefect; one lazy pass over the manifest; ids and digests are all it keeps.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.ledger import Known
from manifests.read import Manifest, RawRow
from manifests.row import ManifestRow, RowError, parse_row
from manifests.storage import RunFolder
from manifests.validate import Problem, check_rows
from tasks.catalogue import Catalogue
from tasks.job import Conditions, Engine, Job, Signature, resolve

SHARD_ROWS = 256
PROBLEMS_KEPT = 1000  # of bad rows; nobody reads a longer report
FINISHED_BYTES_PER_PIXEL = 0.03  # h264 at quality 18 on the demo's clips, rounded up
LATENT_BYTES = 4


@dataclass(frozen=True)
class Shard:
    """A slice of the manifest, of one signature: one Prefect task run."""

    index: int
    positions: Sequence[int]
    signature: Signature


@dataclass
class Work:
    """What there is to do, added up over the rows to render.

    `controlled_pictures` are those of `unet_pictures` that have a ControlNet beside them.
    """

    rows: int = 0
    frames: int = 0
    output_frames: int = 0
    unet_calls: int = 0
    unet_pictures: int = 0
    native_pictures: float = 0.0
    controlled_pictures: int = 0
    padded_frames: int = 0
    video_bytes: int = 0
    latent_bytes: int = 0

    def add(self, job: Job) -> None:
        """Count one more job that is to be rendered."""
        row = job.row
        height, width = row.height or 0, row.width or 0
        pixels = height * width * row.spatial_scale**2
        latent = height * width // job.model.scale_factor**2 * job.model.latent_channels
        self.rows += 1
        self.frames += row.num_frames
        self.output_frames += job.output_frames
        self.unet_calls += job.unet_calls
        self.unet_pictures += job.unet_pictures
        self.native_pictures += job.native_pictures
        self.controlled_pictures += job.unet_pictures if job.conditions.controlnet else 0
        self.padded_frames += row.num_segments * row.segment_frames - row.num_frames
        self.video_bytes += int(job.output_frames * pixels * FINISHED_BYTES_PER_PIXEL) + 2048
        self.latent_bytes += row.num_frames * latent * LATENT_BYTES


@dataclass
class Plan:
    """The outcome of planning.

    Attributes:
        done_native_pictures: of the done rows, as `Work` counts them: what measures their rate.
        digests: id → (digest, whether it is done) of every good row, compactly.
        shards: what to render, in order: the rows of one signature stand together.
        problems: those of the first bad rows; `invalid_rows` counts all of these.
        work: what the shards add up to.
    """

    rows: int = 0
    done: int = 0
    done_native_pictures: float = 0.0
    digests: Known = field(default_factory=Known)
    shards: list[Shard] = field(default_factory=list[Shard])
    problems: list[Problem] = field(default_factory=list[Problem])
    invalid_rows: int = 0
    work: Work = field(default_factory=Work)
    switches_in_manifest_order: int = 0

    @property
    def switches(self) -> int:
        """Model switches of one actor that takes the shards in order."""
        return max(0, len({shard.signature for shard in self.shards}) - 1)


def make_plan(
    manifest: Manifest,
    catalogue: Catalogue,
    *,
    defaults: Mapping[str, Any],
    engine: Engine,
    known: Known | None = None,
    folder: RunFolder | None = None,
    only_failed: bool = False,
    shard_rows: int = SHARD_ROWS,
    on_invalid: Callable[[str, list[Problem]], None] | None = None,
) -> Plan:
    """Validate every row, drop the done ones, and cut the rest into shards by signature.

    Args:
        known: what earlier runs ended; None plans as if nothing were done.
        folder: where a finished row's video must still lie to count as done.
        on_invalid: told of each bad row: its name in the ledger, and all that is wrong with it.
        only_failed: render rows whose newest result is a failure, and no others (`zs2 retry`).

    Raises:
        ManifestError: a damaged file.
    """
    plan = Plan()
    pending: dict[Signature, array[int]] = {}
    last: Signature | None = None
    for raw, checked in check_rows(manifest, defaults, catalogue.inputs):
        plan.rows += 1
        job = _checked_job(raw, checked, catalogue, engine)
        if isinstance(job, list):
            plan.invalid_rows += 1
            plan.problems += job[: max(0, PROBLEMS_KEPT - len(plan.problems))]
            name = _ledger_id(raw, job)
            plan.digests.put(name, "", "invalid")
            if on_invalid is not None:
                on_invalid(name, job)
            continue
        done = _is_done(job, known, folder)
        plan.digests.put(job.row.id, job.digest, "ok" if done else "failed")
        plan.done += done
        plan.done_native_pictures += job.native_pictures if done else 0.0
        if done or (only_failed and not _has_failed(job, known)):
            continue
        signature = job.signature
        plan.switches_in_manifest_order += last not in (None, signature)
        last = signature
        pending.setdefault(signature, array("Q")).append(raw.position)
        plan.work.add(job)
    plan.shards = _cut(pending, shard_rows)
    return plan


def jobs_of(
    shard: Shard,
    manifest: Manifest,
    catalogue: Catalogue,
    defaults: Mapping[str, Any],
    engine: Engine,
) -> Iterator[Job]:
    """Read a shard's rows again, lazily: between planning and rendering nothing is held per row.

    A row whose inputs went away meanwhile is a job that knows of it, and fails by itself.
    """
    for raw in manifest.rows_at(shard.positions):
        row = parse_row(raw.values, defaults)
        try:
            yield _job(raw, row, catalogue, engine)
        except RowError as error:
            found = catalogue.find(row.model)
            yield resolve(row, raw.position, *found, engine, Conditions(lost=str(error)))


def _ledger_id(raw: RawRow, problems: list[Problem]) -> str:
    """The ledger's name for a bad row: its id, unless the id is what is wrong with it."""
    if any(problem.column == "id" for problem in problems):
        return f"invalid-row-{raw.position}"
    return problems[0].id


def _checked_job(
    raw: RawRow, checked: ManifestRow | list[Problem], catalogue: Catalogue, engine: Engine
) -> Job | list[Problem]:
    if isinstance(checked, list):
        return checked
    try:
        return _job(raw, checked, catalogue, engine)
    except RowError as error:
        return [Problem.at(raw, fault) for fault in error.faults]


def _job(raw: RawRow, row: ManifestRow, catalogue: Catalogue, engine: Engine) -> Job:
    return catalogue.job(row, raw.values, Path(raw.file).parent, raw.position, engine)


def _is_done(job: Job, known: Known | None, folder: RunFolder | None) -> bool:
    if known is None or not known.is_done(job.row.id, job.digest):
        return False
    return folder is None or folder.has_video(job.digest, job.row.id, job.row.codec)


def _has_failed(job: Job, known: Known | None) -> bool:
    found = known.get(job.row.id) if known is not None else None
    return found is not None and found[1] == "failed"


def _cut(pending: Mapping[Signature, Sequence[int]], shard_rows: int) -> list[Shard]:
    shards: list[Shard] = []
    for signature, positions in pending.items():
        for start in range(0, len(positions), shard_rows):
            shards.append(Shard(len(shards), positions[start : start + shard_rows], signature))
    return shards
