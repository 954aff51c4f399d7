"""The engine on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.run import _rows_to_render  # pyright: ignore[reportPrivateUsage]
from flows.errors import exit_code_of
from flows.settings import RenderSettings
from manifests.storage import RunFolder
from tests.flows.running import write_rows
from zs2.models import ModelError


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    return str(write_rows(tmp_path / "m.parquet", [{"id": "a", "prompt": "a red star"}]))


def test_a_missing_compiler_is_refused_before_anything_starts(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `render` on this machine and by `sample`, with what to install: no folder, no Ray, nothing
    sampled. A cluster's nodes have compilers of their own."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for words in (["render", manifest], ["sample", "a star"]):
        out = tmp_path / "out.mp4"
        done = CliRunner().invoke(app, [*words, "-o", str(out), "--engine", "compiled"])
        assert isinstance(done.exception, ModelError) and exit_code_of(done.exception) == 2
        assert "no no-such-compiler; install" in str(done.exception)
        assert not out.exists()
    options: dict[str, Any] = {"engine": "compiled", "ray_address": "ray.example:6379"}
    rows, _, first = _rows_to_render(manifest, RunFolder(tmp_path / "o"), RenderSettings(**options))
    assert rows == 1 and first is not None and first.engine.engine == "compiled"


@pytest.mark.parametrize("command", [["sample", "a star"], ["render", "m.parquet"]])
def test_an_unknown_engine_is_refused(command: list[str], tmp_path: Path) -> None:
    """With those that there are."""
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "o.mp4"), "--engine", "fast"])
    assert done.exception is not None and exit_code_of(done.exception) == 2
    assert "--engine" in str(done.exception) and "'fast'" in str(done.exception)
    assert "compiled" in str(done.exception)
