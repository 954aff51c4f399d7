"""The words in a finished file, so that a lone clip tells what it is and how to render it again.

Two texts, `title` and `comment`, each where its container has room for them: ffmpeg writes those of
mp4 and mkv; a GIF has both in one comment extension, as JSON in ASCII, which is all it may hold; a
WebP has them in XMP, as dc:title and dc:description; every PNG of a folder has them in text chunks.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import IO
from xml.etree import ElementTree
from xml.sax.saxutils import escape

MOST_BYTES = 32_000  # of a text; Linux refuses single arguments from 128 KiB on
KEYS = ("title", "comment")

_BLOCK = 2**20
_MOST_READ = 2**20  # bytes of words that a stranger's file may have
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_XMP_FIELDS = {"title": "title", "comment": "description"}
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class LabelError(ValueError):
    """A file that cannot be read as what its name says."""


def cleaned(text: str) -> str:
    """`text` as every container may hold it: no NUL, no lone surrogates, not too long."""
    data = text.replace("\0", " ").encode("utf-8", "replace")
    return data[:MOST_BYTES].decode("utf-8", "ignore")


def write_labels(path: Path, codec: str, title: str | None, comment: str | None) -> None:
    """Put the words into a gif, a webp or a folder of png that has just been written."""
    words = {key: cleaned(text) for key, text in zip(KEYS, (title, comment), strict=True) if text}
    if not words:
        return
    if codec == "gif":
        _insert(path, _after_gif_head(path), _gif_comment(json.dumps(words)))
    elif codec == "webp":
        _add_xmp(path, words)
    elif codec == "png":
        chunks = b"".join(_png_text(key.title(), text) for key, text in words.items())
        for file in path.iterdir():
            _insert(file, 33, chunks)  # after the signature and IHDR


def read_labels(path: Path) -> dict[str, str]:
    """A file's `title` and `comment`, as far as it has them; of a folder, those of its first PNG.

    Raises:
        LabelError: no file of its kind, or a damaged one.
        OSError: it cannot be read.
    """
    if path.is_dir():
        files = sorted(path.glob("*.png"), key=lambda file: (len(file.name), file.name))
        return read_labels(files[0]) if files else {}
    try:
        match path.suffix.lower():
            case ".gif":
                return _read_gif(path)
            case ".webp":
                return _read_webp(path)
            case ".png":
                return _read_png(path)
            case _:
                return _read_stream(path)
    except (ValueError, EOFError, struct.error, SyntaxError) as error:  # PyAV's, Pillow's, ours
        raise LabelError(f"{path}: cannot be read ({error})") from error


def _read_stream(path: Path) -> dict[str, str]:
    import av

    with av.open(str(path)) as container:
        found = {key.lower(): text for key, text in container.metadata.items()}
    return {key: found[key] for key in KEYS if found.get(key)}


def _read_png(path: Path) -> dict[str, str]:
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as picture:
        found = {str(key).lower(): text for key, text in picture.info.items()}
    return {key: str(found[key]) for key in KEYS if key in found}


def _png_text(keyword: str, text: str) -> bytes:
    """An iTXt chunk: UTF-8, not compressed, of no language."""
    body = b"iTXt" + keyword.encode() + b"\0\0\0\0\0" + text.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _gif_comment(text: str) -> bytes:
    data = text.encode("ascii")
    parts = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"\x21\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _after_gif_head(path: Path) -> int:
    """Where the extensions begin that are not an application's: it may want to be first."""
    with path.open("rb") as file:
        _skip_gif_screen(file)
        while (at := file.tell()) and file.read(2) == b"\x21\xff":
            _gif_blocks(file)
        return at


def _skip_gif_screen(file: IO[bytes]) -> None:
    head = _exactly(file, 13)
    if head[:3] != b"GIF":
        raise ValueError("no GIF")
    file.seek(3 * 2 ** ((head[10] & 7) + 1) if head[10] & 0x80 else 0, 1)


def _gif_blocks(file: IO[bytes]) -> bytes:
    data = b""
    while size := _exactly(file, 1)[0]:
        data += _exactly(file, size)
        if len(data) > _MOST_READ:
            raise ValueError(f"an extension of more than {_MOST_READ} bytes")
    return data


def _read_gif(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        _skip_gif_screen(file)
        while (kind := file.read(2)).startswith(b"\x21"):
            data = _gif_blocks(file)
            if kind == b"\x21\xfe" and data.startswith(b"{"):
                found = json.loads(data)
                return {key: found[key] for key in KEYS if isinstance(found.get(key), str)}
    return {}


def _add_xmp(path: Path, words: dict[str, str]) -> None:
    """A WebP's words at its end, and a head that announces them."""
    from PIL import Image

    with Image.open(path, formats=("WEBP",)) as picture:
        width, height = picture.size
    packet = _xmp(words)
    with path.open("r+b") as file:
        kind = file.read(16)[12:]
        file.seek(0, 2)
        file.write(b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2))
        if kind == b"VP8X":
            file.seek(20)
            flags = file.read(1)[0]
            file.seek(20)
            file.write(bytes([flags | 4]))
    if kind != b"VP8X":
        size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        _insert(path, 12, b"VP8X" + struct.pack("<I4B", 10, 4, 0, 0, 0) + size)
    with path.open("r+b") as file:
        file.seek(4)
        file.write(struct.pack("<I", path.stat().st_size - 8))


def _xmp(words: dict[str, str]) -> bytes:
    fields = "".join(
        f'<dc:{_XMP_FIELDS[key]}><rdf:Alt><rdf:li xml:lang="x-default">'
        f"{escape(_NO_XML.sub('�', text), {chr(13): '&#13;'})}</rdf:li></rdf:Alt>"
        f"</dc:{_XMP_FIELDS[key]}>"
        for key, text in words.items()
    )
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
        f'<rdf:Description xmlns:dc="{_DC}" rdf:about="">{fields}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def _read_webp(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        head = _exactly(file, 12)
        if head[:4] != b"RIFF" or head[8:] != b"WEBP":
            raise ValueError("no WebP")
        while len(chunk := file.read(8)) == 8:
            kind, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if kind == b"XMP ":
                return _words_of(_exactly(file, min(size, _MOST_READ)))
            file.seek(size + size % 2, 1)
    return {}


def _words_of(packet: bytes) -> dict[str, str]:
    if b"<!" in packet:  # entities, which only a bomb has
        raise ValueError("XMP with declarations")
    tree = ElementTree.fromstring(packet)
    found = {
        key: tree.findtext(f".//{{{_DC}}}{field}/{{{_RDF}}}Alt/{{{_RDF}}}li")
        for key, field in _XMP_FIELDS.items()
    }
    return {key: text for key, text in found.items() if text}


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("it ends too early")
    return data


def _insert(path: Path, at: int, data: bytes) -> None:
    """Put bytes into a file, whatever its size, a block at a time."""
    with path.open("r+b") as file:
        held = data
        while held:
            file.seek(at)
            block = file.read(max(_BLOCK, len(data)))
            file.seek(at)
            at += file.write((held + block)[: len(block)] if block else held)
            held = (held + block)[len(block) :] if block else b""
