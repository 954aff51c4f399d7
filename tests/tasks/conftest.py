"""What the tests of `tasks` share: jobs without a model, and one local Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from manifests.row import parse_row
from tasks.cluster import Resources, connect, disconnect
from tasks.job import Engine, Job, resolve
from zs2.models import ModelDefaults, ModelInfo

MakeJob = Callable[..., Job]


@pytest.fixture
def info() -> ModelInfo:
    """A model as `describe` tells of it; there are no weights."""
    defaults = ModelDefaults(num_inference_steps=4, guidance_scale=3.0)
    return ModelInfo("tiny", "/models/tiny", None, 32, 32, 4, 2, defaults)


@pytest.fixture
def make_job(info: ModelInfo) -> MakeJob:
    """A job of the given columns."""

    def make(row_id: str = "a", prompt: Any = "p", **columns: Any) -> Job:
        row = parse_row({"id": row_id, "prompt": prompt, **columns})
        return resolve(row, 0, info, "0" * 32, Engine())

    return make


@pytest.fixture(scope="package")
def local_ray() -> Iterator[list[Resources]]:
    """A local Ray, started as a run starts it; what its node has."""

    resources = connect()
    yield resources
    disconnect()
