"""The study as text and as a page: sections with pictures and tables, written from the same figures."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.compare_table import Column, interval_text, p_text
from tasks.study import ENDS, IDENTICAL, Course, Point

INTERVALS = "Mean and 95 % interval over prompts."


@dataclass(frozen=True)
class Section:
    """A heading, what the clips share, pictures by file name with their description, one table, and
    notes below it."""

    title: str
    settings: Mapping[str, Any]
    pictures: Mapping[str, str]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]

    @property
    def said(self) -> str:
        """The settings as one sentence."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items()) + "."


def grid_section(
    points: Sequence[Point], columns: Sequence[Column], settings: Mapping[str, Any], sheet: str
) -> Section:
    """The λ × μ grid; `sheet` is the prompt of the contact sheet."""
    return Section(
        "λ and μ",
        settings,
        {
            "grid.png": f"“{sheet}”: frames of the clip at every λ (rows) and μ (columns)",
            "grid.svg": "dynamic degree and consistency against λ and against μ",
        },
        ["λ", "μ", *(f"{column.title} ({column.unit})" for column in columns)],
        [
            [
                f"{point.kl_target:g}",
                f"{point.momentum:g}",
                *(interval_text(point.scores[column.name]) for column in columns),
            ]
            for point in points
        ],
        [INTERVALS, "Read consistency beside the dynamic degree: at λ = 0 a clip stands still."],
    )


def long_section(courses: Sequence[Course], settings: Mapping[str, Any]) -> Section:
    """The noise models over long clips."""
    ends = min(ENDS, len(courses[0].by_frame) // 2 or 1)
    return Section(
        "Long clips",
        settings,
        {"long.svg": "CLIP score against frame index, and dynamic degree, of each noise model"},
        [
            "noise",
            f"CLIP score of frames 1–{ends}",
            f"of the last {ends}",
            "last − first",
            "p",
            "dynamic degree (px a frame)",
            "frame consistency (100·cos)",
        ],
        [
            [
                course.method.name,
                interval_text(course.first),
                interval_text(course.last),
                interval_text(course.change.difference, signed=True),
                p_text(course.change.p).removeprefix("= "),
                interval_text(course.scores["dynamic_degree"]),
                interval_text(course.scores["frame_consistency"]),
            ]
            for course in courses
        ],
        [
            f"{INTERVALS} p: two-sided sign-flip test over prompts, not corrected.",
            IDENTICAL,
            *(f"{course.method.name}: {course.method.about}." for course in courses),
        ],
    )


def as_markdown(sections: Sequence[Section]) -> str:
    """The sections, their pictures linked."""
    lines: list[str] = []
    for section in sections:
        lines += [f"## {section.title}", "", section.said, ""]
        for name, alt in section.pictures.items():
            lines += [f"![{alt}]({name})", ""]
        lines += [f"| {' | '.join(section.head)} |", "|" + " --- |" * len(section.head)]
        lines += [f"| {' | '.join(row)} |" for row in section.rows]
        lines += ["", *(f"- {note}" for note in section.notes), ""]
    return "\n".join(lines)


def as_page(title: str, sections: Sequence[Section], folder: Path) -> str:
    """One HTML file with the pictures of `folder` inside it; it needs no network."""
    body = "\n".join(_section_html(section, folder) for section in sections)
    return _PAGE.replace("{{title}}", html.escape(title)).replace("{{body}}", body)


def _section_html(section: Section, folder: Path) -> str:
    figures = "\n".join(
        f"<figure>{_picture(folder / name, alt)}<figcaption>{html.escape(alt)}</figcaption></figure>"
        for name, alt in section.pictures.items()
    )
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in section.head)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in section.rows
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in section.notes)
    return (
        f"<h2>{html.escape(section.title)}</h2>\n<p>{html.escape(section.said)}</p>\n{figures}\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="Scores">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n"
        f"<ul>{notes}</ul>"
    )


def _picture(path: Path, alt: str) -> str:
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}} · zs2</title>
<style>
  :root { color-scheme: light dark; }
  body { margin: 0 auto; max-width: 1200px; padding: 1rem 1.2rem 4rem; font: 15px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
  figure { margin: 1rem 0; } figcaption { font-size: .85rem; opacity: .8; }
  img { max-width: 100%; background: #fff; border-radius: .4rem; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .6rem; text-align: left; white-space: nowrap;
    border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
</style>
</head>
<body>
<h1>{{title}}</h1>
{{body}}
</body>
</html>
"""
