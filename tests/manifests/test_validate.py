"""manifests.validate: all problems of a manifest in one pass and one report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manifests.read import open_manifest
from manifests.row import ManifestRow
from manifests.validate import Problem, check_rows, format_problems


def problems(path: Path, defaults: dict[str, Any] | None = None) -> list[Problem]:
    checked = check_rows(open_manifest(path), defaults)
    return [problem for _, result in checked if isinstance(result, list) for problem in result]


def test_every_bad_row_is_told_and_every_good_one_passes(write: Any):
    """File, row, id, column, expected and found of each; the good rows come in their order."""
    path = write(
        {
            "id": ["a", "b", "../c", None, "e"],
            "prompt": ["p", "p", "p", "p", "p"],
            "height": [64, 37, 37, 64, None],
        }
    )
    results = [result for _, result in check_rows(open_manifest(path))]
    assert [r.id for r in results if isinstance(r, ManifestRow)] == ["a", "e"]
    found = [(p.row, p.id, p.column, p.found) for p in problems(path)]
    assert found == [
        (1, "b", "height", "37"),
        (2, "'../c'", "id", "'../c'"),
        (2, "'../c'", "height", "37"),
        (3, "", "id", "no value"),
    ]
    assert {p.file for p in problems(path)} == {str(path)}
    hint = "(nearest: 32 or 40)"
    told = f"{path} row 1: height: expected a multiple of 8 from 8 to 8192, found 37 {hint}"
    assert str(problems(path)[0]) == told


def test_the_later_row_of_a_duplicate_id_is_the_bad_one_and_names_the_first(
    write: Any, tmp_path: Path
):
    """Over all files; a bad row takes its id, too; every later one is told."""
    write({"id": ["a", "b"], "prompt": ["p", "p"], "height": [37, 64]}, "m/1.parquet")
    write({"id": ["b", "a", "b"], "prompt": ["p", "p", "p"]}, "m/2.parquet")
    again = [p for p in problems(tmp_path / "m") if p.column == "id"]
    assert [(Path(p.file).name, p.row, p.id) for p in again] == [
        ("2.parquet", 0, "b"),
        ("2.parquet", 1, "a"),
        ("2.parquet", 2, "b"),
    ]
    assert all("1.parquet" in p.hint for p in again)
    assert "row 1 of" in again[0].hint and "row 0 of" in again[1].hint


def test_run_defaults_are_part_of_the_check(write: Any):
    """A default that does not suit a row is that row's problem."""
    path = write({"id": ["a", "b"], "prompt": ["p", "p"], "num_frames": [3, 8]})
    (problem,) = problems(path, {"kl_target": (0.1, 0.2)})
    assert (problem.row, problem.column) == (1, "kl_target")


def test_the_report_is_aligned_counts_and_ends(write: Any):
    """One line a problem up to the limit, then counts by column; the total is always told."""
    n = 70
    path = write({"id": [f"r{i}" for i in range(n)], "prompt": ["p"] * n, "height": [37] * n})
    report = format_problems(problems(path), limit=50)
    lines = report.splitlines()
    assert lines[0] == "70 problems in 70 rows (rows count from 0)"
    assert len(lines) == 52
    assert "20 more (height: 20)" in lines[-1]
    assert len({line.index("expected") for line in lines[1:51]}) == 1
    for word in (
        str(path),
        "row 0",
        "r0",
        "height",
        "expected a multiple of 8",
        "found 37",
        "32 or 40",
    ):
        assert word in lines[1]
    assert format_problems([]) == "no problems"


def test_a_hostile_row_cannot_flood_the_report(write: Any):
    """Megabytes and control characters are cut and escaped."""
    path = write({"id": ["\x1b[2J" + "x" * 10_000_000], "prompt": ["y" * 10_000_000]})
    report = format_problems(problems(path))
    assert len(report) < 2000
    assert all(line.isprintable() for line in report.splitlines())
