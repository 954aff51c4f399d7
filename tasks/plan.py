"""The plan: which rows are wrong, which are done, which are to be rendered, in which order. Pure.

No torch, no Ray, no Prefect; one lazy pass over the manifest; ids and digests are all it keeps.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from manifests.columns import INVALID_ROW
from manifests.kinds import count
from manifests.ledger import Known
from manifests.read import Manifest, RawRow
from manifests.row import RowError, parse_row
from manifests.storage import RunFolder
from manifests.validate import Problem, folder_of
from tasks.catalogue import Catalogue
from tasks.job import Conditions, Engine, Job, Signature, resolve
from tasks.kin import PlannedRow, RefusedRow, planned_rows
from tasks.order import Group, Part, Pending, Switches, ordered
from tasks.work import Work

SHARD_ROWS = 256  # or more, so that there are
# Of a run with one signature, others add some: Prefect takes about 26 kB of the driver's memory for each.
MOST_SHARDS = 200
WINDOW_ROWS = 256  # that are read at once where a shard's order is not the manifest's
PROBLEMS_KEPT = 1000  # of bad rows; nobody reads a longer report


@dataclass(frozen=True)
class Shard:
    """A slice of the manifest, of one signature: one Prefect task run.

    Attributes:
        positions: of its rows, in the order in which they are rendered.
    """

    index: int
    positions: Sequence[int]
    signature: Signature


@dataclass
class Plan:
    """The outcome of planning.

    Attributes:
        done_native_pictures: of the done rows, as `Work` counts them, and as a run does: with those that
            fill up calls. What measures their rate. `done_sharing` of them share their UNet calls.
        digests: id → (digest, whether it is done) of every good row, compactly.
        shards: what to render, in order; see `tasks.order`.
        switches: of one actor that takes the shards in order.
        switches_in_manifest_order: of one that takes the rows as the manifest has them.
        problems: those of the first bad rows; `invalid_rows` counts all of these.
        work: what the shards add up to.
        alone: rows of it that keep their UNet calls to themselves where others share them, by the reason.
        shapes: of UNet calls in the work, clips in one included, of all signatures: what a compiled engine
            compiles.
        codecs: of the rows to render.
        dropped: results of earlier runs whose ids the manifest does not have.
    """

    rows: int = 0
    done: int = 0
    done_native_pictures: float = 0.0
    done_sharing: int = 0
    digests: Known = field(default_factory=Known)
    shards: list[Shard] = field(default_factory=list[Shard])
    problems: list[Problem] = field(default_factory=list[Problem])
    invalid_rows: int = 0
    work: Work = field(default_factory=Work)
    alone: Counter[str] = field(default_factory=Counter[str])
    switches: Switches = field(default_factory=Switches)
    switches_in_manifest_order: Switches = field(default_factory=Switches)
    shapes: int = 0
    codecs: set[str] = field(default_factory=set[str])
    dropped: int = 0

    def told_of_dropped(self) -> str | None:
        """What becomes of results that are of no row; None where there are none."""
        if not self.dropped:
            return None
        return (
            f"{count(self.dropped, 'result')} of earlier runs in this folder are of no row of this manifest: "
            "when the run ends they leave the ledger, metadata.parquet and the gallery, and `zs2 prune` "
            "takes their videos (-o with another folder keeps both)"
        )

    def refuse(
        self, row: RefusedRow, on_invalid: Callable[[str, list[Problem]], None] | None
    ) -> None:
        """Note a bad row, and tell of it."""
        self.invalid_rows += 1
        self.problems += row.problems[: max(0, PROBLEMS_KEPT - len(self.problems))]
        name = _ledger_id(row.raw, row.problems)
        self.digests.put(name, "", "invalid")
        if on_invalid is not None:
            on_invalid(name, row.problems)


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
    samplers: int = 1,
    on_invalid: Callable[[str, list[Problem]], None] | None = None,
) -> Plan:
    """Validate every row, drop the done ones, put the rest in order and cut it into shards.

    Args:
        samplers: of the run, as far as it is known: the more there are, the longer is a turn.
        known: what earlier runs ended; None plans as if nothing were done.
        folder: where a finished row's video must still lie to count as done.
        on_invalid: told of each bad row: its name in the ledger, and all that is wrong with it.
        only_failed: render rows whose newest result is a failure, and no others (`zs2 retry`).

    Raises:
        ManifestError: a damaged file.
    """
    plan = Plan(digests=Known(manifest.num_rows))
    pending: dict[Group, Pending] = {}
    done_together: Counter[tuple[Group, float]] = Counter()
    has_video = folder.videos_now() if folder is not None and known else None
    last: Group | None = None
    for row in planned_rows(manifest, catalogue, defaults, engine):
        plan.rows += 1
        if isinstance(row, RefusedRow):
            plan.refuse(row, on_invalid)
            continue
        kind = row.kind
        done = _is_done(row, known, has_video)
        plan.digests.put(row.id, row.digest, "ok" if done else "failed")
        if done:
            plan.done += 1
            plan.done_native_pictures += kind.work.native_pictures
            if kind.group.clips > 1:
                done_together[kind.group, kind.work.native_pictures] += 1
        if done or (only_failed and not _has_failed(row, known)):
            continue
        group = kind.group
        if group is not last:
            if last is not None:
                plan.switches_in_manifest_order.count(last, group)
            last = group
        if group not in pending:
            pending[group] = Pending()
        pending[group].positions.append(row.position)
        pending[group].pictures += kind.work.native_pictures
        pending[group].one = kind.work
        plan.work.add(kind.work)
        if kind.alone is not None:
            plan.alone[kind.alone] += 1
        plan.codecs.add(kind.codec)
    plan.dropped = known.count_not_in(plan.digests) if known is not None else 0
    _fill_up_calls(plan, pending, done_together)
    plan.shapes = len({(group.signature, group.shape, group.clips) for group in pending})
    parts = list(ordered(pending, samplers))
    pending.clear()
    plan.switches = Switches.of([part.group for part in parts])
    plan.shards = _cut(parts, max(shard_rows, plan.work.rows // MOST_SHARDS))
    return plan


def _fill_up_calls(
    plan: Plan, pending: Mapping[Group, Pending], done: Mapping[tuple[Group, float], int]
) -> None:
    """Count the calls that rows share as full ones: of the work, and of the rows that are done, which
    come as how many there are of each group and so many pictures a row."""
    plan.done_sharing = sum(done.values())
    for (group, pictures), rows in done.items():
        plan.done_native_pictures += -rows % group.clips * pictures
    for group, each in pending.items():
        if group.clips > 1 and each.one is not None:
            plan.work.share_calls(each.one, len(each.positions), group.clips)


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
    for raw in _rows_in_order(manifest, shard.positions):
        row = parse_row(raw.values, defaults)
        try:
            yield catalogue.job(row, raw.values, folder_of(raw.file), raw.position, engine)
        except RowError as error:
            found = catalogue.find(row.model)
            yield resolve(row, raw.position, *found, engine, Conditions(lost=str(error)))


def _ledger_id(raw: RawRow, problems: list[Problem]) -> str:
    """The ledger's name for a bad row: its id, unless the id is what is wrong with it."""
    if any(problem.column == "id" for problem in problems):
        return f"{INVALID_ROW}{raw.position}"
    return problems[0].id


def _is_done(
    row: PlannedRow, known: Known | None, has_video: Callable[[str, str, str], bool] | None
) -> bool:
    if known is None or not known.is_done(row.id, row.digest):
        return False
    return has_video is None or has_video(row.digest, row.id, row.kind.codec)


def _has_failed(row: PlannedRow, known: Known | None) -> bool:
    found = known.get(row.id) if known is not None else None
    return found is not None and found[1] == "failed"


def _cut(parts: Sequence[Part], shard_rows: int) -> list[Shard]:
    """Shards of parts that follow each other, each of one signature and at most `shard_rows` rows; rows
    that share UNet calls stay together, even where these are fewer."""
    shards: list[Shard] = []
    filled, signature = array("Q"), parts[0].group.signature if parts else None

    def close() -> None:
        nonlocal filled
        if filled and signature is not None:
            shards.append(Shard(len(shards), filled, signature))
        filled = array("Q")

    for group, positions in parts:
        if group.signature != signature:
            close()
            signature = group.signature
        start = 0
        while start < len(positions):
            room = (shard_rows - len(filled)) // group.clips * group.clips
            if room <= 0 and filled:
                close()
                continue
            taken = positions[start : start + max(room, group.clips)]
            filled.extend(taken)
            start += len(taken)
            if len(filled) >= shard_rows:
                close()
    close()
    return shards


def _rows_in_order(manifest: Manifest, positions: Sequence[int]) -> Iterator[RawRow]:
    """The rows at these positions, in this order. Where they do not ascend, a window of them is read
    in one pass and held."""
    if all(before < after for before, after in pairwise(positions)):
        yield from manifest.rows_at(positions)
        return
    window = min(WINDOW_ROWS, *(file.batch_rows for file in manifest.files))
    for start in range(0, len(positions), window):
        wanted = positions[start : start + window]
        read = {raw.position: raw for raw in manifest.rows_at(sorted(wanted))}
        for position in wanted:
            yield read.pop(position)
