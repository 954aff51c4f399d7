"""Datasets of a date for real: the deployment, `zs2 dataset`, kills, an object store."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from manifests.ledger import iter_results
from manifests.object_store import ObjectStore
from tests import tiny_models
from tests.flows.deployed import Deployed, deployed
from tests.flows.prefect_api import ask
from tests.flows.running import TIME_LIMIT, ZS2, environment, processes, wait_until, zs2
from tests.object_server import Store

pytestmark = pytest.mark.slow

# A clip of one frame has no dynamic degree, whatever it shows; a damaged model's rows fail.
RECIPE = """
name = "tiny"
license = "cc0-1.0"
rows = 6
prompts = ["{word} b"]
slots.word = ["a", "c"]
quotas.word = { a = 4 }
scorer = "SCORER"
columns.num_inference_steps = 1
grid.num_frames = [1, 3]
keep.dynamic_degree = { at_least = 0.0 }
"""
GOOD = 'sampled.model = ["MODEL"]'
ONE_IN_TWO = 'grid.model = ["MODEL", "DAMAGED"]'


class Models(NamedTuple):
    good: Path
    damaged: Path
    scorer: Path


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    damaged = folder / "damaged"
    shutil.copytree(tiny_model, damaged)
    (weights,) = (damaged / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    save_file(tensors | {"conv_in.weight": tensors["conv_in.weight"][:-1].clone()}, weights)
    return Models(tiny_model, damaged, tiny_models.clip(folder / "tiny-clip"))


def write_recipe(path: Path, models: Models, text: str) -> Path:
    for word, model in (
        ("MODEL", models.good),
        ("DAMAGED", models.damaged),
        ("SCORER", models.scorer),
    ):
        text = text.replace(word, str(model))
    path.write_text(text, "utf-8")
    return path


def content(root: Path) -> dict[str, tuple[str, int]]:
    """Hash and modification time of every file below a folder, and where its links lead."""
    return {
        path.relative_to(root).as_posix(): (
            str(path.readlink()) if path.is_symlink() else sha256(path.read_bytes()).hexdigest(),
            path.lstat().st_mtime_ns,
        )
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


class Night(NamedTuple):
    """A flow run of the deployment, scheduled for 2026-11-20 and started late."""

    service: Deployed
    run: Any
    recipe: Path
    out: Path

    @property
    def version(self) -> Path:
        return self.out / "tiny" / "2026-11-20"


@pytest.fixture(scope="module")
def night(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    folder = tmp_path_factory.mktemp("nightly")
    text = RECIPE.replace("rows = 6", "rows = 12").replace("a = 4", "a = 8") + ONE_IN_TWO
    recipe = write_recipe(folder / "tiny.toml", models, text)
    out = folder / "datasets"
    with deployed(folder) as service:
        due = {"scheduled_time": "2026-11-20T23:30:00+00:00"}
        state = {"type": "SCHEDULED", "name": "Scheduled", "state_details": due}
        parameters = {"recipe": str(recipe), "out": str(out), "settings": {"samplers": 1}}
        run = service.start("nightly-dataset/nightly", parameters, state=state)
        yield Night(service, service.await_state(run), recipe, out)


def test_the_deployment(night: Night) -> None:
    """nightly-dataset/nightly is deployed with its schedule, paused, and described parameters; wrong
    ones are refused before a run starts."""
    found = night.service.deployment("nightly-dataset/nightly")
    (schedule,) = found["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 2 * * *", False)
    assert found["parameters"] == {"recipe": "nightly", "out": "/data/datasets"}
    schema = found["parameter_openapi_schema"]
    assert schema["required"] == ["recipe"]
    for name in ("recipe", "out", "date", "settings", "scoring_workers", "scoring_device"):
        assert schema["properties"][name]["description"], name
    bad = night.service.ask_prefect(
        *("deployment", "run", "nightly-dataset/nightly", "-p", "date=yesterday")
    )
    assert bad.returncode != 0
    assert len(ask(f"{night.service.url}/flow_runs/filter", {}) or []) == 3


def test_a_late_run_has_its_own_date(night: Night) -> None:
    """A run that was due on 2026-11-20 and starts later makes that date's dataset. It failed rows, so
    it ends as Failed, which `fail_if` chose, with everything published, rendering and scoring its
    subflows, and the card its artifact."""
    assert night.run["state_type"] == "FAILED"
    assert "6 failed and 0 invalid of 12 rows" in night.run["state"]["message"]
    assert night.version.is_dir()
    assert (night.out / "tiny" / "latest").resolve() == night.version
    report = (night.out / "tiny" / ".runs" / "2026-11-20" / "report.html").read_text("utf-8")
    assert "meta_" in report  # the coverage of the slots
    runs = ask(f"{night.service.url}/flow_runs/filter", {}) or []
    assert sorted(run["name"].split()[0] for run in runs) == ["dataset", "evaluate", "render"]
    artifact = night.service.artifacts(night.run["id"])["dataset"]
    assert artifact["data"].lstrip().startswith("# tiny, 2026-11-20")


def test_thresholds_and_failures(night: Night) -> None:
    """Of 12 rows 6 fail with their model, 3 miss the threshold and 3 are published; the card and
    dataset.json say so, with the cause, and metadata.parquet names the three alone."""
    told = json.loads((night.version / "dataset.json").read_text("utf-8"))
    assert told["rows"] == {"ok": 6, "failed": 6, "invalid": 0}
    assert (told["kept"], told["rejected"]) == (3, {"has no dynamic_degree": 3})
    card = (night.version / "README.md").read_text("utf-8")
    assert "| has no dynamic\\_degree | 3 |" in card
    assert "| 6 | sample | ModelError |" in card
    assert "| word | a | 8 rows | 8 | 4 | 2 |" in card
    assert "| word | c | – | 4 | 2 | 1 |" in card
    rows = pq.read_table(night.version / "metadata.parquet").to_pylist()
    assert len(rows) == 3
    for row in rows:
        assert row["num_frames"] == 3 and row["dynamic_degree"] >= 0
        assert row["prompt"] == f"{row['meta_word']} b"
        assert sha256((night.version / row["file_name"]).read_bytes()).hexdigest() == row["sha256"]
    assert len(list((night.version / "videos").glob("*/*"))) == 3
    run = night.out / "tiny" / ".runs" / "2026-11-20"
    assert len(list(iter_results(run))) == 12 and (run / "index.html").exists()


@pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is not installed")
def test_it_loads_as_its_card_says(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card's lines of Python load the published clips with their columns."""
    from datasets import load_dataset

    monkeypatch.setenv("HF_DATASETS_CACHE", str(night.out.parent / "cache"))
    clips = load_dataset(
        "videofolder",
        data_files=str(night.version / "metadata.parquet"),
        split="train",
        cache_dir=str(night.out.parent / "cache"),
    )
    assert clips.num_rows == 3
    assert {"video", "prompt", "clip_score", "meta_word"} <= set(clips.column_names)
    assert 'load_dataset("videofolder", data_files=' in (night.version / "README.md").read_text()


def test_twice_changes_nothing(night: Night) -> None:
    """The same date again, by hand or by Prefect, renders and writes nothing: each file's bytes and
    time stay, and it is said that there is nothing to do. The failed rows count as before. A changed
    recipe on that date is refused with what to do."""
    before = content(night.out)
    command = ("dataset", night.recipe, "-o", night.out, "--date", "2026-11-20")
    again = zs2(*command)
    assert again.code == 3, again.err
    assert "nothing to do" in again.err and "with 3 clips" in again.err
    told = zs2(*command, "--fail-if", "never", "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out)["state"] == "unchanged"
    by_prefect = night.service.start(
        "nightly-dataset/nightly",
        {
            "recipe": str(night.recipe),
            "out": str(night.out),
            "date": "2026-11-20",
            "settings": {"fail_if": "never"},
        },
    )
    assert night.service.await_state(by_prefect)["state_type"] == "COMPLETED"
    assert content(night.out) == before
    changed = night.recipe.with_name("changed.toml")
    changed.write_text(night.recipe.read_text().replace("cc0-1.0", "cc-by-4.0"))
    refused = zs2("dataset", changed, "-o", night.out, "--date", "2026-11-20")
    assert refused.code == 2
    assert "another `name`" in refused.err and "Traceback" not in refused.err
    assert content(night.out) == before


def test_killed_it_goes_on(models: Models, tmp_path: Path) -> None:
    """`zs2 dataset` is killed while it renders: nothing of the date appears and `latest` stays as it
    was. The same command renders the rest alone, publishes, and then switches the pointer."""
    text = RECIPE.replace("steps = 1", "steps = 30").replace("[1, 3]", "[16, 24]") + GOOD
    recipe = write_recipe(tmp_path / "tiny.toml", models, text)
    base = tmp_path / "out" / "tiny"
    (base / "2026-11-19").mkdir(parents=True)
    (base / "latest").symlink_to("2026-11-19")
    run = base / ".runs" / "2026-11-20"
    command = ("dataset", str(recipe), "-o", str(tmp_path / "out"), "--date", "2026-11-20")
    mark = f"ZS2_TEST={tmp_path.name}"
    process = subprocess.Popen(
        [*ZS2, *command, "--samplers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment(ZS2_TEST=tmp_path.name),
    )
    try:
        begun = wait_until(lambda: run.exists() and any(iter_results(run)), TIME_LIMIT)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert begun
    finally:
        process.kill()
        process.wait()
        for pid in processes(mark):
            subprocess.run(["kill", "-9", str(pid)], check=False)
    had = {row.id: row.finished_at for row in iter_results(run)}
    assert 1 <= len(had) < 6
    assert (base / "latest").readlink() == Path("2026-11-19")
    assert not (base / "2026-11-20").exists()
    again = zs2(*command)
    assert again.code == 0, again.err
    assert "6 clips of 6 rows published" in again.err and "latest is 2026-11-20 now" in again.err
    assert (base / "latest").readlink() == Path("2026-11-20")
    now = {row.id: row.finished_at for row in iter_results(run)}
    assert len(now) == 6 and all(now[row_id] == at for row_id, at in had.items())


def test_on_an_object_store(
    s3: Store, bucket: str, models: Models, tmp_path: Path, monkeypatch
) -> None:
    """OUT and recipe on a store: the objects of the dataset are those of a folder's, dataset.json is
    put after all others and `latest` last of all, and the same command again puts nothing."""
    monkeypatch.setenv("ZS2_STORE_TIMEOUT", "10")
    monkeypatch.setenv("ZS2_STORE_RETRY_SECONDS", "30")
    text = RECIPE.replace("rows = 6", "rows = 2").replace("a = 4", "a = 2") + GOOD
    recipe = write_recipe(tmp_path / "tiny.toml", models, text)
    ObjectStore(f"{bucket}/in").write("tiny.toml", recipe.read_bytes())
    command = ("dataset", f"{bucket}/in/tiny.toml", "-o", f"{bucket}/sets", "--date", "2026-11-20")
    made = zs2(*command, "--json", "--samplers", "1")
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert (told["kept"], told["latest"]) == (1, True)
    assert told["at"] == f"{bucket}/sets/tiny/2026-11-20"
    store = ObjectStore(told["at"])
    names = {store.name_of(found) for found in store.list()}
    rest = {"metadata.parquet", "manifest.parquet", "recipe.toml", "README.md", "dataset.json"}
    (video,) = names - rest
    (found,) = [store.head("metadata.parquet")]
    assert found is not None
    store.fetch(found, tmp_path / "metadata.parquet")
    (row,) = pq.read_table(tmp_path / "metadata.parquet").to_pylist()
    assert row["file_name"] == video
    assert sha256((store.read(video) or (b"", ""))[0]).hexdigest() == row["sha256"]
    puts = [path for method, path, _ in s3.log if method == "PUT" and "/tiny/" in path]
    at = [n for n, path in enumerate(puts) if "/tiny/2026-11-20/" in path]
    assert puts[max(at)].endswith("/2026-11-20/dataset.json")
    assert puts[-1].endswith("/tiny/latest")
    assert ObjectStore(f"{bucket}/sets/tiny").read("latest") is not None
    before = len([1 for method, _, _ in s3.log if method != "GET" and method != "HEAD"])
    again = zs2(*command)
    assert again.code == 0 and "nothing to do" in again.err, again.err
    assert len([1 for method, _, _ in s3.log if method != "GET" and method != "HEAD"]) == before
