"""Frames to post-process and encode: a coloured texture under a camera that moves, with grain."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

CELL = 16  # pixels of a patch of colour
GRAIN = 4.0  # grey levels


def moving_picture(num_frames: int, side: int) -> Array:
    """uint8 RGB (frame, side, side, 3), the same each time; 2 pixels right and 1 down a frame."""
    rng = np.random.default_rng(0)
    wide = side + 2 * num_frames
    patches = rng.integers(0, 256, (wide // CELL + 2, wide // CELL + 2, 3), dtype=np.uint8)
    texture = Image.fromarray(patches).resize((wide, wide), Image.Resampling.BICUBIC)
    grain = rng.normal(0, GRAIN, (wide, wide, 1))
    picture = np.clip(np.asarray(texture) + grain, 0, 255).astype(np.uint8)
    return np.stack([picture[n : n + side, 2 * n : 2 * n + side] for n in range(num_frames)])
