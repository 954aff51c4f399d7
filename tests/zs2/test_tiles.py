"""Pictures in overlapping tiles."""

import cv2
import numpy as np
import pytest

from zs2.tiles import in_tiles


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def blurred(part: np.ndarray, scale: int) -> np.ndarray:
    """Enlarged by repetition after a blur that looks three pixels around."""
    smooth = cv2.blur(part.astype(np.float32), (7, 7), borderType=cv2.BORDER_CONSTANT)
    return smooth.repeat(scale, 0).repeat(scale, 1)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(16, 16), (50, 70), (33, 16), (129, 32), (16, 90)])
def test_tiles_are_as_the_whole(size: tuple[int, int], scale: int):
    """What looks no further than the margin gives the whole picture's result, within 1/255; no part is
    larger than a tile, and each is told its corner."""
    seen: list[tuple[int, int]] = []
    whole = picture(*size)

    def enlarge(part: np.ndarray, y: int, x: int) -> np.ndarray:
        seen.append(part.shape[:2])
        np.testing.assert_array_equal(part, whole[y : y + part.shape[0], x : x + part.shape[1]])
        return blurred(part, scale)

    made = in_tiles(whole, enlarge, scale, tile=32, overlap=10, margin=3)
    expected = np.rint(blurred(whole, scale))
    assert made.shape == expected.shape and np.abs(made - expected).max() <= 1
    assert all(max(sides) <= 32 for sides in seen)
    assert (len(seen) == 1) == (max(size) <= 32)


def test_what_fits_a_tile_is_not_cut():
    """A picture as large as a tile is enlarged once, as it is."""
    whole = picture(32, 20)
    np.testing.assert_array_equal(
        in_tiles(whole, lambda part, y, x: part.astype(np.float32), 1, 32, 8), whole
    )


@pytest.mark.parametrize(("overlap", "margin"), [(6, 3), (20, 2)])
def test_sizes_that_do_not_go_together(overlap: int, margin: int):
    """Tiles that could not fade into each other are refused."""
    with pytest.raises(ValueError, match="expected 2 · margin < overlap ≤ tile / 2"):
        in_tiles(
            picture(64, 64), lambda part, y, x: part.astype(np.float32), 1, 32, overlap, margin
        )
