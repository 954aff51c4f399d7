"""What one pass over a run's scored clips gathers: scores, the values of columns, the worst and the best.

Memory is bounded: some numbers a clip, and the clips that are shown.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest
from itertools import combinations
from pathlib import Path
from typing import Any

from manifests.columns import META
from manifests.scores import SCORE_NAMES
from tasks import score_table

SHOWN = 12  # clips of the worst and best
MOST_VALUES = 60  # of a column; one with more is no slot


@dataclass
class ColumnValues:
    """The values of a column: clips of each, and the sums of their CLIP scores."""

    clips: Counter[str] = field(default_factory=Counter[str])
    scores: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, value: str, score: float) -> None:
        """Count a clip of this value; past MOST_VALUES of them nothing is counted any more."""
        if len(self.clips) <= MOST_VALUES:
            self.clips[value] += 1
            self.scores[value] = self.scores.get(value, 0.0) + score

    @property
    def is_slot(self) -> bool:
        """Whether the values are few enough to be told one by one, and not all the same."""
        return 2 <= len(self.clips) <= MOST_VALUES


@dataclass
class Survey:
    """What is known of the clips that were added.

    Attributes:
        values: of each score, one a clip; NaN where it is not known.
        columns: the parameters and `meta_` columns by name.
        together: of two `meta_` columns, the clips of each pair of values.
        worst, best: by CLIP score, ledger rows with `scores`; SHOWN each once `survey` is done.
    """

    clips: int = 0
    values: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("f") for name in SCORE_NAMES}
    )
    columns: dict[str, ColumnValues] = field(default_factory=dict[str, ColumnValues])
    together: dict[tuple[str, str], Counter[tuple[str, str]]] = field(
        default_factory=dict[tuple[str, str], Counter[tuple[str, str]]]
    )
    worst: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    best: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def add(self, record: dict[str, Any], scores: Mapping[str, float]) -> None:
        """Take in a clip.

        Args:
            record: its ledger row, with `id`, `model`, `params` (JSON) and the `meta_*` columns.
            scores: by name; one that is missing is not known.
        """
        self.clips += 1
        for name in SCORE_NAMES:
            self.values[name].append(scores.get(name, math.nan))
        clip_score = scores.get("clip_score", 0.0)
        params = json.loads(record["params"] or "{}")
        meta = {k: _text(v) for k, v in record.items() if k.startswith(META)}
        own = {k: _text(v) for k, v in params.items() if not isinstance(v, (list, dict))}
        for name, value in {"model": str(record["model"]), **own, **meta}.items():
            self.columns.setdefault(name, ColumnValues()).add(value, clip_score)
        for pair in combinations(sorted(meta), 2):
            counts = self.together.setdefault(pair, Counter())
            if len(counts) <= MOST_VALUES * MOST_VALUES:
                counts[meta[pair[0]], meta[pair[1]]] += 1
        row = {**record, "scores": dict(scores)}
        for kept, choose in ((self.worst, nsmallest), (self.best, nlargest)):
            kept.append(row)
            if len(kept) >= 4 * SHOWN:
                kept[:] = choose(SHOWN, kept, key=_by_clip_score)


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _by_clip_score(row: Mapping[str, Any]) -> tuple[float, str]:
    return row["scores"].get("clip_score", 0.0), row["id"]


def survey(root: Path, scorer: str) -> Survey:
    """One pass over the clips that a scorer (name@revision) has scored as they are now."""
    made = Survey()
    meta = score_table.meta_columns(root)
    for record, scores in score_table.scored_rows(root, scorer, "model", *meta):
        made.add(record, scores)
    made.worst = nsmallest(SHOWN, made.worst, key=_by_clip_score)
    made.best = nlargest(SHOWN, made.best, key=_by_clip_score)
    return made
