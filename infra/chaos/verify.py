"""The end of a storm: what must hold, read from the files themselves and once more as zs2 reads them."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from manifests.ledger import known
from tasks.assemble import decode


def faults(out: Path, ids: list[str], reference: dict[str, str]) -> list[str]:
    """Everything that is wrong with a run folder; empty when all rows are ok, once, whole, and as in
    an undisturbed run.

    Args:
        ids: of the manifest.
        reference: id → hash of an undisturbed run's decoded frames.
    """
    found = [f"left aside: {path.relative_to(out)}" for path in sorted(out.rglob(".tmp-*"))]
    found += [f"left in results: {path.name}" for path in (out / "results").glob("journal-*")]
    rows = ledger_rows(out)
    counts = Counter(row["id"] for row in rows)
    found += [f"{row_id}: no result" for row_id in ids if not counts[row_id]]
    found += [f"{row_id}: {count} results" for row_id, count in counts.items() if count > 1]
    found += [f"{row_id}: not in the manifest" for row_id in counts if row_id not in set(ids)]
    seen = known(out)
    for row in rows:
        if row["status"] != "ok" or seen.get(row["id"]) != (row["digest"], "ok"):
            found.append(f"{row['id']}: {row['status']}, {row['stage']}: {row['error_message']}")
            continue
        found += _faults_of_video(out, row, reference)
    found += _faults_of_names(out, rows)
    run = json.loads((out / "run.json").read_text("utf-8"))
    if run["state"] != "finished":
        found.append(f"run.json says {run['state']}")
    return found


def ledger_rows(out: Path) -> list[dict[str, Any]]:
    """The ledger's rows, straight from its Parquet files."""
    return [row for p in sorted((out / "results").glob("part-*")) for row in _rows(p)]


def _rows(path: Path) -> list[dict[str, Any]]:
    return pq.ParquetFile(path).read().to_pylist()


def hash_of_frames(path: Path) -> str:
    """Of a video decoded to its end, with its shape."""
    frames, _ = decode(path)
    return sha256(repr(frames.shape).encode() + frames.tobytes()).hexdigest()


def _faults_of_video(out: Path, row: dict[str, Any], reference: dict[str, str]) -> list[str]:
    path = out / row["file_name"]
    if not path.exists():
        return [f"{row['id']}: {row['file_name']} is not there"]
    found: list[str] = []
    if _sum(path) != row["sha256"]:
        found.append(f"{row['id']}: {row['file_name']} is not what the ledger says")
    if hash_of_frames(path) != reference[row["id"]]:
        found.append(f"{row['id']}: other frames than an undisturbed run's")
    return found


def _sum(path: Path) -> str:
    if path.is_dir():
        lines = [f"{_sum(each)}  {each.name}\n" for each in sorted(path.iterdir())]
        return sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _faults_of_names(out: Path, rows: list[dict[str, Any]]) -> list[str]:
    """videos/, metadata.parquet, the ledger and the summary name the same."""
    ledger = {row["file_name"] for row in rows if row["status"] == "ok"}
    metadata = [row["file_name"] for row in _rows(out / "metadata.parquet")]
    disk = {path.relative_to(out).as_posix() for path in (out / "videos").glob("*/*")}
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    found = [f"{name}: in videos/, but no result's" for name in sorted(disk - ledger)]
    if sorted(metadata) != sorted(ledger):
        found.append(f"metadata names {len(metadata)} files, the ledger {len(ledger)}")
    if summary["rows"]["ok"] != len(ledger):
        found.append(f"summary counts {summary['rows']['ok']} ok, the ledger {len(ledger)}")
    if "index.html" not in {path.name for path in out.iterdir()}:
        found.append("no gallery")
    return found
