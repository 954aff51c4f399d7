"""The same command against a Ray cluster whose nodes share no disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from manifests.object_store import ObjectStore
from tests.flows.ray_nodes import RayNodes
from tests.flows.running import TIME_LIMIT, ZS2, environment, wait_until, write_rows, zs2
from tests.object_server import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROWS = 12


@pytest.fixture
def nodes(s3: Store, tmp_path: Path) -> Iterator[RayNodes]:
    """A head and two workers of two CPUs, with the store's credentials in their environment."""
    with RayNodes(tmp_path, 2, 2) as made:
        yield made


def rows_of(folder: Any) -> list[dict[str, Any]]:
    return sorted(pq.read_table(folder).to_pylist(), key=lambda row: row["id"])


def test_a_node_is_lost_and_the_run_ends_on_the_other(
    nodes: RayNodes, bucket: str, tiny_model: Path, tmp_path: Path
) -> None:
    """`--ray-address`, OUT on an object store: the nodes found and the actors placed are said, one
    node of two dies in mid-run, and every row ends once, ok, with the bytes that the same row has on
    this machine alone. A cluster smaller than asked is refused in time."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 12, "num_frames": 16}
    rows = [{"id": f"r{i:02d}", **row} for i in range(ROWS)]
    manifest = write_rows(tmp_path / "m.parquet", rows)
    out = f"{bucket}/out"
    where = ("--ray-address", nodes.address)
    small = zs2("render", manifest, "-o", out, *where, "--min-nodes", 4, "--cluster-wait", 1)
    assert small.code == 1
    assert "expected a cluster of 4 node(s) and 0 GPU(s) within 1 s" in small.err
    assert "found 3 node(s) with 4 CPUs and 0 GPUs" in small.err

    run = subprocess.Popen(
        [*ZS2, "render", str(manifest), "-o", out, *where, "--min-nodes", "3"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    store = ObjectStore(out)

    def videos() -> int:
        return sum("/videos/" in f"/{store.name_of(found)}" for found in store.list())

    assert wait_until(lambda: videos() >= 3 or run.poll() is not None, TIME_LIMIT)
    assert run.poll() is None, run.communicate()[1]
    nodes.lose()
    _, said = run.communicate(timeout=TIME_LIMIT)
    assert run.returncode == 0, said
    log = "".join(
        (store.read(name) or (b"", ""))[0].decode()
        for name in map(store.name_of, store.list())
        if name.startswith("logs/")
    )
    assert "Ray: 3 node(s) with 4 CPUs and 0 GPUs; 4 sampler actor(s) of 1 CPUs" in log
    (tmp_path / "results").mkdir()
    for name in map(store.name_of, store.list()):
        if name.startswith("results/") and name.endswith(".parquet"):
            (tmp_path / name).write_bytes((store.read(name) or (b"", ""))[0])
    ended = rows_of(tmp_path / "results")
    assert [row["id"] for row in ended] == [row["id"] for row in rows]
    assert {row["status"] for row in ended} == {"ok"}
    again = [row for row in ended if row["attempts"] > 1]
    assert again  # the node had rows

    few = [row["id"] for row in (*again[:2], ended[0])]
    some = write_rows(tmp_path / "few.parquet", [row for row in rows if row["id"] in few])
    assert zs2("render", some, "-o", tmp_path / "out").code == 0
    alone = {row["id"]: row["sha256"] for row in rows_of(tmp_path / "out" / "results")}
    assert alone == {row["id"]: row["sha256"] for row in ended if row["id"] in few}
