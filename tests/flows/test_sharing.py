"""Two deployed runs on one Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.flows.deployed import Deployed, deployed
from tests.flows.ray_nodes import RayNodes
from tests.flows.running import write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROWS = 4


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A server, a worker, and a cluster of two CPUs that the worker's runs find by RAY_ADDRESS."""
    folder = tmp_path_factory.mktemp("sharing")
    with (
        RayNodes(folder, 2) as nodes,
        deployed(folder, {"RAY_ADDRESS": nodes.address}) as made,
    ):
        yield made


@pytest.fixture
def manifest(tiny_model: Path, tmp_path: Path) -> Path:
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 10, "num_frames": 8}
    return write_rows(tmp_path / "m.parquet", [{"id": f"r{i}", **row} for i in range(ROWS)])


def two_runs(
    service: Deployed, manifest: Path, folder: Path, **settings: Any
) -> tuple[list[Any], list[str]]:
    """Start two runs at once; both as the server tells of them, the first to begin first, and their
    logs, once they are completed with every row ok."""
    runs = [
        service.start(
            "render-manifest/bulk",
            {"manifest": str(manifest), "out": str(folder / out), "settings": settings},
        )
        for out in ("one", "two")
    ]
    found = [service.await_state(run) for run in runs]
    assert [run["state_type"] for run in found] == ["COMPLETED", "COMPLETED"], found
    for out in ("one", "two"):
        rows = pq.read_table(folder / out / "results").to_pylist()
        assert sorted((row["id"], row["status"]) for row in rows) == [
            (f"r{i}", "ok") for i in range(ROWS)
        ]
    logs = ["".join(line["message"] for line in service.logs(run)) for run in runs]
    return sorted(found, key=lambda run: run["start_time"]), logs


def test_runs_with_limits_render_beside_each_other(
    service: Deployed, manifest: Path, tmp_path: Path
) -> None:
    """With `samplers: 1` each, both runs hold their sampler at the same time; the log says of each
    what it found and has."""
    (first, second), logs = two_runs(service, manifest, tmp_path, samplers=1)
    assert second["start_time"] < first["end_time"]
    said = "Ray: 2 node(s) with 2 CPUs and 0 GPUs; 1 sampler actor(s) of 1 CPUs"
    assert all(said in log for log in logs), logs


def test_runs_that_want_the_whole_cluster_do_not_block_each_other(
    service: Deployed, manifest: Path, tmp_path: Path
) -> None:
    """Asked for both CPUs each, two runs begun at once both end, whoever got which."""
    two_runs(service, manifest, tmp_path, samplers=2)


def test_a_pools_limit_lets_one_run_in_at_a_time(
    service: Deployed, manifest: Path, tmp_path: Path
) -> None:
    """With a concurrency limit of 1 on the cluster's work pool, the second run begins when the first
    has ended."""
    service.prefect("work-pool", "set-concurrency-limit", "zs2", "1")
    try:
        (first, second), _ = two_runs(service, manifest, tmp_path)
    finally:
        service.prefect("work-pool", "clear-concurrency-limit", "zs2")
    assert second["start_time"] >= first["end_time"]
