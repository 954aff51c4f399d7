"""Rows that are alike: all but a few columns of theirs is checked and resolved once for all of them.

Most rows of a large manifest share their parameters. What a row's plan needs (its digest, its
signature, its share of the work) follows from those of the first of its kind and from its own words,
seed and numbers. Whatever is out of the ordinary goes the long way, which is the truth of it all:
`RowCheck.row`, then `Catalogue.job`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any, NamedTuple

from manifests.columns import COLUMNS, META, is_id
from manifests.digest import canonical_form, digest_of_form, open_form
from manifests.kinds import KindError
from manifests.read import Manifest, RawBatch, RawRow
from manifests.row import RowError, seed_of
from manifests.validate import Problem, RowCheck, folder_of
from tasks import together
from tasks.catalogue import Catalogue
from tasks.job import Engine, Job, sample_fields, video_fields
from tasks.order import group_of
from tasks.work import Work

KINDS_HELD = 4096  # about 5 kB each

# Columns in which rows of a kind may differ, in the order of their names, as in the digest: a value
# stands in the sample digest as it is, and no rule looks at it, only at how many values there are.
OWN = ("kl_target", "momentum", "negative_prompt", "prompt", "seed")


class Kind:
    """What rows have in common: `group`, `work`, why they are sampled `alone`, and all of `job`, the first
    row's, but the columns that are a row's `own`."""

    def __init__(self, job: Job, own: Sequence[str] = OWN) -> None:
        self.job = job
        self.own = own
        self.group = group_of(job)
        self.codec = job.row.codec
        self.alone = job.why_alone
        self.work = Work.of(job)

    def digest(self, own: tuple[str | None, ...]) -> str:
        """The digest of another row, from the canonical forms of its own columns."""
        sample, video = self._forms
        return digest_of_form(video % f'"{digest_of_form(sample % own)}"')

    @cached_property
    def _forms(self) -> tuple[str, str]:
        job = self.job
        sample = sample_fields(job.row, job.revision, job.engine, job.conditions)
        video = video_fields(job.row, job.sample_digest, job.engine, job.conditions)
        return open_form(sample, self.own), open_form(video, ("sample",))


class PlannedRow(NamedTuple):
    """A good row: its place, id and digest; all else is as `kind.job` says."""

    position: int
    id: str
    digest: str
    kind: Kind


class RefusedRow(NamedTuple):
    """A bad row, and all that is wrong with it."""

    raw: RawRow
    problems: list[Problem]


def planned_rows(
    manifest: Manifest,
    catalogue: Catalogue,
    defaults: Mapping[str, Any],
    engine: Engine,
    kinds_held: int = KINDS_HELD,
) -> Iterator[PlannedRow | RefusedRow]:
    """Every row of a manifest, in order; holds what a `RowCheck` holds, a batch of rows and the kinds.

    Args:
        kinds_held: with 0 every row goes the long way.

    Raises:
        ManifestError: a damaged file.
    """
    check = RowCheck(manifest, defaults, catalogue.inputs)
    kinds: dict[Any, Kind] = {}
    names = OWN if engine.clips_per_call == 1 else together.OWN  # a group's rows share their calls
    for batch in manifest.batches():
        columns = zip(_given(batch, "id"), *_split(batch, defaults, names), strict=False)
        for index, (row_id, own, key) in enumerate(columns):
            position = batch.positions[index]
            kind = kinds.get(key)
            if kind and None not in own and is_id(row_id) and check.is_first(row_id, position):
                yield PlannedRow(position, row_id, kind.digest(own), kind)
                continue
            outcome = _go_the_long_way(batch.row(index), check, catalogue, engine, names)
            if isinstance(outcome, PlannedRow) and kinds_held:
                if len(kinds) >= kinds_held:
                    kinds.clear()  # those that are still met come back with their next row
                kinds[key] = outcome.kind
            yield outcome


def _go_the_long_way(
    raw: RawRow, check: RowCheck, catalogue: Catalogue, engine: Engine, names: Sequence[str]
) -> PlannedRow | RefusedRow:
    checked = check.row(raw)
    if isinstance(checked, list):
        return RefusedRow(raw, checked)
    try:
        job = catalogue.job(checked, raw.values, folder_of(raw.file), raw.position, engine)
    except RowError as error:
        return RefusedRow(raw, [Problem.at(raw, fault) for fault in error.faults])
    return PlannedRow(raw.position, job.row.id, job.digest, Kind(job, names))


def _split(
    batch: RawBatch, defaults: Mapping[str, Any], names: Sequence[str]
) -> tuple[Iterator[tuple[str | None, ...]], Iterator[tuple[Any, ...]]]:
    """For each row of a batch: the canonical forms of its own columns, `names`, None where one is wrong; and
    what its kind is known by, which is all its other values."""
    if any(name.startswith(META) and batch.has_oversize(name) for name in batch.names):
        return repeat((None,)), repeat(())  # the one thing that can be wrong with meta columns
    own = {name: _own(batch, name, defaults) for name in names}
    forms = [_forms(values) for values in own.values()]
    lists = {name: values for name, values in own.items() if tuple in set(map(type, values))}
    counts = [[len(v) if isinstance(v, tuple) else 0 for v in lists[name]] for name in lists]
    others = [n for n in batch.names if n not in ("id", *names) and not n.startswith(META)]
    values = [map(_hashable, batch.column(name)) for name in others]
    place = f"{folder_of(batch.file)}\0{' '.join([*lists, *others])}"
    return zip(*forms, strict=True), zip(repeat(place), *counts, *values, strict=False)


def _own(batch: RawBatch, name: str, defaults: Mapping[str, Any]) -> list[Any]:
    """A column's values as they enter the digest, None for what the column does not take."""
    parse = COLUMNS[name].kind.parse
    default = _parsed(parse, defaults.get(name, COLUMNS[name].default))
    given = _given(batch, name)
    if name == "seed" and default is None:
        ids = _given(batch, "id")
        return [
            _parsed(parse, s) if s is not None else _seed(i)
            for s, i in zip(given, ids, strict=True)
        ]
    return [default if value is None else _parsed(parse, value) for value in given]


def _given(batch: RawBatch, name: str) -> list[Any]:
    return batch.column(name) if name in batch.names else [None] * len(batch.positions)


def _seed(row_id: Any) -> int | None:
    return seed_of(row_id) if is_id(row_id) else None


def _parsed(parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return None if value is None else parse(value)
    except KindError:
        return None


def _forms(values: Sequence[Any]) -> list[str | None]:
    """Canonical forms; rows that leave a column empty have one and the same value."""
    forms: list[str | None] = []
    last, form = None, None
    for value in values:
        if value is not last:
            last, form = value, None if value is None else canonical_form(value)
        forms.append(form)
    return forms


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
