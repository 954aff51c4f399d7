"""`zs2 manifest validate | build | head | show | columns`. No torch, no Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap
from typing import Any

from flows.console import say, table
from flows.errors import UsageError, check_local
from manifests.build import build, show, unfilled
from manifests.columns import column_records
from manifests.head import write_head
from manifests.inputs import InputFiles
from manifests.kinds import count
from manifests.read import open_manifest
from manifests.recipe_file import read_recipe
from manifests.recipe_rows import build_recipe, parse_date
from manifests.row import RowError, parse_defaults
from manifests.study import build_study
from manifests.validate import Problem, check_rows, format_problems
from tasks.catalogue import Catalogue

MOST_SLOTS = 5  # told; the rest is counted


def validate(
    manifest: str,
    pairs: Sequence[str],
    input_roots: Sequence[str],
    trust_pickles: Sequence[str] = (),
) -> dict[str, Any]:
    """All problems of a manifest's rows, of the models and add-ons on this machine, too.

    Args:
        input_roots: folders that clips and pictures may lie in, beside the manifest's own.
        trust_pickles: models and add-ons whose pickled weights may be loaded.

    Returns:
        `rows`, how many; `problems`, every one as a record; `not_asked`, the models and add-ons
        that only a hub knows, which `zs2 plan` asks.
    """
    rows = 0
    problems: list[dict[str, Any]] = []
    not_asked: set[str] = set()
    inputs = InputFiles(input_roots)
    catalogue = Catalogue(trusted=trust_pickles, inputs=inputs)
    for raw, checked in check_rows(open_manifest(manifest), parse_defaults(pairs), inputs):
        rows += 1
        if not isinstance(checked, list):
            try:
                not_asked.update(catalogue.check(checked, raw.values))
                continue
            except RowError as error:
                checked = [Problem.at(raw, fault) for fault in error.faults]
        problems += [asdict(problem) for problem in checked]
    return {"rows": rows, "problems": problems, "not_asked": sorted(not_asked)}


def verdict(found: Mapping[str, Any]) -> str:
    """What `validate` says of a manifest without problems."""
    asked = _not_asked(found)
    return f"{count(found['rows'], 'row')}, no problems" + (f"; {asked}" if asked else "")


def report(found: Mapping[str, Any]) -> str:
    """The problems as one text."""
    told = format_problems([Problem(**problem) for problem in found["problems"]])
    return "\n".join(text for text in (told, _not_asked(found)) if text)


def _not_asked(found: Mapping[str, Any]) -> str:
    names = found["not_asked"]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"not asked of a hub: {', '.join(names[:3])}{more} (`zs2 plan` asks)" if names else ""


def build_manifests(
    source: Path | None,
    out: Path,
    *,
    study: bool,
    recipe: str | None = None,
    date: str | None = None,
    seeds: Sequence[int],
    kl_targets: Sequence[float],
    momentums: Sequence[float],
    slots: Sequence[str],
    pairs: Sequence[str],
) -> list[tuple[Path, int]]:
    """Write a manifest from a source of prompts or a recipe, or those of the study; returns each with
    its rows.

    Raises:
        RecipeError: a bad recipe or date. ManifestError: bad source or rows. UsageError: words that
            do not go together, or a bad --slot. RowError: a bad --set.
    """
    check_local("--out", out)
    if source is not None:
        check_local("source", source)
    grid = {"seed": seeds, "kl_target": kl_targets, "momentum": momentums}
    if recipe is not None:
        shown = {f"--{name.replace('_', '-')}": values for name, values in grid.items()}
        own = {"source": source, "--study": study, **shown, "--slot": slots, "--set": pairs}
        return [(out, _build_recipe(recipe, date, out, own))]
    if date is not None:
        raise UsageError("--date: expected --recipe with it; give a recipe, or leave it out")
    columns = parse_defaults(pairs)
    if study:
        _check_study(
            {"source": source, "--kl-target": kl_targets, "--momentum": momentums, "--slot": slots}
        )
        return build_study(out, seeds=seeds, columns=columns)
    if source is None:
        raise UsageError(
            "expected a .txt, .csv or .jsonl of prompts, --recipe or --study; found none of them"
        )
    rows = build(
        source,
        out,
        grid={name: values for name, values in grid.items() if values},
        slots=dict(_slot(text) for text in slots),
        columns=columns,
    )
    if not slots:
        _tell_unfilled(source)
    return [(out, rows)]


def _tell_unfilled(source: Path) -> None:
    """On standard error: braces may be meant as text."""
    found = unfilled(source)
    for name, line in [*found.items()][:MOST_SLOTS]:
        say(
            f"{source} line {line}: the prompt has {{{name}}}, but no --slot {name}=A,B,… was given; "
            "it stays in the prompt as it stands"
        )
    if len(found) > MOST_SLOTS:
        say(f"… and {count(len(found) - MOST_SLOTS, 'more slot')}")


def _build_recipe(recipe: str, date: str | None, out: Path, own: Mapping[str, object]) -> int:
    words = [word for word, value in own.items() if value]
    if words:
        raise UsageError(
            f"--recipe: expected no {' and no '.join(words)}: the recipe says all; write it there"
        )
    on = parse_date(date) if date is not None else datetime.now(UTC).date()
    return build_recipe(read_recipe(recipe)[0], on, out)


def _check_study(given: Mapping[str, object]) -> None:
    words = [name for name, value in given.items() if value]
    if words:
        raise UsageError(
            f"--study: expected no {' and no '.join(words)}: the study has prompts, λ and μ of its "
            "own; leave it out (--seed and --set are taken)"
        )


def _slot(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--slot: expected NAME=VALUE,VALUE,…, found {text!r}")
    return name, [value.strip() for value in values.split(",") if value.strip()]


def head(manifest: str, rows: int, out: Path) -> int:
    """Write a manifest of the first rows; returns how many.

    Raises:
        UsageError: fewer than one row, or a place that is not local. ManifestError: see `write_head`.
    """
    check_local("--out", out)
    if rows < 1:
        raise UsageError(f"ROWS: expected at least 1, found {rows}")
    return write_head(open_manifest(manifest), rows, out)


def show_rows(manifest: str, limit: int, as_json: bool) -> str:
    """The first rows, one block each or one JSON line each.

    Raises:
        UsageError: a limit that shows none. ManifestError: see `open_manifest`.
    """
    if limit < 1:
        raise UsageError(f"--limit: expected at least 1, found {limit}")
    rows = show(open_manifest(manifest), limit)
    if as_json:
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return "\n\n".join(table([(name, _shown(value)) for name, value in r.items()]) for r in rows)


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)


def columns(as_json: bool, width: int) -> str:
    """The columns with type, default, limits and meaning, as JSON or in lines of at most `width`."""
    records = column_records()
    if as_json:
        return json.dumps(records, ensure_ascii=False)
    return "\n".join(line for record in records for line in _described(record, width))


def _described(record: Mapping[str, str], width: int) -> list[str]:
    head = f"{record['column']}: {record['type']}, default {record['default']}"
    said = [record["meaning"], f"takes {record['expected']}"]
    return [
        *wrap(head, width, subsequent_indent="    "),
        *(
            line
            for text in said
            for line in wrap(text, width, initial_indent="    ", subsequent_indent="    ")
        ),
    ]
