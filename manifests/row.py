"""One row of a manifest, with the run's defaults merged and every rule checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any

from manifests.column_rules import check_together
from manifests.columns import COLUMNS, META, Column
from manifests.fault import Fault
from manifests.kinds import MAX_VALUE_BYTES, KindError, Oversize, describe, plain
from manifests.misspelt import meant


class RowError(ValueError):
    """Everything that is wrong with one row or one set of run defaults: `faults`."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What one row asks for. Built by `parse_row`, which checks it.

    `prompt` holds one text, or one per segment. `kl_target` is one λ ≥ 0 or num_frames − 1 of them;
    `momentum` one μ in [0, 1] or num_frames of them. What the model decides (`height`, `width`,
    `num_inference_steps`, `guidance_scale`) is None unless the row or the run says otherwise.
    `alpha` is None but for mixed and progressive noise; `quality` is None where the codec has none.
    What belongs to a control clip, an edit or an IP-Adapter is None where the row has none.
    `meta` keeps the user's own columns under their full names, as JSON types.
    """

    id: str
    prompt: tuple[str, ...]
    negative_prompt: str
    seed: int
    model: str
    lora: tuple[str, ...]
    num_frames: int
    segment_frames: int
    chain: str
    height: int | None
    width: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str
    noise: str
    alpha: float | None
    kl_target: float | tuple[float, ...]
    solver: str
    noise_candidates: int
    momentum: float | tuple[float, ...]
    speed: str
    long_prompt: str
    control: str | None
    controlnet: str | None
    control_video: str | None
    control_scale: float | None
    canny_low: int | None
    canny_high: int | None
    source_video: str | None
    image_guidance_scale: float | None
    ip_adapter: str | None
    ip_adapter_image: str | None
    ip_adapter_scale: float | None
    best_of: int
    best_by: str | None
    fps: float
    temporal_sr: str
    temporal_scale: int
    spatial_sr: str
    spatial_scale: int
    codec: str
    quality: int | None
    meta: dict[str, Any]

    @property
    def in_between(self) -> int:
        """k where frames in between are sampled, k − 1 a gap; 1 where none are."""
        return self.temporal_scale if self.temporal_sr == "latent" else 1

    @property
    def sampled_frames(self) -> int:
        """Frames that come from the model: the clip's, and those in between where they are sampled."""
        return (self.num_frames - 1) * self.in_between + 1

    @property
    def num_segments(self) -> int:
        """⌈num_frames / segment_frames⌉."""
        return -(-self.num_frames // self.segment_frames)


_BASE: dict[str, Any] = {column.name: column.default for column in COLUMNS.values()}
_BASE["scheduler"] = None  # until `check_together` knows whether steps are named
_PARSERS = {name: column.kind.parse for name, column in COLUMNS.items()}

assert {field.name for field in fields(ManifestRow)} == {*COLUMNS, "meta"}


def seed_of(row_id: str) -> int:
    """The seed of a row that names none: the first 8 bytes of sha256(id), mod 2^63."""
    return int.from_bytes(sha256(row_id.encode()).digest()[:8], "big") % 2**63


def parse_row(values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> ManifestRow:
    """A row from its values by column; None and absent are the same.

    Args:
        values: the row's own values; lists or tuples where a list is meant.
        defaults: the run's (`--set`), by column; they hold where the row has no value.

    Raises:
        RowError: with every fault of the row, not the first alone.
    """
    row: dict[str, Any] = dict(_BASE)
    row["meta"] = meta = {}
    faults: list[Fault] = []
    given = {**defaults, **values} if defaults else values
    for name, value in given.items():
        if value is None:
            if defaults and defaults.get(name) is not None:
                value = defaults[name]
            else:
                continue
        parse = _PARSERS.get(name)
        if parse is not None:
            try:
                row[name] = parse(value)
            except KindError as refusal:
                faults.append(Fault(name, refusal.expected, describe(value), refusal.hint))
        elif value.__class__ is Oversize:
            faults.append(Fault(name, f"at most {MAX_VALUE_BYTES:,} bytes", describe(value)))
        elif name.startswith(META):
            meta[name] = plain(value)
        else:
            faults.append(Fault(name, "a known column", f"`{name}`", meant(name)))
    bad = {fault.column for fault in faults}
    for name in ("id", "prompt"):
        if row[name] is None and name not in bad:
            faults.append(Fault(name, COLUMNS[name].kind.expected, "no value"))
            bad.add(name)
    check_together(row, values, bad, faults)
    if faults:
        raise RowError(faults)
    if row["seed"] is None:
        row["seed"] = seed_of(row["id"])
    return ManifestRow(**row)


def parse_defaults(pairs: Iterable[str]) -> dict[str, Any]:
    """Run defaults from `column=value` texts, as `--set` takes them; see `check_defaults`.

    Text columns take the value as it stands, or a JSON list where several are meant; others take a
    JSON number or list of numbers. A column has one value: that again is no fault, another one is.

    Raises:
        RowError: with every fault.
    """
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    faults: list[Fault] = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        column = COLUMNS.get(name)
        if equals and texts.setdefault(name, value) != value:
            found = f"{describe(texts[name])} and {describe(value)}"
            faults.append(Fault("--set", f"one value of {name}", found, "leave one of them out"))
        elif not equals or not name:
            faults.append(Fault("--set", "column=value", describe(pair)))
        elif column is None or (column.kind.holds == "text" and not _is_list(column, value)):
            values[name] = value
        else:
            try:
                values[name] = json.loads(value)
            except (ValueError, RecursionError):
                faults.append(Fault(name, column.kind.expected, describe(value)))
    try:
        defaults = check_defaults(values)
    except RowError as error:
        raise RowError(faults + error.faults) from None
    if faults:
        raise RowError(faults)
    return defaults


def _is_list(column: Column, value: str) -> bool:
    return column.kind.lists and value.lstrip().startswith("[")


def check_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Run defaults by column, parsed as a row's values are.

    `id`, `prompt` and `meta_*` belong to rows and cannot be set.

    Raises:
        RowError: with every fault.
    """
    defaults: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, value in values.items():
        column = COLUMNS.get(name)
        if name.startswith(META) or (column is not None and not column.settable):
            expected = "a column that has a default"
            faults.append(Fault("--set", expected, f"`{name}`", "it belongs to the rows"))
        elif column is None:
            faults.append(Fault("--set", "a known column", f"`{name}`", meant(name)))
        elif value is not None:
            try:
                defaults[name] = column.kind.parse(value)
            except KindError as refusal:
                faults.append(Fault(name, refusal.expected, describe(value), refusal.hint))
    if faults:
        raise RowError(faults)
    return defaults
