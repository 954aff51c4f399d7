"""manifests.run_file: JSON files of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.run_file import read_json, write_json
from manifests.storage import StorageError


def test_what_is_written_is_read_and_leaves_no_other_file(tmp_path: Path):
    """Written aside and renamed over what stood there."""
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": ["é", None]})
    assert read_json(path) == {"a": ["é", None]}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path):
    """Whole or not at all."""
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}


def test_a_missing_file_is_none_and_a_broken_one_an_error(tmp_path: Path):
    """A folder that never had a run, and one that somebody damaged."""
    path = tmp_path / "run.json"
    assert read_json(path) is None
    for content in (b"{", b"[]", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(StorageError, match=r"run\.json"):
            read_json(path)
