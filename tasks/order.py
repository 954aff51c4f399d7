"""In which order rows are rendered: few switches of model, add-ons and shape, and nobody waits for long.

Rows that need no switch between them are a group. A run is cut into rounds; in each of them every group
advances by the same part of its rows, in an order that keeps the groups of a model together, and those of
equal add-ons within a model; every second round runs backwards, so that it begins with what is loaded
already. So a slow signature delays the others by a round at most, and ends spread over the run as they do.

Of a run's rows their positions are all that is held; the order is pure arithmetic on these.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

from manifests.digest import digest_of
from tasks.job import Job, Signature
from tasks.work import Work

# UNet pictures of the model's own size (guidance copies included), for a sampler, of a signature's turn
# on average: 32 clips of 8 frames in 50 steps. Loading a checkpoint takes about as long as one of them.
TURN_PICTURES = 25_600.0
# Of a turn, for a group's own: other add-ons or shapes cost a tenth of another checkpoint.
PARTS = 8
MOST_ROUNDS = 8  # an actor loads each checkpoint so often at most, however long the run is
# Rows of younger shards that may begin before those of an older one: then it is taken up by all.
MOST_OVERTAKEN = 512

_ADD_ONS = ("lora", "ip_adapter")


class Group(NamedTuple):
    """What rows share that follow each other without any switch.

    Attributes:
        add_ons: LoRAs with their weights, and the IP-Adapter, by content.
        shape: height, width, frames of a segment, and pictures a frame (guidance copies): what one
            UNet call has.
        clips: in one UNet call, of rows that agree in what `company` is the digest of.
    """

    signature: Signature
    add_ons: str
    shape: tuple[int, int, int, int]
    clips: int = 1
    company: str = ""


def group_of(job: Job) -> Group:
    """The group of a job."""
    row, known = job.row, job.conditions.identity
    found = {name: known[name] for name in _ADD_ONS if known.get(name)}
    shape = (row.height or 0, row.width or 0, row.segment_frames, job.unet_copies)
    add_ons = str(found) if found else ""
    if job.clips_per_call == 1:
        return Group(job.signature, add_ons, shape)
    return Group(job.signature, add_ons, shape, job.clips_per_call, digest_of(job.shared_fields))


@dataclass
class Switches:
    """How often what follows differs from what went before, of one actor that takes all in turn.

    Where the model changes, its add-ons and its shape are not counted again. Another number of clips in a
    call is another shape.
    """

    models: int = 0
    add_ons: int = 0
    shapes: int = 0

    def count(self, before: Group, after: Group) -> None:
        """Count the step from one row, or from the rows of one group, to the next."""
        if before.signature != after.signature:
            self.models += 1
            return
        self.add_ons += before.add_ons != after.add_ons
        self.shapes += (before.shape, before.clips) != (after.shape, after.clips)

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Switches:
        """Those of a sequence."""
        made = cls()
        for before, after in pairwise(groups):
            made.count(before, after)
        return made


@dataclass
class Pending:
    """The rows of one group that are to be rendered, in the manifest's order, and what they add up to.

    Attributes:
        one: what one of them is, where the group's rows share UNet calls, and so are equally much work.
    """

    positions: array[int] = field(default_factory=lambda: array("Q"))
    pictures: float = 0.0
    one: Work | None = None


class Part(NamedTuple):
    """Rows of one group that follow each other."""

    group: Group
    positions: Sequence[int]


def ordered(pending: Mapping[Group, Pending], samplers: int = 1) -> Iterator[Part]:
    """Every pending row once, in the order in which they are rendered.

    There are as many rounds as leave a signature TURN_PICTURES a sampler in each, on average. A group
    with less than a PARTS-th of that a round takes part in fewer of them.
    """
    turn = TURN_PICTURES * samplers
    total = sum(each.pictures for each in pending.values())
    signatures = len({group.signature for group in pending})
    rounds = _within(total / (turn * max(1, signatures)), MOST_ROUNDS)
    groups = _neighbours_together(pending)
    parts = _rounds_of_parts(groups, pending, rounds, turn)
    for number in range(rounds):
        here = [group for group in groups if number in parts[group]]
        for group in here if number % 2 == 0 else reversed(here):
            which = parts[group].index(number)
            rows, many = pending[group].positions, len(parts[group])
            first, end = (_cut(len(rows), which + step, many, group.clips) for step in (0, 1))
            if end > first:
                yield Part(group, rows[first:end])


def _neighbours_together(pending: Mapping[Group, Pending]) -> list[Group]:
    """Groups by signature, then by add-ons, both as they first come in the manifest; then by shape."""
    signatures = {group.signature: None for group in pending}
    add_ons = {group.add_ons: None for group in pending}
    place = {found: number for number, found in enumerate([*signatures, *add_ons])}
    return sorted(
        pending, key=lambda g: (place[g.signature], place[g.add_ons], g.shape, g.clips, g.company)
    )


def _rounds_of_parts(
    groups: Sequence[Group], pending: Mapping[Group, Pending], rounds: int, turn: float
) -> dict[Group, list[int]]:
    """The rounds in which each group has a part. Small groups of a signature fill one round after
    the other, so that they share the turns that it has anyway."""
    filled: dict[Signature, float] = {}
    found: dict[Group, list[int]] = {}
    for group in groups:
        pictures = pending[group].pictures
        many = _within(pictures * PARTS / turn, rounds)
        first = 0
        if many < rounds:
            before = filled.get(group.signature, 0.0)
            filled[group.signature] = before + pictures
            first = int(before / turn)
        found[group] = sorted({(first + part * rounds // many) % rounds for part in range(many)})
    return found


def _cut(rows: int, part: int, many: int, clips: int) -> int:
    """Where part `part` of `many` begins: between rows that do not share their UNet calls."""
    return rows if part == many else rows * part // many // clips * clips


def _within(wanted: float, most: int) -> int:
    return max(1, min(most, int(wanted)))


class Shard(Protocol):
    """Rows of one signature that an actor may take from, as the pipeline knows them."""

    @property
    def signature(self) -> Any: ...

    overtaken: int


S = TypeVar("S", bound=Shard)


def by_preference(open_shards: Sequence[S], own: Any, held: Collection[Any]) -> list[S]:
    """The shards in the order in which an actor that is free should ask them for a row.

    It keeps to its own signature. One that has none, or whose rows have run out, goes where fewest
    others are, so that actors spread over the signatures instead of all switching together. A shard
    that was overtaken by MOST_OVERTAKEN rows of younger ones goes before all that.

    Args:
        open_shards: oldest first.
        own: the signature that is loaded; None where none is.
        held: the signatures that the other actors have loaded.
    """
    at_work = Counter(held)

    def key(shard: S) -> tuple[bool, bool, int]:
        late = shard.overtaken >= MOST_OVERTAKEN
        return (not late, shard.signature != own, at_work[shard.signature])

    return sorted(open_shards, key=key)
