"""manifests.table: records by key, compactly."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.digest import id_hash
from manifests.table import Table

# few keys, so that they meet again; equal first halves, so that they meet in one slot
KEYS = st.one_of(
    st.integers(0, 30).map(lambda number: id_hash(str(number))),
    st.integers(0, 30).map(lambda number: bytes(8) + number.to_bytes(8)),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(("put", "setdefault")), KEYS, st.binary(min_size=3, max_size=3))
)


@settings(derandomize=True, deadline=None)
@given(STEPS)
def test_it_is_a_dictionary(steps: list[tuple[str, bytes, bytes]]):
    """After any steps it holds what a dictionary would, in the dictionary's order."""
    table, model = Table(3), dict[bytes, bytes]()
    for what, key, record in steps:
        if what == "put":
            table.put(key, record)
            model[key] = record
        else:
            assert table.setdefault(key, record) == model.setdefault(key, record)
        assert table.get(key) == model[key] and len(table) == len(model)
    assert table.column(1) == bytes(record[1] for record in model.values())
    assert table.get(id_hash("another")) is None


def test_it_grows_past_its_room_and_stays_small():
    """Many more records than were foreseen are all found again, in at most 50 bytes each."""
    keys = [id_hash(str(number)) for number in range(30_000)]
    tracemalloc.start()
    table = Table(8, room=10)
    for number, key in enumerate(keys):
        table.put(key, number.to_bytes(8))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(table.get(key) == number.to_bytes(8) for number, key in enumerate(keys))
    assert held < 50 * len(keys)


def test_what_a_damaged_file_foresees_costs_little():
    """Room for more rows than memory has bytes is not taken."""
    table = Table(8, room=10**15)
    table.put(id_hash("a"), bytes(8))
    assert len(table) == 1
