"""What the tests of the folder share: the yard, and jobs without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from manifests.row import parse_row
from tasks.job import Engine, Job, resolve
from tests.hostile.yard import Yard
from zs2.models import ModelDefaults, ModelInfo


@pytest.fixture(scope="package")
def shared_yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    made = Yard(tmp_path_factory.mktemp("yard"))
    yield made
    made.close()


@pytest.fixture
def yard(shared_yard: Yard) -> Iterator[Yard]:
    """The yard, which is as it was when the test ends."""
    yield shared_yard
    shared_yard.assert_untouched()


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """A job of the given columns, of a model that has no weights."""
    info = ModelInfo("tiny", "/models/tiny", None, 32, 32, 4, 2, ModelDefaults(4, 3.0))

    def make(row_id: str, **columns: Any) -> Job:
        row = parse_row({"id": row_id, "prompt": "p", **columns})
        return resolve(row, 0, info, "0" * 32, Engine())

    return make
