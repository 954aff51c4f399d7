"""The study of the noise solvers measures the shipped code, and its report says what it measures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from infra.noise_solvers import (
    CANDIDATES,
    PICTURE,
    REPORT,
    SEEDS,
    Search,
    algorithm1_table,
    draw,
    moments_rows,
)
from infra.reports import with_tables
from zs2.noise import LINE_SEARCH_ITERATIONS, dependency_noise

SMALL, LARGE = SEEDS


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the program runs; sums over threads differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("solver", ["expected", "exact", "search", "algorithm1"])
def test_a_search_is_what_dependency_noise_does(solver: str):
    """α and error of a search are those of a two-frame clip with the same draws."""
    for kl_target in (0.01, 0.1):
        search = Search.of(SMALL, kl_target, seed=5)
        _, trace = dependency_noise(
            SMALL,
            2,
            kl_target,
            torch.Generator().manual_seed(5),
            solver,
            1 if solver == "expected" else CANDIDATES,
        )
        assert trace.alpha.item() == pytest.approx(search.alpha(solver), abs=1e-12)
        error = abs(trace.kl.item() - kl_target)
        assert error == pytest.approx(search.error(solver), abs=1e-6)


@pytest.mark.parametrize("kl_target", [0.01, 0.1])
def test_the_curves_end_where_the_solvers_do(kl_target: float):
    """Stage 1 never loses what it has; each curve of stage 2 has 15 points and ends at its solver's
    error; Algorithm 1 never climbs; bisection ends below 1e-4 and the closed form below 1e-12."""
    for seed in range(8):
        search = Search.of(LARGE, kl_target, seed)
        stage1 = search.stage1()
        assert len(stage1) == CANDIDATES
        assert stage1 == sorted(stage1, reverse=True)
        curves = {solver: search.stage2(solver) for solver in ("search", "algorithm1")}
        for solver, curve in curves.items():
            assert len(curve) == LINE_SEARCH_ITERATIONS
            assert curve[-1] == search.error(solver)
        climbing = [stage1[-1], *curves["algorithm1"]]
        assert climbing == sorted(climbing, reverse=True)
        assert search.error("exact") < 1e-12
        assert search.error("search") < 1e-4


def test_the_report_says_what_algorithm1_does():
    """The table in infra/sampler.md is the one that the program computes."""
    assert algorithm1_table() in REPORT.read_text("utf-8")


@pytest.mark.slow
def test_the_report_says_what_the_solvers_do():
    """Every row of the small latents in infra/sampler.md is the one that the program computes."""
    report = REPORT.read_text("utf-8").splitlines()
    rows = list(moments_rows(SMALL))
    assert len(rows) == 15
    assert [row for row in rows if row not in report] == []


def test_tables_go_to_their_places_and_nowhere_else():
    """What stood between the marks is replaced; writing twice changes nothing; a report without the
    place is refused by its name."""
    report = "a\n<!-- one -->\nold\nolder\n<!-- /one -->\nb\n<!-- two -->\n<!-- /two -->\nc\n"
    tables = {"one": "| \\1 |", "two": "| y |"}
    written = with_tables(report, tables)
    assert written == (
        "a\n<!-- one -->\n| \\1 |\n<!-- /one -->\nb\n<!-- two -->\n| y |\n<!-- /two -->\nc\n"
    )
    assert with_tables(written, tables) == written
    with pytest.raises(ValueError, match="<!-- three -->"):
        with_tables(report, {"three": ""})


def test_the_picture_is_the_same_each_time_and_small(tmp_path: Path):
    """Two drawings are equal byte by byte; the README's is whole, on white, and below 150 kB."""
    for name in ("a.svg", "b.svg"):
        draw(tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert PICTURE.stat().st_size < 150_000
    shown, drawn = (ElementTree.parse(path).getroot() for path in (PICTURE, tmp_path / "a.svg"))
    assert shown.attrib["viewBox"] == drawn.attrib["viewBox"]
    assert "fill: #ffffff" in PICTURE.read_text("utf-8")[:2000]
