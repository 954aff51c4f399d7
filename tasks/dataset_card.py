"""The README.md of a published dataset: what it holds, how it was made, how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date as Date
from typing import Any

from manifests.recipe import Range, Recipe
from tasks.publish import Cause
from tasks.score_table import Summary, markdown

# Of the hub's cards: the least number of rows of each category.
SIZES = (
    ("n<1K", 0),
    ("1K<n<10K", 1000),
    ("10K<n<100K", 10_000),
    ("100K<n<1M", 100_000),
    ("1M<n<10M", 1_000_000),
)
MOST_CAUSES = 20
MOST_VALUES = 100  # of a slot, shown


@dataclass(frozen=True)
class Share:
    """Rows of a slot's value.

    Attributes:
        quota: as the recipe has it: a count, a share, or none.
        rows: of the manifest; made: rendered; kept: published.
    """

    value: str
    quota: int | float | None
    rows: int
    made: int
    kept: int


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    Attributes:
        rows: of the run by status. kept: published clips, of `bytes`.
        rejected: clips by what they lacked.
        causes: of failed and invalid rows.
        slots: of each slot's values.
        scores: of the published clips, by `scorer`; groups: by a slot's values.
        models: with their revisions.
        defaults: the run's own, of columns that the recipe leaves out.
        run: the run folder, seen from the card.
    """

    recipe: Recipe
    date: Date
    rows: Mapping[str, int]
    kept: int
    bytes: int
    rejected: Sequence[tuple[str, int]]
    causes: Sequence[Cause]
    slots: Mapping[str, Sequence[Share]]
    scorer: str
    scores: Sequence[Summary]
    groups: Mapping[str, Sequence[Summary]]
    models: Sequence[str]
    defaults: Mapping[str, Any]
    run: str
    versions: Mapping[str, str]


def card(facts: Facts) -> str:
    """The card as Markdown, with the header that dataset hubs read."""
    recipe = facts.recipe
    parts = [
        _header(facts),
        f"# {recipe.name}, {facts.date}",
        recipe.description.strip(),
        f"{facts.kept:,} clips of {recipe.rows:,} rows, {_size(facts.bytes)}. License: "
        f"{recipe.license}. Made by zs2 from `recipe.toml` for {facts.date}; this folder does not "
        f"change. Clips that were not kept, the ledger, the gallery (`index.html`), the quality of "
        f"all clips (`report.html`) and logs are in the run's folder, `{facts.run}`.",
        *_loading(facts),
        *_counts(facts),
        *_slots(facts),
        *_parameters(facts),
        *_scores(facts),
        "## Versions",
        _table(("", "version"), [(_cell(n), _cell(v)) for n, v in facts.versions.items()]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(facts: Facts) -> str:
    size = next(name for name, least in reversed(SIZES) if facts.kept >= least)
    values = {  # JSON is YAML
        "license": facts.recipe.license,
        "pretty_name": f"{facts.recipe.name} {facts.date}",
        "size_categories": [size],
        "task_categories": ["text-to-video"],
        "tags": ["synthetic", "video", "zs2"],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _loading(facts: Facts) -> list[str]:
    folder = f"{facts.recipe.name}/{facts.date}"
    code = (
        "import pyarrow.parquet as pq\n"
        "from datasets import load_dataset  # pip install datasets torchcodec\n"
        "\n"
        f'folder = "{folder}"  # where this card lies\n'
        'table = pq.read_table(f"{folder}/metadata.parquet")  # file_name, prompt, parameters, scores\n'
        'clips = load_dataset("videofolder", data_files=f"{folder}/metadata.parquet", split="train")\n'
        'clips[0]["video"], clips[0]["prompt"]'
    )
    return ["## Load it", f"```python\n{code}\n```"]


def _counts(facts: Facts) -> list[str]:
    ok = facts.rows.get("ok", 0)
    table = _table(
        ("rows", ""),
        [
            ("wanted", f"{facts.recipe.rows:,}"),
            ("rendered", f"{ok:,}"),
            ("failed", f"{facts.rows.get('failed', 0):,}"),
            ("invalid", f"{facts.rows.get('invalid', 0):,}"),
            ("rendered, not kept", f"{ok - facts.kept:,}"),
            ("published", f"{facts.kept:,}"),
        ],
    )
    parts = ["## Counts", table]
    if facts.rejected:
        lacks = [(_cell(name), f"{clips:,}") for name, clips in facts.rejected]
        parts += [
            "Clips that were not kept, by the threshold that they missed; one may miss several:",
            _table(("threshold", "clips"), lacks),
        ]
    elif facts.recipe.keep:
        parts.append(f"Every rendered clip meets the thresholds: {_thresholds(facts.recipe)}.")
    if facts.causes:
        rows = [
            (f"{c.rows:,}", *map(_cell, (c.stage, c.error, c.message, c.example)))
            for c in facts.causes[:MOST_CAUSES]
        ]
        left = len(facts.causes) - MOST_CAUSES
        parts += [
            "Failures by cause" + (f" ({left} more are in the run's folder):" if left > 0 else ":"),
            _table(("rows", "stage", "error", "cause", "e.g."), rows),
        ]
    else:
        parts.append("No row failed.")
    return parts


def _slots(facts: Facts) -> list[str]:
    if not facts.slots:
        return []
    rows: list[tuple[str, ...]] = []
    for slot, shares in facts.slots.items():
        for share in shares[:MOST_VALUES]:
            counts = (f"{n:,}" for n in (share.rows, share.made, share.kept))
            rows.append((_cell(slot), _cell(share.value), _quota(share.quota), *counts))
        if len(shares) > MOST_VALUES:
            rows.append((_cell(slot), f"… {len(shares) - MOST_VALUES} more", "", "", "", ""))
    head = ("slot", "value", "quota", "rows", "rendered", "published")
    return ["## Quotas and slots", "Values stand in the columns `meta_<slot>`.", _table(head, rows)]


def _quota(quota: int | float | None) -> str:
    if quota is None:
        return "–"
    return f"{quota:,} rows" if isinstance(quota, int) else f"{quota:.4g} of all"


def _parameters(facts: Facts) -> list[str]:
    recipe = facts.recipe
    rows = [("model", _cell(", ".join(facts.models) or "none"), "")]
    rows += [(name, _value(value), "run's default") for name, value in facts.defaults.items()]
    rows += [(name, _value(value), "fixed") for name, value in recipe.columns.items()]
    rows += [(name, _value(value), "grid") for name, value in recipe.grid.items()]
    for name, found in recipe.sampled.items():
        if isinstance(found, Range):
            how = "drawn, evenly in the logarithm" if found.log else "drawn evenly"
            rows.append((name, f"{found.low:g} to {found.high:g}", how))
        else:
            rows.append((name, _value(found), "drawn from these"))
    if not any("seed" in table for table in (recipe.columns, recipe.grid, recipe.sampled)):
        rows.append(("seed", "of each draw", "drawn"))
    prompts = [f"- {_cell(text)}" for text in map(_prompt, recipe.prompts)]
    return [
        "## Parameters",
        "Prompts:\n\n" + "\n".join(prompts),
        _table(("column", "value", ""), [(_cell(n), v, how) for n, v, how in rows]),
        f"Everything drawn depends on the recipe's name, its seed ({recipe.seed}) and the date alone.",
    ]


def _prompt(template: Any) -> str:
    prompt = template.prompt
    return prompt if isinstance(prompt, str) else " | ".join(prompt)


def _scores(facts: Facts) -> list[str]:
    parts = [
        "## Scores",
        f"Of the published clips, by `{facts.scorer}`: means with 95 % bootstrap intervals over "
        f"prompts. Kept were clips with {_thresholds(facts.recipe)}."
        if facts.recipe.keep
        else f"Of the published clips, by `{facts.scorer}`: means with 95 % bootstrap intervals over "
        "prompts. No threshold was set.",
        markdown(facts.scores),
    ]
    for slot, summaries in facts.groups.items():
        parts += [f"### By {slot}", markdown(summaries, slot)]
    return parts


def _thresholds(recipe: Recipe) -> str:
    return ", ".join(
        f"{name} {sign} {value:g}"
        for name, wanted in recipe.keep.items()
        for sign, value in (("≥", wanted.at_least), ("≤", wanted.at_most))
        if value is not None
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _value(value: Any) -> str:
    return _cell(json.dumps(value, ensure_ascii=False, default=str))


def _cell(text: str) -> str:
    """Text that stays in its cell, and that cannot be taken for Markdown or HTML."""
    line = " ".join(text.split())[:300]
    for character in "\\`*_{}[]<>|":
        line = line.replace(character, f"\\{character}")
    return line


def _size(size: int) -> str:
    value, unit = float(size), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}" if unit != "bytes" else f"{size:,} bytes"
