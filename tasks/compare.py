"""The same prompts and seeds by several methods: planned, rendered one after the other, and scored.

In this process, with one warm model, without Prefect and Ray. OUT/videos/<method>/ has a file a clip,
named by its row and its digest: what is there whole is not rendered again. Scores are of the finished
files, as `zs2 eval`'s are, and OUT/scores.parquet keeps them by digest and scorer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.columns import COLUMNS
from manifests.digest import digest_of
from manifests.row import ManifestRow, parse_row
from manifests.storage import SUFFIXES, make_folder, write_aside
from tasks import stages
from tasks.catalogue import Catalogue
from tasks.job import Engine, Job
from tasks.methods import CompareError, Method
from tasks.out_of_memory import Fallbacks
from tasks.sampling import sample_in_memory
from tasks.warm import WarmModels

Frames = np.ndarray[Any, Any]
Prompts = str | list[str]
Measure = Callable[[Frames, Prompts], Mapping[str, Any]]

PLAYABLE = ("h264", "gif", "webp")  # what the page shows
SETTLED = ("noise", "alpha", "best_of", "best_by")  # columns that a comparison is about
MOST_ID = 128
SAVE_EVERY = 16  # scored clips; a scoring that is interrupted loses fewer
TEXT2VIDEO_ZERO = "1"  # raised whenever it begins to give other bytes


@dataclass(frozen=True)
class PlannedClip:
    """One clip of a comparison.

    Attributes:
        prompt_id: the id of its prompt's row; clips of one prompt and `take` belong together.
        take: 0, 1, …: which of the prompt's seeds.
        file_name: of the finished video, relative to OUT, with slashes.
    """

    prompt_id: str
    take: int
    method: Method
    job: Job
    file_name: str

    @property
    def prompts(self) -> Prompts:
        """The prompt, or that of each frame of the finished video where the row is a storyboard."""
        row = self.job.row
        if len(row.prompt) == 1:
            return row.prompt[0]
        step = row.segment_frames * row.temporal_scale
        return [row.prompt[frame // step] for frame in range(self.job.output_frames)]


def plan_clips(
    records: Iterable[Mapping[str, Any]],
    methods: Sequence[Method],
    *,
    seeds: int,
    defaults: Mapping[str, Any],
    catalogue: Catalogue,
    engine: Engine,
    base: Path | str,
) -> list[PlannedClip]:
    """Every clip of a comparison, a prompt's together.

    All methods of a prompt have its seeds: the row's own and the `seeds` − 1 that follow it. Rows
    that name none have those of their ids, so that no two prompts share a noise.

    Args:
        records: rows by column, each with `id` and `prompt`.
        base: the folder that names of input files count from.

    Raises:
        CompareError: columns that a method settles, or a codec that no browser plays.
        RowError: bad values.
    """
    clips: list[PlannedClip] = []
    _check_settled("--set", defaults)
    for record in records:
        _check_settled(str(record["id"]), record)
        plain = parse_row(record, defaults)
        if plain.codec not in PLAYABLE:
            raise CompareError(
                f"{plain.id}: codec: expected {', '.join(PLAYABLE)}, which the page plays, "
                f"found {plain.codec}"
            )
        if plain.in_between > 1:
            raise CompareError(
                f"{plain.id}: temporal_sr: expected flow or a model in a comparison, found latent, "
                "which not every method can sample"
            )
        if plain.speed != COLUMNS["speed"].default:
            raise CompareError(
                f"{plain.id}: speed: expected exact in a comparison, found {plain.speed}, "
                "which not every method can sample"
            )
        for take, method in itertools.product(range(seeds), methods):
            values = {
                **record,
                **method.columns(plain),
                "id": _row_id(plain.id, method, take, seeds),
                "seed": (plain.seed + take) % 2**63,
            }
            job = catalogue.job(parse_row(values, defaults), values, base, len(clips), engine)
            clips.append(_planned(plain, take, method, job))
    return clips


def _check_settled(where: str, values: Mapping[str, Any]) -> None:
    for name in SETTLED:
        if values.get(name) is not None:
            raise CompareError(
                f"{where}: {name}: expected none in a comparison, whose methods settle it"
            )


def _row_id(prompt_id: str, method: Method, take: int, seeds: int) -> str:
    suffix = f".{method.name}" + (f".s{take}" if seeds > 1 else "")
    if len(prompt_id) + len(suffix) > MOST_ID:
        mark = sha256(prompt_id.encode()).hexdigest()[:8]
        prompt_id = f"{prompt_id[: MOST_ID - len(suffix) - len(mark) - 1]}-{mark}"
    return prompt_id + suffix


def _planned(plain: ManifestRow, take: int, method: Method, job: Job) -> PlannedClip:
    if method.is_text2video_zero:
        job = replace(job, digest=digest_of({method.name: TEXT2VIDEO_ZERO, "of": job.digest}))
    name = f"{job.row.id}-{job.digest[:12]}{SUFFIXES[job.row.codec]}"
    return PlannedClip(plain.id, take, method, job, f"videos/{method.name}/{name}")


def manifest_records(clips: Iterable[PlannedClip]) -> list[dict[str, Any]]:
    """The clips that `zs2 render` can make again, as rows of a manifest with every column settled."""
    return [
        {
            **{name: _plain(value) for name, value in _settled(clip.job.row)},
            "meta_method": clip.method.name,
        }
        for clip in clips
        if not clip.method.is_text2video_zero
    ]


def _settled(row: ManifestRow) -> Iterator[tuple[str, Any]]:
    for name in ManifestRow.__slots__:
        value = getattr(row, name)
        if name != "meta" and value not in (None, ()):
            yield name, value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else list(value)
    return value


def render_clips(out: Path, clips: Sequence[PlannedClip], models: WarmModels) -> Iterator[bool]:
    """Render what is not there yet; yields for each clip whether it had to be.

    Raises:
        What `tasks.stages` raises; clips that are finished stay.
    """
    fallbacks = Fallbacks()
    for clip in clips:
        path = out / clip.file_name
        is_missing = not path.is_file()
        if is_missing:
            make_folder(path.parent)
            _render(models, fallbacks, clip, path)
        yield is_missing


def _render(models: WarmModels, fallbacks: Fallbacks, clip: PlannedClip, path: Path) -> None:
    job = clip.job
    if clip.method.is_text2video_zero:
        latents = _text2video_zero(models, job)
    else:
        latents = sample_in_memory(models, fallbacks, job)[0].latents
    stages.finish_alone(models, fallbacks, job, latents, path)


def _text2video_zero(models: WarmModels, job: Job) -> Any:
    import torch

    from zs2.baselines import text2video_zero

    row = job.row
    clip = text2video_zero(
        models.sampler(job),
        [list(row.prompt)],
        negative_prompt=row.negative_prompt or None,
        seed=row.seed,
        num_frames=row.num_frames,
        segment_frames=row.segment_frames,
        height=row.height,
        width=row.width,
        num_inference_steps=row.num_inference_steps,
        guidance_scale=row.guidance_scale,
        scheduler=row.scheduler,
        long_prompt=row.long_prompt,
        output_type="latent",
        **models.equip(job),
    )[0]
    return clip.latents.detach().to("cpu", torch.float32).contiguous()


def score_clips(
    out: Path, clips: Sequence[PlannedClip], scorer: str, measure: Measure
) -> Iterator[bool]:
    """Score what has no scores yet; yields for each clip whether it had to be. OUT/scores.parquet
    then holds these clips and no others.

    Args:
        scorer: what `measure` measures with; scores of another are not taken for its own.
    """
    from tasks.assemble import decode

    known = {row["digest"]: row for row in read_scores(out) if row["scorer"] == scorer}
    rows: list[dict[str, Any]] = []
    unsaved = 0
    try:
        for clip in clips:
            digest = clip.job.digest
            is_new = digest not in known
            if is_new:
                known[digest] = dict(measure(decode(out / clip.file_name)[0], clip.prompts))
            scores = {k: v for k, v in known[digest].items() if k not in _DESCRIPTION}
            rows.append({**_described(clip, scorer), **scores})
            unsaved += is_new
            if unsaved >= SAVE_EVERY:
                _write_scores(out, [*rows, *_others(known, rows)])
                unsaved = 0
            yield is_new
    finally:
        if unsaved:
            _write_scores(out, [*rows, *_others(known, rows)])
    _write_scores(out, rows)


_DESCRIPTION = frozenset(
    ("id", "digest", "scorer", "method", "prompt_id", "take", "prompt", "seed", "file_name")
)


def _described(clip: PlannedClip, scorer: str) -> dict[str, Any]:
    row = clip.job.row
    return {
        "id": row.id,
        "digest": clip.job.digest,
        "scorer": scorer,
        "method": clip.method.name,
        "prompt_id": clip.prompt_id,
        "take": clip.take,
        "prompt": "\n".join(row.prompt),
        "seed": row.seed,
        "file_name": clip.file_name,
    }


def _others(
    known: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Scores of an earlier call that this one has not come to."""
    seen = {row["digest"] for row in rows}
    return [row for digest, row in known.items() if digest not in seen and "id" in row]


def read_scores(out: Path) -> list[dict[str, Any]]:
    """The rows of OUT/scores.parquet; none where it is not there.

    Raises:
        CompareError: a file that no comparison wrote.
    """
    path = out / "scores.parquet"
    try:
        rows = pq.read_table(path).to_pylist()
    except FileNotFoundError:
        return []
    except (pa.ArrowException, OSError) as error:
        raise CompareError(f"{path} cannot be read ({error}); remove it to score again") from error
    if any(not row.keys() >= _DESCRIPTION for row in rows):
        raise CompareError(f"{path} is of no comparison; give another folder with -o")
    return rows


def _write_scores(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with write_aside(out / "scores.parquet") as aside:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), aside)
