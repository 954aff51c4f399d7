"""A comparison's table: means with intervals, paired differences to ZS², and what is significant."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.methods import BASELINE, Method
from zs2.statistics import FEW, Interval, Paired, bootstrap_interval, holm, paired_test

LEVEL = 0.95
SIGNIFICANT = 1 - LEVEL


@dataclass(frozen=True)
class Column:
    """One score: its column's name, what people call it, which way is better (`higher`, `lower` or
    None), its unit."""

    name: str
    label: str
    better: str | None
    unit: str

    @property
    def title(self) -> str:
        """Its name as a heading, with an arrow that points to the better side."""
        arrow = {"higher": " ↑", "lower": " ↓"}.get(self.better or "", "")
        return self.label + arrow


@dataclass(frozen=True)
class Cell:
    """One method's score: its mean, and a − ZS² over the prompts that both have.

    Attributes:
        same: every difference is 0, to the bit: the clips are ZS²'s own, and no test is made.
        p: Holm's, over the whole table; NaN where there is no test.
    """

    interval: Interval
    paired: Paired | None = None
    same: bool = False
    p: float = math.nan

    @property
    def is_significant(self) -> bool:
        """Whether p is below SIGNIFICANT; never where no test was made."""
        return self.p < SIGNIFICANT


@dataclass(frozen=True)
class Table:
    """Cells by method and column, in order."""

    methods: tuple[Method, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, str], Cell]

    @property
    def tests(self) -> int:
        """How many p-values Holm's correction was made over."""
        return sum(cell.p == cell.p for cell in self.cells.values())


def table_of(
    rows: Iterable[Mapping[str, Any]], methods: Sequence[Method], columns: Sequence[Column]
) -> Table:
    """The table of scored clips.

    A prompt's takes are averaged first: prompts are what was drawn independently.

    Args:
        rows: as `tasks.compare.read_scores` gives them: `method`, `prompt_id`, `take` and the scores.
    """
    rows = list(rows)
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    cells: dict[tuple[str, str], Cell] = {}
    for column in columns:
        means = _means(rows, column.name)
        ours = np.array([means[BASELINE].get(prompt, math.nan) for prompt in prompts])
        for method in methods:
            values = np.array([means[method.name].get(prompt, math.nan) for prompt in prompts])
            interval = bootstrap_interval(values, level=LEVEL)
            if method.name == BASELINE:
                cells[method.name, column.name] = Cell(interval)
                continue
            paired = paired_test(values, ours, level=LEVEL)
            differences = (values - ours)[~np.isnan(values - ours)]
            same = len(differences) > 0 and not differences.any()
            cells[method.name, column.name] = Cell(interval, paired, same)
    tested = {key: cell for key, cell in cells.items() if cell.paired and not cell.same}
    for (key, cell), p in zip(
        tested.items(),
        holm([cell.paired.p for cell in tested.values() if cell.paired]),
        strict=True,
    ):
        cells[key] = Cell(cell.interval, cell.paired, cell.same, p)
    return Table(tuple(methods), tuple(columns), cells)


def _means(rows: Iterable[Mapping[str, Any]], name: str) -> dict[str, dict[str, float]]:
    """By method and prompt the mean over takes; a take without the score leaves its prompt without."""
    takes: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        value = row.get(name)
        takes[row["method"]][row["prompt_id"]].append(math.nan if value is None else value)
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for method, by_prompt in takes.items():
        means[method] = {prompt: float(np.mean(found)) for prompt, found in by_prompt.items()}
    return means


def as_json(table: Table) -> list[dict[str, Any]]:
    """One record a method; NaN is null."""
    return [
        {
            "method": method.name,
            "about": method.about,
            "scores": {
                column.name: _cell_json(table.cells[method.name, column.name])
                for column in table.columns
            },
        }
        for method in table.methods
    ]


def _cell_json(cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = dict(cell.interval._asdict())
    if cell.paired is not None:
        found["minus_zs2"] = {
            **cell.paired.difference._asdict(),
            "p": cell.paired.p,
            "p_holm": cell.p,
            "same_clips": cell.same,
        }
    return without_nan(found)


def without_nan(value: Any) -> Any:
    """Records for JSON, which has no NaN: null."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def as_markdown(table: Table, settings: Mapping[str, Any]) -> str:
    """Two tables, means and differences, and how to read them.

    Args:
        settings: what the clips share, as name and value.
    """
    heads = [f"{column.title}<br>{column.unit}" for column in table.columns]
    rule = "| --- |" + " --- |" * len(heads)
    means = [
        f"| {method.name} | "
        + " | ".join(interval_text(c.interval) for c in _row(table, method))
        + " |"
        for method in table.methods
    ]
    differences = [
        f"| {method.name} | " + " | ".join(_bold(c) for c in _row(table, method)) + " |"
        for method in table.methods
        if method.name != BASELINE
    ]
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    lines = [
        f"{said}.",
        "",
        f"Mean and {LEVEL:.0%} interval:",
        "",
        f"| method | {' | '.join(heads)} |",
        rule,
        *means,
    ]
    if differences:
        lines += [
            "",
            f"Method − ZS² on the same prompts and seeds, with its {LEVEL:.0%} interval and p:",
            "",
            f"| method | {' | '.join(heads)} |",
            rule,
            *differences,
        ]
    return "\n".join([*lines, "", *notes(table), ""])


def notes(table: Table) -> list[str]:
    """How the table was made and is to be read, one bullet a line."""
    about = [f"- `{m.name}`: {m.about}." for m in table.methods]
    how = [
        "- Intervals: BCa bootstrap over prompts, whose seeds are averaged first. p: two-sided sign-flip "
        f"permutation test over prompts, corrected by Holm over the table's {table.tests} tests; "
        f"**bold** where p < {SIGNIFICANT:.2g}. "
        "“Same” is where the clips are ZS²'s own, to the bit.",
        "- A clip that stands still has the best consistency, warp error and flicker there are: read "
        "them beside the dynamic degree, never alone.",
    ]
    if any(0 < cell.interval.n < FEW for cell in table.cells.values()):
        how.append(
            f"- Fewer than {FEW} prompts: an interval is then little more than the values' own range, and "
            "no p can be small. Give more prompts before anything is concluded."
        )
    return [*about, *how]


def _row(table: Table, method: Method) -> list[Cell]:
    return [table.cells[method.name, column.name] for column in table.columns]


def interval_text(interval: Interval, *, signed: bool = False) -> str:
    """A mean with its interval's ends, in as many figures as the interval's width gives sense to."""
    mean, low, high, n = interval
    if not n:
        return "–"
    form = f"{'+' if signed else ''}.{_digits(mean, low, high)}f"
    return f"{mean:{form}}" + ("" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def difference_text(cell: Cell) -> str:
    """A method's difference to ZS² with its interval and p; `same` where it has none."""
    if cell.paired is None or not cell.paired.n:
        return "–"
    if cell.same:
        return "same"
    return f"{interval_text(cell.paired.difference, signed=True)}, p {p_text(cell.p)}"


def _bold(cell: Cell) -> str:
    text = difference_text(cell)
    return f"**{text}**" if cell.is_significant else text


def p_text(p: float) -> str:
    """A p-value as it is printed."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _digits(mean: float, low: float, high: float) -> int:
    """Decimals that show the interval's width in two figures, or the mean in three; six in all."""
    scale = (high - low) / 2 if high > low else abs(mean) / 10
    if not scale or math.isnan(scale):
        return 2
    most = 5 - math.floor(math.log10(abs(mean))) if mean else 6
    return max(0, min(6, most, 1 - math.floor(math.log10(scale))))
