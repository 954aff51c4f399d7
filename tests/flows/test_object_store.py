"""`zs2` on an object store, end to end: real Prefect, Ray and ffmpeg, moto's S3 behind a proxy that
breaks it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from manifests.ledger import iter_results
from manifests.object_store import ObjectStore
from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks.assemble import assemble
from tests import tiny_models
from tests.flows.running import TIME_LIMIT, ZS2, environment, processes, wait_until, write_rows, zs2
from tests.flows.test_tasks_of_the_paper import moving_square
from tests.object_server import Fault, Store

CODECS = ("h264", "png", "gif")


@pytest.fixture(autouse=True)
def patience(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine answers late; a dead store is given up after some seconds."""
    monkeypatch.setenv("ZS2_STORE_TIMEOUT", "5")
    monkeypatch.setenv("ZS2_STORE_RETRY_SECONDS", "20")


@pytest.fixture
def manifest(tiny_model: Path, tmp_path: Path) -> Path:
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 2, "num_frames": 4}
    rows = [{"id": f"row-{codec}", "codec": codec, **row} for codec in CODECS]
    return write_rows(tmp_path / "m.parquet", rows)


@pytest.fixture
def long_manifest(tiny_model: Path, tmp_path: Path) -> Path:
    """A dozen rows that take about half a second each."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 20, "num_frames": 16}
    return write_rows(tmp_path / "long.parquet", [{"id": f"r{i}", **row} for i in range(12)])


def results(url: str) -> dict[str, ResultRow]:
    """The store's ledger as a machine sees it that knows nothing; each id once."""
    with RunFolder(url).view() as folder:
        rows = list(iter_results(folder.root))
    assert len({row.id for row in rows}) == len(rows)
    return {row.id: row for row in rows}


def content(url: str) -> dict[str, str]:
    """sha256 of every object below a URL, by name."""
    store = ObjectStore(url)
    names = [store.name_of(found) for found in store.list()]
    return {name: sha256((store.read(name) or (b"", ""))[0]).hexdigest() for name in names}


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def pixels(picture: bytes) -> bytes:
    """Of a picture's file."""
    return Image.open(BytesIO(picture)).convert("RGB").tobytes()


@pytest.mark.slow
def test_a_run_through_a_store_that_stumbles(
    s3: Store, bucket: str, manifest: Path, tmp_path: Path
) -> None:
    """Manifest and OUT on a store that answers errors, breaks connections and falls silent: every row
    once, the ledger's hashes are those of the objects, nothing half is left and no secret is told.
    The same command from a machine that knows nothing of it finds nothing to do."""
    ObjectStore(bucket).write("in/m.parquet", manifest.read_bytes())
    url = f"{bucket}/runs/one"
    s3.faults = [
        Fault("503", 3),
        Fault("500", 2, "PUT", "videos/"),
        Fault("cut-request", 2, "PUT", "videos/"),
        Fault("cut-answer", 2, "PUT", "journal-"),
        Fault("cut-answer", 1, "PUT", "run.lock"),
        Fault("cut-answer", 1, "PUT", "results/part-"),
        Fault("silence", 1, "PUT", "metadata.parquet", seconds=6),
        Fault("500", 2, "POST"),
    ]
    done = zs2("render", f"{bucket}/in", "-o", url)
    assert done.code == 0, done.err
    assert sum(fault.times for fault in s3.faults) == 0, "a fault was not met"
    assert f"look at {url}/index.html" in done.err
    rows, objects = results(url), content(url)
    assert {row.status for row in rows.values()} == {"ok"}
    assert sorted(rows) == sorted(f"row-{codec}" for codec in CODECS)
    for codec in ("h264", "gif"):
        row = rows[f"row-{codec}"]
        assert objects[row.file_name or ""] == row.sha256
    assert sum(name.startswith(rows["row-png"].file_name or "?") for name in objects) == 4
    kinds = {name.partition("/")[0] for name in objects}
    assert kinds == {
        *("videos", "previews", "results", "logs"),
        *("run.json", "run.lock", "summary.json", "metadata.parquet", "index.html"),
        "throughput.svg",
    }
    left = [path for path in Path(RunFolder(url).root).rglob("*") if path.is_file()]
    gone = {"videos", "previews", "latents"}
    assert not [path for path in left if gone & set(path.parts)]
    told = (
        done.err
        + done.out
        + "".join(
            (ObjectStore(url).read(name) or (b"", ""))[0].decode("latin-1") for name in objects
        )
    )
    assert "testing-secret" not in told
    assert "testing-key" not in told

    puts = s3.count("PUT", "videos/")
    other = (
        "--fail-if",
        0.5,
    )  # of settings that make no row other, from a machine that knows nothing
    again = zs2(
        "render", f"{bucket}/in", "-o", url, *other, ZS2_STAGING=str(tmp_path / "elsewhere")
    )
    assert again.code == 0
    assert "nothing to do: 3 of 3 rows are ok" in again.err and "starting" not in again.err
    run = json.loads((ObjectStore(url).read("run.json") or (b"", ""))[0])
    assert run["rows"] == 3 and run["settings"]["fail_if"] == 0.5
    assert s3.count("PUT", "videos/") == puts
    status = zs2("status", url, "--json")
    assert json.loads(status.out) | {"ok": 3, "left": 0, "state": "finished"} == json.loads(
        status.out
    )


@pytest.mark.slow
def test_the_same_bytes_as_on_a_disk(bucket: str, manifest: Path, tmp_path: Path) -> None:
    """Every video of a run on a store is that of a run into a folder, byte by byte; metadata names
    the same files; `zs2 plan -o` counts both alike."""
    url = f"{bucket}/runs/one"
    assert zs2("render", manifest, "-o", url).code == 0
    assert zs2("render", manifest, "-o", tmp_path / "out").code == 0
    stored, local = content(url), files(tmp_path / "out")
    videos = {name: hash_ for name, hash_ in local.items() if name.startswith("videos/")}
    assert len(videos) == 6
    assert {name: stored.get(name) for name in videos} == videos
    assert {n.partition("/")[0] for n in stored} == {n.partition("/")[0] for n in local}
    for out in (url, tmp_path / "out"):
        plan = json.loads(zs2("plan", manifest, "-o", out, "--json").out)
        assert (plan["rows"], plan["done"]) == (3, 3)


class Started:
    """`zs2 render` in the background; its processes carry a mark."""

    def __init__(self, manifest: Path, url: str, mark: str, **extra: str) -> None:
        self.mark = f"ZS2_TEST={mark}"
        self.process = subprocess.Popen(
            [*ZS2, "render", str(manifest), "-o", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=environment(ZS2_TEST=mark, **extra),
        )

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=TIME_LIMIT)
        return self.process.returncode, said


@pytest.fixture
def started(bucket: str, long_manifest: Path, tmp_path: Path) -> Iterator[Started]:
    """A run of which at least two rows have ended, as its store says."""
    run = Started(long_manifest, f"{bucket}/run", tmp_path.name)
    assert wait_until(lambda: len(results(f"{bucket}/run")) >= 2, 200)
    yield run
    run.process.kill()
    run.process.wait()
    for pid in processes(run.mark):
        subprocess.run(["kill", "-9", str(pid)], check=False)


@pytest.mark.slow
def test_a_second_run_is_refused(started: Started, bucket: str, long_manifest: Path) -> None:
    """While one run is on, another is refused, naming it, and `status` says that it runs."""
    second = zs2("render", long_manifest, "-o", f"{bucket}/run")
    assert second.code == 1
    assert f"{bucket}/run is in use by run 2" in second.err
    assert json.loads(zs2("status", f"{bucket}/run", "--json").out)["state"] == "running"
    code, said = started.end()
    assert code == 0, said


@pytest.mark.slow
def test_a_killed_driver_is_taken_over(
    s3: Store, started: Started, bucket: str, long_manifest: Path, tmp_path: Path
) -> None:
    """After SIGKILL the same command, with another staging folder, takes the lock over at once and
    renders what the store does not know: each id once, what was known is not rendered again."""
    url = f"{bucket}/run"
    started.process.send_signal(signal.SIGKILL)
    started.process.wait()
    status = zs2("status", url, "--json")
    assert status.code == 0, status.err
    assert "killed" in json.loads(status.out)["state"]
    known = results(url)
    before = len(s3.log)
    again = zs2("render", long_manifest, "-o", url, ZS2_STAGING=str(tmp_path / "elsewhere"))
    assert again.code == 0, again.err
    rows = results(url)
    assert len(rows) == 12
    assert {row.status for row in rows.values()} == {"ok"}
    for row_id, row in known.items():
        assert rows[row_id].finished_at == row.finished_at
    since = [path for method, path, _ in s3.log[before:] if method == "PUT" and "/videos/" in path]
    rendered = {path.rpartition("/")[2].partition(".")[0] for path in since}
    assert rendered >= rows.keys() - known.keys()
    assert not [name for name in content(url) if "journal" in name]


@pytest.mark.slow
def test_a_dead_store_ends_the_run_and_it_goes_on_later(
    s3: Store, started: Started, bucket: str, long_manifest: Path
) -> None:
    """The store dies in the middle: exit code 1 within a bounded number of requests, a message with
    the remedy; when it is back the same command ends with every row once."""
    url = f"{bucket}/run"
    before = len(s3.log)
    s3.is_dead = True
    code, said = started.end()
    assert code == 1, said
    assert "does not answer as it should" in said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert len(s3.log) - before < 1000
    s3.is_dead = False
    again = zs2("render", long_manifest, "-o", url)
    assert again.code == 0, again.err
    rows = results(url)
    assert len(rows) == 12
    assert {row.status for row in rows.values()} == {"ok"}
    for row in rows.values():
        found = ObjectStore(url).read(row.file_name or "")
        assert found is not None
        assert sha256(found[0]).hexdigest() == row.sha256


@pytest.mark.slow
def test_a_run_that_lost_its_lock_stops(started: Started, bucket: str) -> None:
    """Another run took the lock over: this one ends with exit code 1, says so, and leaves the other's
    lock as it is."""
    other = {"run_id": "other", "renewed": "2100-01-01T00:00:00+00:00"}
    time.sleep(1)
    ObjectStore(f"{bucket}/run").write("run.lock", json.dumps(other).encode())
    code, said = started.end()
    assert code == 1, said
    assert "taken over by another run" in said
    lock = ObjectStore(f"{bucket}/run").read("run.lock")
    assert lock is not None
    assert json.loads(lock[0]) == other
    assert not [name for name in content(f"{bucket}/run") if "results/part-" in name]


@pytest.mark.slow
def test_clips_on_a_store(s3: Store, bucket: str, tmp_path: Path) -> None:
    """A row edits a clip that lies beside its manifest on the store: the pixels of the same row on a
    disk, whose files have another digest in them; a clip that changed since planning fails its row and says
    why; one outside is refused."""
    tiny_models.ip2p(tmp_path).save_pretrained(tmp_path / "ip2p", safe_serialization=True)
    clip = tmp_path / "clip.mp4"
    assemble(moving_square(8), clip, fps=8.0, codec="h264", quality=18, title="", comment="")
    common: dict[str, Any] = {
        "prompt": "a",
        "model": str(tmp_path / "ip2p"),
        "num_frames": 4,
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "codec": "png",
    }
    names = {"good": "clip.mp4", "changed": "changed.mp4", "outside": "../clip.mp4"}
    rows = [{"id": name, "source_video": video, **common} for name, video in names.items()]
    store = ObjectStore(f"{bucket}/in")
    store.write("m.parquet", write_rows(tmp_path / "m.parquet", rows).read_bytes())
    for name in ("clip.mp4", "changed.mp4"):
        store.write(name, clip.read_bytes())
    s3.faults = [Fault("412", 10, "GET", "changed.mp4")]
    url = f"{bucket}/run"
    done = zs2("render", f"{store.url}/m.parquet", "-o", url, "--on-invalid=skip")
    assert done.code == 3, done.err
    ended = results(url)
    assert ended["good"].status == "ok"
    assert ended["changed"].status == "failed"
    assert "it was there when the run was planned, and is not now" in (
        ended["changed"].error_message or ""
    )
    assert f"{store.url}/changed.mp4" in (ended["changed"].error_message or "")
    assert ended["outside"].status == "invalid"
    write_rows(tmp_path / "one.parquet", rows[:1])
    assert zs2("render", tmp_path / "one.parquet", "-o", tmp_path / "out").code == 0
    videos = tmp_path / "out" / "videos"
    local = {path.name: pixels(path.read_bytes()) for path in videos.rglob("good/*.png")}
    run = ObjectStore(url)
    objects = [n for n in map(run.name_of, run.list()) if n.startswith("videos/") and "/good/" in n]
    frames = {Path(name).name: run.read(name) for name in objects}
    assert len(local) == 4
    assert {name: pixels(found[0]) for name, found in frames.items() if found} == local
