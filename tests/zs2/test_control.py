from __future__ import annotations

import cv2
import numpy as np
import pytest

from zs2.control import canny_edges


def square(inside: tuple[int, int, int], around: tuple[int, int, int]) -> np.ndarray:
    """One frame of 64×64: a square of 32 pixels in the middle."""
    frame = np.full((1, 64, 64, 3), around, dtype=np.uint8)
    frame[:, 16:48, 16:48] = inside
    return frame


def test_canny_draws_the_outline_in_white_on_black() -> None:
    """A square gives its closed outline and nothing else: 0 and 255 only, equal channels, every
    line within a pixel of the border, every border pixel within a pixel of a line."""
    edges = canny_edges(square((255, 255, 255), (0, 0, 0)))
    assert edges.shape == (1, 64, 64, 3) and edges.dtype == np.uint8
    assert set(np.unique(edges)) == {0, 255}
    assert (edges[..., 0] == edges[..., 1]).all() and (edges[..., 1] == edges[..., 2]).all()
    y, x = np.mgrid[0:64, 0:64]
    distance = np.abs(np.maximum(np.abs(y - 31.5), np.abs(x - 31.5)) - 16)
    line = edges[0, ..., 0] > 0
    assert distance[line].max() <= 1.5
    thick = cv2.dilate(line.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert thick[distance <= 0.5].all()


def step(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    """One frame of 64×64 of two colours, side by side."""
    frame = np.full((1, 64, 64, 3), left, dtype=np.uint8)
    frame[:, :, 32:] = right
    return frame


def test_canny_thresholds_decide_what_is_an_edge() -> None:
    """A step of s grey levels has a gradient of 4·s: it is an edge where that passes `high`, also
    for a step in colour that keeps the brightness; `low` lets a line that fades go on."""
    faint = step((70, 70, 70), (40, 40, 40))
    assert canny_edges(faint, 50, 119).any() and not canny_edges(faint, 50, 120).any()
    assert canny_edges(step((100, 0, 0), (0, 51, 0)), 300, 399).any()
    fading = np.full((1, 64, 64, 3), 20, dtype=np.uint8)
    fading[:, 32:] = np.linspace(20, 120, 64, dtype=np.uint8)[None, None, :, None]
    first = [
        np.flatnonzero(canny_edges(fading, low, 200)[0, ..., 0].any(0))[0] for low in (40, 190)
    ]
    assert first[0] < 15 and first[1] > 25  # its gradient is 40 at column 7, 190 at column 30


@pytest.mark.parametrize("threads", [1, 4])
def test_canny_of_a_frame_depends_on_that_frame_alone(threads: int) -> None:
    """A clip's edges are those of its frames, whatever OpenCV's number of threads, also for a view
    that is not contiguous."""
    clip = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    whole = canny_edges(clip)
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        assert np.array_equal(canny_edges(clip[::-1])[::-1], whole)
        alone = [canny_edges(clip[i : i + 1])[0] for i in range(3)]
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(np.stack(alone), whole)
    view = np.repeat(clip, 2, axis=2)[:, :, ::2]
    assert np.array_equal(canny_edges(view), whole)
