import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from infra.interpolation import psnr
from infra.mini.data import TEST_SEED, scene_list
from infra.mini.scenes import draw
from tasks import spatial_sr
from tasks.spatial_sr import upscale, upscale_chunks


def clip(count: int = 3, height: int = 8, width: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", [2, 4])
def test_each_frame_is_enlarged_by_lanczos(scale: int) -> None:
    """Every frame equals Pillow's Lanczos enlargement of it; twice the same bytes."""
    frames = clip()
    larger = upscale(frames, scale, "lanczos")
    assert larger.shape == (3, 8 * scale, 16 * scale, 3) and larger.dtype == np.uint8
    for before, after in zip(frames, larger, strict=True):
        size = (16 * scale, 8 * scale)
        expected = Image.fromarray(before).resize(size, Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(after, np.asarray(expected))
    assert upscale(frames, scale, "lanczos").tobytes() == larger.tobytes()


def test_scale_1_changes_nothing_and_a_still_stays_still() -> None:
    """Scale 1 is the same array; equal frames stay equal; a flat colour stays that colour."""
    frames = clip()
    assert upscale(frames, 1) is frames
    still = upscale(np.repeat(frames[:1], 3, 0), 2)
    assert (still == still[0]).all()
    flat = upscale(np.full((1, 8, 8, 3), 200, np.uint8), 4).astype(int)
    assert np.abs(flat - 200).max() <= 3


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
        with pytest.raises(
            ValueError, match=r"expected one of mini-sr, lanczos, .*found 'bicubic'"
        ):
            upscale(clip(), scale, method="bicubic")


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


@pytest.mark.parametrize(("scale", "decibels"), [(2, 1.5), (4, 1.0)])
def test_mini_sr_beats_lanczos_on_scenes(scale: int, decibels: float) -> None:
    """The default finds back a held-out scene that was reduced by averaging, nearer to the truth than
    Lanczos by 1.5 dB at ×2 and 1 dB at ×4; noise comes back as large as asked for."""
    gains: list[float] = []
    for scene in scene_list(TEST_SEED, 8, start=70_000):
        truth = draw(scene, 64 * scale)
        small = cv2.resize(truth, (64, 64), interpolation=cv2.INTER_AREA)[None]
        made, lanczos = upscale(small, scale)[0], upscale(small, scale, "lanczos")[0]
        gains.append(psnr(made, truth) - psnr(lanczos, truth))
    assert np.mean(gains) >= decibels, gains
    assert upscale(clip(1, 9, 13), scale).shape == (1, 9 * scale, 13 * scale, 3)


@pytest.mark.parametrize("scale", [2, 4])
def test_mini_sr_in_tiles_is_as_untiled(scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into tiles a frame comes out as whole, within 1/255."""
    frames = clip(1, 120, 200)
    whole = upscale(frames, scale)
    monkeypatch.setattr("zs2.upscaler.MINI_TILE", 96)
    spatial_sr._loaded.cache_clear()
    tiled = upscale(frames, scale)
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    assert (tiled == whole).mean() > 0.99


def test_mini_sr_gives_the_same_bytes_with_any_threads() -> None:
    """The threads of torch, and what was enlarged before, decide nothing."""
    frames, threads = clip(2, 24, 40), torch.get_num_threads()
    first = upscale(frames, 2).tobytes()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            upscale(clip(1, 16, 16), 2)
            assert upscale(frames, 2).tobytes() == first
            assert upscale(frames[1:], 2).tobytes() == first[len(first) // 2 :]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("scale", [1, 2])
def test_chunks_give_the_whole_clips_frames(scale: int) -> None:
    """However a clip is cut into chunks, its frames and bytes are those of the whole clip."""
    frames = clip(5)
    for chunks in ([frames], np.split(frames, 5), np.split(frames, [2])):
        made = list(upscale_chunks(iter(chunks), scale))
        np.testing.assert_array_equal(np.concatenate(made), upscale(frames, scale))


def test_chunks_of_several_sizes_are_refused() -> None:
    """ValueError that says both sizes; settings are refused before a chunk is read."""
    with pytest.raises(ValueError, match="expected all of one size, 8×16; found a chunk of 16×8"):
        list(upscale_chunks([clip(), clip(1, 16, 8)], 2))
    with pytest.raises(ValueError, match="spatial_scale: expected one of 1, 2, 4; found 3"):
        upscale_chunks([], 3)
