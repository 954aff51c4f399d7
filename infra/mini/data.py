"""Drawn scenes kept on disk, so that every training stage reads the same ones.

python -m infra.mini.data
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from infra.mini.command import RecipeError, run, whole_number
from infra.mini.scenes import Scene, draw, scenes

WORK = Path(__file__).parent / "work"
COUNT = 100_000
SIZES = (64, 128)  # pixels a side that the recipe can train for
TRAIN_SEED = 1  # streams of scenes; no scene is in two of them
TEST_SEED = 2
CHUNK = 2000


def _draw_chunk(seed: int, start: int, count: int, size: int) -> np.ndarray:
    drawn = [draw(scene, size) for scene in scene_list(seed, count, start)]
    return np.stack(drawn)


def scene_list(seed: int, count: int, start: int = 0, held_out: bool = False) -> list[Scene]:
    """Return `count` scenes of a stream from number `start` on; `held_out`: of the combinations that no
    training scene has."""
    return list(scenes(seed, count, start, held_out))


def draw_all(seed: int, count: int, size: int, path: Path, workers: int) -> None:
    """Draw a stream's first `count` scenes into a .npy file, uint8 (count, size, size, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    store = np.lib.format.open_memmap(part, "w+", np.uint8, (count, size, size, 3))
    starts = range(0, count, CHUNK)
    counts = [min(CHUNK, count - start) for start in starts]
    with ProcessPoolExecutor(workers) as pool:
        drawn = pool.map(_draw_chunk, [seed] * len(starts), starts, counts, [size] * len(starts))
        for start, pictures in zip(starts, drawn, strict=True):
            store[start : start + len(pictures)] = pictures
    store.flush()
    part.replace(path)


def pictures(count: int, size: int = 64, workers: int = 2) -> np.ndarray:
    """Return the training scenes, drawn on first use; uint8 (count, size, size, 3), read-only.

    Raises:
        RecipeError: those on disk are not what these programs draw.
    """
    path = WORK / f"scenes-{size}-{count}.npy"
    if not path.exists():
        draw_all(TRAIN_SEED, count, size, path, workers)
    drawn = np.load(path, mmap_mode="r")
    if not np.array_equal(drawn[0], draw(scene_list(TRAIN_SEED, 1)[0], size)):
        raise RecipeError(
            f"{path}: expected scenes as scenes.py draws them, found others; remove it and all that "
            "was trained on it"
        )
    return drawn


def main() -> None:
    """Draw the scenes, unless they are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=whole_number, default=COUNT)
    parser.add_argument("--size", type=whole_number, default=64)
    arguments = parser.parse_args()
    drawn = pictures(arguments.count, arguments.size)
    print(f"{len(drawn)} scenes of {drawn.shape[1]} px in {WORK}")


if __name__ == "__main__":
    run(main)
