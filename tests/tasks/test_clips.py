"""Clips are written here by ffmpeg and PyAV in true formats, and read back."""

from __future__ import annotations

import math
import os
import subprocess
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from manifests.storage import SUFFIXES
from tasks.assemble import assemble, ffmpeg_executable
from tasks.clips import ClipError, read_clip, read_picture

SIDE = 32


def counting(count: int) -> np.ndarray:
    """Frames of one grey each, which tells the frame's number: up to 32 of them."""
    levels = 8 * np.arange(count, dtype=np.uint8) + 4
    return np.tile(levels[:, None, None, None], (1, SIDE, SIDE, 3))


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that `counting` frames carry, read from their middle."""
    middle = frames[:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4].mean((1, 2, 3))
    return np.rint((middle - 4) / 8).astype(int).tolist()


def read(path: Path, num_frames: int, fps: float = 8, height: int = SIDE, width: int = SIDE):
    return read_clip(path, num_frames=num_frames, fps=fps, height=height, width=width)


def write(
    path: Path,
    frames: np.ndarray,
    stamps: list[float],
    codec: str = "libx264",
    clock: int = 90_000,
    **options: str,
) -> Path:
    """A video whose frame i has the time stamp stamps[i], in seconds; the last one stays 1/24."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, clock)
        for picture, stamp in zip(frames, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(stamp * clock), Fraction(1, clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def convert(source: Path, target: Path, *options: str, before: tuple[str, ...] = ()) -> Path:
    """`source` through ffmpeg's command line."""
    command = [ffmpeg_executable(), "-v", "error", "-y", *before, "-i", str(source), *options]
    subprocess.run([*command, str(target)], check=True, timeout=60)
    return target


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".mp4", ["-c:v", "libx264"]),
        (".mov", ["-c:v", "prores_ks"]),
        (".mkv", ["-c:v", "copy"]),
        (".webm", ["-c:v", "libvpx-vp9", "-deadline", "realtime"]),
        (".avi", ["-c:v", "mpeg4", "-q:v", "2"]),
        (".ts", ["-c:v", "mpeg2video", "-q:v", "2", "-output_ts_offset", "5"]),
        (".gif", []),
        (".webp", ["-c:v", "libwebp_anim", "-lossless", "1"]),
        (".y4m", ["-pix_fmt", "yuv444p"]),
        (".h264", ["-c:v", "libx264"]),
        (
            ".10bit.mp4",
            ["-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=0"],
        ),
        (".grey.mkv", ["-c:v", "ffv1", "-pix_fmt", "gray"]),
        (".grey16.mkv", ["-c:v", "ffv1", "-pix_fmt", "gray16le"]),
    ],
)
def test_every_format_gives_its_frames(tmp_path: Path, suffix: str, options: list[str]) -> None:
    """At the clip's own rate frame i is the video's frame i, to the last one and whatever the
    container's clock rounds; at half of it every other one; one more than there are is an error."""
    source = assemble(counting(24), tmp_path / "source.mkv", fps=24, codec="ffv1").path
    path = convert(source, tmp_path / f"clip{suffix}", *options)
    assert numbers(read(path, 24, fps=24)) == list(range(24))
    assert numbers(read(path, 12, fps=12)) == list(range(0, 24, 2))
    with pytest.raises(ClipError, match=r"found 24 frames at 24 frames/s, about 1 s, where 25 "):
        read(path, 25, fps=24)


@pytest.mark.parametrize("codec", ["h264", "ffv1", "gif", "webp", "png"])
@pytest.mark.parametrize("fps", [8, 12.5, 23.976])
def test_what_zs2_wrote_is_read_back_frame_by_frame(tmp_path: Path, codec: str, fps: float) -> None:
    """A finished clip of any codec, read at its own rate, has its own frames."""
    clip = assemble(counting(20), tmp_path / f"clip{SUFFIXES[codec]}", fps, codec)
    assert numbers(read(clip.path, 20, fps)) == list(range(20))


@pytest.mark.parametrize("fps", [3, 8, 10, 24, 29.97, 60])
@pytest.mark.parametrize("source", [10, 24, 30])
def test_frame_i_is_what_the_video_shows_at_i_over_fps(
    tmp_path: Path, source: int, fps: float
) -> None:
    """At rates below, equal to and above the video's: the last picture whose time, from that of the
    first picture (here 3.7 s), is not after i/fps."""
    stamps = [3.7 + i / source for i in range(30)]
    path = write(tmp_path / "clip.mkv", counting(30), stamps, "ffv1")
    wanted = math.ceil((29 / source + 1 / 24) * fps - 0.05)
    shown = [min(29, math.floor(i / fps * source + 1e-3)) for i in range(wanted)]
    assert numbers(read(path, wanted, fps)) == shown


def test_time_counts_from_the_first_picture(tmp_path: Path) -> None:
    """Sound that begins half a second before the pictures does not delay them."""
    video = write(tmp_path / "video.mkv", counting(8), [i / 8 for i in range(8)], "ffv1")
    sound = ("-f", "lavfi", "-i", "anullsrc=d=2", "-itsoffset", "0.5")
    streams = ("-map", "1:v", "-map", "0:a", "-c:v", "copy", "-c:a", "flac")
    path = convert(video, tmp_path / "clip.mkv", *streams, before=sound)
    assert numbers(read(path, 8)) == list(range(8))


def test_a_variable_rate_is_followed(tmp_path: Path) -> None:
    """Pictures that stay for different times are shown for those times; a picture too short for the
    rate is passed over."""
    stamps = [2.0, 2.5, 2.63, 2.7, 3.5, 4.0]
    for name, codec in (("clip.mkv", "ffv1"), ("clip.mp4", "libx264")):
        path = write(tmp_path / name, counting(6), stamps, codec)
        assert numbers(read(path, 17, fps=8)) == [0] * 4 + [1] * 2 + [3] * 6 + [4] * 4 + [5]


def quarters(height: int, width: int) -> np.ndarray:
    """One frame with a colour in each quarter: red, green / blue, white."""
    frame = np.zeros((1, height, width, 3), dtype=np.uint8)
    frame[:, : height // 2, : width // 2] = [200, 0, 0]
    frame[:, : height // 2, width // 2 :] = [0, 200, 0]
    frame[:, height // 2 :, : width // 2] = [0, 0, 200]
    frame[:, height // 2 :, width // 2 :] = 200
    return frame


def lossless(path: Path, frames: np.ndarray) -> Path:
    """The frames as an ffv1 video, or as images in a folder where `path` has no suffix."""
    return assemble(frames, path, fps=8, codec="ffv1" if path.suffix else "png").path


@pytest.mark.parametrize("name", ["clip.mkv", "images"])
@pytest.mark.parametrize("size", [(48, 32), (32, 50), (33, 57), (64, 96), (24, 16), (8, 400)])
def test_pictures_are_scaled_to_cover_and_cut_at_the_centre(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    """The middle of the picture stays in the middle, within the half pixel that scaling moves it,
    whatever the shape of the source; where its short side is the frame's, no pixel is changed."""
    source = quarters(*size)
    frame = read(lossless(tmp_path / name, source), 1)[0].astype(int)
    near, far = slice(2, SIDE // 2 - 3), slice(SIDE // 2 + 3, SIDE - 2)
    parts = [frame[y, x] for y in (near, far) for x in (near, far)]
    for part, colour in zip(parts, quarters(2, 2)[0].reshape(4, 3), strict=True):
        assert np.abs(part - colour).max() <= 40  # the overshoot of bicubic edges
    if min(size) == SIDE:
        top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        assert np.array_equal(frame, source[0, top : top + SIDE, left : left + SIDE])


def test_odd_sizes_are_kept_to_the_last_pixel(tmp_path: Path) -> None:
    """A grey video whose chroma is halved, of 33×33 pixels, read at its own size, is itself."""
    source = np.repeat(quarters(33, 33)[..., :1], 3, axis=-1)
    path = write(tmp_path / "clip.webm", source, [0], "libvpx-vp9", clock=1000, lossless="1")
    assert np.abs(read(path, 1, height=33, width=33).astype(int) - source).max() <= 2


def test_a_strip_is_cut_before_it_is_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16×16384 pixels are enlarged to 512×512 by an ffmpeg that may not have 800 MB; scaled to cover
    they would be 512×524288, 1 GB."""
    path = lossless(tmp_path / "strip.mkv", quarters(16, 16384))
    poor = tmp_path / "ffmpeg"
    poor.write_text(f'#!/bin/bash\nulimit -v 800000\nexec {ffmpeg_executable()} "$@"')
    poor.chmod(0o755)
    monkeypatch.setenv("ZS2_FFMPEG", str(poor))
    assert read(path, 1, height=512, width=512).shape == (1, 512, 512, 3)


def test_pictures_come_upright(tmp_path: Path) -> None:
    """A phone's video with a display matrix, and an image with an EXIF orientation, are turned as
    they ask; pixels that are not square are made square."""
    video = lossless(tmp_path / "clip.mkv", quarters(32, 32))
    turned = convert(video, tmp_path / "turned.mp4", "-c:v", "libx264", "-qp", "0")
    turned = convert(
        turned, tmp_path / "phone.mp4", "-c", "copy", before=("-display_rotation", "-90")
    )
    corners = [(8, 8), (8, 24), (24, 8), (24, 24)]
    frame = read(turned, 1)[0].astype(int)
    red, green, blue, white = quarters(2, 2)[0].reshape(4, 3)
    for (y, x), colour in zip(corners, (blue, red, white, green), strict=True):  # clockwise
        assert np.abs(frame[y, x] - colour).max() <= 12

    image = Image.fromarray(quarters(32, 32)[0])
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned clockwise
    image.save(tmp_path / "photo.png", exif=exif)
    frame = read(tmp_path / "photo.png", 1)[0]
    for (y, x), colour in zip(corners, (blue, red, white, green), strict=True):
        assert np.array_equal(frame[y, x], colour)

    wide = np.repeat(quarters(32, 32), 2, axis=2)  # a picture 2:1 as it should be seen
    narrow = convert(
        lossless(tmp_path / "n.mkv", wide[:, :, ::2]), tmp_path / "s.mkv", "-vf", "setsar=2"
    )
    shown, meant = (
        read(path, 1, width=64) for path in (narrow, lossless(tmp_path / "w.mkv", wide))
    )
    assert np.abs(shown.astype(int) - meant)[:, :, [8, 24, 40, 56]].max() <= 3


@pytest.mark.parametrize("name", ["clip.gif", "clip.mov", "clip.webp", "images/0.png"])
def test_what_is_transparent_is_black(tmp_path: Path, name: str) -> None:
    """A white square on nothing, white underneath: the square stays, the rest is black."""
    rgba = np.full((SIDE, SIDE, 4), 255, dtype=np.uint8)
    rgba[..., 3] = 0
    rgba[8:24, 8:24, 3] = 255
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".mov":
        Image.fromarray(rgba).save(tmp_path / "0.png")
        convert(tmp_path / "0.png", path, "-c:v", "qtrle", before=("-framerate", "8"))
    else:
        Image.fromarray(rgba).save(path, lossless=True)
    frame = read(path, 1)[0]
    assert frame[10:22, 10:22].min() == 255
    frame[8:24, 8:24] = 0
    assert frame.max() == 0


def test_ten_bits_grey_and_palettes(tmp_path: Path) -> None:
    """A grey ramp of 16 bits comes out as the same ramp of 8, from an image as from a video."""
    ramp = np.tile(np.linspace(0, 65535, SIDE).astype(np.uint16), (SIDE, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    video = convert(
        tmp_path / "ramp.png", tmp_path / "ramp.mkv", "-c:v", "ffv1", "-pix_fmt", "gray16le"
    )
    Image.fromarray((ramp >> 8).astype(np.uint8)).convert("P").save(tmp_path / "palette.png")
    for path, most in ((tmp_path / "ramp.png", 0), (video, 1), (tmp_path / "palette.png", 1)):
        found = read(path, 1)[0].astype(int)
        assert np.abs(found - np.rint(ramp / 257)[..., None]).max() <= most


def test_same_file_same_bytes(tmp_path: Path) -> None:
    """Twice the same clip, with scaling and resampling: equal to the byte."""
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (12, 60, 90, 3), dtype=np.uint8)
    for codec in ("h264", "gif", "png"):
        path = assemble(clip, tmp_path / f"clip{SUFFIXES[codec]}", 12, codec).path
        first, second = (read(path, 7) for _ in range(2))
        assert np.array_equal(first, second)


def test_images_in_natural_order(tmp_path: Path) -> None:
    """2.png comes before 10.png; hidden files, folders and other suffixes are passed over; suffixes
    may be written large; images past num_frames are not opened."""
    names = ["frame 1.png", "frame 2.PNG", "frame 10.png", "frame 11.png"]
    for name, picture in zip(names, counting(4), strict=True):
        Image.fromarray(picture).save(tmp_path / name, format="PNG")
    (tmp_path / ".frame 0.png").write_bytes(b"hidden")
    (tmp_path / "frame 0.txt").write_text("other")
    (tmp_path / "frame 0.png").mkdir()
    (tmp_path / "frame 12.png").write_bytes(b"damaged")
    assert numbers(read(tmp_path, 4)) == [0, 1, 2, 3]
    with pytest.raises(ClipError, match=r"frame 12\.png.*cannot be read .*replace it"):
        read(tmp_path, 5)
    with pytest.raises(ClipError, match=r"found 5 images .* where 6 are needed; add images"):
        read(tmp_path, 6)


SECRET = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n"
PLAYLISTS = {
    "hls": SECRET,
    "concat": "ffconcat version 1.0\nfile {0}\n",
    "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"><image href="{0}"/></svg>',
    "text": "a cat\n",
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".txt", ".png"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_file_that_names_others_reads_none(tmp_path: Path, kind: str, suffix: str) -> None:
    """Playlists, scripts and texts are refused whatever their suffix, also where they name a good
    video in their own folder."""
    write(tmp_path / "secret.mp4", counting(8), [i / 8 for i in range(8)])
    path = tmp_path / f"clip{suffix}"
    path.write_text(PLAYLISTS[kind].format("secret.mp4"))
    with pytest.raises(ClipError, match=r"clip.*expected .*found .*; (convert|replace) it"):
        read(path, 2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "found nothing; correct the path"),
        ("empty", r"cannot decode .*; convert it"),
        ("text", r"(another format|cannot decode).*; convert it"),
        ("sound", "a file without video in it; name one that has pictures"),
        ("half", r"cannot decode .*moov atom not found"),
        ("cut", r"found \d frames at 8 frames/s, about .* where 8 frames are needed; use a longer"),
        ("pipe", "neither a file nor a folder"),
        ("no images", r"found 0 images \(\.png, .*where 8 are needed"),
        ("large", r"cannot decode .*max pixel count.*; convert it"),
        ("large image", "more than 67108864 pixels; reduce"),
        ("changing", "changes its picture size or colours on the way; convert it"),
        ("other image", r"expected a picture, found one that cannot be read .*; replace it"),
        ("bomb", "more than 67108864 pixels; reduce"),
    ],
)
def test_what_cannot_be_used_is_an_error(tmp_path: Path, kind: str, message: str) -> None:
    """Each says the path, what was expected, what was found and what to do."""
    path = tmp_path / "clip.mp4"
    whole = write(tmp_path / "whole.mkv", noise(8), [i / 8 for i in range(8)], g="1")
    match kind:
        case "empty":
            path.touch()
        case "text":
            path.write_text("no video\n" * 100)
        case "sound":
            silence = ("-f", "lavfi")
            convert(Path("anullsrc=d=1"), path, "-c:a", "aac", before=silence)
        case "half":
            data = convert(whole, path, "-c", "copy").read_bytes()
            path.write_bytes(data[: len(data) // 2])
        case "cut":
            data = whole.read_bytes()
            path.write_bytes(data[: len(data) // 2])
        case "pipe":
            os.mkfifo(path)
        case "no images":
            path.mkdir()
            (path / "a.txt").touch()
        case "large":
            path = tmp_path / "clip.gif"
            Image.new("P", (8, 8)).save(path)
            data = path.read_bytes()
            path.write_bytes(data[:6] + (8200).to_bytes(2, "little") * 2 + data[10:])
        case "changing":  # as recordings of calls do
            path = tmp_path / "clip.ts"
            parts = [
                convert(whole, tmp_path / f"{i}.ts", "-s", size)
                for i, size in enumerate(("32x32", "64x48"))
            ]
            path.write_bytes(b"".join(part.read_bytes() for part in parts))
        case "other image":
            path = tmp_path / "clip.png"  # stands for formats whose readers run other programs
            Image.new("RGB", (8, 8)).save(path, format="PPM")
        case "large image" | "bomb":
            path = tmp_path / "clip.png"
            side = 8200 if kind == "large image" else 14_000
            Image.new("1", (side, side)).save(path)
        case _:
            pass
    with pytest.raises(ClipError, match=message) as caught:
        read(path, 8)
    expected = "a picture" if path.suffix == ".png" else "a video or a folder of images"
    assert str(caught.value).startswith(f"{path}: expected {expected}, found ")


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_decoding_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ffmpeg that goes on and on is ended, and the message says after how long; a video of a
    day is read no further than its frames are wanted."""
    path = write(tmp_path / "clip.mkv", counting(3), [0, 0.5, 86_400], "ffv1", clock=1000)
    assert numbers(read(path, 8)) == [0] * 4 + [1] * 4
    real, slow = ffmpeg_executable(), tmp_path / "ffmpeg"
    slow.write_text(
        f'#!/bin/bash\ncase "$*" in *-encoders*) exec {real} "$@";; esac\nexec sleep 60'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("ZS2_FFMPEG", str(slow))
    monkeypatch.setattr("tasks.clips._SECONDS", 0.1)
    monkeypatch.setattr("tasks.clips._SECONDS_A_FRAME", 0.1)
    begun = time.monotonic()
    with pytest.raises(ClipError, match=r"no end of decoding after 0\.9 s; use a shorter"):
        read(path, 8)
    assert time.monotonic() - begun < 30


def test_odd_names(tmp_path: Path) -> None:
    """Names that mean something to ffmpeg or a shell are only names."""
    for name in ("-i.mkv", "50%d: a b.mkv", "concat:a|b.mkv", "é'\".mkv"):
        path = write(tmp_path / name, counting(2), [0, 0.125], "ffv1")
        assert numbers(read(path, 2)) == [0, 1]


def test_a_single_picture_is_a_folders_picture_at_its_own_size(tmp_path: Path) -> None:
    """read_picture turns, flattens and refuses as read_clip does; its size is the picture's own."""
    turned = Image.new("RGBA", (20, 10), (200, 0, 0, 255))
    turned.paste((0, 0, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    picture = read_picture(tmp_path / "a.png")
    assert picture.shape == (20, 10, 3)
    (frame,) = read_clip(tmp_path / "a.png", num_frames=1, fps=8, height=20, width=10)
    assert np.array_equal(picture, frame)
    assert set(map(tuple, picture.reshape(-1, 3))) == {(200, 0, 0), (0, 0, 0)}
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ClipError, match=r"b\.png: .*cannot be read"):
        read_picture(tmp_path / "b.png")
