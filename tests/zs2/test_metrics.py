import math

import cv2
import numpy as np
import pytest

from zs2.metrics import dynamic_degree, warp_error

SIZE, COUNT = 64, 6


def texture(seed: int, size: int = SIZE) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(size, size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.rint(smooth * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    """Known cases, from none to nothing but change."""
    big, rng = texture(0, SIZE + 40), np.random.default_rng(1)
    shaken = rng.integers(-6, 7, size=(COUNT, 2)) + 20
    return {
        "still": np.repeat(texture(0)[None], COUNT, 0),
        "pan": np.stack([big[10 : 10 + SIZE, 10 + i : 10 + i + SIZE] for i in range(COUNT)]),
        "jitter": np.stack([big[y : y + SIZE, x : x + SIZE] for y, x in shaken]),
        "cuts": np.stack([texture(seed) for seed in range(COUNT)]),
        "noise": rng.integers(0, 256, size=(COUNT, SIZE, SIZE, 3), dtype=np.uint8),
    }


def test_warp_error_ranks_known_clips(clips: dict[str, np.ndarray]) -> None:
    """still < smooth pan < jitter < cuts < noise; still is exactly 0; a pan, and even jitter, which
    is motion as well, under 1e-4; cuts, which no motion explains, over 1e-2."""
    errors = [warp_error(clips[name]) for name in ("still", "pan", "jitter", "cuts", "noise")]
    assert errors == sorted(errors)
    assert errors[0] == 0
    assert errors[2] < 1e-4
    assert errors[3] > 1e-2


def test_warp_error_is_in_squared_intensity() -> None:
    """A still clip whose brightness changes by 51 of 255, everywhere: (51/255)² = 0.04."""
    dark = np.full((SIZE, SIZE, 3), 100, np.uint8)
    assert warp_error(np.stack([dark, dark + 51])) == pytest.approx(0.04, rel=1e-6)


def test_warp_error_is_the_mean_over_pairs(clips: dict[str, np.ndarray]) -> None:
    """A clip's error is the mean of the errors of its two-frame clips."""
    clip = clips["jitter"]
    pairs = [warp_error(clip[i : i + 2]) for i in range(COUNT - 1)]
    assert warp_error(clip) == pytest.approx(np.mean(pairs))


def test_dynamic_degree_is_in_pixels_a_frame(clips: dict[str, np.ndarray]) -> None:
    """0 for a still, 1 for a pan of one pixel a frame, more for jitter of several."""
    assert dynamic_degree(clips["still"]) == 0
    assert dynamic_degree(clips["pan"]) == pytest.approx(1, abs=0.1)
    assert dynamic_degree(clips["jitter"]) > 3


def test_a_single_frame_has_no_figure(clips: dict[str, np.ndarray]) -> None:
    """NaN, not 0: one frame is neither consistent nor still."""
    assert math.isnan(warp_error(clips["pan"][:1]))
    assert math.isnan(dynamic_degree(clips["pan"][:1]))


def test_metrics_of_tiny_frames_and_equal_bytes_twice(clips: dict[str, np.ndarray]) -> None:
    """8×8 clips have figures; the same clip has the same figures again, to the last bit."""
    tiny = clips["pan"][:, :8, :8]
    assert math.isfinite(warp_error(tiny)) and math.isfinite(dynamic_degree(tiny))
    assert warp_error(clips["noise"]) == warp_error(clips["noise"].copy())
