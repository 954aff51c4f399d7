import math

import cv2
import numpy as np
import pytest

from zs2.metrics import dynamic_degree, flicker, sharpness, warp_error

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


def test_flicker_ranks_known_clips(clips: dict[str, np.ndarray]) -> None:
    """still = 0, a smooth pan and even jitter, which are motion, below a level; cuts and noise, which
    nothing explains, above ten, noise the most."""
    values = {name: flicker(clip) for name, clip in clips.items()}
    assert values["still"] == 0
    assert values["pan"] < 1 and values["jitter"] < 1
    assert 10 < values["cuts"] < values["noise"]


def test_flicker_is_in_grey_levels_and_forgives_a_fade() -> None:
    """A light that is 40 levels brighter in every other frame is 40; a fade of 10 levels a frame 0;
    one cut from a level to another by 60 among six frames: half of it in two of four middles, 15."""
    room = np.full((COUNT, SIZE, SIZE, 3), 100, np.uint8)
    blinking = room + (40 * (np.arange(COUNT) % 2)).astype(np.uint8)[:, None, None, None]
    fading = room + (10 * np.arange(COUNT)).astype(np.uint8)[:, None, None, None]
    cut = room.copy()
    cut[3:] += 60
    assert flicker(blinking) == pytest.approx(40, rel=1e-5)
    assert flicker(fading) == pytest.approx(0, abs=1e-5)
    assert flicker(cut) == pytest.approx(15, rel=1e-5)


def test_flicker_needs_three_frames(clips: dict[str, np.ndarray]) -> None:
    """NaN for one frame and for two: nothing can come and go in them."""
    assert math.isnan(flicker(clips["pan"][:1])) and math.isnan(flicker(clips["pan"][:2]))
    assert math.isfinite(flicker(clips["pan"][:3]))


def test_sharpness_falls_with_every_blur(clips: dict[str, np.ndarray]) -> None:
    """The wider the blur, the less; motion makes no difference; noise, as said, counts as detail; a
    flat picture has none."""
    still = clips["still"]
    blurred = [
        np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in still])
        for sigma in (0.5, 1.0, 2.0, 4.0)
    ]
    values = [sharpness(clip) for clip in (still, *blurred)]
    assert values == sorted(values, reverse=True) and len(set(values)) == len(values)
    assert sharpness(clips["pan"]) == pytest.approx(sharpness(clips["jitter"]), rel=0.2)
    assert sharpness(clips["noise"]) > values[0]
    assert sharpness(np.full_like(still, 80)) == 0


def test_sharpness_is_the_mean_of_the_frames(clips: dict[str, np.ndarray]) -> None:
    """Also of a single frame; in squared grey levels: half the contrast is a quarter of it."""
    clip = clips["jitter"]
    each = [sharpness(clip[i : i + 1]) for i in range(COUNT)]
    assert sharpness(clip) == pytest.approx(np.mean(each))
    fine = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    fine[:, ::2] = 200
    assert sharpness(fine) == pytest.approx(4 * sharpness(fine // 2))
