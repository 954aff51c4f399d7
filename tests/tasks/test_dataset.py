"""Datasets of a date: what is kept, and that they appear whole, once, with the pointer last."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from datetime import date as Date
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from manifests.files import LockedError, StorageError
from manifests.journal import Journal
from manifests.object_store import ObjectStore
from manifests.recipe import Recipe, Threshold
from manifests.recipe_file import parse_recipe
from manifests.result import ResultRow
from tasks.dataset import TooFewError, lacking, publish_dataset, put_manifest, select
from tasks.dataset_place import (
    Place,
    PublishedError,
    latest_of,
    place_of,
    published,
    switch_latest,
)
from tasks.evaluate import evaluate
from tests import tiny_models
from tests.tasks.test_evaluate import CODECS, run_folder
from zs2.clip_score import describe_scorer

NIGHT, EVE = Date(2026, 11, 21), Date(2026, 11, 20)
TEXT = """
name = "clips"
license = "cc-by-4.0"
description = "Clips of **every** codec."
rows = 7
prompts = ["{codec} | a"]
slots.codec = ["h264", "gif", "webp", "ffv1", "png", "broken"]
quotas.codec = { gif = 1, h264 = 0.15 }
columns.num_frames = 4
sampled.momentum = { low = 0.5, high = 0.9 }
"""
# The run's own: no scores are asked for there.
RECIPE = parse_recipe(TEXT)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.clip(tmp_path_factory.mktemp("scorer") / "tiny-clip"))


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory, scorer: str) -> Path:
    """A scored run: a clip of each codec, a failed row, and a clip that cannot be read any more."""
    root = tmp_path_factory.mktemp("run") / "run"
    folder = run_folder(root)
    ids = [*CODECS, "failed", "unreadable"]
    now = datetime.now(UTC)
    with Journal(folder.results, "r2") as journal:
        told = {"stage": "sample", "error_type": "ModelError", "error_message": "no | weights"}
        more = {"started_at": now, "finished_at": now, "prompt": "a b", "model": "tiny"}
        journal.append(ResultRow("failed", "cd" * 16, "failed", **told, **more))
        lost = {"file_name": "videos/ef/unreadable.mp4", "params": "{}", "bytes": 3}
        meta = {"meta_codec": "broken"}
        journal.append(ResultRow("unreadable", "ef" * 16, "ok", **lost, **more, meta=meta))
    (root / "videos/ef").mkdir()
    (root / "videos/ef/unreadable.mp4").write_bytes(b"???")
    codecs = [*CODECS, "broken", "broken"]
    pq.write_table(pa.table({"id": ids, "meta_codec": codecs}), root / "manifest.parquet")
    evaluate(folder, scorer, workers=1)
    return root


@pytest.fixture(scope="module")
def identity(scorer: str) -> str:
    return describe_scorer(scorer).identity


@pytest.fixture
def place(a_run: Path, tmp_path: Path) -> Place:
    """A date whose run has ended."""
    made = place_of(str(tmp_path / "out"), RECIPE, NIGHT)
    shutil.copytree(a_run, made.run)
    return made


def publish(place: Place, identity: str, recipe: Recipe = RECIPE) -> dict[str, object]:
    return publish_dataset(place, recipe, TEXT, identity, {"fps": 12.0})


def content(root: Path) -> dict[str, tuple[str, int]]:
    """Hash and modification time of every file below a folder."""
    return {
        path.relative_to(root).as_posix(): (
            sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in root.rglob("*")
        if path.is_file()
    }


def test_what_a_clip_lacks():
    """A score below `at_least`, above `at_most` or absent, and a clip that could not be scored at
    all; the ends pass."""
    keep = {
        "clip_score": Threshold(at_least=70.0),
        "flicker": Threshold(at_least=1.0, at_most=2.0),
    }
    assert lacking({"clip_score": 70.0, "flicker": 2.0}, keep) == []
    assert lacking({"clip_score": 69.9, "flicker": 2.1}, keep) == [
        "clip_score ≥ 70",
        "flicker ≤ 2",
    ]
    assert lacking({"flicker": 0.9}, keep) == ["has no clip_score", "flicker ≥ 1"]
    assert lacking(None, {}) == ["could not be scored"]


def test_thresholds_drop_clips(a_run: Path, identity: str):
    """Those whose scores do not pass are left out and counted by what they lack; so is one that could
    not be scored, whatever is asked for."""
    everything = select(a_run, RECIPE, identity)
    assert sorted(everything.files) == sorted(CODECS)
    assert everything.rejected == {"could not be scored": 1}
    assert everything.rows == {"ok": 6, "failed": 1}
    records = pq.read_table(a_run / "metadata.parquet").to_pylist()
    sharp = {r["id"]: r["sharpness"] for r in records if r["sharpness"] is not None}
    middle = sorted(sharp.values())[2]
    strict = RECIPE.model_copy(update={"keep": {"sharpness": Threshold(at_least=middle)}})
    chosen = select(a_run, strict, identity)
    assert sorted(chosen.files) == sorted(name for name, value in sharp.items() if value >= middle)
    assert chosen.rejected[f"sharpness ≥ {middle:g}"] == 2
    none = select(a_run, strict, "another@scorer")
    assert not none.files and none.rejected == {"could not be scored": 6}


def test_a_dataset_is_published_whole(place: Place, identity: str):
    """The folder holds the clips, under their names in metadata.parquet and as second names of the
    run's own files, the whole manifest, the recipe's text, and dataset.json with the counts."""
    told = publish(place, identity)
    root = Path(place.version)
    assert {path.name for path in root.iterdir()} == {
        *("videos", "metadata.parquet", "manifest.parquet", "recipe.toml"),
        *("README.md", "dataset.json"),
    }
    assert json.loads((root / "dataset.json").read_text()) == told == published(place, RECIPE)
    assert (told["rows"], told["kept"]) == ({"ok": 6, "failed": 1, "invalid": 0}, 5)
    records = pq.read_table(root / "metadata.parquet").to_pylist()
    assert sorted(record["id"] for record in records) == sorted(CODECS)
    for record in records:
        video = root / record["file_name"]
        assert record["sharpness"] > 0
        if video.is_dir():
            assert len(list(video.iterdir())) == 4
            continue
        assert sha256(video.read_bytes()).hexdigest() == record["sha256"]
        assert video.samefile(Path(place.run, record["file_name"]))
    assert (root / "recipe.toml").read_text() == TEXT
    assert pq.read_table(root / "manifest.parquet").num_rows == 7
    assert Path(place.version, str(told["run"])).samefile(place.run)


def test_the_card(place: Place, identity: str):
    """README.md: a header that YAML reads with license and size; counts, what was dropped and why,
    failures by cause, quotas wanted and got, parameters, scores with intervals, versions, loading."""
    publish(place, identity)
    _, header, text = Path(place.version, "README.md").read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "cc-by-4.0",
        "pretty_name": "clips 2026-11-21",
        "size_categories": ["n<1K"],
        "task_categories": ["text-to-video"],
        "tags": ["synthetic", "video", "zs2"],
    }
    for line in (
        "Clips of **every** codec.",
        "5 clips of 7 rows",
        "`../.runs/2026-11-21`",
        "| failed | 1 |",
        "| rendered, not kept | 1 |",
        "| published | 5 |",
        "| could not be scored | 1 |",
        "| 1 | sample | ModelError | no \\| weights | failed |",
        "| codec | h264 | 0.15 of all | 1 | 1 | 1 |",
        "| codec | gif | 1 rows | 1 | 1 | 1 |",
        "| codec | broken | – | 2 | 1 | 0 |",
        "- \\{codec\\} \\| a",
        "| num\\_frames | 4 | fixed |",
        "| momentum | 0.5 to 0.9 | drawn evenly |",
        "| fps | 12.0 | run's default |",
        f"by `{identity}`",
        "### By codec",
        'load_dataset("videofolder", data_files=f"{folder}/metadata.parquet", split="train")',
        "| torch | 2",
    ):
        assert line in text, line
    (row,) = (line for line in text.splitlines() if line.startswith("| all clips"))
    assert row.split(" | ")[1] == "5"


def test_twice_changes_nothing(place: Place, identity: str):
    """Publishing a published date writes nothing: every file's bytes and time stay."""
    first = publish(place, identity)
    switch_latest(place)
    before = content(Path(place.base))
    assert publish(place, identity) == first
    assert switch_latest(place) is False
    assert content(Path(place.base)) == before


def test_what_is_published_does_not_change(place: Place, identity: str):
    """Another recipe on a published date is refused with what to do; a folder that is no dataset is
    not written over."""
    publish(place, identity)
    before = content(Path(place.version))
    other = RECIPE.model_copy(update={"rows": 8})
    with pytest.raises(PublishedError, match="another `name`, such as clips-2"):
        publish(place, identity, other)
    assert content(Path(place.version)) == before
    strange = Place(place.base, EVE)
    Path(strange.version).mkdir()
    with pytest.raises(StorageError, match=r"found no dataset\.json there"):
        published(strange, RECIPE)


def test_too_few(place: Place, identity: str):
    """With fewer clips than `fail_below` nothing is published, and the message has the counts."""
    strict = RECIPE.model_copy(update={"fail_below": 0.75})
    with pytest.raises(TooFewError, match=r"at least 6 clips .* found 5 of 7 rows"):
        publish(place, identity, strict)
    assert not Path(place.version).exists()
    assert latest_of(place.base) is None


KILLED = """
import os, signal, sys
from datetime import date
import tasks.dataset as dataset
from tasks.dataset_place import Place, switch_latest
from tests.tasks.test_dataset import NIGHT, RECIPE, TEXT

base, identity, when = sys.argv[1:]
def end(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if when == "publishing":
    dataset.card = end  # the videos are there by then
place = Place(base, NIGHT)
dataset.publish_dataset(place, RECIPE, TEXT, identity, {})
end()  # before the pointer is switched
"""


@pytest.mark.parametrize("when", ["publishing", "before the pointer"])
def test_killed_it_goes_on(place: Place, identity: str, when: str):
    """Killed while the folder is written nothing of it appears; killed before the pointer is switched
    the old one stays. The same again ends it, and leaves no temporary."""
    eve = Place(place.base, EVE)
    shutil.copytree(place.run, eve.run)
    publish(eve, identity)
    assert switch_latest(eve) is True
    done = subprocess.run(
        [sys.executable, "-c", KILLED, place.base, identity, when],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == -9, done.stderr
    assert Path(place.version).exists() is (when != "publishing")
    assert Path(place.base, "latest").resolve() == Path(eve.version)
    assert bool(list(Path(place.base).glob(".tmp-*"))) is (when == "publishing")
    publish(place, identity)
    assert switch_latest(place) is True
    assert Path(place.base, "latest").readlink() == Path("2026-11-21")
    assert not list(Path(place.base).glob(".tmp-*"))


def test_while_its_run_goes_on(place: Place, identity: str):
    """A date whose run folder is held is neither published nor given another manifest."""
    before = Path(place.run, "manifest.parquet").read_bytes()
    with Path(place.run, "run.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            publish(place, identity)
        with pytest.raises(LockedError):
            put_manifest(place, lambda path: path.write_bytes(b""))
    assert not Path(place.version).exists()
    assert Path(place.run, "manifest.parquet").read_bytes() == before


def test_latest_goes_forward_only(tmp_path: Path):
    """A date that is made up for later does not become the latest; what is no date is not replaced."""
    base = str(tmp_path)
    assert switch_latest(Place(base, EVE)) is True
    assert switch_latest(Place(base, NIGHT)) is True
    assert switch_latest(Place(base, EVE)) is False
    assert latest_of(base) == "2026-11-21"
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    with pytest.raises(StorageError, match="found a file or folder; remove it"):
        switch_latest(Place(base, NIGHT))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than tmp_path's."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no disk of its own here")
    folder = memory / f"zs2-{uuid4().hex}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_on_another_disk_videos_are_copied(place: Place, identity: str, elsewhere: Path):
    """Where the runs lie on a disk of their own, the dataset's files are copies, of the same bytes."""
    runs = Path(place.run).parent
    shutil.move(runs, elsewhere / "runs")
    runs.symlink_to(elsewhere / "runs")
    publish(place, identity)
    for record in pq.read_table(f"{place.version}/metadata.parquet").to_pylist():
        video = Path(place.version, record["file_name"])
        if video.is_file():
            assert sha256(video.read_bytes()).hexdigest() == record["sha256"]
            assert video.stat().st_nlink == 1


def test_latest_in_a_store(bucket: str):
    """The object `latest` holds the date, goes forward only, and anything else there is told."""
    base = f"{bucket}/datasets/clips"
    assert latest_of(base) is None
    assert switch_latest(Place(base, EVE)) is True
    assert switch_latest(Place(base, NIGHT)) is True
    assert switch_latest(Place(base, EVE)) is False
    assert ObjectStore(base).read("latest") is not None
    assert latest_of(base) == "2026-11-21"
    ObjectStore(base).write("latest", b"<html>")
    with pytest.raises(StorageError, match="expected a date, found '<html>'"):
        switch_latest(Place(base, NIGHT))
