"""manifests.study: the paper's grid and prompts as manifests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from manifests.read import ManifestError, open_manifest
from manifests.row import ManifestRow
from manifests.study import build_study, grid_records, prompt_records
from manifests.validate import check_rows
from tests.flows.running import zs2

COUNTS = {"1": 4, "2": 5, "3": 3, "4": 1, "6": 4, "7-9": 1, "11": 6, "12": 4} | {
    str(figure): 14 for figure in range(13, 18)
}


def rows_of(path: Path) -> list[ManifestRow]:
    rows = [row for _, row in check_rows(open_manifest(path))]
    assert all(isinstance(row, ManifestRow) for row in rows)
    return rows  # pyright: ignore[reportReturnType]


def test_the_prompts_are_those_of_section_12():
    """98 prompts by figure and by task. 80 are distinct as the paper lists them, where a remark
    such as "(Sampled from …)" tells two entries apart; without the remarks, 78."""
    records = prompt_records()
    assert Counter(record["meta_figure"] for record in records) == COUNTS
    assert Counter(record["meta_task"] for record in records) == {
        "text-to-video": 87,
        "pose guidance": 3,
        "edge guidance": 2,
        "depth guidance": 2,
        "DreamBooth": 2,
        "InstructPix2Pix": 2,
    }
    assert len(records) == len({record["id"] for record in records}) == 98
    remarked = {"1", "7-9"}  # the figures whose entries carry a remark
    listed = {(r["prompt"], r["meta_figure"] in remarked and r["meta_checkpoint"]) for r in records}
    assert len(listed) == 80
    assert len({prompt for prompt, _ in listed}) == 78


def test_prompts_carry_neither_task_nor_remark():
    """What the paper notes around a prompt is in the row's columns, not in its text."""
    by_id = {record["id"]: record for record in prompt_records()}
    ice = by_id["fig7-9-melting-ice-cream-dripping-down-the-cone"]
    assert ice["prompt"] == "Melting ice cream dripping down the cone."
    assert (ice["meta_checkpoint"], ice["momentum"]) == ("Stable Diffusion v1.5", 0.95)
    autumn = by_id["fig12-make-it-autumn"]
    assert (autumn["prompt"], autumn["meta_task"]) == ("Make it autumn.", "InstructPix2Pix")
    assert not [id for id, r in by_id.items() if "ampled" in r["prompt"] or ":" in r["prompt"]]


def test_the_grid_is_two_lines_that_cross_once():
    """For each prompt: λ from 0 to 0.25 at μ = 0.98 and μ from 0 to 1 at λ = 0.1, both rising, no
    point twice, the paper's defaults (0.01, 0.98) among them."""
    records = grid_records()
    prompts = {record["prompt"] for record in records}
    assert len(records) == 14 * len(prompts)
    for prompt in prompts:
        points = [(r["kl_target"], r["momentum"]) for r in records if r["prompt"] == prompt]
        assert len(set(points)) == len(points)
        assert {(0.01, 0.98), (0.1, 0.98)} <= set(points)
        kl_targets = [kl for kl, momentum in points if momentum == 0.98]
        momentums = sorted(momentum for kl, momentum in points if kl == 0.1)
        assert kl_targets == sorted(kl_targets)
        assert (kl_targets[0], kl_targets[-1]) == (0.0, 0.25)
        assert (momentums[0], momentums[-1]) == (0.0, 1.0)
        assert len(kl_targets) + len(momentums) == len(points) + 1


def test_neighbours_of_the_grid_share_their_seed(tmp_path: Path):
    """One seed for all points, or each of those given: rows of one seed differ in λ and μ alone."""
    build_study(tmp_path)
    assert len({row.seed for row in rows_of(tmp_path / "study-grid.parquet")}) == 1
    ((path, count),) = build_study(tmp_path / "all.parquet", seeds=[1, 2])
    rows = rows_of(path)
    assert len(rows) == count == 2 * (28 + 98)
    assert Counter(row.seed for row in rows) == {1: 126, 2: 126}
    assert all(row.id.endswith(f"-s{row.seed}") for row in rows)


def test_columns_reach_every_row_that_has_none_of_its_own(tmp_path: Path):
    """`--set` values hold for all rows; λ and μ of the grid stay."""
    columns = {"model": "owner/name", "kl_target": 0.5, "momentum": 0.5}
    build_study(tmp_path, columns=columns)
    grid = rows_of(tmp_path / "study-grid.parquet")
    prompts = rows_of(tmp_path / "study-prompts.parquet")
    assert {row.model for row in grid + prompts} == {"owner/name"}
    points = [(r["kl_target"], r["momentum"]) for r in grid_records()]
    assert [(row.kl_target, row.momentum) for row in grid] == points
    assert Counter(row.momentum for row in prompts) == {0.5: 97, 0.95: 1}


def test_columns_that_make_a_row_invalid_are_refused(tmp_path: Path):
    """Nothing is written, and the message names the study and the column."""
    with pytest.raises(ManifestError, match=r"the study makes no valid manifest:\n.*alpha"):
        build_study(tmp_path / "new", columns={"noise": "mixed"})
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_study(tmp_path: Path):
    """`zs2 manifest build --study -o FOLDER` prints both files with their rows."""
    answer = zs2("manifest", "build", "--study", "-o", tmp_path / "study")
    assert answer.code == 0
    assert answer.out == (
        f"{tmp_path}/study/study-grid.parquet: 28 rows\n"
        f"{tmp_path}/study/study-prompts.parquet: 98 rows\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--study", "p.txt"], "no source"),
        (["--study", "--kl-target", "0.1", "--slot", "a=b"], "no --kl-target and no --slot"),
        (["--study", "--set", "seed"], "column=value"),
        ([], "--recipe or --study; found none of them"),
    ],
)
def test_words_that_do_not_go_with_the_study(tmp_path: Path, words: list[str], says: str):
    """Exit code 2 with what was expected and found; nothing is written."""
    answer = zs2("manifest", "build", *words, "-o", tmp_path / "study")
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err
    assert list(tmp_path.iterdir()) == []
