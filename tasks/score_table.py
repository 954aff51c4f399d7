"""The scores of a run in a table: means with bootstrap intervals, whole or by a column's values."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from manifests.columns import COLUMNS, META
from manifests.kinds import count
from manifests.ledger import ledger_batches
from manifests.result import RESULT_COLUMNS
from manifests.scores import SCORE_NAMES, read_scores
from tasks.evaluate import SCORES, Score
from zs2.statistics import FEW, Interval, bootstrap_interval

ALL = "all clips"
MOST_GROUPS = 100
NOTE = "A clip that stands still has the best consistency: read it beside the dynamic degree."
_DRAWS = 200_000_000  # numbers a bootstrap may draw; 10,000 resamples up to 20,000 prompts
_LEAST_RESAMPLES = 1000


class ColumnError(ValueError):
    """A column that scores cannot be grouped by; says what to do."""


@dataclass
class _Group:
    """Sums of scores by prompt: clips of one prompt are no independent draws."""

    clips: int = 0
    at: dict[bytes, int] = field(default_factory=dict[bytes, int])
    sums: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("d") for name in SCORE_NAMES}
    )
    counts: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("d") for name in SCORE_NAMES}
    )

    def add(self, prompt: str, values: Mapping[str, float]) -> None:
        self.clips += 1
        key = blake2b(prompt.encode("utf-8", "replace"), digest_size=8).digest()
        place = self.at.setdefault(key, len(self.at))
        for name in SCORE_NAMES:
            if place == len(self.sums[name]):
                self.sums[name].append(0.0)
                self.counts[name].append(0.0)
            value = values.get(name)
            if value is not None:
                self.sums[name][place] += value
                self.counts[name][place] += 1

    def interval(self, name: str) -> Interval:
        sums, counts = np.array(self.sums[name]), np.array(self.counts[name])
        means = sums[counts > 0] / counts[counts > 0]
        resamples = int(min(10_000, max(_LEAST_RESAMPLES, _DRAWS / max(1, len(means)))))
        return bootstrap_interval(means, resamples=resamples)


@dataclass(frozen=True)
class Summary:
    """The scores of a group of clips.

    Attributes:
        group: the value of the column that it was made by; ALL where there is none.
        prompts: different ones: what the intervals draw from.
        scores: by name.
    """

    group: str
    clips: int
    prompts: int
    scores: dict[str, Interval]


def check_column(root: Path, by: str | None) -> None:
    """That the scores of a run can be grouped by a column.

    Raises:
        ColumnError: no such column.
    """
    if by is None or by in COLUMNS or by in RESULT_COLUMNS:
        return
    found = meta_columns(root)
    if by not in found:
        raise ColumnError(
            f"--by: expected a column of the manifest ({', '.join(found) or 'it has no meta_ columns'}, "
            f"or a parameter such as model or kl_target), found {by!r}; see `zs2 manifest columns`"
        )


def meta_columns(root: Path) -> list[str]:
    """The meta_ columns of a run."""
    for batch in ledger_batches(root):
        return [name for name in batch.schema.names if name.startswith(META)]
    return []


def summarise_scores(
    root: Path, scorer: str, by: str | None = None, *, keep: Callable[[str], bool] | None = None
) -> list[Summary]:
    """Means and 95 % intervals of the scores that a scorer gave the clips as they are now.

    Clips of one prompt are averaged first, so intervals tell of other prompts of the same kind. Holds
    about 150 bytes a prompt.

    Args:
        by: a column: one summary for each of its values, by value.
        keep: whether a clip counts, by its id; default all.

    Raises:
        ColumnError: a column with more than 100 values.
    """
    groups: dict[str, _Group] = {}
    for record, values in scored_rows(root, scorer, by):
        if keep is not None and not keep(record["id"]):
            continue
        name = ALL if by is None else value_of(record, by)
        if name not in groups and len(groups) == MOST_GROUPS:
            raise ColumnError(
                f"--by: expected a column of at most {MOST_GROUPS} values, found more in {by!r}; choose "
                "another"
            )
        groups.setdefault(name, _Group()).add(record["prompt"] or "", values)
    return [
        Summary(
            name,
            group.clips,
            len(group.at),
            {score: group.interval(score) for score in SCORE_NAMES},
        )
        for name, group in sorted(groups.items(), key=lambda item: _order(item[0]))
    ]


def scored_rows(
    root: Path, scorer: str, *columns: str | None
) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """(ledger row, scores) of every clip that this scorer has scored as it is now.

    Args:
        columns: wanted beside id, digest, file_name, prompt and params; None is none.
    """
    scores = read_scores(root)
    # The ledger's other columns are parameters, and meta_ columns are of the manifest.
    own = [c for c in columns if c and (c in RESULT_COLUMNS or c.startswith(META))]
    wanted = list(dict.fromkeys(["id", "digest", "file_name", "prompt", "params", *own]))
    for batch in ledger_batches(root, wanted, statuses=["ok"]):
        for record in batch.to_pylist():
            if scores.has(record["id"], record["digest"], scorer):
                yield record, scores[record["id"]]


def value_of(record: Mapping[str, Any], column: str) -> str:
    """A row's value of a column, a parameter's from `params`; as text."""
    place = record if column in record else json.loads(record["params"] or "{}")
    value = place.get(column)
    return "none" if value is None else str(value)


def _order(value: str) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    try:
        return (False, float(value), value)
    except ValueError:
        return (True, 0.0, value)


def columns_shown(names: Sequence[str] | None = None) -> list[Score]:
    """The scores of a table, in order. Wherever the consistency is shown, the dynamic degree is, too:
    every table and page of scores takes its columns from here."""
    wanted = set(SCORE_NAMES if names is None else names)
    if "frame_consistency" in wanted:
        wanted.add("dynamic_degree")
    return [score for score in SCORES if score.name in wanted]


def text(
    summaries: Sequence[Summary], by: str | None = None, names: Sequence[str] | None = None
) -> str:
    """The table for a terminal."""
    blocks: list[str] = []
    for summary in summaries:
        title = summary.group if by is None else f"{by} = {summary.group}"
        lines = [
            f"{title}: {count(summary.clips, 'clip')}, {count(summary.prompts, 'different prompt')}"
        ]
        lines.append(f"  {'':18}{'mean':>10}   {'95 % interval':22}  unit, what is better")
        for score in columns_shown(names):
            mean, ends = told(summary.scores[score.name])
            better = f"{score.unit}, {score.better}" if score.better else score.unit
            lines.append(f"  {score.label:18}{mean:>10}   {ends:22}  {better}")
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *_notes(summaries)]) if blocks else "no scores"


def markdown(
    summaries: Sequence[Summary], by: str | None = None, names: Sequence[str] | None = None
) -> str:
    """The table for a page of Markdown: a row a group."""
    shown = columns_shown(names)
    heads = [by or "", "clips", *(f"{score.label}, {score.unit}" for score in shown)]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " --- |" * (len(heads) - 1)]
    for summary in summaries:
        cells = [" ".join(told(summary.scores[score.name])) for score in shown]
        group = summary.group.replace("|", "\\|")
        lines.append(f"| {group} | {summary.clips} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", " ".join(_notes(summaries))])


def told(interval: Interval) -> tuple[str, str]:
    """A mean and its interval in words; no value is `–`."""
    if not interval.n:
        return "–", ""
    if math.isnan(interval.low):
        return f"{interval.mean:.4g}", "of one prompt"
    return f"{interval.mean:.4g}", f"{interval.low:.4g} to {interval.high:.4g}"


def as_json(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """The table as JSON: null where there is no figure."""
    return [
        {
            "group": summary.group,
            "clips": summary.clips,
            "prompts": summary.prompts,
            "scores": {
                score.name: {
                    key: None if isinstance(value, float) and math.isnan(value) else value
                    for key, value in summary.scores[score.name]._asdict().items()
                }
                | {"unit": score.unit, "better": score.better}
                for score in columns_shown()
            },
        }
        for summary in summaries
    ]


def _notes(summaries: Sequence[Summary]) -> list[str]:
    if all(summary.prompts in (0, 1) or summary.prompts >= FEW for summary in summaries):
        return [NOTE]
    few = f"With fewer than {FEW} prompts an interval is little more than the values' own range."
    return [NOTE, few]
