"""Measure the small CLIP: does it find the caption of a picture, drawn or generated?

    python -m infra.mini.evaluate_scorer zs2/mini/zs2-mini-clip --clips comparison

Held-out scenes, which no training stage has seen, each with the plain caption that prompts look
like and with one by the grammar (synonyms, sizes, word orders). A picture counts as right where its
best caption among 100 is its own, or one that means the same: the same thing, colour, place, time
and count, whatever it says of size, style and position. Generated clips: those of ZS² in a folder that `zs2
compare` has made; each has its own prompt against all the others', by the score that `zs2 eval` gives.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from infra.mini.captions import (
    COLOUR_WORDS,
    COUNT_WORDS,
    PLACE_WORDS,
    THING_WORDS,
    TIME_WORDS,
    caption,
    plain_caption,
    plural,
)
from infra.mini.command import run
from infra.mini.data import TEST_SEED, scene_list
from infra.mini.scenes import COLOURS, Scene, draw
from tasks.assemble import decode
from zs2.clip_score import ClipScorer
from zs2.models import ModelError

T = TypeVar("T")
AMONG = 100
ROUNDS = 20  # times 100 pictures


def meaning(scene: Scene) -> tuple[str, str, str, str, int]:
    """Return what two captions must share to count as one."""
    return scene.thing, scene.colour, scene.place, scene.time, scene.count


def right(scores: np.ndarray, scenes: list[Scene]) -> np.ndarray:
    """Return for each row whether its best column means the same; scores (scene, scene)."""
    best = scores.argmax(1)
    return np.array([meaning(s) == meaning(scenes[b]) for s, b in zip(scenes, best, strict=True)])


def retrieval(scorer: ClipScorer, plain: bool) -> tuple[float, float]:
    """Return the share of pictures that find their caption among 100, and of captions that find
    their picture; over 2,000 held-out scenes."""
    rng = np.random.default_rng(TEST_SEED)
    by_picture: list[np.ndarray] = []
    by_caption: list[np.ndarray] = []
    for number in range(ROUNDS):
        scenes = scene_list(TEST_SEED, AMONG, start=20_000 + number * AMONG)
        texts = [plain_caption(s) if plain else caption(s, rng, complete=True) for s in scenes]
        pictures = scorer.image_embeddings(np.stack([draw(scene) for scene in scenes]))
        scores = pictures @ scorer.text_embeddings(texts).T
        by_picture.append(right(scores, scenes))
        by_caption.append(right(scores.T, scenes))
    return float(np.mean(by_picture)), float(np.mean(by_caption))


def meaning_of(text: str) -> tuple[str | int | None, ...]:
    """Return what a caption of the grammar says of thing, colour, place, time and count."""
    said = f" {text.replace(',', ' ')} "

    def named(table: Mapping[T, tuple[str, ...]]) -> T | None:
        return next(
            (name for name, words in table.items() if any(f" {w} " in said for w in words)), None
        )

    things = {name: (*words, *map(plural, words)) for name, words in THING_WORDS.items()}
    place = named(PLACE_WORDS)
    return (
        named(things),
        named({colour: (colour,) for colour in COLOURS} | COLOUR_WORDS),
        place,
        "night" if place == "space" else named(TIME_WORDS) or "day",
        named(COUNT_WORDS) or 1,
    )


def of_clips(scorer: ClipScorer, folder: Path, method: str) -> None:
    """Print whether the clips of one method of a comparison score best with their own prompts."""
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    rows = [row for row in rows if row["method"] == method]
    different = {row["prompt"]: row for row in rows}  # one clip a prompt
    texts = list(different)
    embedded = scorer.text_embeddings(texts)
    scores: list[np.ndarray] = []
    for row in different.values():
        frames, _ = decode(folder / row["file_name"])
        # clip_score of the clip with every prompt at once
        scores.append(100 * np.maximum(scorer.image_embeddings(frames) @ embedded.T, 0).mean(0))
    table, count = np.stack(scores), len(texts)
    meanings = [meaning_of(each) for each in texts]
    hits = [
        meanings[best] == wanted for best, wanted in zip(table.argmax(1), meanings, strict=True)
    ]
    own = float(np.diag(table).mean())
    others = float((table.sum() - np.diag(table).sum()) / (count * (count - 1)))
    print(f"{count} clips by {method}, own prompt best among {count}: {np.mean(hits):.1%}")
    print(f"  CLIP score with the own prompt {own:.1f}, with the others' {others:.1f}")


def main() -> None:
    """Print how often pictures and captions find each other; with --clips, clips their prompts, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scorer", help="a CLIP's folder, hub id or bundled name")
    parser.add_argument("--clips", type=Path, help="a folder that `zs2 compare` has made")
    parser.add_argument("--methods", default="zs2,ddim,text2video-zero")
    arguments = parser.parse_args()
    scorer = ClipScorer.from_pretrained(arguments.scorer)
    print(f"{scorer.info.identity}: {ROUNDS * AMONG:,} held-out scenes, among {AMONG} captions")
    for name, plain in (("plain captions", True), ("captions by the grammar", False)):
        picture, text = retrieval(scorer, plain)
        print(f"  {name}: picture to caption {picture:.1%}, caption to picture {text:.1%}")
    for method in arguments.methods.split(",") if arguments.clips else ():
        of_clips(scorer, arguments.clips, method)


if __name__ == "__main__":
    run(main, ModelError)
