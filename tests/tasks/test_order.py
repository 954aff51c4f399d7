"""The order of rows: few switches, nobody starved, every row once."""

from __future__ import annotations

import shutil
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.read import Manifest, open_manifest
from tasks.catalogue import Catalogue
from tasks.job import Engine, Signature
from tasks.order import (
    MOST_OVERTAKEN,
    MOST_ROUNDS,
    TURN_PICTURES,
    Group,
    Part,
    Pending,
    Switches,
    by_preference,
    ordered,
)
from tasks.plan import WINDOW_ROWS, Plan, jobs_of, make_plan

ROWS = 1000
SLOW = 3  # the model whose rows take ten times as long


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Five models: five signatures."""
    folder = tmp_path_factory.mktemp("five")
    return [str(shutil.copytree(tiny_model, folder / str(number))) for number in range(5)]


@pytest.fixture(scope="module")
def mixed(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """1,000 rows of five models and two shapes, one as likely as the other, in no order."""
    rng = np.random.default_rng(0)
    model = rng.integers(0, 5, ROWS)
    path = tmp_path_factory.mktemp("mixed") / "m.parquet"
    columns: dict[str, Any] = {
        "id": [f"r{i}" for i in range(ROWS)],
        "prompt": [f"p{i}" for i in range(ROWS)],
        "model": [models[i] for i in model],
        "num_frames": [12] * ROWS,
        "segment_frames": [8] * ROWS,
        "guidance_scale": [7.5] * ROWS,
        "num_inference_steps": np.where(model == SLOW, 250, 25),
        "height": rng.choice([32, 64], ROWS),
    }
    pq.write_table(pa.table(columns), path)
    return open_manifest(path)


def planned(manifest: Manifest, **more: Any) -> Plan:
    return make_plan(manifest, Catalogue(), defaults={}, engine=Engine(), **more)


def test_a_mixed_manifest_is_rendered_with_few_switches(mixed: Manifest):
    """One actor loads the five models at most MOST_ROUNDS times each, and changes shape once in a
    turn, where the manifest's own order has it load another for four rows of five. The padding is
    a third of the second segments: 4 frames of 16."""
    made = planned(mixed)
    own, here = made.switches_in_manifest_order, made.switches
    assert 700 < own.models < 900 and 50 < own.shapes < 150
    assert 4 <= here.models <= 4 * MOST_ROUNDS and here.shapes <= 5 * MOST_ROUNDS
    assert here.models < own.models / 20
    assert made.work.padding == pytest.approx(4 / 16)
    assert len(made.shards) <= 5 * MOST_ROUNDS
    assert sorted(p for shard in made.shards for p in shard.positions) == list(range(ROWS))


def test_every_signature_advances_in_proportion(mixed: Manifest, models: list[str]):
    """At each moment of the run every signature, that of ten times the work too, has done the same
    share of its rows but for a round; the last rows of each end in the last round."""
    made = planned(mixed)
    order = [p for shard in made.shards for p in shard.positions]
    pictures = dict.fromkeys(models, 1) | {models[SLOW]: 10}
    location = [
        shard.signature.location for shard in made.shards for _ in range(len(shard.positions))
    ]
    assert len(order) == len(location) == ROWS
    total, done = Counter(location), Counter[str]()
    work = np.cumsum([pictures[each] for each in location])
    rounds = MOST_ROUNDS  # 1,000 rows of so much work have them all
    for row, each in enumerate(location):
        done[each] += 1
        share = done[each] / total[each]
        assert abs(share - work[row] / work[-1]) < 1 / rounds + 0.02, (row, each)


def test_a_shard_is_read_in_its_order(mixed: Manifest):
    """The jobs come as the plan has them, shapes together, though the rows lie mixed in the file."""
    made = planned(mixed, shard_rows=2 * WINDOW_ROWS)
    mixed_shards = 0
    for shard in made.shards:
        jobs = list(jobs_of(shard, mixed, Catalogue(), {}, Engine()))
        assert [job.position for job in jobs] == list(shard.positions)
        assert {job.signature for job in jobs} == {shard.signature}
        heights = [job.row.height for job in jobs]
        assert sum(a != b for a, b in pairwise(heights)) <= 2  # a round's end and the next's begin
        mixed_shards += len(set(heights)) > 1
    assert mixed_shards


def group(model: str, add_ons: str = "", height: int = 32) -> Group:
    return Group(Signature(model, "r", "auto", True), add_ons, (height, 32, 8, 2))


def pending(rows: dict[Group, tuple[Sequence[int], float]]) -> dict[Group, Pending]:
    return {
        each: Pending(array("Q", positions), pictures * len(positions))
        for each, (positions, pictures) in rows.items()
    }


def names(parts: Sequence[Part]) -> list[str]:
    return [part.group.signature.location for part in parts]


def test_a_small_run_switches_once_to_each():
    """With less than a turn of work there is one round: each group in one piece, those of a model
    together, and of these those of the same add-ons."""
    a, b = group("a"), group("b")
    a_lora, a_large = group("a", "lora"), group("a", height=64)
    parts = list(
        ordered(pending({a_lora: ([5], 1), b: ([0, 9], 1), a: ([1, 3], 1), a_large: ([2], 1)}))
    )
    assert [(p.group, list(p.positions)) for p in parts] == [
        (a_lora, [5]),
        (a, [1, 3]),
        (a_large, [2]),
        (b, [0, 9]),
    ]
    assert Switches.of([p.group for p in parts]) == Switches(models=1, add_ons=1, shapes=1)


def test_calls_of_other_numbers_of_clips_are_other_shapes():
    """As they are to the UNet; rows that cannot share a call for other reasons are of one shape."""
    alone = group("a")
    four, others = alone._replace(clips=4, company="x"), alone._replace(clips=4, company="y")
    assert Switches.of([alone, four, others, alone]) == Switches(shapes=2)


def test_every_second_round_runs_backwards():
    """So the model that ends a round is the one that begins the next; more samplers take longer
    turns."""
    work = {
        group(name): (range(number * 100, number * 100 + 100), 1000.0)
        for number, name in enumerate("abc")
    }
    assert names(list(ordered(pending(work)))) == list("abccbaabc")
    assert names(list(ordered(pending(work), samplers=3))) == list("abc")


def test_groups_of_little_work_share_turns():
    """Many shapes of few rows each do not make a turn each: a model's turns stay as many as its work
    is worth, and are spread over the rounds."""
    small = {
        group("a", height=8 * n): (range(n * 10, n * 10 + 10), TURN_PICTURES / 100)
        for n in range(1, 41)
    }
    big = {group("b"): (range(1000, 1400), TURN_PICTURES / 100)}
    parts = list(ordered(pending(small | big)))
    turns = [n for i, n in enumerate(names(parts)) if i == 0 or n != names(parts)[i - 1]]
    assert 4 <= len(turns) <= 9 and turns.count("a") >= 3


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x"]), st.sampled_from([8, 16])),
        min_size=1,
        max_size=60,
    ),
    st.floats(0, 3 * TURN_PICTURES),
    st.integers(1, 4),
)
def test_every_row_once(keys: list[tuple[str, str, int]], pictures: float, samplers: int):
    """Whatever the groups and their work: each row once, those of a group in the manifest's order."""
    rows: dict[Group, Pending] = {}
    for position, key in enumerate(keys):
        one = rows.setdefault(group(*key), Pending())
        one.positions.append(position)
        one.pictures += pictures
    by_group: dict[Group, list[int]] = {}
    for part in ordered(rows, samplers):
        by_group.setdefault(part.group, []).extend(part.positions)
    assert by_group == {each: list(one.positions) for each, one in rows.items()}


@dataclass
class Open:
    signature: str
    overtaken: int = 0


def test_an_actor_keeps_to_its_signature():
    """First its own, then where fewest others are, then the oldest; a shard that was overtaken for
    too long goes before all."""
    a, b, c = Open("a"), Open("b"), Open("c")
    assert by_preference([a, b, c], "b", ["a", "b"]) == [b, c, a]
    assert by_preference([a, b, c], None, ["a", None]) == [b, c, a]
    assert by_preference([a, b, c], None, []) == [a, b, c]
    a.overtaken = MOST_OVERTAKEN
    assert by_preference([a, b, c], "b", ["a", "b"]) == [a, b, c]
