"""Near-duplicates are all found, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from tasks import near_duplicates as module
from tasks.near_duplicates import near_duplicates


def test_near_duplicates_are_all_found(monkeypatch: pytest.MonkeyPatch):
    """As a comparison of every clip with every other finds them, whatever the blocks: how many pairs,
    how many clips, and the closest first."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(23, 6))
    points[20:] = points[[1, 1, 7]] + 1e-3 * rng.normal(size=(3, 6))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosines = points @ points.T
    wanted = [(a, b) for a in range(23) for b in range(a + 1, 23) if cosines[a, b] >= 0.9]
    for block in (4, 5, 23, 100):
        monkeypatch.setattr(module, "BLOCK", block)
        found = near_duplicates(points, 0.9)
        assert sorted((p.one, p.other) for p in found.closest) == wanted
        assert (found.pairs, found.clips) == (
            len(wanted),
            len({at for pair in wanted for at in pair}),
        )
        assert [p.cosine for p in found.closest] == sorted(p.cosine for p in found.closest)[::-1]
        few = near_duplicates(points, 0.9, most=2)
        assert few.pairs == len(wanted)
        assert [pair[1:] for pair in few.closest] == [pair[1:] for pair in found.closest[:2]]


def test_few_clips_have_no_duplicates():
    """None and one alone."""
    for count in (0, 1):
        found = near_duplicates(np.ones((count, 4), np.float16) / 2, 0.9)
        assert (found.pairs, found.clips, found.closest) == (0, 0, [])
