"""Control pictures from a clip: what a ControlNet follows. Frames in, frames out; knows no files."""

import cv2
import numpy as np
from jaxtyping import UInt8


def canny_edges(
    frames: UInt8[np.ndarray, "frame height width 3"], low: int = 100, high: int = 200
) -> UInt8[np.ndarray, "frame height width 3"]:
    """The edges of every RGB frame: white (255) lines one pixel wide on black, in three channels.

    low, high: cv2's thresholds of the gradient, 0 to about 1400 (|dx| + |dy| of a 3×3 Sobel): an
    edge begins where the gradient passes `high` and goes on while it passes `low`. The defaults are
    those of the canny ControlNets. A colour frame's gradient is its strongest channel's.

    Source: Canny, "A Computational Approach to Edge Detection", IEEE PAMI 1986, as cv2.Canny.
    """
    edges = [cv2.Canny(np.ascontiguousarray(frame), low, high) for frame in frames]
    return np.repeat(np.stack(edges)[..., None], 3, axis=-1)
