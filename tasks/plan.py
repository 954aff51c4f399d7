"""The plan: which rows are wrong, which are done, which are to be rendered, in which order. Pure.

No torch, no Ray, no Prefect; one lazy pass over the manifest; ids and digests are all it keeps.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.digest import folder_weights_hash
from manifests.ledger import Known
from manifests.read import Manifest, RawRow
from manifests.row import ManifestRow, parse_row
from manifests.storage import RunFolder
from manifests.validate import Problem, check_rows
from tasks.job import Engine, Job, Signature, resolve
from zs2.models import ModelError, ModelInfo, describe

SHARD_ROWS = 256
PROBLEMS_KEPT = 1000  # of bad rows; nobody reads a longer report
FINISHED_BYTES_PER_PIXEL = 0.03  # h264 at quality 18 on the demo's clips, rounded up
LATENT_BYTES = 4


class Catalogue:
    """The models a plan meets: each described, and its weights hashed, once.

    Args:
        allowed: hub ids (of any revision) and folders that rows may name; None allows all.
    """

    def __init__(self, allowed: Sequence[str] | None = None) -> None:
        self.allowed = None if allowed is None else {_model_key(name) for name in allowed}
        self._known: dict[str, tuple[ModelInfo, str] | ModelError] = {}

    def find(self, model: str) -> tuple[ModelInfo, str]:
        """A model and its revision.

        Raises:
            ModelError: not to be had, or not allowed.
        """
        if model not in self._known:
            try:
                self._known[model] = self._look_up(model)
            except ModelError as error:
                self._known[model] = error
        found = self._known[model]
        if isinstance(found, ModelError):
            raise found
        return found

    def _look_up(self, model: str) -> tuple[ModelInfo, str]:
        if self.allowed is not None and _model_key(model) not in self.allowed:
            raise ModelError(
                f"model {model!r}: expected one of the allowed models "
                f"({', '.join(sorted(self.allowed))}); allow it with --allow-model"
            )
        info = describe(model)
        return info, info.revision or folder_weights_hash(info.location)


def _model_key(model: str) -> str:
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model.partition("@")[0]


@dataclass(frozen=True)
class Shard:
    """A slice of the manifest, of one signature: one Prefect task run."""

    index: int
    positions: Sequence[int]
    signature: Signature


@dataclass
class Work:
    """What there is to do, added up over the rows to render."""

    rows: int = 0
    frames: int = 0
    output_frames: int = 0
    unet_calls: int = 0
    unet_pictures: int = 0
    native_pictures: float = 0.0
    padded_frames: int = 0
    video_bytes: int = 0
    latent_bytes: int = 0

    def add(self, job: Job) -> None:
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
        self.padded_frames += row.num_segments * row.segment_frames - row.num_frames
        self.video_bytes += int(job.output_frames * pixels * FINISHED_BYTES_PER_PIXEL) + 2048
        self.latent_bytes += row.num_frames * latent * LATENT_BYTES


@dataclass
class Plan:
    """The outcome of planning.

    Attributes:
        digests: id → (digest, whether it is done) of every good row, compactly.
        shards: what to render, in order: the rows of one signature stand together.
        problems: those of the first bad rows; `invalid_rows` counts all of these.
        work: what the shards add up to.
    """

    rows: int = 0
    done: int = 0
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
    for raw, checked in check_rows(manifest, defaults):
        plan.rows += 1
        if isinstance(checked, ManifestRow):
            checked = _job(raw, checked, catalogue, engine)
        if isinstance(checked, list):
            plan.invalid_rows += 1
            plan.problems += checked[: max(0, PROBLEMS_KEPT - len(plan.problems))]
            name = _ledger_id(raw, checked)
            plan.digests.put(name, "", "invalid")
            if on_invalid is not None:
                on_invalid(name, checked)
            continue
        job = checked
        done = _is_done(job, known, folder)
        plan.digests.put(job.row.id, job.digest, "ok" if done else "failed")
        plan.done += done
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
    """Read a shard's rows again, lazily: between planning and rendering nothing is held per row."""
    for raw in manifest.rows_at(shard.positions):
        row = parse_row(raw.values, defaults)
        yield resolve(row, raw.position, *catalogue.find(row.model), engine)


def _ledger_id(raw: RawRow, problems: list[Problem]) -> str:
    """The ledger's name for a bad row: its id, unless the id is what is wrong with it."""
    if any(problem.column == "id" for problem in problems):
        return f"invalid-row-{raw.position}"
    return problems[0].id


def _job(
    raw: RawRow, row: ManifestRow, catalogue: Catalogue, engine: Engine
) -> Job | list[Problem]:
    try:
        model, revision = catalogue.find(row.model)
    except ModelError as error:
        expected, _, found = str(error).partition(": ")
        return [
            Problem(
                raw.file, raw.row, row.id, "model", "a usable model", row.model, found or expected
            )
        ]
    return resolve(row, raw.position, model, revision, engine)


def _is_done(job: Job, known: Known | None, folder: RunFolder | None) -> bool:
    if known is None or not known.is_done(job.row.id, job.digest):
        return False
    return folder is None or folder.video_path(job.digest, job.row.id, job.row.codec).exists()


def _has_failed(job: Job, known: Known | None) -> bool:
    found = known.get(job.row.id) if known is not None else None
    return found is not None and found[1] == "failed"


def _cut(pending: Mapping[Signature, Sequence[int]], shard_rows: int) -> list[Shard]:
    shards: list[Shard] = []
    for signature, positions in pending.items():
        for start in range(0, len(positions), shard_rows):
            shards.append(Shard(len(shards), positions[start : start + shard_rows], signature))
    return shards
