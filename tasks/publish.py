"""What a run leaves behind its videos: the compacted ledger, metadata.parquet, summary, gallery."""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.columns import META
from manifests.ledger import Known, compact, iter_results, known, ledger_batches
from manifests.result import RESULT_COLUMNS, STAGES, STATUSES, ResultRow, from_record
from manifests.run_file import read_derived, write_json
from manifests.scores import (
    SCORE_NAMES,
    Scores,
    compact_scores,
    read_scores,
    scores_file,
)
from manifests.storage import RunFolder, write_aside
from tasks.gallery import write_gallery
from tasks.throughput import data_uri, write_throughput

LIBRARIES = ("zs2", "torch", "diffusers", "transformers", "ray", "prefect", "pyarrow")

# Ledger columns that a dataset's user has no use for.
_NOT_METADATA = frozenset(
    {"status", "stage", "error_type", "error_message", "attempts", "node", "started_at", "recipe"}
)

MOST_CAUSES = 20  # in the summary's page; `zs2 status` has all
MOST_CHARACTERS = 300  # of one in it

# What differs between messages of one cause: columns that name files or models, absolute paths, and
# the row of the manifest that a problem begins with.
_NAMING = ("control_video", "source_video", "ip_adapter_image", "controlnet", "ip_adapter")
_PATH = re.compile(r"(?<![\w.…])/[^\s:;,()'\"]+")
_ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")  # ffmpeg's of its own parts
_PLACE = re.compile(r"^.*? row \d+: ")


@dataclass
class Tally:
    """What happened in this run, added up as rows end.

    Attributes:
        frames: of finished videos.
        wall_seconds: from the first row's start to the last one's end.
        device_seconds: sampler actors times wall seconds: what a GPU would be billed for.
    """

    statuses: Counter[str] = field(default_factory=Counter[str])
    frames: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    unet_calls: int = 0
    native_pictures: float = 0.0
    wall_seconds: float = 0.0
    device_seconds: float = 0.0

    def add(self, row: ResultRow, report: Mapping[str, Any] | None = None) -> None:
        """Count a row that has ended.

        Args:
            report: of its stages; `unet_calls` and `native_pictures` are counted.
        """
        self.statuses[row.status] += 1
        self.frames += (row.num_frames or 0) if row.status == "ok" else 0
        self.unet_calls += (report or {}).get("unet_calls", 0)
        self.native_pictures += (report or {}).get("native_pictures", 0.0)
        for stage in STAGES:
            self.seconds[stage] += getattr(row, f"seconds_{stage}") or 0.0


def publish(
    folder: RunFolder,
    ids: Known,
    tally: Tally,
    *,
    run_id: str,
    title: str,
    price_per_hour: float | None = None,
    since: datetime | None = None,
    is_interrupted: bool = False,
    utilisation: Mapping[str, Any] | None = None,
    startup: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Compact the ledger to one row per id of the manifest and write all that names its files.

    Args:
        ids: the manifest's ids; results of other ids leave the ledger (their files stay).
        price_per_hour: of one device; gives the summary its cost.
        since: when this run began, for the picture of its throughput.
        is_interrupted: it was told to end before all rows had; see `state_of`.
        utilisation: what its actors did; see `tasks.utilisation`.
        startup: when it reached the steps of its start; see `tasks.startup`.

    Returns:
        The summary, as written to summary.json.
    """
    compact(folder.root, keep=ids.__contains__)
    folder.push_ledger()
    folder.bring(scores_file(folder.root))
    scores = _keep_scores(folder)
    _write_metadata(folder, scores)
    summary = summarise(tally, *_statuses(folder), run_id, price_per_hour)
    if utilisation is not None:
        summary["utilisation"] = utilisation
    if startup:
        summary["startup_seconds"] = startup
    earlier = read_derived(folder.summary_file)
    if earlier is not None and not tally.statuses:  # nothing was done: the last run's figures stand
        now = {name: summary[name] for name in ("rows", "noted", "rendered")}
        summary = {**earlier, **now}
    elif write_throughput(folder, since, utilisation) is not None:
        folder.upload(folder.throughput_file)
        summary["throughput"] = folder.throughput_file.name
    write_json(folder.summary_file, summary)
    folder.upload(folder.summary_file)
    left = len(ids) - sum(summary["rows"].values())
    write_gallery(
        folder,
        iter_results(folder.root),
        title=title,
        summary=summary,
        state=state_of(left, is_interrupted),
        scores=scores,
    )
    folder.upload(folder.gallery_file)
    return summary


def state_of(left: int, is_interrupted: bool) -> str:
    """How a run has ended that leaves so many rows without a result: `finished` with none; `interrupted`;
    or `incomplete`, where it was to render failed rows alone."""
    if left <= 0:
        return "finished"
    return "interrupted" if is_interrupted else "incomplete"


def publish_scores(folder: RunFolder) -> None:
    """After an evaluation, under the run's lock: scores.parquet, metadata and gallery with the scores
    that there are now, those of clips that have changed since left out."""
    scores = _keep_scores(folder)
    _write_metadata(folder, scores)
    run = read_derived(folder.run_file) or {}
    summary = read_derived(folder.summary_file)  # none after a run that was killed
    if summary is None:
        summary = summarise(Tally(), *_statuses(folder), str(run.get("run_id", "")), None)
    title = PurePosixPath(str(run.get("manifest") or folder.name)).name
    write_gallery(folder, iter_results(folder.root), title=title, summary=summary, scores=scores)
    folder.upload(folder.gallery_file)


def _keep_scores(folder: RunFolder) -> Scores:
    """Drop the scores of clips that are not as they were; return the others."""
    path = scores_file(folder.root)
    before = path.stat().st_mtime_ns if path.exists() else None
    if compact_scores(folder.root, lambda: known(folder.root).is_done):
        if path.stat().st_mtime_ns != before:
            folder.upload(path)
    elif before is not None:
        folder.remove(path)
    return read_scores(folder.root)


_NOTED = (pc.field("status") == "ok") & pc.field("error_message").is_valid()


def _statuses(folder: RunFolder) -> tuple[dict[str, int], int]:
    """Rows of the ledger by status, and how many of the ok ones have a note."""
    statuses: Counter[str] = Counter()
    noted = 0
    for batch in ledger_batches(folder.root, ["status", "error_message"]):
        statuses.update(batch.column(0).to_pylist())
        noted += pa.Table.from_batches([batch]).filter(_NOTED).num_rows
    return dict(statuses), noted


def summarise(
    tally: Tally,
    statuses: Mapping[str, int],
    noted: int,
    run_id: str,
    price_per_hour: float | None,
) -> dict[str, Any]:
    """The summary of a run: `rows` counts the whole ledger, and `noted` its ok rows with a note,
    everything else this run alone.

    `native_pictures_per_second` counts UNet pictures of the model's own size, of one device while
    it sampled and decoded: what `zs2 plan` uses.
    """
    wall = tally.wall_seconds
    hours = tally.device_seconds / 3600
    sampling = tally.seconds["sample"] if tally.native_pictures else 0.0
    return {
        "run_id": run_id,
        "rows": {status: statuses.get(status, 0) for status in ("ok", "failed", "invalid")},
        "noted": noted,
        "rendered": {
            status: tally.statuses.get(status, 0) for status in ("ok", "failed", "invalid")
        },
        "frames": tally.frames,
        "unet_calls": tally.unet_calls,
        "native_pictures_per_second": (
            round(tally.native_pictures / sampling, 3) if sampling else None
        ),
        "wall_seconds": round(wall, 3),
        "clips_per_second": round(tally.statuses["ok"] / wall, 4) if wall else 0.0,
        "frames_per_second": round(tally.frames / wall, 4) if wall else 0.0,
        "seconds_by_stage": {stage: round(tally.seconds[stage], 3) for stage in STAGES},
        "device_hours": round(hours, 6),
        "cost": None if price_per_hour is None else round(hours * price_per_hour, 6),
        "versions": versions(),
    }


def _waits(utilisation: Mapping[str, Any] | None) -> dict[str, str]:
    """For how much of the time, after warm-up, samplers had a row, and why they had none."""
    if utilisation is None or utilisation["sampler_busy_share"] is None:
        return {}
    waited = utilisation["sampler_waited_seconds"].items()
    return {
        "samplers busy after warm-up": f"{100 * utilisation['sampler_busy_share']:.1f} %",
        **{f"samplers waited, {why}, seconds": f"{seconds:.1f}" for why, seconds in waited},
    }


def summary_markdown(
    address: str,
    title: str,
    summary: Mapping[str, Any],
    causes: Sequence[Cause] = (),
    svg: str | None = None,
) -> str:
    """The summary as a page of Markdown: counts, figures, causes of failures, picture.

    Args:
        address: the run folder's, as people can open it.
        svg: the picture of the run's throughput; it is put into the page itself.
    """
    counts = " | ".join(str(summary["rows"][status]) for status in STATUSES)
    now = " | ".join(str(summary["rendered"][status]) for status in STATUSES)
    figures = {
        "frames": f"{summary['frames']:,}",
        "UNet calls": f"{summary['unet_calls']:,}",
        "wall seconds": f"{summary['wall_seconds']:,.0f}",
        "frames a second": f"{summary['frames_per_second']:.2f}",
        "device-hours": f"{summary['device_hours']:.3f}",
        **_waits(summary.get("utilisation")),
        **{f"{name}, seconds": f"{s:,.0f}" for name, s in summary["seconds_by_stage"].items()},
    }
    if summary["cost"] is not None:
        figures["cost"] = f"{summary['cost']:.2f}"
    lines = [
        f"# {_plain(title)}",
        f"| | {' | '.join(STATUSES)} |",
        "| --- |" + " --- |" * len(STATUSES),
        f"| rows | {counts} |",
        f"| of these in this run | {now} |",
        "",
        "| this run | |",
        "| --- | --- |",
        *(f"| {name} | {figure} |" for name, figure in figures.items()),
        "",
    ]
    if causes:
        lines += ["| rows | stage | error | cause | e.g. |", "| --- | --- | --- | --- | --- |"]
        for cause in causes[:MOST_CAUSES]:
            cells = (str(cause.rows), cause.stage, cause.error, cause.message, cause.example)
            lines.append(f"| {' | '.join(_plain(cell) for cell in cells)} |")
        if len(causes) > MOST_CAUSES:
            lines.append(f"| … | | | {len(causes) - MOST_CAUSES} causes more: `zs2 status` | |")
        lines.append("")
    if svg is not None:
        lines += [f"![throughput]({data_uri(svg)})", ""]
    lines.append(f"Videos, `index.html` and `metadata.parquet` are in `{_plain(address)}`.")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that cannot be taken for Markdown or HTML."""
    line = " ".join(text.split())[:MOST_CHARACTERS]
    return re.sub(r"([\\`*_{}\[\]<>()#|!~&])", r"\\\1", line)


def versions() -> dict[str, str]:
    """Python's and the libraries' versions: part of what a byte-for-byte promise rests on."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def _write_metadata(folder: RunFolder, scores: Scores) -> None:
    """metadata.parquet: `file_name`, the prompt, the parameters, the scores where clips were scored,
    and the meta_ columns of every ok row.

    `load_dataset("videofolder", data_dir=OUT)` loads it, or with `data_files="OUT/metadata.parquet"`
    where an id contains `train`, `test`, `valid`, `dev` or `eval`: `datasets` takes such file names
    for splits, and then does not see the metadata.
    """
    batches = _metadata_batches(folder, scores)
    first = next(batches, None)
    if first is None:
        folder.remove(folder.metadata_file)
        return
    with (
        write_aside(folder.metadata_file) as aside,
        pq.ParquetWriter(aside, first.schema) as writer,
    ):
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    folder.upload(folder.metadata_file)


def _metadata_batches(folder: RunFolder, scores: Scores) -> Iterator[pa.RecordBatch]:
    for batch in ledger_batches(folder.root):
        table = pa.Table.from_batches([batch]).filter(pc.field("status") == "ok")
        if not table.num_rows:
            continue
        names = [name for name in table.column_names if name not in _NOT_METADATA]
        names.sort(key=lambda name: (name != "file_name", name != "prompt", name.startswith(META)))
        meta = [name for name in names if name.startswith(META)]
        if len(scores):
            table = _with_scores(table, scores)
            names = [*names[: len(names) - len(meta)], *SCORE_NAMES, *meta]
        yield from table.select(names).combine_chunks().to_batches()


def _with_scores(table: pa.Table, scores: Scores) -> pa.Table:
    """Rows of the ledger with a column for each score; null where there is none."""
    keys = zip(table.column("id").to_pylist(), table.column("digest").to_pylist(), strict=True)
    found = [scores.of(row_id, digest) or {} for row_id, digest in keys]
    for name in SCORE_NAMES:
        values = pa.array([each.get(name) for each in found], pa.float64())
        table = table.append_column(name, values)
    return table


class Cause(NamedTuple):
    """A reason for which rows failed, or what was noted of them, and one of them.

    Attributes:
        message: the first line, with names of files and models as `…`.
        example: a row's id; `told` is its own first line, whole.
    """

    stage: str
    error: str
    message: str
    rows: int
    example: str
    told: str


def failures_by_cause(folder: RunFolder) -> list[Cause]:
    """Failed and invalid rows grouped by what is wrong, whatever the file; most rows first."""
    return _by_cause(_rows_of(folder, [status for status in STATUSES if status != "ok"]))


def notes_by_cause(folder: RunFolder) -> list[Cause]:
    """Rows that are ok and have a note, such as of a prompt that was cut, grouped alike, whatever the
    numbers in it."""
    return _by_cause(_rows_of(folder, ["ok"], _CAUSE_COLUMNS, _NOTED), r"\d+")


def _by_cause(found: Iterable[ResultRow], apart: str | None = None) -> list[Cause]:
    """Grouped rows; `apart` matches what else may differ in a group."""
    rows: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], tuple[str, str]] = {}
    for row in found:
        told = next(iter((row.error_message or "").splitlines()), "")
        message = _without_names(row, told)
        if apart is not None:
            message = re.sub(apart, "…", message)
        cause = (row.stage or row.status, row.error_type or "", message)
        rows[cause] += 1
        examples.setdefault(cause, (row.id, told))
    return [Cause(*cause, count, *examples[cause]) for cause, count in rows.most_common()]


# what a cause is told by
_CAUSE_COLUMNS = ("id", "status", "stage", "error_type", "error_message", "model", "params")


def _rows_of(
    folder: RunFolder,
    statuses: Sequence[str],
    columns: Sequence[str] = RESULT_COLUMNS,
    wanted: pc.Expression | None = None,
) -> Iterator[ResultRow]:
    for batch in ledger_batches(folder.root, columns, statuses=statuses):
        found = batch if wanted is None else pa.Table.from_batches([batch]).filter(wanted)
        yield from map(from_record, found.to_pylist())


def _without_names(row: ResultRow, message: str) -> str:
    """A message as other rows with the same trouble have it."""
    if row.status == "invalid":
        message = _PLACE.sub("", message)
    values = parameters_of(row)
    names = [values.get(column) for column in _NAMING if isinstance(values.get(column), str)]
    names += [row.model, *values.get("lora", ())]
    # A bare word could be any word of the message.
    names = [name for name in names if name and ("/" in name or "." in name)]
    for name in sorted(set(names), key=len, reverse=True):
        message = re.sub(rf"[^\s'\"(]*{re.escape(name)}(?!\w)", "…", message)
    return _ADDRESS.sub("…", _PATH.sub("…", message))


def parameters_of(row: ResultRow) -> dict[str, Any]:
    """A ledger row's parameters."""
    return json.loads(row.params) if row.params else {}
