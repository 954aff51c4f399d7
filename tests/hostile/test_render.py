"""All hostile rows at once, in one manifest with good ones, rendered as a user renders it."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.ledger import iter_results
from tests.flows.running import zs2
from tests.hostile.cases import CASES
from tests.hostile.yard import Yard, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

GOOD = 20


def test_good_rows_end_well_beside_every_hostile_one(
    yard: Yard, tiny_model: Path, tmp_path: Path
) -> None:
    """Every case of the table and twenty good rows in one run: the good and the harmless ones are
    ok, the others invalid with its column or failed with the words of the table; exit code 3. Nothing was
    written beside OUT, no secret opened, nobody connected to, no pickle run."""
    own = {"model": str(tiny_model)}
    rows = {
        name: {**own, **case.row(yard, f"case-{i}")} for i, (name, case) in enumerate(CASES.items())
    }
    good = [{"id": f"good-{i}", "prompt": "p", **own} for i in range(GOOD)]
    order = list(rows)
    table = [*good[: GOOD // 2], *rows.values(), *good[GOOD // 2 :]]
    work = tmp_path / "work"
    work.mkdir()
    manifest, out = write_rows(work / "m.parquet", table), work / "out"
    done = zs2(
        *("render", manifest, "-o", out, "--on-invalid=skip", "--input-root", yard.inside),
        *("--set", "num_inference_steps=1", "--set", "num_frames=8", "--set", "fps=8"),
        time_limit=1200,
    )
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    found = {row.id: row for row in iter_results(out)}
    assert len(found) == len(table)
    assert all(found[row["id"]].status == "ok" for row in good)
    for place, name in enumerate(order, GOOD // 2):
        case, row_id = CASES[name], rows[name]["id"]
        # the column alone: others' values decide what the whole column holds, and how it is shown
        words = case.invalid[:1] or case.unreadable
        row = found.get(f"invalid-row-{place}") or found[str(row_id)]
        status = "invalid" if case.invalid else "failed" if case.unreadable else "ok"
        assert row.status == status, (name, row.error_message)
        assert all(word in str(row.error_message) for word in words), (name, row.error_message)
    assert sorted(path.name for path in work.iterdir()) == ["m.parquet", "out"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]
