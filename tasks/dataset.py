"""A recipe's dataset of a date: which clips of its run pass, and how they are published."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq

from manifests.columns import META
from manifests.files import publish_folder, sweep_temporary
from manifests.kinds import count
from manifests.ledger import ledger_batches
from manifests.object_store import ObjectStore, is_url
from manifests.recipe import Recipe, Threshold
from manifests.run_file import write_json
from manifests.scores import read_scores, scores_file
from manifests.storage import RunFolder
from tasks.dataset_card import Facts, Share, card
from tasks.dataset_place import MARK, RUNS, Place, published
from tasks.publish import failures_by_cause, versions
from tasks.score_table import Summary, summarise_scores

MOST_GROUPS = 20  # of a slot's values in the card's scores
COPIES_AT_ONCE = 8


class TooFewError(RuntimeError):
    """So few clips passed that the recipe wants nothing published."""


def put_manifest(place: Place, build: Callable[[Path], int]) -> tuple[str, int]:
    """Write the date's manifest into its run folder; returns its address and rows.

    Raises:
        LockedError: a run of the date goes on, whose manifest this would replace.
    """
    folder = RunFolder(place.run).create()
    path = folder.root / "manifest.parquet"
    with folder.lock(f"manifest-{uuid4().hex[:6]}"):
        rows = build(path)
        folder.upload(path)
    return folder.address_of(path), rows


@dataclass
class Selection:
    """Which clips of a run are kept.

    Attributes:
        files: file_name by id, of the clips that are kept.
        ok: finished clips of the run. rows: of the ledger by status.
        rejected: clips by what they lack, such as `clip_score ≥ 70`; one may lack several things.
        slots: of each slot's values: rows made and kept.
    """

    files: dict[str, str] = field(default_factory=dict[str, str])
    rows: Counter[str] = field(default_factory=Counter[str])
    rejected: Counter[str] = field(default_factory=Counter[str])
    made: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    kept: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    bytes: int = 0


def select(root: Path, recipe: Recipe, scorer: str) -> Selection:
    """The finished clips of a run folder whose scores pass the recipe's thresholds.

    A clip that could not be scored, or lacks a score that is asked for, is not kept.

    Args:
        scorer: its identity, name@revision.
    """
    scores = read_scores(root)
    chosen = Selection()
    for batch in ledger_batches(root):
        wanted = ["id", "digest", "status", "file_name", "bytes"]
        wanted += [name for name in batch.schema.names if name.startswith(META)]
        for row in batch.select(wanted).to_pylist():
            chosen.rows[row["status"]] += 1
            if row["status"] != "ok":
                continue
            values = [
                (slot, str(row[f"{META}{slot}"]))
                for slot in recipe.slots
                if row.get(f"{META}{slot}") is not None
            ]
            chosen.made.update(values)
            is_scored = scores.has(row["id"], row["digest"], scorer)
            lacks = lacking(scores[row["id"]] if is_scored else None, recipe.keep)
            chosen.rejected.update(lacks)
            if not lacks:
                chosen.files[row["id"]] = row["file_name"]
                chosen.kept.update(values)
                chosen.bytes += row["bytes"] or 0
    return chosen


def lacking(scores: Mapping[str, float] | None, keep: Mapping[str, Threshold]) -> list[str]:
    """What a clip's scores lack, in words; nothing of a clip that passes.

    Args:
        scores: those that it has; None where it could not be scored.
    """
    if scores is None:
        return ["could not be scored"]
    lacks: list[str] = []
    for name, wanted in keep.items():
        value = scores.get(name)
        if value is None:
            lacks.append(f"has no {name}")
        elif wanted.at_least is not None and value < wanted.at_least:
            lacks.append(f"{name} ≥ {wanted.at_least:g}")
        elif wanted.at_most is not None and value > wanted.at_most:
            lacks.append(f"{name} ≤ {wanted.at_most:g}")
    return lacks


def publish_dataset(
    place: Place, recipe: Recipe, text: str, scorer: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Publish what passes of a date's run, which is over and scored. Returns dataset.json.

    Args:
        text: the recipe's own, which is published too.
        scorer: its identity. defaults: the run's, of columns that the recipe leaves out.

    Raises:
        TooFewError: fewer clips passed than the recipe wants; nothing is published.
        PublishedError: another recipe's was published meanwhile. LockedError: a run goes on.
    """
    done = published(place, recipe)
    if done is not None:
        return done
    folder = RunFolder(place.run)
    with folder.lock(f"publish-{uuid4().hex[:6]}"):
        done = published(place, recipe)
        if done is not None:  # by another run of the date, just now
            return done
        folder.pull()
        for path in (scores_file(folder.root), folder.metadata_file):
            folder.bring(path)
        chosen = select(folder.root, recipe, scorer)
        if len(chosen.files) < recipe.least_kept():
            raise TooFewError(_too_few(place, recipe, chosen))
        content = _content(place, recipe, chosen, scorer)

        def write_rest(target: Path) -> None:
            _write_metadata(folder.metadata_file, target / "metadata.parquet", chosen)
            shutil.copyfile(folder.root / "manifest.parquet", target / "manifest.parquet")
            (target / "recipe.toml").write_text(text, "utf-8")
            facts = _facts(folder, place, recipe, chosen, scorer, defaults)
            (target / "README.md").write_text(card(facts), "utf-8")
            write_json(target / MARK, content)

        if is_url(place.base):
            _publish_objects(place, chosen, write_rest)
        else:
            sweep_temporary(Path(place.base), deep=False)  # of attempts that were killed
            _publish_files(place, folder.root, chosen, write_rest)
    return content


def _too_few(place: Place, recipe: Recipe, chosen: Selection) -> str:
    lacks = ", ".join(f"{lack}: {clips}" for lack, clips in chosen.rejected.most_common())
    return (
        f"{recipe.name} of {place.date}: expected at least {count(recipe.least_kept(), 'clip')} "
        f"(fail_below), found {len(chosen.files)} of {recipe.rows} rows ({chosen.rows['ok']} were "
        f"rendered{f'; dropped for {lacks}' if lacks else ''}). Nothing was published; look at "
        f"{place.run}, change the recipe's [keep] or fail_below, and run the date again"
    )


def _content(place: Place, recipe: Recipe, chosen: Selection, scorer: str) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "date": str(place.date),
        "recipe": recipe.identity,
        "license": recipe.license,
        "rows": {status: chosen.rows[status] for status in ("ok", "failed", "invalid")},
        "kept": len(chosen.files),
        "rejected": dict(chosen.rejected),
        "bytes": chosen.bytes,
        "scorer": scorer,
        "run": f"../{RUNS}/{place.date}",
        "versions": versions(),
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write_metadata(source: Path, target: Path, chosen: Selection) -> None:
    """The rows of the run's metadata.parquet that are kept."""
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
        for batch in file.iter_batches():
            mask = [row_id in chosen.files for row_id in batch.column("id").to_pylist()]
            writer.write_batch(batch.filter(mask))


def _facts(
    folder: RunFolder,
    place: Place,
    recipe: Recipe,
    chosen: Selection,
    scorer: str,
    defaults: Mapping[str, Any],
) -> Facts:
    slots: dict[str, list[Share]] = {}
    groups: dict[str, list[Summary]] = {}
    for slot, values in recipe.slots.items():
        rows = _counts(folder.root / "manifest.parquet", f"{META}{slot}")
        quotas = recipe.quotas.get(slot, {})
        slots[slot] = [
            Share(v, quotas.get(v), rows[v], chosen.made[slot, v], chosen.kept[slot, v])
            for v in values
        ]
        if 1 < len(values) <= MOST_GROUPS:
            by = f"{META}{slot}"
            groups[slot] = summarise_scores(folder.root, scorer, by, keep=chosen.files.__contains__)
    return Facts(
        recipe=recipe,
        date=place.date,
        rows=dict(chosen.rows),
        kept=len(chosen.files),
        bytes=chosen.bytes,
        rejected=chosen.rejected.most_common(),
        causes=failures_by_cause(folder),
        slots=slots,
        scorer=scorer,
        scores=summarise_scores(folder.root, scorer, keep=chosen.files.__contains__),
        groups=groups,
        models=_models(folder.root),
        defaults=defaults,
        run=f"../{RUNS}/{place.date}",
        versions=versions(),
    )


def _counts(manifest: Path, column: str) -> Counter[str]:
    """Rows of a manifest by a column's values."""
    found: Counter[str] = Counter()
    with pq.ParquetFile(manifest) as file:
        if column not in file.schema_arrow.names:
            return found
        for batch in file.iter_batches(columns=[column]):
            for entry in batch.column(0).value_counts().to_pylist():
                if entry["values"] is not None:
                    found[entry["values"]] += entry["counts"]
    return found


def _models(root: Path) -> list[str]:
    """Models of the finished clips, with their revisions."""
    found: set[str] = set()
    for batch in ledger_batches(root, ["model", "model_revision"], statuses=["ok"]):
        for model, revision in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            found.add(f"{model}@{revision}" if revision and "@" not in model else str(model))
    return sorted(found)


def _publish_files(
    place: Place, root: Path, chosen: Selection, write_rest: Callable[[Path], None]
) -> None:
    with publish_folder(Path(place.version)) as aside:
        for name in chosen.files.values():
            _put(root / name, aside / name)
        write_rest(aside)


def _put(source: Path, target: Path) -> None:
    """A finished video, or a folder of frames, under a second name; where disks differ, a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
        for frame in source.iterdir():
            _put(frame, target / frame.name)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _publish_objects(place: Place, chosen: Selection, write_rest: Callable[[Path], None]) -> None:
    """Videos first, dataset.json last: without it nothing counts as published."""
    store = ObjectStore(place.base)
    current: set[str] = set()

    def copy(name: str) -> list[str]:
        source = f"{RUNS}/{place.date}/{name}"
        found = [store.name_of(each) for each in store.list(source)] or [source]
        made = [f"{place.date}/{each.removeprefix(f'{RUNS}/{place.date}/')}" for each in found]
        for old, new in zip(found, made, strict=True):
            store.copy(old, new)
        return made

    with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
        names = iter(chosen.files.values())
        while some := [*islice(names, 1000)]:
            current.update(*pool.map(copy, some))
    with TemporaryDirectory(prefix="zs2-dataset-") as folder:
        write_rest(Path(folder))
        rest = sorted(path.name for path in Path(folder).iterdir())
        current.update(f"{place.date}/{name}" for name in rest)
        there = [store.name_of(found) for found in store.list(str(place.date))]
        store.delete([name for name in there if name not in current])  # of a killed attempt
        for name in sorted(rest, key=lambda name: name == MARK):
            store.put(f"{place.date}/{name}", Path(folder, name))
