"""report.html: what a data set of clips is worth, on one page without a network.

Distributions of the scores, clips that look the same, how the values of its columns are covered,
and its worst and best clips by CLIP score. Memory is bounded: some numbers and one embedding in half
precision a clip.
"""

from __future__ import annotations

import html
import io
import json
import logging
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heapreplace, nlargest, nsmallest
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from manifests.columns import META
from manifests.scores import SCORE_NAMES
from manifests.storage import RunFolder, write_aside
from tasks import score_table
from tasks.evaluate import SCORES, Todo, todo_of
from tasks.previews import CLIP
from tasks.score_pool import ScorePool, embed
from zs2.clip_score import BUNDLED_SCORER, describe_scorer

Array = np.ndarray[Any, Any]

SHOWN = 12  # clips of the worst and best
PAIRS_SHOWN = 24
ALIKE = 0.995  # cosine of two clips' mean embeddings from which they count as near-duplicates
MOST_VALUES = 60  # of a column; one with more is no slot
BLOCK = 2048  # embeddings compared at a time with as many others
MISSING_SHOWN = 12


class Alike(NamedTuple):
    """Two clips that look the same to the scorer."""

    cosine: float
    one: int
    other: int


@dataclass
class Duplicates:
    """Near-duplicates of a data set.

    Attributes:
        pairs: how many. clips: that have at least one other like them. closest: the first pairs.
    """

    pairs: int = 0
    clips: int = 0
    closest: list[Alike] = field(default_factory=list[Alike])


def near_duplicates(embeddings: Array, threshold: float = ALIKE, most: int = 1000) -> Duplicates:
    """Pairs whose cosine is at least the threshold, found block by block.

    Args:
        embeddings: of unit length, (clip, d); float16 is compared in float32.
        most: pairs that are told one by one, those with the greatest cosines.
    """
    count = len(embeddings)
    found = Duplicates()
    has_twin = np.zeros(count, bool)
    closest: list[Alike] = []
    for top in range(0, count, BLOCK):
        rows = embeddings[top : top + BLOCK].astype(np.float32)
        for left in range(top, count, BLOCK):
            cosines = rows @ embeddings[left : left + BLOCK].astype(np.float32).T
            if left == top:
                cosines[np.tril_indices(len(rows))] = -1  # each pair once, none with itself
            one, other = np.nonzero(cosines >= threshold)
            values = cosines[one, other]
            found.pairs += len(values)
            has_twin[one + top] = True
            has_twin[other + left] = True
            for at in np.argsort(-values, kind="stable")[:most]:
                pair = Alike(float(values[at]), int(one[at]) + top, int(other[at]) + left)
                if len(closest) < most:
                    heappush(closest, pair)
                elif pair > closest[0]:
                    heapreplace(closest, pair)
                else:
                    break
    found.clips = int(has_twin.sum())
    found.closest = sorted(closest, key=lambda pair: (-pair.cosine, pair.one, pair.other))
    return found


@dataclass
class _Column:
    """Values of a column: clips of each, and the sums of their CLIP scores."""

    clips: Counter[str] = field(default_factory=Counter[str])
    scores: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, value: str, score: float) -> None:
        if len(self.clips) <= MOST_VALUES:
            self.clips[value] += 1
            self.scores[value] = self.scores.get(value, 0.0) + score

    @property
    def is_slot(self) -> bool:
        return 2 <= len(self.clips) <= MOST_VALUES


@dataclass
class Survey:
    """What one pass over a run's scored clips gathers."""

    clips: int = 0
    values: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("f") for name in SCORE_NAMES}
    )
    columns: dict[str, _Column] = field(default_factory=dict[str, _Column])
    together: dict[tuple[str, str], Counter[tuple[str, str]]] = field(
        default_factory=dict[tuple[str, str], Counter[tuple[str, str]]]
    )
    worst: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    best: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def add(self, record: dict[str, Any], scores: Mapping[str, float]) -> None:
        """Take in a clip.

        Args:
            record: its ledger row, with `id`, `model`, `params` (JSON) and the `meta_*` columns.
            scores: by name; one that is missing is not known.
        """
        self.clips += 1
        for name in SCORE_NAMES:
            self.values[name].append(scores.get(name, math.nan))
        clip_score = scores.get("clip_score", 0.0)
        params = json.loads(record["params"] or "{}")
        meta = {k: _text(v) for k, v in record.items() if k.startswith(META)}
        own = {k: _text(v) for k, v in params.items() if not isinstance(v, (list, dict))}
        for name, value in {"model": str(record["model"]), **own, **meta}.items():
            self.columns.setdefault(name, _Column()).add(value, clip_score)
        for pair in combinations(sorted(meta), 2):
            counts = self.together.setdefault(pair, Counter())
            if len(counts) <= MOST_VALUES * MOST_VALUES:
                counts[meta[pair[0]], meta[pair[1]]] += 1
        row = {**record, "scores": dict(scores)}
        for kept, choose in ((self.worst, nsmallest), (self.best, nlargest)):
            kept.append(row)
            if len(kept) >= 4 * SHOWN:
                kept[:] = choose(SHOWN, kept, key=_by_clip_score)


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _by_clip_score(row: Mapping[str, Any]) -> tuple[float, str]:
    return row["scores"].get("clip_score", 0.0), row["id"]


def survey(root: Path, scorer: str) -> Survey:
    """One pass over the clips that a scorer (name@revision) has scored as they are now."""
    made = Survey()
    meta = score_table.meta_columns(root)
    for record, scores in score_table.scored_rows(root, scorer, "model", *meta):
        made.add(record, scores)
    made.worst = nsmallest(SHOWN, made.worst, key=_by_clip_score)
    made.best = nlargest(SHOWN, made.best, key=_by_clip_score)
    return made


def write_report(
    folder: RunFolder,
    scorer: str = BUNDLED_SCORER,
    *,
    title: str,
    trusted: Sequence[str] = (),
    workers: int | None = None,
    device: str = "cpu",
    threshold: float = ALIKE,
    on_clip: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write report.html of the clips that this scorer has scored; `evaluate` comes first.

    Every clip is decoded once more, for its embedding: what looks alike is told by all clips.

    Args:
        threshold: cosine from which two clips count as near-duplicates.
        on_clip: called with the number of clips embedded, after each.

    Raises:
        ModelError: no such scorer.
    """
    info = describe_scorer(scorer, trusted=trusted)
    made = survey(folder.root, info.identity)
    ids: list[Todo] = []
    embedded: list[Array] = []
    with ScorePool(folder, info, workers=workers, device=device) as pool:
        for clip, found in pool.run(embed, _todo(folder.root, info.identity)):
            if not isinstance(found, str):
                ids.append(clip)
                embedded.append(found.astype(np.float16))
                on_clip(len(ids))
    order = sorted(range(len(ids)), key=lambda at: ids[at].id)  # not as the processes ended
    ids = [ids[at] for at in order]
    matrix = np.stack([embedded[at] for at in order]) if ids else np.zeros((0, 1), np.float16)
    same = near_duplicates(matrix, threshold)
    summaries = score_table.summarise_scores(folder.root, info.identity)
    page = _page(folder, title, info.identity, made, summaries, same, ids, threshold)
    path = folder.root / "report.html"
    with write_aside(path) as aside:
        aside.write_bytes(page.encode("utf-8", "replace"))
    folder.upload(path)
    return path


def _todo(root: Path, scorer: str) -> Iterator[Todo]:
    for record, _ in score_table.scored_rows(root, scorer):
        yield todo_of(record)


# ------------------------------------------------------------------------------------------------
# the page

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


def _page(
    folder: RunFolder,
    title: str,
    scorer: str,
    made: Survey,
    summaries: Sequence[score_table.Summary],
    same: Duplicates,
    ids: Sequence[Todo],
    threshold: float,
) -> str:
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


def histograms(values: Mapping[str, Array]) -> str:
    """A histogram of each score, as one SVG that stands in a page by itself."""
    # Of fonts it looks for and finds elsewhere, and of folders for them, nobody needs to hear.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.figure import Figure

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
        return f"<p>No column has between 2 and {MOST_VALUES} values.</p>"
    tables = [_slot(name, column) for name, column in sorted(slots.items(), key=_meta_first)]
    return "".join(tables) + _combinations(made, slots)


def _meta_first(item: tuple[str, _Column]) -> tuple[bool, str]:
    return not item[0].startswith(META), item[0]


def _slot(name: str, column: _Column) -> str:
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


def _combinations(made: Survey, slots: Mapping[str, _Column]) -> str:
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
