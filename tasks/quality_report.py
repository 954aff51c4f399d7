"""report.html: what a data set of clips is worth, on one page without a network.

Distributions of the scores, clips that look the same, how the values of its columns are covered,
and its worst and best clips by CLIP score. Memory is bounded: some numbers and one embedding in half
precision a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manifests.storage import RunFolder, write_aside
from tasks import score_table
from tasks.evaluate import Todo, todo_of
from tasks.near_duplicates import ALIKE, near_duplicates
from tasks.quality_page import page_of
from tasks.score_pool import ScorePool, embed
from tasks.survey import survey
from zs2.clip_score import BUNDLED_SCORER, describe_scorer


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
    embedded: list[np.ndarray[Any, Any]] = []
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
    page = page_of(folder, title, info.identity, made, summaries, same, ids, threshold)
    path = folder.root / "report.html"
    with write_aside(path) as aside:
        aside.write_bytes(page.encode("utf-8", "replace"))
    folder.upload(path)
    return path


def _todo(root: Path, scorer: str) -> Iterator[Todo]:
    for record, _ in score_table.scored_rows(root, scorer):
        yield todo_of(record)
