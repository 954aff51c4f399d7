"""A folder of hostile files, and the canaries around it.

in/       the manifests' folder, with good.mp4 and everything hostile that rows may name
secret/   beside it: nothing in it may be opened, read or written
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import pickle
import select
import socket
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.tiny_models import ip2p

SIDE = 32
PICKLED = "pickles-that-ran"  # a file of the yard; there is none unless a pickle ran


class Yard:
    """The folders; `listener` is an address that nobody may connect to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inside = root / "in"
        self.secret = root / "secret"
        self.inside.mkdir(parents=True)
        self.secret.mkdir()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        ip2p(root).save_pretrained(root / "editor", safe_serialization=True)
        self.editor = str(root / "editor")
        _clips(self.inside, self.secret)
        _texts(self.inside, self.url)
        _pictures(self.inside)
        _links(self.inside, self.secret)
        _models(root, self.inside)
        self._watch = _watch(self.secret)
        self._before = self.contents()

    def contents(self) -> dict[str, tuple[int, int]]:
        """Every path of the yard with size and time of its last change."""
        found = sorted(self.inside.rglob("*"))
        return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in found}

    def assert_untouched(self) -> None:
        """Nobody connected, no pickle ran, nothing secret was opened, nothing anywhere changed."""
        assert not select.select([self._server], [], [], 0)[0], "somebody connected"
        assert not (self.root / PICKLED).exists(), "a pickle ran"
        assert not select.select([self._watch], [], [], 0)[0], "somebody opened a secret"
        assert self.contents() == self._before

    def close(self) -> None:
        self._server.close()
        os.close(self._watch)


def _watch(folder: Path) -> int:
    """An inotify handle that can be read once something in the folder was opened or changed."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    everything = 0x20 | 0x02 | 0x04 | 0x40 | 0x80 | 0x100 | 0x200  # open … delete
    assert libc.inotify_add_watch(handle, bytes(folder), everything) > 0
    return int(handle)


def write_video(path: Path, stamps: list[float] | None = None, codec: str = "libx264") -> Path:
    """A video of 16 grey frames at 8 frames/s, or of frames at these seconds."""
    stamps = stamps or [index / 8 for index in range(16)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for stamp in stamps:
            picture = np.full((SIDE, SIDE, 3), 90, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(stamp * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _clips(inside: Path, secret: Path) -> None:
    good = write_video(inside / "good.mp4")
    write_video(secret / "secret.mp4")
    (secret / "folder").mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(secret / "folder" / "0.png")
    data = good.read_bytes()
    for name in ("-i.mp4", "concat:good.mp4|good.mp4", "%d.mp4", "a;touch b$(touch c).mp4"):
        (inside / name).write_bytes(data)
    (inside / "zero.mp4").write_bytes(b"")
    (inside / "cut.mp4").write_bytes(data[: len(data) // 3])
    (inside / "lies.mp4").write_bytes(data.replace(b"stsz", b"stsz\0\0\0\0\xff\xff\xff\xff", 1))
    (inside / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    write_video(inside / "ages.mkv", [0.0, 1e6])
    with (inside / "huge.mp4").open("wb") as file:
        file.truncate(17 * 2**30)  # no block of it is on the disk
    frame = b"\x21\xf9\x04\x00\x0c\x00\x00\x00"  # 0.12 s
    frame += b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<2H3B", 1, 1, 0x80, 0, 0) + bytes(6)
    (inside / "long.gif").write_bytes(head + frame * 100_000 + b"\x3b")
    large = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(large, "JPEG")
    start = large.getvalue().index(b"\xff\xc0") + 5
    jpeg = bytearray(large.getvalue())
    jpeg[start : start + 4] = struct.pack(">2H", 16384, 16384)
    (inside / "wide.mjpeg").write_bytes(bytes(jpeg) * 16)
    (inside / "wide.jpg").write_bytes(jpeg)


def _texts(inside: Path, url: str) -> None:
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    texts = {
        "hls.mp4": hls.format("../secret/secret.mp4"),
        "hls.m3u8": hls.format(f"{url}/x.ts"),
        "concat.mp4": "ffconcat version 1.0\nfile ../secret/secret.mp4\n",
        "concat.txt": f"ffconcat version 1.0\nfile {url}/x.mp4\n",
        "stream.sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "dash.mpd": f"<MPD><Period><BaseURL>{url}/</BaseURL></Period></MPD>",
        "picture.svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}/x.png"/></svg>',
        "program.png": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file closefile\n",
        "text.mp4": "a cat\n" * 1000,
        "subtitles.mkv": "1\n00:00:00,000 --> 00:00:09,000\nfile:../secret/secret.mp4\n",
        "script.avs": 'DirectShowSource("../secret/secret.mp4")\n',
        "lavfi.mp4": "movie=../secret/secret.mp4\n",
    }
    for name, text in texts.items():
        (inside / name).write_text(text)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pictures(inside: Path) -> None:
    def png(width: int, height: int, *more: bytes) -> bytes:
        head = _chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
        rows = _chunk(b"IDAT", zlib.compress(bytes(100)))
        return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + rows + _chunk(b"IEND", b"")

    bomb = _chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(2**26), 9))
    (inside / "gigapixel.png").write_bytes(png(100_000, 100_000))
    (inside / "notes.png").write_bytes(png(1, 1, bomb))
    (inside / "cut.png").write_bytes(png(64, 64)[:60])
    tiff = io.BytesIO()
    Image.new("L", (4, 4)).save(tiff, "TIFF")
    for tag in (256, 257):  # width and height
        data = tiff.getvalue()
        start = data.index(struct.pack("<2HI", tag, 4, 1)) + 8
        tiff = io.BytesIO(data[:start] + struct.pack("<I", 2**30) + data[start + 4 :])
    (inside / "bomb.tiff").write_bytes(tiff.getvalue())
    (inside / "broken.webp").write_bytes(b"RIFF\xff\xff\xff\x7fWEBPVP8L" + bytes(50))


def _links(inside: Path, secret: Path) -> None:
    (inside / "link.mp4").symlink_to(secret / "secret.mp4")
    (inside / "linked").symlink_to(secret / "folder")
    (inside / "mixed").mkdir()
    for number in range(16):
        Image.new("RGB", (SIDE, SIDE)).save(inside / "mixed" / f"{number}.png")
    (inside / "mixed" / "99.png").symlink_to(secret / "folder" / "0.png")
    (inside / "loop.mp4").symlink_to("pool.mp4")
    (inside / "pool.mp4").symlink_to("loop.mp4")
    (inside / "zeros.mp4").symlink_to("/dev/zero")
    (inside / "empty").mkdir()
    (inside / "round").mkdir()
    (inside / "round" / "round").symlink_to(inside / "round")
    os.mkfifo(inside / "pipe.mp4")
    (inside / "pipes").mkdir()
    os.mkfifo(inside / "pipes" / "0.png")
    here = os.open(inside, os.O_RDONLY)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/socket.mp4")
    os.close(here)


class _Runs:
    """What a pickle of it does when it is loaded: it leaves a folder behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def _models(root: Path, inside: Path) -> None:
    code = pickle.dumps(_Runs(root / PICKLED))
    for name in ("model.ckpt", "model.safetensors", "lora.bin", "net.pth", "adapter.bin"):
        (inside / name).write_bytes(code)
    os.mkfifo(inside / "pipe.safetensors")
    header = json.dumps({"a": {"dtype": "F32", "shape": ["x", -1], "data_offsets": [0]}}).encode()
    (inside / "shapes.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    deep = b"[" * 200_000
    (inside / "deep.safetensors").write_bytes(struct.pack("<Q", len(deep)) + deep)
    (inside / "long.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    (inside / "depth").mkdir()
    (inside / "depth" / "config.json").write_text('{"architectures": ["DPTForDepthEstimation"]}')
    (inside / "depth" / "pytorch_model.bin").write_bytes(code)
    changes: dict[str, tuple[str, Any]] = {
        "m-code": ("model_index.json", {"unet": ["evil", "UNet"]}),
        "m-class": ("model_index.json", {"_class_name": ["evil", "Pipeline"]}),
        "m-nan": ("zs2.json", {"guidance_scale": float("nan")}),
        "m-tall": ("zs2.json", {"height": 10**9}),
        "m-steps": ("zs2.json", {"num_inference_steps": "many"}),
        "m-deep": ("vae/config.json", None),
        "m-pickled": ("", None),
        "m-disguised": ("", None),
        "m-pipe": ("", None),
    }
    for name, (file, values) in changes.items():
        folder = inside / name
        _copy(root / "editor", folder)
        if values is not None:
            path = folder / file
            known = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps({**known, **values}))
    (inside / "m-deep" / "vae" / "config.json").write_bytes(deep)
    weights = "unet/diffusion_pytorch_model.safetensors"
    (inside / "m-pickled" / weights).unlink()
    (inside / "m-pickled" / "unet" / "diffusion_pytorch_model.bin").write_bytes(code)
    (inside / "m-disguised" / weights).write_bytes(code)
    (inside / "m-pipe" / "unet" / "config.json").unlink()
    os.mkfifo(inside / "m-pipe" / "unet" / "config.json")


def _copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A manifest; columns that a row lacks are null, prompts are lists where one is."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    if any(isinstance(prompt, list) for prompt in columns["prompt"]):
        columns["prompt"] = [p if isinstance(p, list) else [p] for p in columns["prompt"]]
    pq.write_table(pa.table(columns), path)
    return path
