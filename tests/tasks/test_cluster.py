"""The cluster joined or started, and what is there."""

from __future__ import annotations

import os
import socket
import time

import pytest

from tasks.cluster import ClusterError, Resources, connect
from tasks.placement import place


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_dead_address_fails_at_once(form: str):
    """Where no cluster answers, ClusterError names the address and the remedy within seconds; Ray
    by itself would try for minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(
        ClusterError, match=rf"no Ray cluster answers at .*{port}.*ray start --head"
    ):
        connect(form.format(port))
    assert time.monotonic() - started < 60


def test_a_local_ray_has_room_for_a_sampler_a_core(local_ray: list[Resources]):
    """A sampler a core; and it sends nothing anywhere."""
    cores = len(os.sched_getaffinity(0))
    assert place(local_ray, 100, gpus_per_sampler=0).samplers == cores
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
