"""Measure the small CLIP: does it find the caption of a picture, drawn or generated?

    python -m infra.mini.evaluate_clip zs2/mini/zs2-mini-clip --clips 64

Held-out scenes, which no training stage has seen, each with the plain caption that prompts look
like and with one by the grammar (synonyms, sizes, word orders). A picture counts as right where its
best caption among 100 is its own, or one that means the same: the same thing, colour, place and
time, whatever it says of size and position. Generated clips: zs2-mini's own for held-out prompts;
each has its own prompt against all the others', by the score that `zs2 eval` gives.
"""

from __future__ import annotations

import argparse

import numpy as np

from infra.mini.captions import caption, plain_caption
from infra.mini.data import TEST_SEED, scene_list
from infra.mini.scenes import Scene, draw
from zs2.clip_score import ClipScorer

AMONG = 100
ROUNDS = 20  # times 100 pictures


def meaning(scene: Scene) -> tuple[str, str, str, str]:
    """Return what two captions must share to count as one."""
    return scene.thing, scene.colour, scene.place, scene.time


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


def of_clips(scorer: ClipScorer, model: str, count: int, frames: int) -> None:
    """Sample clips for held-out prompts and print whether their own prompt scores best."""
    from infra.mini import checker
    from zs2 import ZS2Sampler

    scenes = scene_list(TEST_SEED, count, start=50_000)
    texts = [plain_caption(scene) for scene in scenes]
    embedded = scorer.text_embeddings(texts)
    sampler = ZS2Sampler.from_pretrained(model)
    sampler.pipe.set_progress_bar_config(disable=True)
    rows: list[np.ndarray] = []
    recognised: list[bool] = []
    for number, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
        clip = sampler(text, seed=number, num_frames=frames)
        assert clip.frames is not None
        # clip_score of the clip with every prompt at once
        cosines = scorer.image_embeddings(clip.frames) @ embedded.T
        rows.append(100 * np.maximum(cosines, 0).mean(0))
        found = checker.right(checker.trained(), clip.frames[:1], [scene])
        recognised.append(all(bool(hits[0]) for hits in found.values()))
    scores, good = np.stack(rows), np.array(recognised)
    hits = right(scores, scenes)
    own = float(np.diag(scores).mean())
    others = float((scores.sum() - np.diag(scores).sum()) / (count * (count - 1)))
    print(
        f"{count} generated clips of {frames} frames, own prompt best among {count}: {hits.mean():.1%}"
    )
    print(
        f"  of the {good.sum()} whose first frame the checker recognises: {hits[good].mean():.1%}"
    )
    print(f"  CLIP score with the own prompt {own:.1f}, with the others' {others:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scorer", help="a CLIP's folder, hub id or bundled name")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--model", default="zs2-mini")
    arguments = parser.parse_args()
    scorer = ClipScorer.from_pretrained(arguments.scorer)
    print(f"{scorer.info.identity}: {ROUNDS * AMONG:,} held-out scenes, among {AMONG} captions")
    for name, plain in (("plain captions", True), ("captions by the grammar", False)):
        picture, text = retrieval(scorer, plain)
        print(f"  {name}: picture to caption {picture:.1%}, caption to picture {text:.1%}")
    if arguments.clips:
        of_clips(scorer, arguments.model, arguments.clips, arguments.frames)


if __name__ == "__main__":
    main()
