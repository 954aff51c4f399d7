"""Short answers that take long to find, kept under `~/.cache/zs2` from one command to the next."""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4


def recall(kind: str, key: str) -> str:
    """What `remember` was last given for a key; "" where there is nothing or it cannot be read.

    Args:
        kind: of answer, the name of a folder.
    """
    try:
        return _place(kind, key).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def remember(kind: str, key: str, answer: str) -> None:
    """Keep an answer; the file appears whole or not at all."""
    place = _place(kind, key)
    aside = place.with_name(f".{uuid4().hex}")
    # a read-only or full home: the answer is found again next time, nothing else changes
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(answer, "utf-8")
        aside.replace(place)


def _place(kind: str, key: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    # a user without a home cannot write below /, and `remember` lives with that
    home = Path(os.environ.get("HOME", "/")) / ".cache"
    return (Path(root) if root else home) / "zs2" / kind / sha256(key.encode()).hexdigest()
