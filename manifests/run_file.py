"""run.json: the manifest's identity, resolved settings and versions of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests.links import read_small
from manifests.storage import StorageError, write_aside


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object that a run wrote, or None where there is no such file.

    Raises:
        StorageError: something else stands there.
    """
    try:
        content = json.loads(read_small(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError, OSError) as error:
        raise StorageError(f"{path} cannot be read ({error}); remove it to start afresh") from error
    if not isinstance(content, dict):
        raise StorageError(f"{path} is not what a run writes; remove it to start afresh")
    return content


def read_derived(path: Path) -> dict[str, Any] | None:
    """As `read_json`, of a file that every run writes anew: damage is as good as absence."""
    try:
        return read_json(path)
    except StorageError:
        return None
