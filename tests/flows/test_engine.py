"""The engine on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.run import _quick_look  # pyright: ignore[reportPrivateUsage]
from flows.errors import exit_code_of
from flows.settings import RenderSettings
from manifests.storage import RunFolder
from tests.flows.running import write_rows, zs2
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
    look = _quick_look(manifest, RunFolder(tmp_path / "o"), RenderSettings(**options))
    assert look.batches == 1 and look.first is not None and look.first.engine.engine == "compiled"


@pytest.mark.parametrize("command", [["sample", "a star"], ["render", "m.parquet"]])
def test_an_unknown_engine_is_refused(command: list[str], tmp_path: Path) -> None:
    """With those that there are."""
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "o.mp4"), "--engine", "fast"])
    assert done.exception is not None and exit_code_of(done.exception) == 2
    assert "--engine" in str(done.exception) and "'fast'" in str(done.exception)
    assert "compiled" in str(done.exception)


def test_several_clips_a_call_from_the_manifest_to_the_file(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A run that declares two makes each file that `sample` makes with two, whatever it was sampled with,
    and `show` gives the command that does; a second run with two has nothing to do, one without it all."""
    row = {"model": str(tiny_model), "num_frames": 3, "num_inference_steps": 2, "codec": "gif"}
    rows = [{"id": f"r{i}", "prompt": f"a {'b' * i}", **row} for i in range(3)]
    manifest, out = write_rows(tmp_path / "m.parquet", rows), tmp_path / "out"
    words = ("render", manifest, "-o", out, "--clips-per-call", 2)
    assert zs2(*words).code == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rendered"]["ok"] == 3 and summary["unet_calls"] == 2 * 2  # the second filled up
    shown = json.loads(zs2("show", out, "r2", "--json").out)
    assert shown["params"]["clips_per_call"] == 2
    again = shlex.split(shown["again"])
    assert again[-2:] == ["--clips-per-call", "2"]
    again[again.index("-o") + 1] = str(tmp_path / "r2.gif")
    assert zs2(*again[1:]).code == 0
    rendered = (tmp_path / "out" / shown["file_name"]).read_bytes()
    assert (tmp_path / "r2.gif").read_bytes() == rendered
    plan = ("plan", manifest, "-o", out, "--json")
    of_run = json.loads(zs2(*plan, "--clips-per-call", 2).out)
    assert of_run["done"] == 3 and of_run["rate_clips_per_call"] == 2
    assert of_run["pictures_per_second"] == summary["native_pictures_per_second"]
    (out / "summary.json").unlink()
    of_rows = json.loads(zs2(*plan, "--clips-per-call", 2).out)
    assert of_rows["rate_from"] != of_run["rate_from"]  # and counts the same pictures
    assert of_rows["pictures_per_second"] == pytest.approx(of_run["pictures_per_second"], rel=0.01)
    assert json.loads(zs2(*plan).out)["done"] == 0
    refused = zs2("render", manifest, "-o", out, "--clips-per-call", 0)
    assert refused.code == 2 and "--clips-per-call: " in refused.err
