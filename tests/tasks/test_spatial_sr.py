import numpy as np
import pytest
from PIL import Image

from tasks.spatial_sr import upscale


def clip(count: int = 3, height: int = 8, width: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", [2, 4])
def test_each_frame_is_enlarged_by_lanczos(scale: int) -> None:
    """Every frame equals Pillow's Lanczos enlargement of it; twice the same bytes."""
    frames = clip()
    larger = upscale(frames, scale)
    assert larger.shape == (3, 8 * scale, 16 * scale, 3) and larger.dtype == np.uint8
    for before, after in zip(frames, larger, strict=True):
        size = (16 * scale, 8 * scale)
        expected = Image.fromarray(before).resize(size, Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(after, np.asarray(expected))
    assert upscale(frames, scale).tobytes() == larger.tobytes()


def test_scale_1_changes_nothing_and_a_still_stays_still() -> None:
    """Scale 1 is the same array; equal frames stay equal; a flat colour stays that colour."""
    frames = clip()
    assert upscale(frames, 1) is frames
    still = upscale(np.repeat(frames[:1], 3, 0), 2)
    assert (still == still[0]).all()
    assert (upscale(np.full((1, 8, 8, 3), 200, np.uint8), 4) == 200).all()


def test_one_frame_and_views_that_are_not_contiguous() -> None:
    """One frame works; so does a view with strides, with the same result as its copy."""
    frames = clip()[:, :, ::-1]
    np.testing.assert_array_equal(upscale(frames, 2), upscale(frames.copy(), 2))
    assert upscale(frames[:1], 2).shape == (1, 16, 32, 3)


@pytest.mark.parametrize("scale", [0, 3, 8, -1, 2.0, True])
def test_other_scales_are_refused(scale: object) -> None:
    """ValueError that names the scales there are and the one found."""
    with pytest.raises(ValueError, match=r"spatial_scale: expected one of 1, 2, 4; found "):
        upscale(clip(), scale)  # pyright: ignore[reportArgumentType]


def test_methods_that_are_not_there_are_refused_at_any_scale() -> None:
    """ValueError that says what is available and what to do, also at scale 1."""
    for scale in (1, 2):
        with pytest.raises(ValueError, match=r"'mini-sr' is not built yet; available: lanczos"):
            upscale(clip(), scale, method="mini-sr")


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
    ],
    ids=["no frame axis", "no frames", "alpha", "float"],
)
def test_other_arrays_are_refused(frames: np.ndarray) -> None:
    """ValueError that states the shape and type expected and found."""
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(frame, height, width, 3\)"):
        upscale(frames, 2)
