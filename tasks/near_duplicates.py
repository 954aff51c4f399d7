"""Clips of a data set that look the same: pairs of embeddings with a high cosine."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappush, heapreplace
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

ALIKE = 0.995  # cosine of two clips' mean embeddings from which they count as near-duplicates
BLOCK = 2048  # embeddings compared at a time with as many others


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
