"""Digests: what tells one row's result from another's, and one model's weights from another's."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Generator, Mapping
from functools import lru_cache
from hashlib import blake2b, file_digest, sha256
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from manifests.remembered import recall, remember

DIGEST_LENGTH = 32  # hex characters: 128 bits, no collision to fear among 10^12 rows
CACHED_FROM = 64 * 2**20  # bytes; smaller files are hashed faster than it is worth remembering
_SETTLED = 2.0  # seconds; a file written this recently may change again within its mtime's tick
_NOT_WEIGHTS = frozenset({".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".mp4", ".tmp", ".lock"})

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical(value: Any) -> bytes:
    """JSON bytes that are equal where the values are: keys sorted, floats by repr, no spaces.

    Tuples are lists. 1 and 1.0 differ, so normalise numbers first.

    Raises:
        ValueError: NaN or infinity. TypeError: a value that JSON does not have.
    """
    return _encode(value).encode()


def canonical_form(value: str | float | tuple[Any, ...]) -> str:
    """As `canonical`, for texts, finite numbers and tuples of them alone: a third of the time, and it
    is taken for each row of a large manifest."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, tuple):
        return f"[{','.join(map(canonical_form, value))}]"
    return repr(value)


def open_form(mapping: Mapping[str, Any], names: Collection[str]) -> str:
    """The canonical form of a mapping with `%s` where the values of `names` stand, none of which may
    be missing. `form % values`, in the order of the sorted names, fills in canonical forms."""
    parts = [
        f"{_escaped(name)}:{'%s' if name in names else _escaped(mapping[name])}"
        for name in sorted(mapping)
    ]
    return f"{{{','.join(parts)}}}"


def _escaped(value: Any) -> str:
    return _encode(value).replace("%", "%%")


def digest_of(mapping: Mapping[str, Any]) -> str:
    """The digest of a mapping: 32 hex characters of the sha256 of its canonical form."""
    return digest_of_form(_encode(mapping))


def digest_of_form(form: str) -> str:
    """The digest of a mapping, from its canonical form."""
    return sha256(form.encode()).hexdigest()[:DIGEST_LENGTH]


@lru_cache(1)  # several tables are asked about one row before the next row comes
def id_hash(row_id: str) -> bytes:
    """16 bytes that stand for an id where millions are held."""
    return blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's content, in hex. Files of 64 MB and more are remembered by path, size
    and modification time under `~/.cache/zs2`."""
    path = Path(path)
    stat = path.stat()
    if stat.st_size < CACHED_FROM:
        return _hash(path)
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    remembered = recall("hashes", key)
    if len(remembered) == 64:
        return remembered
    content = _hash(path)
    if time.time() - stat.st_mtime > _SETTLED:
        remember("hashes", key, content)
    return content


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def folder_weights_hash(folder: str | Path) -> str:
    """What stands for a local model's revision: a hash over the names and contents of its files.

    Links are followed. Hidden files, READMEs, licences and pictures do not count. `folder` may also
    be one file (`.safetensors`), whose name then does not count either.

    Raises:
        FileNotFoundError: no such folder, or none of its files counts.
    """
    root = Path(folder)
    if root.is_file():
        return file_sha256(root)[:DIGEST_LENGTH]
    names = [path.relative_to(root) for path in _files(root) if path.is_file()]
    counted = {name.as_posix(): file_sha256(root / name) for name in names if _counts(name)}
    if not counted:
        raise FileNotFoundError(f"{root} holds no model files")
    return digest_of(counted)


def _files(folder: Path) -> Generator[Path]:
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        # a link to a folder around it would go on for ever
        folders[:] = [name for name in folders if not _holds(here / name, here)]
        yield from (here / name for name in files)


def _holds(folder: Path, other: Path) -> bool:
    """Whether a folder is another one or around it, links followed or not."""
    real = folder.resolve()
    return any(around.resolve().is_relative_to(real) for around in (other, *other.parents))


def content_hash(path: str | Path) -> str:
    """What tells one clip or picture from another: a file's content, whatever its name, or the names
    and contents of the files in a folder (not of folders in it, nor hidden ones).

    Raises:
        OSError: it cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return file_sha256(path)[:DIGEST_LENGTH]
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    return digest_of({file.name: file_sha256(file) for file in files})


def _counts(path: Path) -> bool:
    if any(part.startswith(".") for part in path.parts):
        return False
    name = path.name.lower()
    return path.suffix.lower() not in _NOT_WEIGHTS and not name.startswith(("readme", "license"))
