"""What a run tells Prometheus, through Ray's own metrics; `infra/grafana/zs2.json` draws it.

Set by the driver alone, which hears of every row; recording a row takes some ten microseconds. Ray puts
them, as `ray_zs2_…`, on the metrics port of the node that the driver runs on, with those of its own:
of GPUs `ray_node_gpus_utilization`, `ray_node_gram_used` and `ray_node_gram_available`, by node and GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from manifests.result import STAGES, STATUSES, ResultRow

# A stage of a row: a small clip on a GPU takes tenths of a second, a long one on a CPU the better part
# of an hour.
SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class Load(NamedTuple):
    """How busy a stage is.

    Attributes:
        actors: that are up. busy: that have a row at work.
        queued: rows that wait for one, at an actor or before all.
    """

    actors: int
    busy: int
    queued: int


class Telemetry:
    """The metrics of one run. Ray has to be there before it is made, and as long as it is told of rows.

    Args:
        out: the run folder's address: two runs on one cluster are told apart by it.
    """

    def __init__(self, out: str) -> None:
        own = {"out": out}
        self._rows = Counter("zs2_rows", "Rows that have ended, by status.", ("status", "out"))
        self._frames = Counter("zs2_frames", "Frames of finished videos.", ("out",))
        self._retries = Counter(
            "zs2_row_retries", "Further attempts of rows whose actor died.", ("out",)
        )
        self._seconds = Histogram(
            "zs2_stage_seconds", "Seconds a stage took for a row.", SECONDS, ("stage", "out")
        )
        by_stage = ("stage", "out")
        self._actors = Gauge("zs2_actors", "Actors that are up, by stage.", by_stage)
        self._busy = Gauge("zs2_actors_busy", "Actors at work on a row, by stage.", by_stage)
        self._queued = Gauge("zs2_rows_queued", "Rows that wait for an actor, by stage.", by_stage)
        self._left = Gauge("zs2_rows_left", "Rows without a result yet.", ("out",))
        everything = (self._rows, self._frames, self._retries, self._seconds)
        for metric in (*everything, self._actors, self._busy, self._queued, self._left):
            metric.set_default_tags(own)

    def end(self, row: ResultRow) -> None:
        """A row has ended."""
        self.count({row.status: 1})
        if row.status == "ok":
            self._frames.inc(row.num_frames or 0)
        if row.attempts > 1:
            self._retries.inc(row.attempts - 1)
        for stage in STAGES:
            seconds = getattr(row, f"seconds_{stage}")
            if seconds is not None:
                self._seconds.observe(max(0.0, seconds), {"stage": stage})

    def count(self, statuses: Mapping[str, int]) -> None:
        """Rows of these statuses have ended; nothing else is known of them."""
        for status in STATUSES:
            if statuses.get(status):
                self._rows.inc(statuses[status], {"status": status})

    def look(self, loads: Mapping[str, Load]) -> None:
        """How busy each stage is now."""
        for stage, load in loads.items():
            self._actors.set(load.actors, {"stage": stage})
            self._busy.set(load.busy, {"stage": stage})
            self._queued.set(load.queued, {"stage": stage})

    def left(self, rows: int) -> None:
        """So many rows have no result yet."""
        self._left.set(rows)


def endpoint() -> str | None:
    """Where Prometheus finds this node's metrics; None where Ray serves none."""
    own = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == own and node.get("MetricsExportPort"):
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return None
