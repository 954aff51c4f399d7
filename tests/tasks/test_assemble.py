import hashlib
import math
import subprocess
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from manifests.storage import SUFFIXES
from tasks import encoding
from tasks.assemble import (
    Assembled,
    AssembleError,
    EncoderKilledError,
    assemble,
    decode,
    ffmpeg_executable,
)

CODECS = ("h264", "h265", "av1", "ffv1", "gif", "webp", "png")
MP4 = ("h264", "h265", "av1")


def chart(height: int = 64, width: int = 64) -> np.ndarray:
    """A smooth colour chart: hues from left to right, from dark to light from top to bottom."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    hue = np.stack([np.cos(2 * np.pi * (x - third / 3)) for third in range(3)], -1)
    return np.rint(255 * np.clip(y[..., None] * (0.6 + 0.4 * hue), 0, 1)).astype(np.uint8)


def moving(count: int = 6, height: int = 64, width: int = 64) -> np.ndarray:
    """A bright square that walks over the chart, two pixels a frame."""
    frames = np.repeat(chart(height, width)[None], count, 0)
    for i, frame in enumerate(frames):
        frame[4:12, 2 * i + 2 : 2 * i + 10] = [250, 220, 40]
    return frames


def noise(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(count, 64, 64, 3), dtype=np.uint8)


def write(
    folder: Path, frames: np.ndarray, codec: str, fps: float = 8, **more: object
) -> Assembled:
    return assemble(frames, folder / f"clip{SUFFIXES[codec]}", fps, codec, **more)  # pyright: ignore


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def script(folder: Path, body: str) -> str:
    """A program that lists the real ffmpeg's encoders and otherwise does as `body` says."""
    path = folder / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    listing = f'case "$*" in *-encoders*) exec {real} "$@";; esac'
    path.write_text(f"#!/bin/bash\n{listing}\nREAL={real}\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("case", ["moving", "still", "one frame"])
def test_round_trip(out: Path, codec: str, case: str) -> None:
    """Every codec keeps every frame, also equal neighbours and a single one; what is reported is
    what is on disk; lossless codecs are bit-exact, the lossy within 3/255 on average and a gif,
    which has 256 colours, within 6/255; the folder holds nothing else."""
    frames = {
        "moving": moving(),
        "still": np.repeat(chart()[None], 6, 0),
        "one frame": chart()[None],
    }[case]
    result = write(out, frames, codec)
    found, fps = decode(result.path)
    assert (result.num_frames, result.height, result.width, result.fps) == (len(frames), 64, 64, 8)
    assert found.shape == frames.shape and found.dtype == np.uint8
    error = np.abs(found.astype(int) - frames)
    most = {"ffv1": 0, "png": 0, "gif": 6}.get(codec, 3)
    assert error.mean() <= most
    if case == "still":
        assert np.abs(np.diff(found.astype(int), axis=0)).max() <= (2 if codec in MP4 else 0)
    if codec != "png" and (codec, case) != ("webp", "one frame"):
        assert fps == pytest.approx(8, rel=0.05)
    assert [path.name for path in out.iterdir()] == [result.path.name]


@pytest.mark.parametrize("codec", CODECS)
def test_same_frames_same_bytes(tmp_path: Path, codec: str) -> None:
    """Twice the same frames, in different folders: the same bytes, hash and size."""
    first, second = (write(tmp_path / name, moving(), codec, title="a") for name in ("x", "y"))
    assert first.sha256 == second.sha256 and first.bytes == second.bytes
    assert write(tmp_path / "z", moving()[::-1], codec).sha256 != first.sha256


def test_reported_hash_and_size_are_those_of_the_file(out: Path) -> None:
    """sha256 and bytes of a file are its own; of a folder, the hash of `sha256sum *` and the sum."""
    file = write(out, moving(), "h264")
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert file.bytes == file.path.stat().st_size
    folder = write(out, moving(), "png")
    listing = subprocess.run("sha256sum *", shell=True, cwd=folder.path, capture_output=True)
    assert folder.sha256 == hashlib.sha256(listing.stdout).hexdigest()
    assert folder.bytes == sum(path.stat().st_size for path in folder.path.iterdir())
    assert everything_in(folder.path) == [f"{i:05d}.png" for i in range(6)]


@pytest.mark.parametrize("codec", MP4)
def test_an_mp4_keeps_colours_and_says_which_they_are(out: Path, codec: str) -> None:
    """At the default quality a smooth colour chart is within 2/255 on average and 0.5/255 in every
    channel's mean; the stream is yuv420p, tagged BT.709, limited range, and so is the container, in a
    `colr` box; the index comes first. h265 is tagged hvc1."""
    frames = np.repeat(chart(128, 128)[None], 3, 0)
    result = write(out, frames, codec)
    error = decode(result.path)[0].astype(float) - frames
    assert np.abs(error).mean() <= 2
    assert np.abs(error.mean((0, 1, 2))).max() <= 0.5
    with av.open(str(result.path)) as container:
        frame = next(container.decode(video=0))
        tags = frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range
        assert tags == (1, 1, 1, 1) and frame.format.name == "yuv420p"
    data = result.path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    # ISO 14496-12, 12.1.5: kind, primaries, transfer and matrix, each 1 for BT.709, and no full range
    at = data.index(b"colr")
    assert data[at + 4 : at + 15] == b"nclx" + bytes((0, 1, 0, 1, 0, 1, 0))
    assert (b"hvc1" in data) == (codec == "h265")
    assert b"x265 (build" not in data


def test_quality_means_something(out: Path) -> None:
    """The defaults are those of the columns; h264, h265 and av1 get smaller and worse with more, webp larger
    and better; a codec without a quality does not look at it."""
    for codec, (fine, coarse) in {
        "h264": (10, 40),
        "h265": (10, 40),
        "av1": (10, 50),
        "webp": (95, 30),
    }.items():
        results = [write(out / str(q), moving(), codec, quality=q) for q in (fine, coarse)]
        assert results[0].bytes > results[1].bytes
        errors = [np.abs(decode(r.path)[0].astype(int) - moving()).mean() for r in results]
        assert errors[0] < errors[1]
    for codec, default in (("h264", 18), ("h265", 20), ("av1", 24), ("webp", 90), ("gif", 99)):
        explicit = write(out / "explicit", moving(), codec, quality=default)
        assert write(out / "default", moving(), codec).sha256 == explicit.sha256


@pytest.mark.parametrize("fps", [0.5, 7.5, 8, 23.976, 24, 25 / 3, 60])
@pytest.mark.parametrize("codec", ["h264", "h265", "av1", "ffv1", "gif", "webp"])
def test_rates(out: Path, codec: str, fps: float) -> None:
    """mp4 and mkv keep the rate (23.976 is 24000/1001); a GIF's frames together last n/fps to
    1/100 s and a WebP's to 1/1000 s."""
    result = write(out, moving(7), codec, fps)
    found = decode(result.path)[1]
    if codec not in ("gif", "webp"):
        assert found == pytest.approx(fps, rel=1e-4)
    else:
        assert 7 / found == pytest.approx(7 / fps, abs=0.0101 if codec == "gif" else 0.0021)


def test_animations_repeat_for_ever(out: Path) -> None:
    """GIF and WebP carry loop count 0."""
    for codec in ("gif", "webp"):
        with Image.open(write(out, moving(), codec).path) as picture:
            assert picture.info["loop"] == 0


@pytest.mark.parametrize("codec", CODECS)
def test_odd_sizes(out: Path, codec: str) -> None:
    """33×57 is kept, except in an mp4, where the last row and column stand twice: 34×58."""
    frames = moving(3, 33, 57)
    result = write(out, frames, codec)
    found, _ = decode(result.path)
    assert found.shape[1:3] == (result.height, result.width)
    assert (result.height, result.width) == ((34, 58) if codec in MP4 else (33, 57))
    assert np.abs(found[:, :33, :57].astype(int) - frames).mean() < 6


@pytest.mark.parametrize("codec", ["h264", "png"])
def test_what_stood_there_is_replaced_as_a_whole(out: Path, codec: str) -> None:
    """A second, shorter clip at the same path leaves nothing of the first; folders with odd names
    (%, :, spaces) are only names."""
    folder = out / "50%d: a b"
    write(folder, moving(6), codec)
    result = write(folder, moving(2), codec)
    assert len(decode(result.path)[0]) == 2
    assert [path.name for path in folder.iterdir()] == [result.path.name]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            'for a; do case "$a" in *.tmp-*) echo part > "$a";; esac; done; head -c 9999; kill -9 $$',
            r"ended by signal 9; try the row again",
        ),
        ("echo 'it went wrong' >&2; exit 7", r"failed with exit code 7; .*It said: it went wrong"),
        (
            "yes complaint | head -c 3000000 >&2; echo last words >&2; exit 1",
            r"(?s)exit code 1.{0,1700}last words$",
        ),
        ("exit 0", r"clip\S*: (written, but cannot be read again|expected 20 .* found 0 of 0×0)"),
        ('head -c 24576 | $REAL "$@"', r"expected 20 frames of 64×64, found 2 of 64×64"),
        # ulimit, with the signal ignored: every write past 1 KiB fails, as on a full disk
        ("ulimit -f 1; trap '' XFSZ; exec $REAL \"$@\"", r"ffmpeg failed.*It said: .*large"),
    ],
    ids=["killed", "error", "talkative", "no file", "fewer frames", "disk full"],
)
@pytest.mark.parametrize("codec", ["h264", "png"])
def test_a_failing_ffmpeg_leaves_nothing(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, body: str, message: str
) -> None:
    """However ffmpeg fails, without waiting for the other side of a pipe: an AssembleError that
    says how, no file, no temporary, no child left, and what stood at the path before still there."""
    running = children()  # Ray's, where other tests have started one
    before = write(out, moving(), codec)
    listing = everything_in(out)
    monkeypatch.setenv("ZS2_FFMPEG", script(tmp_path, body))
    with pytest.raises(AssembleError, match=message) as failure:
        write(out, noise(), codec, fps=20)
    # of all these only what came from outside is worth another attempt
    assert isinstance(failure.value, EncoderKilledError) == ("ended by signal" in message)
    assert everything_in(out) == listing
    assert len(decode(before.path)[0]) == 6
    assert children() <= running


def test_a_wrong_rate_is_noticed(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ffmpeg that writes another rate than asked for: AssembleError with both durations."""
    monkeypatch.setenv("ZS2_FFMPEG", script(tmp_path, '$REAL "${@/20\\/1/10\\/1}"'))
    for codec in ("h264", "h265", "av1", "ffv1", "gif", "webp"):
        with pytest.raises(
            AssembleError, match=r"expected 1.0000 s at 20 frames/s, found 2.0000 s"
        ):
            write(out, noise(), codec, fps=20)
    assert everything_in(out) == []


def test_a_long_gif(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clip with more frames than its palette is made of, every frame is there, in colours near its
    own, and what was stored meanwhile is gone."""
    monkeypatch.setattr(encoding, "PALETTE_FRAMES", 5)
    frames = moving(24)
    found, _ = decode(write(out, frames, "gif").path)
    assert found.shape == frames.shape and np.abs(found.astype(int) - frames).mean() <= 6
    assert everything_in(out) == ["clip.gif"]


@pytest.mark.parametrize("codec", CODECS)
def test_chunks_give_the_bytes_of_the_whole(tmp_path: Path, codec: str) -> None:
    """A clip that comes in chunks, however it is cut and odd as its sides are, is the same file."""
    frames = moving(7, 33, 57)
    whole = write(tmp_path / "whole", frames, codec)
    for cuts in ([1, 2, 3, 4, 5, 6], [3], [2, 6]):
        chunks = write(tmp_path / "chunks", iter(np.split(frames, cuts)), codec)  # pyright: ignore
        assert (chunks.sha256, chunks.num_frames) == (whole.sha256, 7)


@pytest.mark.parametrize("codec", ["h264", "png"])
@pytest.mark.parametrize("kind", [RuntimeError, OSError, BrokenPipeError])
def test_what_the_chunks_raise_passes_through(out: Path, codec: str, kind: type[Exception]) -> None:
    """Unchanged, at the first chunk or a later one: no file, no temporary, no ffmpeg left."""
    running = children()

    def chunks(before: int) -> Iterator[np.ndarray]:
        for _ in range(before):
            yield noise(20)
        raise error

    error = kind("a stage failed")
    for before in (0, 3):
        with pytest.raises(kind) as failure:
            write(out, chunks(before), codec)  # pyright: ignore
        assert failure.value is error
    assert everything_in(out) == [] and children() <= running


def test_a_failing_ffmpeg_ends_the_chunks(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ffmpeg that gives up stops the stages before it: a clip without an end does not go on."""
    monkeypatch.setenv("ZS2_FFMPEG", script(tmp_path, "exit 7"))
    with pytest.raises(AssembleError, match="exit code 7"):
        write(out, (noise(1) for _ in count()), "h264")  # pyright: ignore


def test_chunks_must_be_frames_of_one_size(out: Path) -> None:
    """ValueError for none at all, for another size on the way, for another kind."""
    for chunks, message in (
        ([], "at least one chunk"),
        ([noise(2), noise(2)[:, :32]], r"first of 64×64, found one of 32×64"),
        ([noise(2), noise(2)[:0]], "expected uint8 of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            write(out, iter(chunks), "h264")  # pyright: ignore
    assert everything_in(out) == []


def children() -> set[str]:
    """This thread's child processes, zombies too."""
    task = threading.get_native_id()
    return set(Path(f"/proc/self/task/{task}/children").read_text().split())


def test_a_folder_that_cannot_be_written(out: Path) -> None:
    """AssembleError with the path, the reason and the remedy."""
    (out / "file").write_text("not a folder")
    for codec in ("h264", "png"):
        with pytest.raises(AssembleError, match=r"file/clip.*cannot be written \(.*choose another"):
            write(out / "file", moving(), codec)


def test_a_missing_encoder_names_those_present(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AssembleError that names the encoder, the ffmpeg and the codecs that it can write."""
    path = tmp_path / "small-ffmpeg"
    path.write_text("#!/bin/sh\necho ' V....D gif  GIF'\necho ' VF...D png  PNG'\n")
    path.chmod(0o755)
    monkeypatch.setenv("ZS2_FFMPEG", str(path))
    with pytest.raises(AssembleError, match=r"libx264, found .*small-ffmpeg .* gif, png: "):
        write(tmp_path, moving(), "h264")
    assert ffmpeg_executable("gif") == str(path)
    bare = tmp_path / "bare-ffmpeg"
    bare.write_text("#!/bin/sh\necho ' D..... none  none'\n")
    bare.chmod(0o755)
    monkeypatch.setenv("ZS2_FFMPEG", str(bare))
    with pytest.raises(AssembleError, match="bare-ffmpeg without; install one with encoders, or"):
        ffmpeg_executable("gif")


def test_which_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$ZS2_FFMPEG first, then one on PATH that has the encoder, then the bundled one; a broken
    ffmpeg on PATH is passed over, a broken $ZS2_FFMPEG is an error."""
    bundled = imageio_ffmpeg.get_ffmpeg_exe()
    monkeypatch.delenv("ZS2_FFMPEG", raising=False)
    good, broken = tmp_path / "good", tmp_path / "broken"
    good.mkdir()
    broken.mkdir()
    script(good, 'exec $REAL "$@"')
    (broken / "ffmpeg").write_text("#!/bin/sh\nexit 1\n")
    (broken / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{good}:/usr/bin:/bin")
    assert ffmpeg_executable() == str(good / "ffmpeg")
    monkeypatch.setenv("PATH", f"{broken}:/usr/bin:/bin")
    assert ffmpeg_executable() == bundled
    monkeypatch.setenv("ZS2_FFMPEG", str(broken / "ffmpeg"))
    with pytest.raises(AssembleError, match=r"does not run .* point ZS2_FFMPEG"):
        ffmpeg_executable()


def test_bad_arguments_are_refused(out: Path) -> None:
    """ValueError with expected, found and a way out, before anything is written."""
    good = moving()
    for frames in (good[0], good[:0], good.astype(np.float32), good[..., :2]):
        with pytest.raises(ValueError, match="expected uint8 of shape"):
            write(out, frames, "h264")
    with pytest.raises(ValueError, match="'avi' is unknown; choose one of"):
        assemble(good, out / "x.avi", 8, "avi")
    for fps in (0, -8, math.nan, math.inf):
        with pytest.raises(
            ValueError, match=r"fps: expected 0.01 to 1000 frames/s for h264; found"
        ):
            write(out, good, "h264", fps)
    with pytest.raises(ValueError, match=r"fps: expected 0.01 to 100 frames/s for gif"):
        write(out, good, "gif", 120)
    with pytest.raises(ValueError, match=r"fps: expected 0\.01 to 240 frames/s for av1"):
        write(out, good, "av1", 300)
    for codec, least in (("h265", 32), ("av1", 16)):
        with pytest.raises(ValueError, match=f"sides of at least {least} pixels for {codec}"):
            write(out, good[:, :, :8], codec)
    for codec, most in (("h264", 51), ("h265", 51), ("av1", 63), ("webp", 100)):
        with pytest.raises(ValueError, match=rf"quality: expected 0 to {most} for {codec}; found"):
            write(out, good, codec, quality=most + 1)
    assert everything_in(out) == []
