"""Larger frames."""

from typing import Any

import numpy as np
from PIL import Image

from tasks.temporal_sr import check_frames

Array = np.ndarray[Any, Any]

METHODS = ("lanczos",)
SCALES = (1, 2, 4)


def upscale(frames: Array, scale: int, method: str = "lanczos") -> Array:
    """Every frame of `frames` enlarged `scale` times in both directions.

    frames: uint8 (frame, height, width, 3), n ≥ 1. scale: 1 (the same array comes back), 2 or 4.
    Each frame is enlarged by itself with Lanczos' kernel of three lobes (Pillow's, in fixed point):
    the same frame gives the same bytes, so a still clip stays still.

    Raises ValueError for another shape or type, scale or method.
    """
    check_frames(frames)
    if method not in METHODS:
        raise ValueError(
            f"spatial_sr: {method!r} is not built yet; available: {', '.join(METHODS)}; "
            "set spatial_sr to one of these, or spatial_scale to 1"
        )
    if isinstance(scale, bool | float) or scale not in SCALES:
        raise ValueError(
            f"spatial_scale: expected one of {', '.join(map(str, SCALES))}; found {scale!r}; "
            "choose one of these and set height and width to suit"
        )
    if scale == 1:
        return frames
    count, height, width, _ = frames.shape
    result = np.empty((count, height * scale, width * scale, 3), dtype=np.uint8)
    for frame, larger in zip(frames, result, strict=True):
        image = Image.fromarray(np.ascontiguousarray(frame))
        larger[:] = np.asarray(
            image.resize((width * scale, height * scale), Image.Resampling.LANCZOS)
        )
    return result
