"""`zs2 show`: what rendered a clip, from its run's ledger, or from the clip itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.errors import UsageError
from manifests.ledger import iter_results
from manifests.object_store import is_url
from manifests.result import ResultRow, to_record
from manifests.run_file import read_derived
from manifests.storage import RunFolder

_FIRST = ("id", "status", "file_name", "prompt", "seed", "model", "model_revision", "digest")


def show(clip: str, row_id: str | None = None) -> dict[str, Any]:
    """What is known of a clip: its ledger row, with `params` as an object and `again`, the command
    that renders it again; of a clip without a run, what its file says.

    Args:
        clip: a clip's file or folder of frames; with `row_id`, a run folder or its URL.

    Raises:
        UsageError: there is no such clip, or nothing is known of it.
    """
    if row_id is not None:
        return _shown_row(clip, lambda row: row.id == row_id, {row_id}, f"a row with id {row_id}")
    path = Path(clip)
    if is_url(clip) or not path.exists():
        raise UsageError(
            f"{clip}: expected a clip's file, or a run folder and an id; found no such file"
        )
    root = next((p for p in path.absolute().parents if (p / "run.json").is_file()), None)
    if path.is_dir() and (path / "run.json").is_file():
        raise UsageError(f"{clip} is a run folder: say which clip, as in zs2 show {clip} ID")
    if root is None:
        return _told_by_itself(path)
    name = path.absolute().relative_to(root).as_posix()
    ids = {path.name, path.name.removesuffix(path.suffix)}
    try:
        return _shown_row(str(root), lambda row: row.file_name == name, ids, f"a row of {name}")
    except UsageError:  # of an earlier prompt, or not of the run
        return _told_by_itself(path)


def _shown_row(out: str, is_meant: Any, ids: set[str], what: str) -> dict[str, Any]:
    run_folder = RunFolder(out)
    if not run_folder.exists(run_folder.run_file):
        raise UsageError(f"{out}: expected the folder of a run, found no run.json")
    with run_folder.view() as folder:
        found = [row for row in iter_results(folder.root, ids) if is_meant(row)]
        run = read_derived(folder.run_file) or {}
    if not found:
        raise UsageError(
            f"{out}: expected {what} in the ledger, found none; it has not ended yet, or the manifest "
            "has no such row"
        )
    record = _record(found[0], run)
    if found[0].file_name and not run_folder.exists(run_folder.root / found[0].file_name):
        record["file_name"] += " (is not there any more; the same render command makes it again)"
    return record


def _record(row: ResultRow, run: Mapping[str, Any]) -> dict[str, Any]:
    record = to_record(row)
    record["params"] = json.loads(row.params) if row.params else {}
    suffix = Path(row.file_name).suffix if row.file_name else ".mp4"
    if run.get("manifest") and row.seed is not None:
        words = ["zs2", "sample", "--from", run["manifest"], "--id", row.id, "-o", row.id + suffix]
        for name, value in (run.get("settings", {}).get("defaults") or {}).items():
            words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        record["again"] = shlex.join(words)
    return record


def _told_by_itself(path: Path) -> dict[str, Any]:
    """What stands in the file: h264 and ffv1 carry their row."""
    import av

    try:
        with av.open(str(path)) as container:
            comment = json.loads(container.metadata.get("comment", ""))
            title = container.metadata.get("title")
    except (OSError, ValueError) as error:  # PyAV's errors are either, and so is JSON's
        raise UsageError(
            f"{path}: expected a clip of a run folder, or an mp4 or mkv that zs2 wrote; found neither"
        ) from error
    if not isinstance(comment, dict) or "zs2" not in comment:
        raise UsageError(f"{path}: expected a clip that zs2 wrote, found another's")
    digest, row_id, seed = comment.pop("zs2"), comment.pop("id", None), comment.pop("seed", None)
    return {"id": row_id, "prompt": title, "seed": seed, "digest": digest, "params": comment}


def text(report: Mapping[str, Any]) -> str:
    """The report as lines for people: the clip first, then its parameters by name."""
    rest = [name for name in report if name not in (*_FIRST, "params", "again")]
    pairs = [(name, report[name]) for name in (*_FIRST, *rest) if report.get(name) is not None]
    chosen = [each["seed"] for each in report["params"].get("candidates", ()) if each["chosen"]]
    pairs += [("seed of the best", seed) for seed in chosen]
    pairs += sorted((n, v) for n, v in report["params"].items() if n not in (*report, "candidates"))
    width = max(len(name) for name, _ in pairs)
    lines = [f"{name:<{width}}  {_words(value, width)}" for name, value in pairs]
    for each in report["params"].get("candidates", ()):
        scores = ", ".join(f"{n} {v:.4g}" for n, v in each.items() if n not in ("seed", "chosen"))
        lines.append(f"{'candidate':<{width}}  seed {each['seed']}: {scores}")
    if "again" in report:
        lines += ["", f"again: {report['again']}"]
    return "\n".join(lines)


def _words(value: Any, indent: int) -> str:
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return told.replace("\n", "\n" + " " * (indent + 2))
