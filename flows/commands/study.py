"""`zs2 study`: what λ and μ do to a model's clips, and what long clips keep of their prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.compare import (
    SHARED,
    Options,
    plan,
    render_and_score,
    settings_of,
    write_text,
)
from flows.console import say
from flows.errors import UsageError, check_least
from manifests.build import build_from
from manifests.row import parse_defaults
from manifests.storage import make_folder
from tasks.compare import PlannedClip, manifest_records, read_scores

if TYPE_CHECKING:
    from tasks.compare import Frames, Measure, Prompts
    from tasks.compare_table import Column
    from tasks.study import Point
    from tasks.study_report import Section

PARTS = ("grid", "long")


def study(
    options: Options,
    parts: Sequence[str],
    *,
    kl_targets: Sequence[float],
    momentums: Sequence[float],
    long_frames: int,
) -> dict[str, Any]:
    """Render, score and draw what is missing of the parts in OUT; returns study.json.

    Raises:
        UsageError: an unknown part, or clips of too few frames. Else as `flows.commands.compare.compare`.
    """
    from tasks.compare_table import without_nan
    from tasks.study_report import as_markdown, as_page

    for part in parts:
        if part not in PARTS:
            raise UsageError(f"--parts: expected some of {', '.join(PARTS)}, found {part!r}")
    if long_frames < 1:
        raise UsageError(f"--long-frames: expected at least 1, found {long_frames}")
    if "grid" in parts:
        _check_frames(options)
    found: dict[str, Any] = {}
    sections: list[Section] = []
    if "grid" in parts:
        found["grid"], section = _grid(options, sorted({*kl_targets}), sorted({*momentums}))
        sections.append(section)
    if "long" in parts:
        found["long"], section = _long(options, long_frames)
        sections.append(section)
    out = options.out
    write_text(
        out / "study.json", json.dumps(without_nan(found), ensure_ascii=False, indent=1) + "\n"
    )
    write_text(out / "study.md", as_markdown(sections))
    write_text(out / "index.html", as_page(f"{options.model}: the study", sections, out))
    if not options.quiet:
        say(f"{out / 'index.html'}, study.md, study.json")
    return found


def _check_frames(options: Options) -> None:
    """λ and μ are between frames: a clip of one is the same at every point."""
    frames = options.num_frames
    if frames is None:
        frames = parse_defaults(options.pairs).get("num_frames", 2)
    check_least("--num-frames", 2, frames)


def _rendered(
    options: Options, clips: Sequence[PlannedClip], measure: Any = None
) -> tuple[list[dict[str, Any]], str, list[Column]]:
    """The clips' scores, the scorer, and the scores' columns."""
    make_folder(options.out)
    build_from("the study", manifest_records(clips), options.out / "manifest.parquet")
    scorer, columns = render_and_score(options, clips, measure=measure)
    return read_scores(options.out), scorer, columns


def _grid(
    options: Options, kl_targets: Sequence[float], momentums: Sequence[float]
) -> tuple[dict[str, Any], Section]:
    from tasks.study import grid_methods, points_of
    from tasks.study_pictures import draw_curves, draw_sheet
    from tasks.study_report import grid_section

    here = replace(options, out=options.out / "grid")
    clips = plan(here, grid_methods(kl_targets, momentums))
    rows, scorer, columns = _rendered(here, clips)
    points = points_of(rows, kl_targets, momentums, [column.name for column in columns])
    prompt = clips[0].job.row.prompt[0]
    draw_sheet(options.out / "grid.png", _first_clips(here.out, clips, points), prompt)
    draw_curves(options.out / "grid.svg", points)
    shared = [name for name in SHARED if name not in ("kl_target", "momentum")]
    settings = settings_of(here, clips, scorer, shared)
    records = [
        {"kl_target": point.kl_target, "momentum": point.momentum, **_intervals(point.scores)}
        for point in points
    ]
    section = grid_section(points, columns, settings, prompt)
    return {"settings": settings, "points": records}, section


def _first_clips(
    out: Path, clips: Sequence[PlannedClip], points: Sequence[Point]
) -> dict[tuple[float, float], Frames]:
    """The first prompt's clip at every point."""
    from tasks.assemble import decode
    from tasks.study import point_name

    first = {clip.method.name: clip for clip in reversed(clips)}
    return {
        (kl_target, momentum): decode(out / first[point_name(kl_target, momentum)].file_name)[0]
        for kl_target, momentum, _ in points
    }


def _long(options: Options, num_frames: int) -> tuple[dict[str, Any], Section]:
    from tasks.study import LONG_MOMENTUM, courses_of, long_methods
    from tasks.study_pictures import draw_semantics
    from tasks.study_report import long_section

    here = replace(options, out=options.out / "long", num_frames=num_frames)
    if not any(pair.partition("=")[0].strip() == "momentum" for pair in here.pairs):
        here = replace(here, pairs=(*here.pairs, f"momentum={LONG_MOMENTUM}"))
    methods = long_methods()
    clips = plan(here, methods)
    rows, scorer, columns = _rendered(here, clips, _measure_frames)
    courses = courses_of(rows, methods, [column.name for column in columns])
    draw_semantics(options.out / "long.svg", courses)
    settings = settings_of(here, clips, scorer)
    records = [
        {
            "method": course.method.name,
            "about": course.method.about,
            "by_frame": [interval._asdict() for interval in course.by_frame],
            "first": course.first._asdict(),
            "last": course.last._asdict(),
            "last_minus_first": {**course.change.difference._asdict(), "p": course.change.p},
            **_intervals(course.scores),
        }
        for course in courses
    ]
    return {"settings": settings, "noises": records}, long_section(courses, settings)


def _intervals(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: interval._asdict() for name, interval in scores.items()}


def _measure_frames(scorer: Any) -> Measure:
    """The scores of a comparison, and each frame's own CLIP score."""
    from tasks.evaluate import score_clip
    from tasks.study import SEMANTIC, semantic_scores

    def measure(frames: Frames, prompts: Prompts) -> dict[str, Any]:
        whole = score_clip(frames, prompts, scorer)
        return {**whole, SEMANTIC: semantic_scores(frames, prompts, scorer)}

    return measure
