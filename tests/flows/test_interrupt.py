"""Ctrl-C, SIGTERM, SIGKILL and a second run: nothing is lost, nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.running import TIME_LIMIT, ZS2, environment, processes, wait_until, write_rows, zs2

pytestmark = pytest.mark.slow


class Started:
    """`zs2 render` in a session of its own, as a terminal starts it; its processes carry a mark."""

    def __init__(self, manifest: Path, out: Path, mark: str) -> None:
        self.out = out
        self.mark = f"ZS2_TEST={mark}"
        self.process = subprocess.Popen(
            [*ZS2, "render", str(manifest), "-o", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=environment(ZS2_TEST=mark),
        )

    def rows_ended(self) -> int:
        """Results in the journals, whole lines."""
        journals = (self.out / "results").glob("journal-*.jsonl")
        return sum(journal.read_bytes().count(b'"row":{') for journal in journals)

    def to_the_group(self, number: int) -> None:
        """Ctrl-C reaches every process of the terminal's foreground group."""
        os.killpg(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """Exit code, and everything it said."""
        said, _ = self.process.communicate(timeout=TIME_LIMIT)
        return self.process.returncode, said


@pytest.fixture
def manifest(tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A dozen rows of 20 steps, or as many as asked; of 20 they take about half a second each."""
    steps = getattr(request, "param", 20)
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": steps, "num_frames": 16}
    return write_rows(tmp_path / "m.parquet", [{"id": f"r{i}", **row} for i in range(12)])


@pytest.fixture
def started(manifest: Path, tmp_path: Path) -> Iterator[Started]:
    run = Started(manifest, tmp_path / "out", tmp_path.name)
    yield run
    for pid in processes(run.mark):  # a failed test leaves none either
        os.kill(pid, signal.SIGKILL)
    run.process.wait()


@pytest.mark.parametrize("manifest", [80], indirect=True, ids=["long rows"])
def test_ctrl_c_in_mid_run(started: Started, manifest: Path) -> None:
    """While a run is going on `status` says so, and a second run on its folder is refused at once
    with exit code 1 and the first one's name. Ctrl-C then ends the first, also one that arrives
    twice at once: what is in flight ends, what there is is published, exit code 130, no process is
    left, and `plan` has a rate. The same command renders the rest,
    touches none of the finished files, and exits 0."""
    out = started.out
    assert wait_until(lambda: started.rows_ended() >= 1, TIME_LIMIT)
    run_id = json.loads((out / "run.json").read_text())["run_id"]
    second = zs2("render", manifest, "-o", out)
    assert (second.code, second.out) == (1, "")
    assert f"in use by run {run_id}" in second.err
    assert len(second.err.splitlines()) == 1
    assert started.process.poll() is None  # it did not wait for the first to end
    report = json.loads(zs2("status", out, "--json").out)
    assert (report["state"], report["run_id"]) == ("running", run_id)
    assert report["ok"] >= 1 and report["left"] == 12 - report["ok"] > 0

    for _ in range(2):  # as `timeout -s INT` does
        started.to_the_group(signal.SIGINT)
        time.sleep(0.02)
    code, said = started.end()
    assert code == 130, said
    assert "Traceback" not in said and "Error" not in said
    assert "interrupted; the same command goes on where it stopped" in said
    assert processes(started.mark) == {}
    report = json.loads(zs2("status", out, "--json").out)
    assert report["state"] == "interrupted"
    assert 0 < report["ok"] < 12 and report["left"] == 12 - report["ok"]
    assert report["error"] is None
    assert len(list((out / "results").glob("part-*"))) == 1
    for name in ("index.html", "metadata.parquet", "summary.json"):
        assert (out / name).is_file()
    plan = json.loads(zs2("plan", manifest, "-o", out, "--json").out)
    assert plan["device_hours"] > 0 and plan["rate_from"].startswith("measured")

    before = {path: path.stat().st_mtime_ns for path in (out / "videos").rglob("*.mp4")}
    assert len(before) == report["ok"]
    again = zs2("render", manifest, "-o", out, "--json")
    assert again.code == 0, again.err
    summary = json.loads(again.out)
    assert summary["rendered"]["ok"] == 12 - report["ok"]
    assert summary["rows"]["ok"] == 12
    after = {path: path.stat().st_mtime_ns for path in (out / "videos").rglob("*.mp4")}
    assert before.items() <= after.items() and len(after) == 12


def test_ctrl_c_twice_in_mid_run(started: Started) -> None:
    """The second Ctrl-C does not wait for what is in flight: exit code 130, nothing left running,
    and what had ended is still known."""
    assert wait_until(lambda: started.rows_ended() >= 1, TIME_LIMIT)
    started.to_the_group(signal.SIGINT)
    time.sleep(1.0)
    started.to_the_group(signal.SIGINT)
    code, said = started.end()
    assert code == 130, said
    assert "Traceback" not in said
    assert wait_until(lambda: processes(started.mark) == {}, 120)
    report = json.loads(zs2("status", started.out, "--json").out)
    assert report["state"] == "interrupted" and report["error"] is None
    assert report["ok"] >= 1 and report["left"] > 0


@pytest.mark.soak  # an interrupt between two imports is sometimes lost: the run then ends as usual
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_starts(number: int, started: Started) -> None:
    """Ctrl-C and SIGTERM while Prefect and Ray start: exit code 130, one line, nothing left."""
    assert wait_until(
        lambda: any("prefect_server" in c for c in processes(started.mark).values()), TIME_LIMIT
    )
    started.to_the_group(number)
    code, said = started.end()
    assert code == 130, said
    assert said.splitlines()[-1] == "interrupted; the same command goes on where it stopped"
    assert "Traceback" not in said
    assert wait_until(lambda: processes(started.mark) == {}, 120)


def test_sigterm_in_mid_run(started: Started) -> None:
    """SIGTERM to all processes at once, as systemd and `timeout` send it, is taken as Ctrl-C is: Ray
    lives on until what is in flight has ended."""
    assert wait_until(lambda: started.rows_ended() >= 1, TIME_LIMIT)
    started.to_the_group(signal.SIGTERM)
    code, said = started.end()
    assert code == 130, said
    assert "interrupted" in said and "Traceback" not in said
    assert processes(started.mark) == {}
    assert json.loads((started.out / "run.json").read_text())["state"] == "interrupted"


def test_killed_in_mid_run(started: Started) -> None:
    """After SIGKILL the Prefect server and its folder are gone at once, Ray's processes soon after;
    finished rows are known, and `status` says what became of the run."""
    assert wait_until(lambda: started.rows_ended() >= 1, TIME_LIMIT)
    folders = {
        word
        for command in processes(started.mark).values()
        if "prefect_server.py" in command
        for word in command.split()
        if Path(word).name.startswith("zs2-prefect-")
    }
    assert len(folders) == 1
    started.process.kill()
    started.process.wait()
    assert wait_until(
        lambda: not any("prefect_server" in c for c in processes(started.mark).values()), 60
    )
    assert not any(Path(folder).exists() for folder in folders)
    assert wait_until(lambda: processes(started.mark) == {}, 400)
    report = json.loads(zs2("status", started.out, "--json").out)
    assert report["state"].startswith("killed")
    assert report["ok"] >= 1 and report["left"] == 12 - report["ok"]


@pytest.mark.parametrize("what", ["raylet", "gcs_server"])
def test_ray_killed_in_mid_run(what: str, started: Started, manifest: Path) -> None:
    """Ray's own processes on the command's machine are killed: the run does not wait for answers that
    never come, it ends with exit code 1 and one message that names the reason, without Ray's own
    words. The same command renders the rest."""
    assert wait_until(lambda: started.rows_ended() >= 1, TIME_LIMIT)
    for pid, command in processes(started.mark).items():
        if Path(command.split()[0]).name == what:
            os.kill(pid, signal.SIGKILL)
    code, said = started.end()
    assert code == 1, said
    assert said.splitlines()[-1].startswith("zs2: ") and "Ray" in said.splitlines()[-1]
    assert "Traceback" not in said and "(raylet)" not in said
    assert wait_until(lambda: processes(started.mark) == {}, 120)
    again = zs2("render", manifest, "-o", started.out, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["rows"]["ok"] == 12
