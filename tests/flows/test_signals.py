"""What Ctrl-C means to a run, by real signals to this process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from flows.render_manifest import (
    ECHO,
    Caller,
    _begin_run_file,
    _interruptible,
    _render_run,
    _told_how_it_ended,
)
from flows.settings import RenderSettings
from manifests.read import open_manifest
from manifests.run_file import read_json
from manifests.storage import RunFolder
from tasks.render import RenderRun
from tests.flows.running import write_rows


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    write_rows(tmp_path / "m.parquet", [{"id": "a", "prompt": "a"}])
    return RunFolder(tmp_path / "out").create()


@pytest.fixture
def run(folder: RunFolder) -> RenderRun:
    """A run that has not begun to render."""
    source = open_manifest(str(folder.root.parent / "m.parquet"))
    return _render_run("r", source, folder, RenderSettings(), Caller())


def test_one_ctrl_c_that_arrives_twice_is_one(run: RenderRun) -> None:
    """`timeout -s INT` signals the process and then its group: that lets the rows in flight end, and
    is said once. One that comes later stops at once."""
    heard: list[str] = []
    called_by = Caller(on_interrupt=lambda: heard.append("Ctrl-C"))
    with pytest.raises(KeyboardInterrupt), _interruptible(run, called_by):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        heard.append("still here")
        time.sleep(ECHO + 0.1)
        os.kill(os.getpid(), signal.SIGINT)
    assert heard == ["Ctrl-C", "still here"]
    assert run.is_interrupted


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        (KeyboardInterrupt(), "interrupted", None),
        (OSError("disk full"), "failed", "OSError: disk full"),
    ],
)
def test_what_the_run_file_says_of_a_run_that_broke_off(
    error: BaseException, state: str, told: str | None, folder: RunFolder
) -> None:
    """The user's own Ctrl-C is no error."""
    source = open_manifest(str(folder.root.parent / "m.parquet"))
    content = _begin_run_file(folder, "r", "m.parquet", source, RenderSettings())
    with pytest.raises(type(error)), _told_how_it_ended(folder, content):
        raise error
    written = read_json(folder.run_file)
    assert written is not None
    assert (written["state"], written.get("error")) == (state, told)
