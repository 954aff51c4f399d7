from pathlib import Path

import cv2
import numpy as np
import pytest

from infra.interpolation import MOTIONS, blend, clip, psnr, texture
from tasks.temporal_sr import interpolate, interpolate_chunks
from tests.tiny_interpolators import script
from zs2.models import ModelError


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("motion", MOTIONS)
def test_in_betweens_beat_frame_blending_by_4_db(motion: str, scale: int) -> None:
    """On known motions, at 64 and 96 pixels, the new frames are at least 4 dB PSNR nearer to the
    true in-betweens than the blend of their neighbours is."""
    for size in (64, 96):
        truth = clip(motion, size, np.arange(2 * scale + 1) / scale)
        new = np.arange(len(truth)) % scale != 0
        made, blended = interpolate(truth[::scale], scale), blend(truth[::scale], scale)
        gain = psnr(made[new], truth[new]) - psnr(blended[new], truth[new])
        assert gain >= 4, f"{motion}, {size} px, ×{scale}: {gain:.2f} dB"


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_given_frames_stay_in_their_places(scale: int) -> None:
    """n frames become (n−1)·scale+1, and every scale-th is the given one, bit for bit."""
    frames = clip("layers", 64, np.arange(4))
    result = interpolate(frames, scale)
    assert result.shape == (3 * scale + 1, 64, 64, 3) and result.dtype == np.uint8
    np.testing.assert_array_equal(result[::scale], frames)


def test_a_still_clip_stays_still() -> None:
    """A clip of equal frames comes back as equal frames, bit for bit."""
    frames = np.repeat(clip("layers", 64, np.arange(1)), 3, 0)
    result = interpolate(frames, 4)
    assert len(result) == 9 and (result == frames[0]).all()


def test_what_does_not_move_stays_still_around_what_does() -> None:
    """Far from a moving disc the ground of the in-betweens is the ground, within one grey level."""
    frames = clip("flat", 64, np.arange(2)).copy()
    ground = np.rint(texture(64, 3)).astype(np.uint8)
    frames[:, :, 40:] = ground[:, 40:]
    between = interpolate(frames, 4)[1:-1, :, 48:]
    assert np.abs(between.astype(int) - ground[:, 48:]).max() <= 1


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_no_ghost_across_a_cut(scale: int) -> None:
    """Between two shots there are copies of the first up to the middle, then of the second, while
    motion on either side of the cut is interpolated."""
    shots = clip("translation", 64, np.arange(2)), clip("flat", 64, np.arange(2))
    result = interpolate(np.concatenate(shots), scale)
    across = result[scale : 2 * scale + 1]
    for k, frame in enumerate(across):
        np.testing.assert_array_equal(frame, across[0] if 2 * k <= scale else across[-1])
    for pair in (result[: scale + 1], result[2 * scale :]):
        assert all((frame != pair[0]).any() and (frame != pair[-1]).any() for frame in pair[1:-1])


def test_unrelated_pictures_are_cuts() -> None:
    """Every pair of unrelated textures, and of white noise, counts as a cut: nothing is invented."""
    for frames in (
        np.stack([np.rint(texture(64, seed)).astype(np.uint8) for seed in range(6)]),
        np.random.default_rng(0).integers(0, 256, size=(4, 64, 64, 3), dtype=np.uint8),
    ):
        result = interpolate(frames, 2)
        np.testing.assert_array_equal(result[1::2], frames[:-1])


def test_a_fast_pan_and_a_fade_are_no_cuts() -> None:
    """A pan of a tenth of the width, and a fade to half brightness, are interpolated."""
    big = np.rint(texture(128, 4)).astype(np.uint8)
    pan = np.stack([big[20:84, 20:84], big[20:84, 26:90]])
    fade = np.stack([big[:64, :64], big[:64, :64] // 2])
    for frames in (pan, fade):
        middle = interpolate(frames, 2)[1]
        assert (middle != frames[0]).any() and (middle != frames[1]).any()
    between = interpolate(fade, 2)[1].mean()
    assert fade[1].mean() + 5 < between < fade[0].mean() - 5


def test_one_frame_and_small_or_odd_sizes() -> None:
    """One frame stays one; frames under 8 pixels are held; 8×8 and odd sizes work."""
    frames = clip("translation", 64, np.arange(2))
    assert (interpolate(frames[:1], 8) == frames[:1]).all()
    tiny = interpolate(frames[:, :7, :7], 2)
    np.testing.assert_array_equal(tiny[1], frames[0, :7, :7])
    assert interpolate(frames[:, :8, :8], 2).shape == (3, 8, 8, 3)
    assert interpolate(frames[:, :33, :57], 4).shape == (5, 33, 57, 3)


def test_same_frames_same_bytes() -> None:
    """The result depends on the frames alone, not on what ran before or on OpenCV's threads."""
    frames = clip("layers", 96, np.arange(3))
    first = interpolate(frames, 4).tobytes()
    cv2.setNumThreads(4)
    interpolate(frames[::-1], 2)
    assert interpolate(frames, 4).tobytes() == first


@pytest.mark.parametrize("scale", [0, 3, 16, -2, 2.0, True, "2"])
def test_other_scales_are_refused(scale: object) -> None:
    """ValueError that names the scales there are and the one found."""
    with pytest.raises(ValueError, match=r"temporal_scale: expected one of 1, 2, 4, 8; found "):
        interpolate(clip("flat", 16, np.arange(2)), scale)  # pyright: ignore[reportArgumentType]


def test_other_methods_are_refused() -> None:
    """ValueError that names the methods there are, the one found, and a way out."""
    with pytest.raises(
        ValueError, match="expected one of flow, model:FILE; found 'film'; set temporal_sr"
    ):
        interpolate(clip("flat", 16, np.arange(2)), 2, method="film")


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        (np.zeros((8, 8, 3), np.uint8), r"uint8 \(8, 8, 3\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"uint8 \(0, 8, 8, 3\)"),
        (np.zeros((1, 8, 8, 4), np.uint8), r"uint8 \(1, 8, 8, 4\)"),
        (np.zeros((1, 8, 8, 3), np.float32), r"float32 \(1, 8, 8, 3\)"),
        ([], "list"),
    ],
)
def test_other_arrays_are_refused(frames: np.ndarray, found: str) -> None:
    """ValueError with the shape and type expected and found."""
    with pytest.raises(ValueError, match=rf"uint8 of shape .* at least one frame; found {found}"):
        interpolate(frames, 2)


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1), (5,), (2, 3), (4, 1)])
@pytest.mark.parametrize("scale", [1, 2])
def test_chunks_give_the_whole_clips_frames(cuts: tuple[int, ...], scale: int) -> None:
    """However a clip is cut into chunks, its frames and bytes are those of the whole clip."""
    frames = clip("layers", 32, np.arange(5))
    chunks = np.split(frames, np.cumsum(cuts)[:-1])
    made = list(interpolate_chunks(iter(chunks), scale))
    np.testing.assert_array_equal(np.concatenate(made), interpolate(frames, scale))


def test_chunks_come_as_they_are_asked_for() -> None:
    """Frames come out before the clip's later chunks are read, and none are held."""
    read = 0

    def source():
        nonlocal read
        for frame in clip("flat", 16, np.arange(6)):
            read += 1
            yield frame[None]

    made = interpolate_chunks(source(), 2)
    assert read == 0
    next(made)
    assert read == 1
    next(made)
    assert read == 2


def test_chunks_of_several_sizes_are_refused() -> None:
    """ValueError that says both sizes; settings are refused before a chunk is read."""
    chunks = [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 16, 3), np.uint8)]
    with pytest.raises(ValueError, match="expected all of one size, 8×8; found a chunk of 8×16"):
        list(interpolate_chunks(chunks, 2))
    with pytest.raises(ValueError, match="temporal_scale: expected one of 1, 2, 4, 8; found 3"):
        interpolate_chunks(chunks, 3)


def test_a_models_file_makes_the_frames_in_between(tmp_path: Path) -> None:
    """model:FILE gives the model's frames, in chunks as whole; given frames stay, between equal frames
    there are copies, across a cut the nearest frame is held."""
    path = script(tmp_path / "blend.pt")
    method, trusted = f"model:{path}", [str(path)]
    frames = clip("translation", 40, np.arange(3))
    frames = np.concatenate([frames, frames[-1:], clip("flat", 40, np.arange(1))])
    made = interpolate(frames, 4, method, trusted=trusted)
    np.testing.assert_array_equal(made[::4], frames)
    assert np.abs(made[:9].astype(int) - blend(frames[:3], 4)).max() <= 1
    assert (made[8:13] == frames[2]).all()
    assert (made[13:15] == frames[3]).all() and (made[15:] == frames[4]).all()
    chunks = interpolate_chunks(np.split(frames, 5), 4, method, trusted=trusted)
    np.testing.assert_array_equal(np.concatenate(list(chunks)), made)


def test_code_in_a_models_file_must_be_trusted(tmp_path: Path) -> None:
    """An untrusted TorchScript file is refused at once, before a frame is read."""
    path = script(tmp_path / "blend.pt")
    with pytest.raises(ModelError, match="found TorchScript, which carries code"):
        interpolate_chunks([], 2, f"model:{path}")
