"""The metrics of a run, and the dashboard that draws them, at the live endpoint of a real Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.damaged import damaged_copy
from tests.flows.running import TIME_LIMIT, ZS2, environment, processes, write_rows

DASHBOARD = Path(__file__).parents[2] / "infra" / "grafana" / "zs2.json"
# Ray's own, of a node that has a GPU: named in the dashboard, and not to be seen on any other.
OF_GPUS = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available"}


def drawn() -> set[str]:
    """Every metric that the dashboard's queries name."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert queries and len(panels) > 10
    return {name for query in queries for name in re.findall(r"\bray_\w+", query)}


def served(port: int) -> Iterator[tuple[str, float]]:
    """Name and value of every series that the endpoint serves now."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:  # not yet, or no longer
        return
    for line in text.splitlines():
        if found := re.fullmatch(r"(\w+)(\{.*\})? (\S+)", line):
            yield found[1], float(found[3])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_metric_of_the_dashboard_is_there_while_a_run_goes_on(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A run with rows that end in every way, all stages, and a sampler that is killed at work: each
    metric that infra/grafana/zs2.json names, those of GPUs apart, is seen with a value other than zero
    at the port that --metrics-port says, before the run ends. The figures of the rows are right."""
    common = {"prompt": "a", "num_inference_steps": 25, "num_frames": 16}
    more = {"temporal_scale": 2, "spatial_scale": 2}
    damaged = damaged_copy(tiny_model, tmp_path / "damaged")
    rows = [
        {"id": "damaged", "model": str(damaged), **common},
        {"id": "invalid", "model": str(tiny_model), **common, "fps": -1.0},
        *({"id": f"r{i}", "model": str(tiny_model), **common, **more} for i in range(14)),
    ]
    manifest, port = write_rows(tmp_path / "m.parquet", rows), free_port()
    variables = {"RAY_metrics_report_interval_ms": "500", "ZS2_TEST": tmp_path.name}
    words = ("--samplers", "1", "--on-invalid", "skip", "--metrics-port", str(port), "--json")
    run = subprocess.Popen(
        [*ZS2, "render", str(manifest), "-o", str(tmp_path / "out"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    )
    seen: set[str] = set()
    statuses: dict[str, float] = {}
    killed = False
    end = time.monotonic() + TIME_LIMIT
    while run.poll() is None and time.monotonic() < end:
        for name, value in served(port):
            if value:
                seen.add(name)
            if name == "ray_zs2_rows_left":
                statuses["left"] = value
        if not killed and len(list((tmp_path / "out").glob("videos/*/*.mp4"))) >= 2:
            killed = kill_a_sampler(f"ZS2_TEST={tmp_path.name}")
        time.sleep(0.2)
    told, complaints = run.communicate(timeout=60)
    assert run.returncode == 3, complaints
    assert json.loads(told)["rows"] == {"ok": 14, "failed": 1, "invalid": 1}
    assert killed
    assert drawn() - OF_GPUS <= seen, sorted(drawn() - OF_GPUS - seen)
    assert statuses["left"] < 14


def kill_a_sampler(mark: str) -> bool:
    """SIGKILL to a sampler that has a row at work; whether there was one."""
    for pid, command in processes(mark).items():
        if command.startswith("ray::SamplerActor.run"):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def test_the_dashboard_names_nothing_else() -> None:
    """Its metrics are zs2's and those of Ray's nodes; each panel has a title, a unit and a query that is
    about the runs chosen above, or about nodes."""
    names = drawn()
    assert names >= OF_GPUS
    assert all(name.startswith(("ray_zs2_", "ray_node_")) for name in names)
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert 'out=~"$out"' in target["expr"] or "ray_node_" in target["expr"]
