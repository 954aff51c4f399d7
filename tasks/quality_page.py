"""The page report.html: scores, near-duplicates, coverage, worst and best clips as HTML."""

from __future__ import annotations

import html
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from manifests.columns import META
from manifests.storage import RunFolder
from tasks import score_table
from tasks.evaluate import SCORES, Todo, todo_of
from tasks.near_duplicates import Duplicates
from tasks.previews import CLIP
from tasks.survey import MOST_VALUES, ColumnValues, Survey

PAIRS_SHOWN = 24
MISSING_SHOWN = 12

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--bar:#3b82c4}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;display:block;overflow-x:auto;margin-bottom:1.2rem}
th,td{text-align:left;padding:.2rem .9rem .2rem 0;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{background:var(--bar);height:.7rem;min-width:1px;border-radius:2px}
.clips{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:1rem}
figure{margin:0}figure video,figure img{width:100%;image-rendering:auto;background:#8882}
figcaption{font-size:.85rem;overflow-wrap:anywhere}
.pair{border:1px solid var(--line);padding:.5rem}.pair .two{display:flex;gap:.5rem}
.pair figure{flex:1;min-width:0}svg{max-width:100%;height:auto}p.note{opacity:.75}
"""


def page_of(
    folder: RunFolder,
    title: str,
    scorer: str,
    made: Survey,
    summaries: Sequence[score_table.Summary],
    same: Duplicates,
    ids: Sequence[Todo],
    threshold: float,
) -> str:
    """The page as one text that needs nothing from a network.

    Args:
        folder: whose files it shows; it lies at the folder's top.
        scorer: name@revision.
        same: near-duplicates among the clips `ids`, of a cosine of at least `threshold`.
    """
    name = html.escape(title)
    parts = [
        f"<h1>{name}</h1><p>{made.clips:,} clips, scored by <code>{html.escape(scorer)}</code>.</p>",
        "<h2>Scores</h2>",
        _score_rows(summaries),
        f'<p class="note">{html.escape(score_table.NOTE)} Intervals are of the mean over prompts.</p>',
        histograms({score: np.asarray(values) for score, values in made.values.items()}),
        "<h2>Near-duplicates</h2>",
        _duplicates(folder, same, ids, threshold),
        "<h2>Coverage</h2>",
        _coverage(made),
        "<h2>Worst clips, by CLIP score</h2>",
        _clips(folder, made.worst),
        "<h2>Best clips, by CLIP score</h2>",
        _clips(folder, made.best),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name}: quality</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _score_rows(summaries: Sequence[score_table.Summary]) -> str:
    rows: list[str] = []
    for summary in summaries:
        for score in score_table.columns_shown():
            mean, ends = score_table.told(summary.scores[score.name])
            better = score.better or "–"
            rows.append(
                f'<tr><th>{score.label}</th><td class="n">{mean}</td><td>{ends}</td>'
                f"<td>{score.unit}</td><td>{better}</td></tr>"
            )
    return (
        '<table><tr><th></th><th class="n">mean</th><th>95 % interval</th><th>unit</th><th>better</th>'
        f"</tr>{''.join(rows)}</table>"
    )


def histograms(values: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """A histogram of each score, as one SVG that stands in a page by itself."""
    # Of fonts it looks for and finds elsewhere, and of folders for them, nobody needs to hear.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    grey = "#7a7a7a"  # reads on white and on black
    style: dict[Any, Any] = {
        "font.size": 9.0,
        "svg.fonttype": "none",
        "svg.hashsalt": "zs2",
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), grey),
        **dict.fromkeys(("xtick.color", "ytick.color"), grey),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        for axes, score in zip(figure.subplots(2, 3).flat, SCORES, strict=True):
            known = values[score.name][np.isfinite(values[score.name])]
            if len(known):
                axes.hist(known, bins=min(40, max(5, len(known) // 4)), color="#3b82c4")
            axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))  # clips
            axes.set_title(score.label, fontsize=9)
            axes.set_xlabel(score.unit)
            axes.patch.set_alpha(0)
        figure.patch.set_alpha(0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    picture = svg[svg.index("<svg") :]
    return picture.replace("<svg", '<svg role="img" aria-label="histograms of the scores"', 1)


def _duplicates(folder: RunFolder, same: Duplicates, ids: Sequence[Todo], threshold: float) -> str:
    if not same.pairs:
        return f"<p>No two clips have a cosine of {threshold:g} or more.</p>"
    boxes: list[str] = []
    for pair in same.closest[:PAIRS_SHOWN]:
        two = "".join(_figure(folder, ids[at]) for at in (pair.one, pair.other))
        boxes.append(
            f'<div class="pair"><div class="two">{two}</div>cosine {pair.cosine:.4f}</div>'
        )
    return (
        f"<p>{same.clips:,} of {len(ids):,} clips look like another one: {same.pairs:,} pairs have a "
        f"cosine of {threshold:g} or more between their mean CLIP embeddings. To a scorer that knows "
        "little, different clips of one prompt may look the same.</p>"
        f'<div class="clips">{"".join(boxes)}</div>'
    )


def _coverage(made: Survey) -> str:
    slots = {name: column for name, column in made.columns.items() if column.is_slot}
    if not slots:
        return (
            f"<p>No parameter and no meta_ column has between 2 and {MOST_VALUES} values; seeds and "
            "prompts are not counted here.</p>"
        )
    tables = [_slot(name, column) for name, column in sorted(slots.items(), key=_meta_first)]
    return "".join(tables) + _combinations(made, slots)


def _meta_first(item: tuple[str, ColumnValues]) -> tuple[bool, str]:
    return not item[0].startswith(META), item[0]


def _slot(name: str, column: ColumnValues) -> str:
    most = max(column.clips.values())
    rows = "".join(
        f'<tr><td>{html.escape(value)}</td><td class="n">{clips:,}</td>'
        f'<td style="width:12rem"><div class="bar" style="width:{100 * clips / most:.1f}%"></div></td>'
        f'<td class="n">{column.scores[value] / clips:.1f}</td></tr>'
        for value, clips in column.clips.most_common()
    )
    return (
        f'<table><tr><th>{html.escape(name)}</th><th class="n">clips</th><th></th>'
        f'<th class="n">CLIP score</th></tr>{rows}</table>'
    )


def _combinations(made: Survey, slots: Mapping[str, ColumnValues]) -> str:
    lines: list[str] = []
    for (one, other), counts in made.together.items():
        if one not in slots or other not in slots:
            continue
        firsts, seconds = slots[one].clips, slots[other].clips
        absent = [(a, b) for a in firsts for b in seconds if not counts[a, b]]
        told = ", ".join(f"{a} × {b}" for a, b in absent[:MISSING_SHOWN])
        more = f" and {len(absent) - MISSING_SHOWN:,} more" if len(absent) > MISSING_SHOWN else ""
        missing = f"; missing: {told}{more}" if absent else ""
        possible = len(firsts) * len(seconds)
        line = f"{one} × {other}: {possible - len(absent):,} of {possible:,} pairs{missing}"
        lines.append(f"<li>{html.escape(line)}</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _clips(folder: RunFolder, rows: Sequence[Mapping[str, Any]]) -> str:
    figures = (
        _figure(folder, todo_of(row), f"CLIP score {row['scores'].get('clip_score', 0.0):.1f}")
        for row in rows
    )
    return f'<div class="clips">{"".join(figures)}</div>'


def _figure(folder: RunFolder, clip: Todo, note: str = "") -> str:
    """A clip that plays, with its id and prompt."""
    told = " · ".join(text for text in (note, clip.id, " | ".join(clip.prompts)) if text)
    caption = f"<figcaption>{html.escape(told[:300])}</figcaption>"
    return f"<figure>{_media(folder, clip)}{caption}</figure>"


def _media(folder: RunFolder, clip: Todo) -> str:
    suffix = PurePosixPath(clip.file_name).suffix
    preview = folder.preview_path(clip.digest, clip.id) / CLIP
    if suffix in (".gif", ".webp"):
        return f'<img loading="lazy" alt="" src="{html.escape(clip.file_name)}">'
    file = clip.file_name
    if suffix != ".mp4":
        if folder.remote is None and not preview.is_file():
            return "<p>no preview: <code>zs2 gallery</code> makes it</p>"
        file = folder.file_name(preview)
    source = html.escape(file)
    return f'<video muted loop autoplay playsinline preload="metadata" src="{source}"></video>'
