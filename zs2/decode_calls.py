"""How many frames are decoded together: a frame's last bits depend on it. Loads no torch: plans ask, too."""

from __future__ import annotations

CALL_PIXELS = 2**15  # of one call of the autoencoder, where one frame has no more
CALL_FRAMES = 8  # at most: those of a segment


def frames_a_call(height: int, width: int) -> int:
    """How many frames of this size, in pixels, are decoded together: 8 of 64×64, 2 of 128×128, else 1."""
    return max(1, min(CALL_FRAMES, CALL_PIXELS // (height * width)))
