"""The rows of a recipe on a date: each a pure function of (name, seed, date) and its own number.

What a row draws comes from a keyed hash of the recipe's name, its seed, the date, what is drawn and the
row's number. No generator has a state: a slot more or less leaves the other slots' draws as they are,
more rows leave the first ones as they are, and neither Python nor numpy can change them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date as Date
from hashlib import blake2b, sha256
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from manifests.build import SLUG, build_from, slug, suffix
from manifests.columns import META
from manifests.kinds import describe
from manifests.recipe import OWN_META, SLOT, Range, Recipe, Template, quota_draws
from manifests.recipe_file import RecipeError, is_whole

MOST_OF_GRID = 128 - len("2026-11-21-1000000-") - SLUG  # characters of an id
DIGITS = 6  # of a drawn number: as it is read, and the same whatever the machine's logarithm
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")

Value = TypeVar("Value")
Draw = Callable[[str, int], int]  # (what, row number) -> 64 bits


def parse_date(text: str) -> Date:
    """A date as YYYY-MM-DD.

    Raises:
        RecipeError: it is none.
    """
    try:
        if _DATE.fullmatch(text):
            return Date.fromisoformat(text)
    except ValueError:
        pass
    raise RecipeError(f"date: expected YYYY-MM-DD, such as 2026-11-21; found {describe(text)}")


def build_recipe(recipe: Recipe, date: Date, output: Path) -> int:
    """Write a date's manifest; returns its rows. The same bytes each time.

    Raises:
        ManifestError: rows would not be valid; nothing is written.
    """
    return build_from(f"recipe {recipe.name}, {date}", [*recipe_rows(recipe, date)], output)


def recipe_rows(recipe: Recipe, date: Date) -> Iterator[dict[str, Any]]:
    """The rows of a date, by column, in order: every draw with each point of the grid."""
    draw = _drawing(recipe, date)
    picks = {slot: _slot_values(recipe, slot, draw) for slot in recipe.slots}
    templates = list(range(len(recipe.prompts)))
    weights = [template.weight for template in recipe.prompts]
    points = [
        dict(zip(recipe.grid, values, strict=True)) for values in product(*recipe.grid.values())
    ]
    ends = _ends(points)
    has_seed = any("seed" in table for table in (recipe.columns, recipe.grid, recipe.sampled))
    width = len(str(recipe.draws))
    for number in range(recipe.draws):
        chosen = _weighted(templates, weights, draw("template", number))
        template = recipe.prompts[chosen]
        values = {slot: picks[slot][number] for slot in template.slots}
        row: dict[str, Any] = {
            **recipe.columns,
            "prompt": _filled(template, values),
            **{f"{META}{slot}": value for slot, value in values.items()},
            **{
                name: _sampled(name, found, draw(f"sampled {name}", number))
                for name, found in recipe.sampled.items()
            },
        }
        if len(templates) > 1:
            row[f"{META}{OWN_META}"] = _shown(template)
        if not has_seed:
            row["seed"] = draw("seed", number) >> 11  # 53 bits: the same number in JSON
        start = f"{date}-{number + 1:0{width}d}"
        for point, end in zip(points, ends, strict=True):
            yield {"id": f"{start}-{slug(row['prompt'])}{end}", **row, **point}


def _drawing(recipe: Recipe, date: Date) -> Draw:
    key = sha256(f"zs2 recipe\0{recipe.name}\0{recipe.seed}\0{date}".encode()).digest()

    def draw(what: str, number: int) -> int:
        told = f"{what}\0{number}".encode()
        return int.from_bytes(blake2b(told, key=key, digest_size=8).digest(), "big")

    return draw


def _slot_values(recipe: Recipe, slot: str, draw: Draw) -> list[str]:
    """A slot's value for each draw: those with quotas at places by lot, the others by weight."""
    wanted = quota_draws(recipe, slot) if slot in recipe.quotas else {}
    numbers = range(recipe.draws)
    by_lot = iter(sorted(numbers, key=lambda n: (draw(f"place {slot}", n), n)) if wanted else ())
    given = {next(by_lot): value for value, many in wanted.items() for _ in range(many)}
    free = {v: weight for v, weight in recipe.slots[slot].items() if v not in wanted}
    values, weights = [*free], [*free.values()]
    return [
        given[n] if n in given else _weighted(values, weights, draw(f"slot {slot}", n))
        for n in numbers
    ]


def _weighted(values: list[Value], weights: list[float], bits: int) -> Value:
    """The value at a place, of 2^64 places, in a line on which each has its weight's length."""
    place = _fraction(bits) * math.fsum(weights)
    for value, weight in zip(values, weights, strict=True):
        place -= weight
        if place < 0:
            return value
    return next(v for v, w in zip(reversed(values), reversed(weights), strict=True) if w)


def _fraction(bits: int) -> float:
    """From 0 to below 1."""
    return (bits >> 11) * 2.0**-53


def _sampled(name: str, found: list[Any] | Range, bits: int) -> Any:
    if not isinstance(found, Range):
        return found[bits * len(found) >> 64]
    low, high = found.low, found.high
    if is_whole(name):
        if not found.log:
            return int(low) + (bits * (int(high) - int(low) + 1) >> 64)
        drawn = math.exp(_between(math.log(low), math.log(high + 1), bits))
        return min(max(math.floor(drawn), int(low)), int(high))
    if found.log:
        drawn = math.exp(_between(math.log(low), math.log(high), bits))
    else:
        drawn = _between(low, high, bits)
    return min(max(float(f"{drawn:.{DIGITS}g}"), low), high)


def _between(low: float, high: float, bits: int) -> float:
    return low + (high - low) * _fraction(bits)


def _filled(template: Template, values: Mapping[str, str]) -> str | list[str]:
    def fill(text: str) -> str:
        return SLOT.sub(lambda match: values[match[1]], text)

    prompt = template.prompt
    return fill(prompt) if isinstance(prompt, str) else [fill(text) for text in prompt]


def _shown(template: Template) -> str:
    prompt = template.prompt
    return prompt if isinstance(prompt, str) else " | ".join(prompt)


def _ends(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the ids of a draw end: with the grid's values; with their number where those are long, or
    cannot be told apart by what an id may hold of them."""
    ends = ["".join(suffix(name, value) for name, value in point.items()) for point in points]
    if len(set(ends)) == len(ends) and max(map(len, ends)) <= MOST_OF_GRID:
        return ends
    return [f"-point{index + 1}" for index in range(len(points))]
