import cv2
import numpy as np
import pytest

from zs2.optical_flow import flow, inside, visible, warp


def texture(height: int, width: int, seed: int = 0, blur: float = 2.0) -> np.ndarray:
    """Smooth random RGB, uint8, full range."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.rint(smooth * 255).astype(np.uint8)


def shifted(size: int, dx: int, dy: int) -> tuple[np.ndarray, np.ndarray]:
    """Two views of one texture: what is at x in the first is at x + (dx, dy) in the second."""
    big = texture(size + 32, size + 32)
    a = big[16 : 16 + size, 16 : 16 + size]
    return a, big[16 - dy : 16 - dy + size, 16 - dx : 16 - dx + size]


@pytest.mark.parametrize(
    ("size", "step", "most"),
    [
        (8, 1, 0.5),
        (12, 1, 0.2),
        (16, 2, 0.2),
        (24, 2, 0.1),
        (32, 3, 0.1),
        (64, 4, 0.1),
        (128, 6, 0.1),
    ],
)
def test_flow_finds_a_shift_at_any_size_from_8(size: int, step: int, most: float) -> None:
    """A shift by `step` pixels in x and none in y is found with a mean error under `most` pixels,
    also where DIS itself refuses the frame (8×8) or has too few pyramid levels (under 64)."""
    a, b = shifted(size, step, 0)
    error = np.linalg.norm(flow(a, b) - [step, 0], axis=-1)
    assert error.mean() < most


def test_a_long_motion_of_a_part_is_found() -> None:
    """A textured square that jumps 12 pixels over a still ground: within half a pixel inside it, and
    the ground still still, where DIS by itself is lost."""
    ground, square = texture(128, 128, seed=1, blur=3), texture(40, 40, seed=2)
    a, b = ground.copy(), ground.copy()
    a[40:80, 30:70] = square
    b[40:80, 42:82] = square
    motion = flow(a, b)
    assert np.linalg.norm(motion[44:76, 34:66] - [12, 0], axis=-1).mean() < 0.5
    assert np.linalg.norm(motion[:, 100:], axis=-1).mean() < 0.1
    assert np.linalg.norm(flow(a, b, "fast")[44:76, 34:66] - [12, 0], axis=-1).mean() > 2


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_every_preset_follows_the_convention(preset: str) -> None:
    """Flow is (x, y): a point at x of a is at x + flow(x) of b, and warp(b, flow) looks like a."""
    a, b = shifted(64, 2, -3)
    motion = flow(a, b, preset)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(np.median(motion, axis=(0, 1)), [2, -3], atol=0.1)
    aligned = np.abs(warp(b, motion) - a)[8:-8, 8:-8].mean()
    assert aligned < 0.1 * np.abs(b.astype(float) - a)[8:-8, 8:-8].mean()


@pytest.mark.parametrize("shape", [(8, 100), (100, 8), (9, 33), (37, 64)])
def test_equal_frames_do_not_move(shape: tuple[int, int]) -> None:
    """Flow between a frame and itself is zero, in narrow and odd sizes too."""
    a = texture(*shape)
    motion = flow(a, a)
    assert motion.shape == (*shape, 2)
    assert not motion.any()


def test_flow_is_deterministic_whatever_the_thread_count() -> None:
    """Same input, same bytes, after other frames and after someone asked OpenCV for threads."""
    a, b = shifted(128, 5, 2)
    first = flow(a, b).tobytes()
    cv2.setNumThreads(4)
    flow(b, texture(128, 128, seed=3))
    assert flow(a, b).tobytes() == first


def test_too_small_frames_are_refused() -> None:
    """A side under 8 pixels: ValueError with what was expected and found."""
    a = texture(16, 16)
    with pytest.raises(ValueError, match="at least 8×8 pixels, found 7×16"):
        flow(a[:7], a[:7])


@pytest.mark.parametrize("cubic", [False, True])
def test_warp_by_whole_pixels_is_a_shift(cubic: bool) -> None:
    """Whole-pixel motion copies pixels exactly; outside, the edge repeats."""
    frame = texture(16, 20)
    motion = np.zeros((16, 20, 2), np.float32)
    motion[..., 0] = 3
    warped = warp(frame, motion, cubic=cubic)
    np.testing.assert_array_equal(warped[:, :-4], frame[:, 3:-1])
    np.testing.assert_array_equal(warped[:, -2], frame[:, -1])


def test_visible_marks_what_is_covered_and_what_leaves() -> None:
    """With a square moving over a textured ground: what it covers in b is hidden, the rest of the
    ground seen; a pan hides the strip that leaves the frame and nothing else."""
    ground = texture(64, 64, seed=1)
    square = texture(20, 20, seed=2, blur=1.5)
    a, b = ground.copy(), ground.copy()
    a[20:40, 14:34] = square
    b[20:40, 20:40] = square
    seen = visible(flow(a, b), flow(b, a))
    assert seen[25:35, 35:39].mean() < 0.3
    assert seen[:, 48:].mean() > 0.99
    a, b = shifted(64, 4, 0)
    seen = visible(flow(a, b), flow(b, a))
    assert seen[:, -3:].mean() < 0.1
    assert seen[:, :-8].mean() > 0.98


def test_inside_is_the_area_of_the_outermost_pixels() -> None:
    """Up to half a pixel past the last centre is still inside."""
    motion = np.zeros((4, 4, 2), np.float32)
    motion[..., 0] = 0.5
    assert inside(motion).all()
    motion[..., 0] = 0.6
    assert not inside(motion)[:, -1].any()
    assert inside(motion)[:, :-1].all()
