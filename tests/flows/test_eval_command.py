"""`zs2 eval`, the flow `evaluate-renders`, and both on an object store: what a user sees of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.commands.eval import evaluate_run
from flows.errors import UsageError, exit_code_of
from manifests.ledger import compact, iter_results
from manifests.object_store import ObjectStore
from manifests.scores import SCORE_NAMES, read_scores
from manifests.storage import RunFolder
from tasks.evaluate import evaluate
from tasks.score_table import ColumnError
from tests import tiny_models
from tests.flows.prefect_api import ask, prefect_server
from tests.flows.running import ZS2, environment, processes, wait_until, zs2
from tests.tasks.test_evaluate import run_folder
from zs2.models import ModelError


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.clip(tmp_path_factory.mktemp("scorer") / "tiny-clip")


@pytest.mark.slow
def test_a_broken_video_is_named_and_exits_3(tmp_path: Path, clip: Path):
    """Standard output is one JSON object with the means of the clips that could be scored; standard
    error names the one that could not, and no traceback."""
    folder = run_folder(tmp_path / "out", ["gif", "h264"])
    (broken,) = (row for row in iter_results(folder.root) if row.id == "h264")
    (folder.root / str(broken.file_name)).write_bytes(b"no video")
    answer = zs2("eval", folder.root, "--scorer", clip, "--by", "meta_codec", "--json")
    assert answer.code == 3, answer.err
    told = json.loads(answer.out)
    assert (told["clips"], told["scored"]) == (2, 1) and list(told["failed"]) == ["h264"]
    (group,) = told["groups"]
    assert group["group"] == "gif" and set(group["scores"]) == set(SCORE_NAMES)
    assert "h264: videos/" in answer.err and "Traceback" not in answer.err


def test_the_table_and_nothing_to_score(tmp_path: Path, clip: Path, capsys):
    """A table with consistency and dynamic degree; when all is scored, the same table at once; of a
    run without a finished clip it is said that there is nothing to score. All exit with 0."""
    from flows.commands import eval as command

    options = {"by": None, "report": False, "trust_pickles": [], "workers": 1, "device": "cpu"}
    options["scorer"] = str(clip)
    folder = run_folder(tmp_path / "out", ["gif"])
    assert command.run(str(folder.root), quiet=False, as_json=False, **options) == 0
    first = capsys.readouterr().out
    assert "1 clip scored by tiny-clip@" in first
    assert first.index("frame consistency") < first.index("dynamic degree")
    assert command.run(str(folder.root), quiet=False, as_json=False, **options) == 0
    again = capsys.readouterr().out
    assert "0 clips scored" in again and "1 scored before" in again
    assert again.split("\n", 1)[1] == first.split("\n", 1)[1]
    with pytest.raises(UsageError, match="--device: expected cpu or cuda, found 'tpu'"):
        evaluate_run(str(folder.root), **{**options, "device": "tpu"})
    empty = run_folder(tmp_path / "empty", [])
    assert command.run(str(empty.root), quiet=False, as_json=False, **options) == 0
    assert "nothing to score" in capsys.readouterr().out


def test_what_cannot_be_done_is_refused(tmp_path: Path, clip: Path):
    """No run, no such column, no such scorer, no processes: bad usage, exit code 2,
    before anything is decoded, and no folder is made."""
    folder = run_folder(tmp_path / "out", ["gif"])
    cases = [
        (tmp_path / "none", {}, UsageError),
        (folder.root, {"by": "meta_nothing"}, ColumnError),
        (folder.root, {"scorer": "no-clip"}, ModelError),
        (folder.root, {"workers": 0}, UsageError),
        (folder.root, {"device": "tpu"}, UsageError),
    ]
    for out, changes, error in cases:
        options = {"scorer": str(clip), "by": None, "report": False, "trust_pickles": []}
        with pytest.raises(error) as caught:
            evaluate_run(str(out), **{**options, "workers": 1, "device": "cpu", **changes})
        assert exit_code_of(caught.value) == 2
    assert not (tmp_path / "none").exists()
    assert len(read_scores(folder.root)) == 0


def uploaded(folder: RunFolder, url: str) -> str:
    """A local run copied to a store, its journal merged as a finished run leaves it."""
    compact(folder.root)
    store = ObjectStore(url)
    for path in sorted(folder.root.rglob("*")):
        if path.is_file() and path.name != "run.lock":
            store.put(path.relative_to(folder.root).as_posix(), path)
    return url


@pytest.mark.slow
def test_clips_on_a_store_are_scored_there(
    bucket: str, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
):
    """Videos and a folder of frames are fetched one by one and leave nothing behind; scores, metadata
    and page are put there; another machine finds all scored."""
    url = uploaded(run_folder(tmp_path / "out", ["h264", "png"]), f"{bucket}/run")
    done = evaluate(RunFolder(url), str(clip), workers=1)
    assert (done.scored, done.failed) == (2, {})
    monkeypatch.setenv("ZS2_STAGING", str(tmp_path / "elsewhere"))
    again = evaluate(RunFolder(url), str(clip), workers=1)
    assert (again.had, again.scored) == (2, 0)
    store = ObjectStore(url)
    found = {store.name_of(each) for each in store.list()}
    assert {"scores.parquet", "metadata.parquet", "index.html"} <= found
    assert not list((tmp_path / "staging").rglob("work/*"))
    fetched = store.head("metadata.parquet")
    assert fetched is not None
    store.fetch(fetched, tmp_path / "metadata.parquet")
    table = pq.read_table(tmp_path / "metadata.parquet")
    assert table.column("clip_score").null_count == 0


@pytest.mark.slow
def test_interrupted_it_keeps_what_it_has_and_goes_on(tmp_path: Path, clip: Path):
    """Ctrl-C, which a terminal sends to all processes: exit code 130, no traceback, no process left,
    the scores so far kept; the same command then scores the others alone."""
    many = run_folder(tmp_path / "many", ["ffv1", "gif", "h264", "png", "webp"])
    command = [*ZS2, "eval", str(many.root), "--scorer", str(clip), "--workers", "1"]
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(ZS2_TEST="eval-interrupted"),
        start_new_session=True,
    )
    journal = many.root / "scores.jsonl"
    assert wait_until(lambda: journal.exists() and journal.stat().st_size > 10, 120)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=120)
    kept = len(read_scores(many.root))
    assert started.returncode in (0, 130) and "Traceback" not in said, said
    if started.returncode == 130:
        assert "interrupted" in said and 1 <= kept <= 5
    assert wait_until(lambda: processes("ZS2_TEST=eval-interrupted") == {}, 30)
    again = zs2("eval", many.root, "--scorer", clip, "--json")
    told = json.loads(again.out)
    assert (told["scored_before"], told["scored"]) == (kept, 5 - kept)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with prefect_server(tmp_path / "prefect") as url:
        yield url


@pytest.mark.slow
def test_the_flow_leaves_its_table_as_an_artifact(server: str, tmp_path: Path, clip: Path):
    """Under a Prefect server it is a completed run of `evaluate-renders`, with the table in Markdown."""
    folder = run_folder(tmp_path / "out", ["gif", "h264"])
    code = (
        "from flows.evaluate_renders import evaluate_renders\n"
        "if __name__ == '__main__':\n"
        f"    print(evaluate_renders({str(folder.root)!r}, scorer={str(clip)!r})['scored'])\n"
    )
    script = tmp_path / "flow.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **environment(PREFECT_API_URL=server, PREFECT_HOME=str(tmp_path / "client")),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    assert done.returncode == 0 and done.stdout.strip().endswith("2"), done.stderr
    (run,) = ask(f"{server}/flow_runs/filter", {})
    assert run["state_type"] == "COMPLETED"
    (artifact,) = ask(f"{server}/artifacts/filter", {})
    assert artifact["key"] == "scores"
    assert "dynamic degree" in artifact["data"] and "frame consistency" in artifact["data"]
