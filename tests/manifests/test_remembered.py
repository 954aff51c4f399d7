"""What is remembered between commands is a convenience: never half, never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.remembered import recall, remember


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_last_answer_of_a_kind_and_key_is_recalled(cache: Path):
    """Any text is a key; kinds do not mix; nothing but the answers is left in the cache."""
    assert recall("sizes", "a/b") == ""
    remember("sizes", "a/b", "1 µ")
    remember("sizes", "a/b", "2 µ")
    remember("names", "a/b", "x")
    assert (recall("sizes", "a/b"), recall("names", "a/b"), recall("sizes", "a")) == (
        "2 µ",
        "x",
        "",
    )
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 2


def test_a_cache_that_cannot_be_used_costs_only_time(cache: Path):
    """A file where the folder would be, and an answer that is no text, are as good as nothing."""
    remember("sizes", "a", "1")
    (kept,) = (path for path in cache.rglob("*") if path.is_file())
    kept.write_bytes(b"\xff\xfe")
    assert recall("sizes", "a") == ""
    remember("sizes", "a", "3")
    assert recall("sizes", "a") == "3"
    (cache / "zs2" / "names").write_text("")
    remember("names", "a", "1")
    assert recall("names", "a") == ""
