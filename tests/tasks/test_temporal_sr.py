import cv2
import numpy as np
import pytest

from tasks.temporal_sr import interpolate

MOTIONS = ("translation", "rotation", "zoom", "warp", "layers", "fast", "flat")


def texture(size: int, seed: int) -> np.ndarray:
    """Random RGB with detail at several scales, float32 0-255."""
    rng, total = np.random.default_rng(seed), np.zeros((size, size, 3), np.float32)
    for blur in (1.5, 4, 12):
        octave = cv2.GaussianBlur(rng.normal(size=total.shape).astype(np.float32), (0, 0), blur)
        total += octave / octave.std()
    return np.clip((total - total.mean()) / total.std() * 45 + 128, 0, 255)


def look(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float32), y.astype(np.float32)
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def disc(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.clip(0.5 - (np.hypot(x, y) - radius), 0, 1)[..., None]


def moment(motion: str, size: int, t: float) -> np.ndarray:
    """The picture of a known motion at time t in frames, float."""
    ground, figure = texture(2 * size, 1), texture(2 * size, 2)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    middle, unit = (size - 1) / 2, size / 64
    dx, dy = x - middle, y - middle
    if motion == "translation":
        return look(ground, x + size / 2 + 2.6 * unit * t, y + size / 2 - 1.3 * unit * t)
    if motion == "rotation":
        c, s = np.cos(np.deg2rad(4 * t)), np.sin(np.deg2rad(4 * t))
        return look(ground, size + c * dx - s * dy, size + s * dx + c * dy)
    if motion == "zoom":
        return look(ground, size + dx * 1.05**-t, size + dy * 1.05**-t)
    if motion == "warp":  # non-rigid: waves that grow with time
        wave, height = 3 * np.pi / size, 1.5 * unit * (1 + t)
        across, along = height * np.sin(wave * y + 1), height * np.cos(wave * x)
        return look(ground, x + size / 2 + across, y + size / 2 + along)
    if motion in ("layers", "fast"):  # a textured disc over a textured ground, each its own way
        speed = 3 if motion == "layers" else 5
        ahead, down = middle + (speed * t - 4) * unit, middle + unit * t
        cover = disc(x - ahead, y - down, size / 5)
        behind = look(ground, x + size / 2 - unit * t, y + size / 2)
        return behind + cover * (look(figure, x - ahead + size, y - down + size) - behind)
    cover = disc(
        x - size * 0.3 - 2.5 * unit * t, dy - unit * t, size / 6
    )  # a plain disc, plain sky
    sky = np.stack([40 + y * 80 / size, 60 + y * 60 / size, 120 + y * 40 / size], -1)
    return sky + cover * (np.array([220, 60, 40]) - sky)


def clip(motion: str, size: int, times: np.ndarray) -> np.ndarray:
    frames = np.stack([moment(motion, size, float(t)) for t in times])
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def blend(frames: np.ndarray, scale: int) -> np.ndarray:
    """What anyone can do: the weighted mean of the two neighbours."""
    t = np.arange((len(frames) - 1) * scale + 1) / scale
    before = np.minimum(t.astype(int), len(frames) - 2)
    share = (t - before)[:, None, None, None]
    return np.rint(frames[before] * (1 - share) + frames[before + 1] * share).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


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
    with pytest.raises(ValueError, match="expected one of flow; found 'film'; set temporal_sr"):
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
