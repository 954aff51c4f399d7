"""Large pictures in overlapping tiles, so that memory follows the tile and not the picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8

Picture = UInt8[np.ndarray, "height width 3"]
Larger = Float32[np.ndarray, "larger_height larger_width 3"]


def in_tiles(
    picture: Picture,
    enlarge: Callable[[Picture, int, int], Larger],
    scale: int,
    tile: int,
    overlap: int,
    margin: int = 0,
) -> UInt8[np.ndarray, "larger_height larger_width 3"]:
    """A picture enlarged tile by tile; neighbours fade into each other where they overlap.

    What `enlarge` makes of a pixel may depend on others up to `margin` pixels away: then the result is
    that of the whole picture, within rounding. Held beside the result: two rows of tiles.

    Args:
        enlarge: takes a part of the picture and its top left corner (y, x), returns it `scale` times as
            high and wide, in 0..255.
        tile: side of a tile in pixels of the picture; no more than this is given to `enlarge` at once.
        overlap: of neighbours, in pixels; more than twice the margin.
    """
    if not 2 * margin < overlap <= tile // 2:
        raise ValueError(
            f"tiles: expected 2 · margin < overlap ≤ tile / 2; found margin {margin}, "
            f"overlap {overlap}, tile {tile}; choose larger tiles"
        )
    height, width, _ = picture.shape
    if max(height, width) <= tile:
        return _rounded(enlarge(picture, 0, 0))
    rows, row_weights = _plan(height, scale, tile, overlap, margin)
    columns, column_weights = _plan(width, scale, tile, overlap, margin)
    high, wide = min(tile, height), min(tile, width)
    result = np.empty((height * scale, width * scale, 3), dtype=np.uint8)
    strip = np.zeros((high * scale, width * scale, 3), dtype=np.float32)
    for number, (y, row_weight) in enumerate(zip(rows, row_weights, strict=True)):
        for x, column_weight in zip(columns, column_weights, strict=True):
            part = np.ascontiguousarray(picture[y : y + high, x : x + wide])
            weight = row_weight[:, None, None] * column_weight[None, :, None]
            strip[:, x * scale : (x + wide) * scale] += enlarge(part, y, x) * weight
        following = rows[number + 1] if number + 1 < len(rows) else y + high
        done = (following - y) * scale
        result[y * scale : y * scale + done] = _rounded(strip[:done])
        strip = np.concatenate([strip[done:], np.zeros_like(strip[:done])])
    return result


def _plan(
    side: int, scale: int, tile: int, overlap: int, margin: int
) -> tuple[list[int], list[Float32[np.ndarray, " length"]]]:
    """Where tiles begin along a side, and each one's weight at every larger pixel of it; the weights
    add up to 1."""
    length = min(tile, side)
    starts = [*range(0, side - length, length - overlap), side - length]
    within = (np.arange(length * scale) + 0.5) / scale
    total = np.zeros(side * scale)
    weights: list[np.ndarray] = []
    for start in starts:
        weight = np.ones(length * scale)
        fade = overlap - 2 * margin
        if start > 0:
            weight = np.clip((within - margin) / fade, 0, 1)
        if start + length < side:
            weight = np.minimum(weight, np.clip((length - within - margin) / fade, 0, 1))
        weights.append(weight)
        total[start * scale : (start + length) * scale] += weight
    return starts, [
        (weight / total[start * scale : (start + length) * scale]).astype(np.float32)
        for start, weight in zip(starts, weights, strict=True)
    ]


def _rounded(picture: Larger) -> UInt8[np.ndarray, "larger_height larger_width 3"]:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
