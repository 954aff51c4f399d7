"""Manifests from text: .txt (one prompt a line), .csv and .jsonl, with grids and templates."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, TextIO
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.arrow_types import merge_types, to_array
from manifests.columns import COLUMNS, META
from manifests.digest import id_hash
from manifests.fault import Fault
from manifests.kinds import describe
from manifests.misspelt import meant
from manifests.read import TEXTS, Manifest, ManifestError, open_manifest
from manifests.row import RowError, parse_row
from manifests.storage import write_aside
from manifests.validate import check_rows, format_problems

SUFFIX = ".parquet"
SLUG = 48  # characters of an id that come from the prompt
BATCH_ROWS = 8192
MAX_FAULTS = 50  # shown; the rest is counted
_SLOT = re.compile(r"\{(\w+)\}")
_REMEDIES = {
    ".json": "write one object a line, and name it .jsonl",
    ".tsv": "save it with commas between the columns, and name it .csv",
}
_SHORT = {"seed": "s", "kl_target": "kl", "momentum": "mu"}
Records = Iterator[tuple[int, dict[str, Any]]]  # values by column, with the line they come from
_ARROW = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "float": pa.float64()}


@dataclass(frozen=True)
class _Recipe:
    """What `build` was asked for."""

    name: str
    read: Callable[[], Records]
    grid: Mapping[str, Sequence[Any]]
    slots: Mapping[str, Sequence[str]]
    columns: Mapping[str, Any]


def build(
    source: str | Path,
    output: str | Path,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    slots: Mapping[str, Sequence[str]] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> int:
    """Write a Parquet manifest from a .txt, .csv or .jsonl file. Returns its rows.

    In .txt each line is a prompt; blank lines and those that begin with # are passed over. In .csv
    and .jsonl columns go by name, and `prompt` is needed; a JSON list in a cell is a list. Ids that
    are not given are made of the prompt, the grid's values and, where that is not unique, a count.

    Args:
        grid: values by column; every row is made once for each combination, e.g.
            `{"seed": [1, 2], "kl_target": [0.01, 0.05], "momentum": [0.9, 0.98]}`.
        slots: texts by name; a prompt with `{name}` is made once for each of them.
        columns: values for every row that has none of its own.

    Raises:
        ManifestError: the source cannot be read, rows would not be valid, no prompt has a slot, or
            `output` is the source or no name of a Parquet file. Nothing is written.
    """
    path, target = Path(source), Path(output)
    if path.is_file() and target.exists() and path.samefile(target):
        raise ManifestError(
            f"{target} is the source itself: name another file, that ends in {SUFFIX}"
        )
    recipe = _Recipe(str(path), lambda: _read(path), grid or {}, slots or {}, columns or {})
    return _write(recipe, target)


def unfilled(source: str | Path) -> dict[str, int]:
    """The slots that a source's prompts name, each with its first line: without values for any slot
    they are text, and stay in the prompts as they stand."""
    found: dict[str, int] = {}
    for line, record in _read(Path(source)):
        for name in _slots_of(record.get("prompt", "")):
            found.setdefault(name, line)
    return found


def build_from(
    name: str,
    records: Sequence[Mapping[str, Any]],
    output: str | Path,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> int:
    """As `build`, from records by column; `name` is what messages call them, None is no value."""
    given = [{n: v for n, v in record.items() if v is not None} for record in records]
    recipe = _Recipe(name, lambda: enumerate(given, 1), grid or {}, {}, columns or {})
    return _write(recipe, Path(output))


def _write(recipe: _Recipe, target: Path) -> int:
    if target.is_dir():
        raise ManifestError(f"{target} is a folder: name a file, such as {target}/manifest.parquet")
    if target.suffix.lower() != SUFFIX:
        raise ManifestError(
            f"{target}: expected a name that ends in {SUFFIX}, as a manifest is a Parquet file; "
            f"name it {target.with_suffix(SUFFIX)}"
        )
    _check_recipe(recipe)
    schema, rows = _survey(recipe)
    _check_slots(recipe)
    try:
        with write_aside(target) as aside:
            with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
                for batch in _batches(recipe, schema):
                    writer.write_batch(batch)
            written = open_manifest(aside)
            problems = [p for _, r in check_rows(written) if isinstance(r, list) for p in r]
            if problems:
                raise ManifestError(format_problems(problems))
    except OSError as error:
        raise ManifestError(f"{target} cannot be written ({error.strerror or error})") from error
    return rows


def show(manifest: Manifest, limit: int = 20, start: int = 0) -> list[dict[str, Any]]:
    """The first rows as `zs2 manifest show` prints them: position, then the values that are there."""
    shown: list[dict[str, Any]] = []
    if limit > 0:
        for raw in manifest.rows(start):
            shown.append({"row": raw.position, **raw.values})
            if len(shown) == limit:
                break
    return shown


def _check_recipe(recipe: _Recipe) -> None:
    for what, names in (("grid", recipe.grid), ("columns", recipe.columns)):
        for name in names:
            if name not in COLUMNS and not name.startswith(META):
                raise ManifestError(f"{what}: `{name}` is not a column, {meant(name)}")
            if name in ("id", "prompt"):
                raise ManifestError(
                    f"{what}: `{name}` comes from {Path(recipe.name).name}, row by row"
                )
    for what, lists in (("grid", recipe.grid), ("slots", recipe.slots)):
        for name, values in lists.items():
            if len(values) == 0:
                raise ManifestError(f"{what}: `{name}` has no values")


def _check_slots(recipe: _Recipe) -> None:
    unnamed = dict.fromkeys(recipe.slots)
    for _, record in recipe.read() if unnamed else ():
        for name in _slots_of(record["prompt"]):
            unnamed.pop(name, None)
        if not unnamed:
            return
    for name in unnamed:
        raise ManifestError(
            f"slots: no prompt of {recipe.name} has {{{name}}}; write it where the values of "
            f"`{name}` belong, or leave the slot out"
        )


def _survey(recipe: _Recipe) -> tuple[pa.Schema, int]:
    """Check every row that will be written, and find the columns' types."""
    types: dict[str, pa.DataType] = {}
    chunk: dict[str, list[Any]] = {}
    seen: dict[bytes, int] = {}
    shown: list[str] = []
    count = faults = 0
    for count, (line, row) in enumerate(_rows(recipe), 1):
        for fault in _faults(row, line, seen):
            faults += 1
            if faults <= MAX_FAULTS:
                shown.append(f"  line {line}: {fault}")
        for name, value in row.items():
            if name.startswith(META):
                chunk.setdefault(name, []).append(value)
            elif name in COLUMNS and (name not in types or isinstance(value, list)):
                types[name] = _arrow_type(name, value)
        if count % BATCH_ROWS == 0:
            merge_types(types, chunk)
    merge_types(types, chunk)
    if faults:
        more = f"\n  … and {faults - MAX_FAULTS:,} more" if faults > MAX_FAULTS else ""
        raise ManifestError(f"{recipe.name} makes no valid manifest:\n" + "\n".join(shown) + more)
    if not count:
        raise ManifestError(f"{recipe.name} has no prompts: a manifest needs at least one row")
    order = [name for name in COLUMNS if name in types]
    order += sorted(name for name in types if name not in COLUMNS)
    return pa.schema([(name, types[name]) for name in order]), count


def _faults(row: dict[str, Any], line: int, seen: dict[bytes, int]) -> list[Fault]:
    try:
        name = parse_row(row).id
    except RowError as error:
        return error.faults
    key = id_hash(name)
    first = seen.get(key)
    if first is None:
        seen[key] = line
        return []
    return [Fault("id", "an id that no other row has", describe(name), f"line {first} has it")]


def _arrow_type(name: str, value: Any) -> pa.DataType:
    arrow = COLUMNS[name].arrow
    scalar = next(kind for word, kind in _ARROW.items() if word in arrow)
    return pa.list_(scalar) if isinstance(value, list) or arrow.startswith("list") else scalar


def _batches(recipe: _Recipe, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rows = (row for _, row in _rows(recipe))
    while chunk := list(islice(rows, BATCH_ROWS)):
        arrays = [_column([row.get(c.name) for row in chunk], c.type) for c in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind):
        # a scalar beside lists is a list of length 1
        values = [v if v is None or isinstance(v, list) else [v] for v in values]
    return to_array(values, kind)


def _rows(recipe: _Recipe) -> Records:
    """Every row to write, with the line of the source that it comes from."""
    made = _Names()
    for line, record in recipe.read():
        clash = [name for name in recipe.grid if record.get(name) is not None]
        if clash:
            raise ManifestError(
                f"{recipe.name} line {line}: `{clash[0]}` has a value and is in the grid, too; "
                "leave one of them out"
            )
        own = {**recipe.columns, **record}
        for filled in _fill(own, recipe, line):
            for values in product(*recipe.grid.values()):
                point = dict(zip(recipe.grid, values, strict=True))
                row = {**filled, **point}
                end = "".join(suffix(name, value) for name, value in point.items())
                if own.get("id") is None:
                    row["id"] = made.unique(slug(row.get("prompt")) + end)
                elif isinstance(own["id"], str):
                    row["id"] = own["id"] + end
                yield line, row


def _fill(row: dict[str, Any], recipe: _Recipe, line: int) -> Iterator[dict[str, Any]]:
    """The row with its prompt's slots filled: once for each combination of the slots it names."""
    prompt = row.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not recipe.slots or not isinstance(texts, list):
        yield row
        return
    names = _slots_of(texts)
    for name in names:
        if name not in recipe.slots:
            raise ManifestError(f"{recipe.name} line {line}: no values for the slot {{{name}}}")
    for values in product(*(recipe.slots[name] for name in names)):
        point = dict(zip(names, values, strict=True))
        filled = [_SLOT.sub(lambda m, p=point: p[m[1]], str(text)) for text in texts]
        yield {**row, "prompt": filled[0] if isinstance(prompt, str) else filled}


def _slots_of(prompt: str | list[Any]) -> list[str]:
    texts = [prompt] if isinstance(prompt, str) else prompt
    return list(dict.fromkeys(name for text in texts for name in _SLOT.findall(str(text))))


class _Names:
    """Makes ids unique by a count."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def unique(self, name: str) -> str:
        count = self._used.get(name, 0) + 1
        self._used[name] = count
        return name if count == 1 else self.unique(f"{name}-{count}")


def slug(prompt: Any) -> str:
    """The part of an id that comes from a prompt: its first words, of a-z, 0-9 and hyphens."""
    text = prompt[0] if isinstance(prompt, list) and prompt else prompt
    plain = normalize("NFKD", str(text)[:200]).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    slug = ""
    for word in words:
        longer = f"{slug}-{word}" if slug else word[:SLUG]
        if len(longer) > SLUG:
            break
        slug = longer
    return slug or "clip"


def suffix(name: str, value: Any) -> str:
    """The part of an id that comes from a grid's value, such as `-kl0.01`."""
    items = value if isinstance(value, list | tuple) else [value]
    text = "_".join(f"{v:g}" if isinstance(v, float) else str(v) for v in items)
    return f"-{_SHORT.get(name, name)}{re.sub(r'[^A-Za-z0-9._-]+', '', text)[:32]}"


def _read(source: Path) -> Records:
    """The records of a text source with their line numbers, from 1; empty cells are left out."""
    readers = dict(zip(TEXTS, (_read_txt, _read_csv, _read_jsonl, _read_jsonl), strict=True))
    suffix = source.suffix.lower()
    reader = readers.get(suffix)
    if reader is None:
        remedy = f"; {_REMEDIES[suffix]}" if suffix in _REMEDIES else ""
        raise ManifestError(f"{source}: expected a .txt, .csv or .jsonl file{remedy}")
    if source.exists() and not source.is_file():
        raise ManifestError(f"{source} is not a regular file: give a .txt, .csv or .jsonl file")
    try:
        # the signature that spreadsheets write is not part of the first prompt
        with source.open(encoding="utf-8-sig", newline="" if reader is _read_csv else None) as file:
            yield from reader(source, file)
    except FileNotFoundError:
        raise ManifestError(f"{source} does not exist: give a .txt, .csv or .jsonl file") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{source} is not UTF-8 text: save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise ManifestError(f"{source} cannot be read ({error})") from error


def _read_txt(_: Path, file: TextIO) -> Records:
    for line, text in enumerate(file, 1):
        prompt = text.strip()
        if prompt and not prompt.startswith("#"):
            yield line, {"prompt": prompt}


def _read_csv(source: Path, file: TextIO) -> Records:
    reader = csv.DictReader(file, strict=True)
    names = [name.strip() for name in reader.fieldnames or []]
    if len(names) == 1 and (other := next((sign for sign in ";\t" if sign in names[0]), None)):
        raise ManifestError(
            f"{source} line 1: expected commas between the columns, found "
            f"{'semicolons' if other == ';' else 'tabs'} in {describe(names[0])}; save it with commas"
        )
    _check_names(f"{source} line 1", names)
    if len(set(names)) < len(names):
        raise ManifestError(f"{source} line 1: a column's name stands there twice")
    reader.fieldnames = names
    for record in reader:
        if None in record:
            raise ManifestError(
                f"{source} line {reader.line_num}: more cells than the {len(names)} columns; "
                "put quotes around text that has commas"
            )
        yield reader.line_num, {n: _cell(n, t) for n, t in record.items() if t not in (None, "")}


def _cell(name: str, text: str) -> Any:
    """A CSV cell by its column's type: numbers and lists are JSON; what is neither stays text, for
    validation to refuse."""
    column = COLUMNS.get(name)
    if column is None or (column.kind.holds == "text" and not column.kind.lists):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if column.kind.holds == "number" or isinstance(value, list) else text


def _read_jsonl(source: Path, file: TextIO) -> Records:
    checked: set[str] = set()
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{source} line {line}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ManifestError(f"{source} line {line}: expected a JSON object, {{…}}")
        if not checked.issuperset(record):
            _check_names(f"{source} line {line}", [*record])
            checked.update(record)
        yield line, {name: value for name, value in record.items() if value is not None}


def _check_names(where: str, names: list[str]) -> None:
    for name in names:
        if name not in COLUMNS and not name.startswith(META):
            raise ManifestError(f"{where}: {describe(name)} is not a column, {meant(name)}")
