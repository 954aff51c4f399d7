"""Recipes read from TOML, and all that can be wrong with one, told at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from manifests.best_by import SCORE_NAMES
from manifests.columns import COLUMNS, META, is_id
from manifests.kinds import KindError, count, describe, quoted
from manifests.misspelt import meant
from manifests.object_store import ObjectStore, is_url
from manifests.recipe import OWN_META, Range, Recipe, Template, Threshold, quota_draws

EXAMPLES = Path(__file__).with_name("examples")
MOST_BYTES = 2**20  # of a recipe; a longer file is a mistake
MOST_CHECKED = 10_000  # whole numbers of a range that are tried one by one
_NAME = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)


class RecipeError(ValueError):
    """A recipe that cannot be followed: each fault with its key, what was expected and found."""


class Fault(NamedTuple):
    """One fault of a recipe. `key` is a dotted path; `hint` says what to do."""

    key: str
    expected: str
    found: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.key}: expected {self.expected}, found {self.found}{hint}"


def read_recipe(source: str) -> tuple[Recipe, str]:
    """A recipe and its text, from a file, a URL of an object store, or a bundled one by its name.

    Raises:
        RecipeError: with all that is wrong. StorageError: the store does not answer.
    """
    text = _text_of(source)
    try:
        return parse_recipe(text, source), text
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(
            f"{source}: expected TOML, found a mistake ({error}); mend that line"
        ) from error


def _text_of(source: str) -> str:
    bundled = EXAMPLES / f"{source}.toml"
    path = bundled if source.isidentifier() and bundled.is_file() else Path(source)
    try:
        if is_url(source):
            folder, _, name = source.rpartition("/")
            found = ObjectStore(folder).read(name)
            if found is None:
                raise FileNotFoundError
            data = found[0]
        else:
            with path.open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise RecipeError(f"{source}: expected a recipe of at most {MOST_BYTES:,} bytes")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        names = quoted(sorted(path.stem for path in EXAMPLES.glob("*.toml")))
        raise RecipeError(
            f"{source} does not exist: expected a recipe, a .toml file, or the bundled {names}"
        ) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{source} is not UTF-8 text: save it as UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{source} cannot be read ({error.strerror or error})") from error


def parse_recipe(text: str, source: str = "recipe") -> Recipe:
    """A recipe from its text.

    Raises:
        RecipeError: with all that is wrong. TOMLDecodeError: it is no TOML.
    """
    try:
        recipe = Recipe.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise _refusal(source, _merged(map(_fault_of, error.errors()))) from None
    faults = list(_faults(recipe))
    if faults:
        raise _refusal(source, faults)
    return recipe


def _refusal(source: str, faults: list[Fault]) -> RecipeError:
    lines = "".join(f"\n  {fault}" for fault in faults)
    return RecipeError(f"{source}: {count(len(faults), 'fault')} in this recipe:{lines}")


_UNION_PARTS = frozenset(
    {"int", "float", "str", "bool", "list[str]", "list[any]", "Range", "function-before"}
)


def _fault_of(found: Any) -> Fault:
    """A fault of the recipe's form, from pydantic's own record of it."""
    place = [str(part) for part in found["loc"] if str(part) not in _UNION_PARTS]
    key = ".".join(place) or "recipe"
    if found["type"] == "extra_forbidden":
        known = _keys_at(place[:-1])
        near = get_close_matches(place[-1], known, n=1, cutoff=0.6)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {quoted(known)}"
        return Fault(key, "a known key", f"`{place[-1]}`", hint)
    if found["type"] == "missing":
        return Fault(key, "a value", "none", f"write `{place[-1]} = …`")
    message = re.sub(r"^(Value error, |Input should be )", "", found["msg"])
    return Fault(key, message[:1].lower() + message[1:], describe(found["input"]))


def _merged(faults: Iterable[Fault]) -> list[Fault]:
    """One fault a key: of a value that may be one of several things, pydantic tells each apart."""
    by_key: dict[str, list[Fault]] = {}
    for fault in faults:
        by_key.setdefault(fault.key, []).append(fault)
    inner = [key for key in by_key if not any(k.startswith(f"{key}.") for k in by_key)]
    return [
        by_key[key][0]._replace(expected=" or ".join(fault.expected for fault in by_key[key]))
        for key in inner
    ]


def _keys_at(place: list[str]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {"prompts": Template, "keep": Threshold, "sampled": Range}
    return [*(parts[place[0]] if place else Recipe).model_fields]


def _faults(recipe: Recipe) -> Iterator[Fault]:
    """All that the form alone does not tell."""
    if not is_id(recipe.name):
        yield Fault(
            "name", "1 to 128 of `A-Za-z0-9._-`, not starting with a dot", describe(recipe.name)
        )
    yield from _faults_of_slots(recipe)
    yield from _faults_of_columns(recipe)
    yield from _faults_of_thresholds(recipe)
    sound = all(len(values) for values in recipe.grid.values())
    if sound and recipe.rows % recipe.points:
        sizes = " × ".join(f"{len(values)} ({name})" for name, values in recipe.grid.items())
        near = max(1, recipe.rows // recipe.points) * recipe.points
        yield Fault(
            "rows",
            f"a multiple of the grid's {sizes} = {recipe.points} points",
            str(recipe.rows),
            f"write {near} or {near + recipe.points}: every draw is made with every point",
        )
    elif sound:
        for slot in recipe.quotas:
            if slot in recipe.slots:
                yield from _faults_of_quota(recipe, slot)


def _faults_of_slots(recipe: Recipe) -> Iterator[Fault]:
    for slot in recipe.quotas:
        if slot not in recipe.slots:
            near = get_close_matches(slot, recipe.slots, n=1, cutoff=0.6)
            known = quoted([*recipe.slots]) if recipe.slots else "none"
            hint = f"did you mean `{near[0]}`?" if near else f"[slots] has {known}"
            yield Fault(f"quotas.{slot}", "a slot that has values", f"`{slot}`", hint)
    used: dict[str, int] = {}
    for number, template in enumerate(recipe.prompts):
        for slot in template.slots:
            used.setdefault(slot, number)
    for slot, number in used.items():
        if slot not in recipe.slots:
            key, found = f"prompts.{number}", f"{{{slot}}}"
            yield Fault(key, "slots that have values", found, f"add `{slot} = […]` to [slots]")
    for slot, values in recipe.slots.items():
        key = f"slots.{slot}"
        if not _NAME.fullmatch(slot) or slot == OWN_META:
            expected = f"a name of letters, digits and _, other than `{OWN_META}`"
            yield Fault(key, expected, describe(slot), "rename the slot")
        elif slot not in used:
            yield Fault(key, f"a prompt with {{{slot}}}", "none", "use the slot or leave it out")
        if not values:
            yield Fault(key, "at least one value", "none")
        for value, weight in values.items():
            if not 0 <= weight <= 1e9:
                yield Fault(f"{key}.{value}", "a weight from 0 to 1e9", f"{weight:g}")
        if values and not any(values.values()):
            yield Fault(key, "a weight above 0", "none", "leave the slot's weights out")


def _faults_of_columns(recipe: Recipe) -> Iterator[Fault]:
    tables: dict[str, Mapping[str, Any]] = {
        "columns": recipe.columns,
        "grid": recipe.grid,
        "sampled": recipe.sampled,
    }
    given: dict[str, str] = {}
    for table, columns in tables.items():
        for name, value in columns.items():
            key = f"{table}.{name}"
            own = name.removeprefix(META)
            if name in ("id", "prompt"):
                yield Fault(key, "a column that the recipe does not make", f"`{name}`")
            elif name.startswith(META) and (own in recipe.slots or own == OWN_META):
                yield Fault(key, "a name of its own", f"`{name}`", "the slots' values go there")
            elif name not in COLUMNS and not name.startswith(META):
                yield Fault(key, "a known column", f"`{name}`", meant(name))
            elif name in given:
                found = f"it in [{given[name]}], too"
                yield Fault(key, f"`{name}` in one table", found, "leave one of them out")
            elif table == "columns":
                yield from _faults_of_value(key, name, value)
            else:
                yield from _faults_of_values(key, name, value)
            given.setdefault(name, table)


def _faults_of_values(key: str, name: str, values: list[Any] | Range) -> Iterator[Fault]:
    if isinstance(values, Range):
        yield from _faults_of_range(key, name, values)
        return
    if not values:
        yield Fault(key, "at least one value", "an empty list", "or leave the column out")
    for index, value in enumerate(values):
        yield from _faults_of_value(f"{key}.{index}", name, value)
        if value in values[:index]:
            yield Fault(f"{key}.{index}", "different values", f"{describe(value)} twice")


def _faults_of_value(key: str, name: str, value: Any) -> Iterator[Fault]:
    if name in COLUMNS:
        try:
            COLUMNS[name].kind.parse(value)
        except KindError as refusal:
            yield Fault(key, refusal.expected, describe(value), refusal.hint)


def is_whole(name: str) -> bool:
    """Whether a column holds whole numbers."""
    return "int" in COLUMNS[name].arrow


def _faults_of_range(key: str, name: str, found: Range) -> Iterator[Fault]:
    if name not in COLUMNS or COLUMNS[name].kind.holds != "number":
        yield Fault(key, "a column of numbers for a range", f"`{name}`", "give a list of values")
        return
    if not found.low < found.high < float("inf"):
        yield Fault(key, "low below high, both finite", f"{found.low:g} and {found.high:g}")
        return
    if found.log and found.low <= 0:
        yield Fault(f"{key}.low", "above 0, for a logarithm", f"{found.low:g}")
    ends: list[float | int] = [found.low, found.high]
    if is_whole(name):
        if not (found.low.is_integer() and found.high.is_integer()):
            yield Fault(key, "whole numbers", f"{found.low:g} and {found.high:g}")
            return
        low, high = int(found.low), int(found.high)
        ends = [*range(low, high + 1)] if high - low < MOST_CHECKED else [low, high]
    for value in ends:
        try:
            COLUMNS[name].kind.parse(value)
        except KindError as refusal:
            hint = "narrow the range, or give a list of values"
            yield Fault(key, refusal.expected, describe(value), hint)
            return


def _faults_of_thresholds(recipe: Recipe) -> Iterator[Fault]:
    for name, wanted in recipe.keep.items():
        low, high = wanted.at_least, wanted.at_most
        if name not in SCORE_NAMES:
            near = get_close_matches(name, SCORE_NAMES, n=1, cutoff=0.6)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {quoted(SCORE_NAMES)}"
            yield Fault(f"keep.{name}", "a score", f"`{name}`", hint)
        elif low is None and high is None:
            yield Fault(f"keep.{name}", "at_least, at_most or both", "neither")
        elif low is not None and high is not None and low > high:
            yield Fault(f"keep.{name}", "at_least ≤ at_most", f"{low:g} and {high:g}")
    if recipe.least_kept() > recipe.rows:
        found = f"{recipe.fail_below}"
        yield Fault("fail_below", f"at most the {recipe.rows} rows", found, "no night could pass")


def _faults_of_quota(recipe: Recipe, slot: str) -> Iterator[Fault]:
    key, rows, points = f"quotas.{slot}", recipe.rows, recipe.points
    faults: list[Fault] = []
    for value, wanted in recipe.quotas[slot].items():
        place = f"{key}.{value}"
        if value not in recipe.slots[slot]:
            known = quoted([*recipe.slots[slot]])
            faults.append(Fault(place, f"a value of the slot: {known}", describe(value)))
        elif isinstance(wanted, float) and not 0 <= wanted <= 1:
            hint = "write a count as a whole number" if wanted > 1 else ""
            faults.append(Fault(place, "a share from 0 to 1", f"{wanted:g}", hint))
        elif wanted < 0 or (isinstance(wanted, int) and wanted % points):
            expected = f"a count that is a multiple of the grid's {points} points"
            faults.append(Fault(place, expected if wanted > 0 else "a count ≥ 0", str(wanted)))
    without = [t.prompt for t in recipe.prompts if slot not in t.slots]
    if without:
        hint = "use the slot in every prompt, or leave its quotas out"
        faults.append(Fault(key, f"{{{slot}}} in every prompt", describe(without[0]), hint))
    yield from faults
    if faults:
        return
    shares = [str(n) for n in recipe.quotas[slot].values() if isinstance(n, float)]
    share = sum(map(Fraction, shares), Fraction())
    if share > 1:
        found = f"{' + '.join(shares)} = {float(share):g}"
        yield Fault(key, "shares of at most 1 in all", found, "lower them")
        return
    wanted = {v: n * points for v, n in quota_draws(recipe, slot).items()}
    for value, number in recipe.quotas[slot].items():
        if number and not wanted[value]:
            least = f"at least {points / rows:g}, {count(points, 'row')} of {rows}"
            hint = "raise it or `rows`, or leave it out"
            yield Fault(f"{key}.{value}", least, f"{number:g}, which rounds to no row", hint)
    total = sum(wanted.values())
    terms = " + ".join(map(str, wanted.values()))
    if total > rows:
        found = f"{terms} = {total}"
        yield Fault(key, f"at most {rows} rows in all", found, "lower them or raise `rows`")
    elif total < rows and not any(w for v, w in recipe.slots[slot].items() if v not in wanted):
        found = f"{terms} = {total} and no value without a quota for the other {rows - total}"
        yield Fault(key, f"{rows} rows in all", found, "raise them, or add a value")
