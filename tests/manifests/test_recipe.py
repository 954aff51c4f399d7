"""Recipes: what they refuse, and the rows that they make of a date."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import date as Date
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from infra.mini.captions import PLACE_WORDS, SIZE_WORDS, THING_WORDS
from infra.mini.scenes import COLOURS
from manifests.read import ManifestError, open_manifest
from manifests.recipe import Recipe, quota_draws
from manifests.recipe_file import EXAMPLES, RecipeError, parse_recipe, read_recipe
from manifests.recipe_rows import build_recipe, parse_date, recipe_rows
from manifests.row import ManifestRow
from manifests.validate import check_rows

NIGHT = Date(2026, 11, 21)
HEAD = 'name = "n"\nlicense = "cc0-1.0"\nrows = 12\n'


def recipe_of(text: str, head: str = HEAD) -> Recipe:
    return parse_recipe(head + text)


def rows_of(recipe: Recipe, date: Date = NIGHT) -> list[dict[str, Any]]:
    return [*recipe_rows(recipe, date)]


PLAIN = recipe_of(
    """
prompts = ["a {colour} {thing}", { prompt = ["a {thing}", "two {thing}"], weight = 0.5 }]
slots.colour = { red = 3, blue = 1 }
slots.thing = ["star", "fish"]
columns.num_frames = 16
columns.segment_frames = 8
sampled.kl_target = { low = 0.001, high = 0.1, log = true }
sampled.momentum = [0.9, 0.98]
"""
)


@given(st.dates(), st.dates())
@settings(max_examples=30, deadline=None)
def test_a_date_has_its_own_rows(one: Date, other: Date):
    """The same date makes the same rows; another date makes others, with other seeds and ids; another
    recipe seed or name draws otherwise on the same date."""
    assert rows_of(PLAIN, one) == rows_of(PLAIN, one)
    for change in ({"seed": 1}, {"name": "m"}):
        changed = rows_of(PLAIN.model_copy(update=change), one)
        assert {r["seed"] for r in changed}.isdisjoint(r["seed"] for r in rows_of(PLAIN, one))
    assume(one != other)
    for key in ("seed", "id"):
        assert {r[key] for r in rows_of(PLAIN, one)}.isdisjoint(
            r[key] for r in rows_of(PLAIN, other)
        )


def test_rows_are_the_same_on_every_machine_and_python(tmp_path: Path):
    """The bundled recipe's first row of a date is this one, for good, and a fresh process with another
    hash seed writes the same bytes."""
    recipe, _ = read_recipe("nightly")
    first = rows_of(recipe)[0]
    assert first["id"] == "2026-11-21-01-a-large-yellow-fish-in-the-desert-at-night-kl0.01"
    assert (first["seed"], first["momentum"]) == (2076806634039847, 0.956488)
    build_recipe(recipe, NIGHT, tmp_path / "here.parquet")
    command = ["-m", "flows.cli", "manifest", "build", "--recipe", "nightly", "--date", str(NIGHT)]
    done = subprocess.run(
        [sys.executable, *command, "-o", str(tmp_path / "there.parquet")],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.endswith("there.parquet: 24 rows\n"), done.stderr
    here, there = ((tmp_path / f"{name}.parquet").read_bytes() for name in ("here", "there"))
    assert sha256(here).digest() == sha256(there).digest()


def test_what_is_added_leaves_the_rest_as_it_was():
    """More rows leave the first ones as they are but for the width of their number; another slot or
    sampled column leaves the other draws as they are."""
    base = recipe_of('prompts = ["a {thing}"]\nslots.thing = ["star", "fish", "ball"]')
    more = base.model_copy(update={"rows": 99})
    assert [r["seed"] for r in rows_of(more)[:12]] == [r["seed"] for r in rows_of(base)]
    other = recipe_of(
        'prompts = ["a {size} {thing}"]\nslots.size = ["big", "small"]\n'
        'slots.thing = ["star", "fish", "ball"]\nsampled.momentum = { low = 0.5, high = 0.9 }'
    )
    for key in ("seed", "meta_thing"):
        assert [r[key] for r in rows_of(other)] == [r[key] for r in rows_of(base)]


def test_a_row_is_what_the_recipe_says():
    """Slots are filled and stand in meta_ columns, a template in meta_template; a storyboard stays a
    list; weights and ranges are kept."""
    rows = rows_of(PLAIN.model_copy(update={"rows": 400}))
    assert len({row["id"] for row in rows}) == len({row["seed"] for row in rows}) == 400
    templates = Counter(row["meta_template"] for row in rows)
    assert 90 < templates["a {thing} | two {thing}"] < 180  # a third of 400, 4.5 deviations
    for row in rows:
        if isinstance(row["prompt"], list):
            assert row["prompt"] == [f"a {row['meta_thing']}", f"two {row['meta_thing']}"]
            assert "meta_colour" not in row
        else:
            assert row["prompt"] == f"a {row['meta_colour']} {row['meta_thing']}"
        assert 0.001 <= row["kl_target"] <= 0.1 and row["momentum"] in (0.9, 0.98)
        assert row["num_frames"] == 16
    colours = Counter(row.get("meta_colour") for row in rows)
    assert 160 < colours["red"] < 240  # three quarters of about 267
    small = sum(row["kl_target"] < 0.01 for row in rows)
    assert 150 < small < 250  # evenly in the logarithm


def test_whole_numbers_are_drawn_whole():
    """Ranges of whole-number columns have both ends, and every number between, evenly or by logarithm."""
    for log in ("", ", log = true"):
        text = f'prompts = ["a"]\nsampled.num_inference_steps = {{ low = 2, high = 5{log} }}'
        rows = rows_of(recipe_of(text, HEAD.replace("12", "300")))
        found = Counter(row["num_inference_steps"] for row in rows)
        assert set(found) == {2, 3, 4, 5} and all(type(n) is int for n in found)
        assert found[2] > found[5] + 20 if log else min(found.values()) > 45


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_quotas_are_exact(data: st.DataObject):
    """Counts are met to the row; a share is within one draw of itself, and all shares together are
    their sum, rounded; the other rows have values without quotas. Only what would be less than a row can
    be refused."""
    rows = data.draw(st.integers(1, 60))
    count = data.draw(st.integers(0, rows))
    tenths = data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=2))
    shares = [n / 10 for n in tenths]
    wanted = Fraction(sum(tenths), 10) * rows
    assume(count + round(wanted) <= rows)
    text = (
        f'name = "n"\nlicense = "x"\nrows = {rows}\nprompts = ["{{c}}"]\n'
        'slots.c = ["red", "blue", "pink", "grey", "black"]\n'
        f"quotas.c = {{ red = {count}, blue = {shares[0]}, pink = {shares[1]} }}"
    )
    try:
        recipe = parse_recipe(text)
    except RecipeError as error:
        assert "which rounds to no row" in str(error)
        assert any(0 < Fraction(share, 10) * rows < 1 for share in tenths)
        return
    found = Counter(row["prompt"] for row in rows_of(recipe))
    assert found["red"] == count
    assert found["blue"] + found["pink"] == round(wanted)
    for colour, share in zip(("blue", "pink"), tenths, strict=True):
        assert abs(found[colour] - Fraction(share, 10) * rows) < 1
    assert sum(found.values()) == rows


def test_the_grid_is_whole():
    """Every draw, its prompt, seed and sampled values, is made with every combination of the grid, and
    quotas count rows."""
    recipe = recipe_of(
        'prompts = ["{c}"]\nslots.c = ["red", "blue"]\nquotas.c = { red = 4 }\n'
        "grid.kl_target = [0.01, 0.1]\ngrid.guidance_scale = [1, 7.5]\n"
        "sampled.momentum = { low = 0.1, high = 0.9 }"
    )
    rows = rows_of(recipe)
    assert quota_draws(recipe, "c") == {"red": 1}
    assert Counter(row["prompt"] for row in rows) == {"red": 4, "blue": 8}
    points = {(row["kl_target"], row["guidance_scale"]) for row in rows}
    assert len(points) == 4
    for seed in {row["seed"] for row in rows}:
        same = [row for row in rows if row["seed"] == seed]
        assert {(row["kl_target"], row["guidance_scale"]) for row in same} == points
        assert len({(row["prompt"], row["momentum"]) for row in same}) == 1


def test_long_ids_stay_ids():
    """Where the grid's values do not fit into an id, or cannot be told apart there, the number of its
    point stands for them."""
    lists = [[0.123456 + i / 100] * 11 for i in range(2)]
    text = f'prompts = ["{"word " * 20}"]\ncolumns.num_frames = 12\ngrid.kl_target = {lists}'
    text += f"\ngrid.momentum = {[[m] * 12 for m in (0.5, 0.25)]}\ngrid.fps = [8, 12.5]"
    text += "\ngrid.guidance_scale = [1, 2]"
    rows = rows_of(recipe_of(text, HEAD.replace("12", "16")))
    assert len({row["id"] for row in rows}) == 16
    assert rows[15]["id"].endswith("word-word-point16")
    alike = [f"/a/folder/of/a/rather/much/longer/name/model-{i}" for i in range(2)]
    rows = rows_of(recipe_of(f'prompts = ["a"]\ngrid.model = {alike}'))
    assert [row["id"] for row in rows[:2]] == ["2026-11-21-1-a-point1", "2026-11-21-1-a-point2"]


REFUSED = {
    "no toml": ("prompts = [", "expected TOML, found a mistake"),
    "no name": ('license = "x"\nrows = 1\nprompts = ["a"]', "name: expected a value, found none"),
    "unknown key": ('promts = ["a"]', "promts: expected a known key, found `promts`; did you mean"),
    "no prompts": ("prompts = []", "prompts: expected"),
    "a prompt of no text": ("prompts = [3]", "prompts.0.prompt: expected a valid string or"),
    "a slot without values": ('prompts = ["{c}"]', "prompts.0: expected slots that have values"),
    "values without a slot": (
        'prompts = ["a"]\nslots.c = ["x"]',
        "slots.c: expected a prompt with {c}, found none",
    ),
    "no values": ('prompts = ["{c}"]\nslots.c = []', "slots.c: expected at least one value"),
    "a value twice": ('prompts = ["{c}"]\nslots.c = ["x", "x"]', "`x` stands there twice"),
    "a weight below 0": ('prompts = ["{c}"]\nslots.c = { x = -1, y = 1 }', "a weight from 0"),
    "no weight": ('prompts = ["{c}"]\nslots.c = { x = 0 }', "expected a weight above 0"),
    "a slot's name": (
        'prompts = ["{template}"]\nslots.template = ["x"]',
        "slots.template: expected a name",
    ),
    "quota of no value": (
        'prompts = ["{c}"]\nslots.c = ["x"]\nquotas.c = { y = 1 }',
        "quotas.c.y: expected a value of the slot: `x`, found 'y'",
    ),
    "too many": (
        'prompts = ["{c}"]\nslots.c = ["x", "y"]\nquotas.c = { x = 7, y = 6 }',
        "quotas.c: expected at most 12 rows in all, found 7 + 6 = 13",
    ),
    "too few": (
        'prompts = ["{c}"]\nslots.c = ["x", "y"]\nquotas.c = { x = 7, y = 0.25 }',
        "quotas.c: expected 12 rows in all, found 7 + 3 = 10 and no value without a quota for the "
        "other 2",
    ),
    "shares": (
        'prompts = ["{c}"]\nslots.c = ["x", "y"]\nquotas.c = { x = 0.5, y = 0.75 }',
        "quotas.c: expected shares of at most 1 in all, found 0.5 + 0.75 = 1.25",
    ),
    "a large share": (
        'prompts = ["{c}"]\nslots.c = ["x", "y"]\nquotas.c = { x = 2.0 }',
        "quotas.c.x: expected a share from 0 to 1, found 2; write a count as a whole number",
    ),
    "below none": (
        'prompts = ["{c}"]\nslots.c = ["x", "y"]\nquotas.c = { x = -1 }',
        "quotas.c.x: expected a count ≥ 0, found -1",
    ),
    "quota beside the grid": (
        'prompts = ["{c}"]\nslots.c = ["x", "y"]\nquotas.c = { x = 3 }\ngrid.seed = [1, 2]',
        "quotas.c.x: expected a count that is a multiple of the grid's 2 points, found 3",
    ),
    "quota of some prompts": (
        'prompts = ["{c}", "a"]\nslots.c = ["x", "y"]\nquotas.c = { x = 3 }',
        "quotas.c: expected {c} in every prompt, found 'a'",
    ),
    "rows and grid": (
        'prompts = ["a"]\ngrid.seed = [1, 2, 3, 4, 5]',
        "rows: expected a multiple of the grid's 5 (seed) = 5 points, found 12; write 10 or 15",
    ),
    "no column": ('prompts = ["a"]\ncolumns.sede = 1', "did you mean `seed`?"),
    "the recipe's own": ('prompts = ["a"]\ncolumns.id = "x"', "columns.id: expected a column that"),
    "a slot's column": (
        'prompts = ["{c}"]\nslots.c = ["x"]\ncolumns.meta_c = "x"',
        "columns.meta_c: expected a name of its own",
    ),
    "two tables": (
        'prompts = ["a"]\ncolumns.seed = 1\ngrid.seed = [2, 3]',
        "grid.seed: expected `seed` in one table, found it in [columns], too",
    ),
    "a value": ('prompts = ["a"]\ncolumns.fps = 0', "columns.fps: expected a number > 0"),
    "grid of nothing": ('prompts = ["a"]\ngrid.seed = []', "grid.seed: expected at least one"),
    "grid of a bad value": (
        'prompts = ["a"]\ngrid.momentum = [0.5, 2]',
        "grid.momentum.1: expected",
    ),
    "one point twice": ('prompts = ["a"]\ngrid.seed = [4, 4]', "grid.seed.1: expected different"),
    "a range of texts": (
        'prompts = ["a"]\nsampled.codec = { low = 1, high = 2 }',
        "sampled.codec: expected a column of numbers for a range",
    ),
    "a range upside down": (
        'prompts = ["a"]\nsampled.fps = { low = 9, high = 8 }',
        "sampled.fps: expected low below high, both finite, found 9 and 8",
    ),
    "a logarithm of 0": (
        'prompts = ["a"]\nsampled.kl_target = { low = 0, high = 1, log = true }',
        "sampled.kl_target.low: expected above 0, for a logarithm, found 0",
    ),
    "half a step": (
        'prompts = ["a"]\nsampled.seed = { low = 0.5, high = 8 }',
        "sampled.seed: expected whole numbers, found 0.5 and 8",
    ),
    "between multiples": (
        'prompts = ["a"]\nsampled.height = { low = 64, high = 128 }',
        "sampled.height: expected a multiple of 8 from 8 to 8192, found 65",
    ),
    "no score": (
        'prompts = ["a"]\nkeep.clip_scor = { at_least = 1 }',
        "did you mean `clip_score`?",
    ),
    "no threshold": ('prompts = ["a"]\nkeep.flicker = {}', "expected at_least, at_most or both"),
    "an empty threshold": (
        'prompts = ["a"]\nkeep.flicker = { at_least = 3, at_most = 2 }',
        "keep.flicker: expected at_least ≤ at_most, found 3 and 2",
    ),
    "a quota on no slot": (
        'prompts = ["a {x}"]\nslots.x = ["p"]\nquotas.xs = { p = 1 }',
        "quotas.xs: expected a slot that has values, found `xs`; did you mean `x`?",
    ),
    "a quota of no row": (
        'prompts = ["a {x}"]\nslots.x = ["p", "q"]\nquotas.x = { p = 0.01 }',
        "quotas.x.p: expected at least 0.0833333, 1 row of 12, found 0.01, which rounds to no row",
    ),
    "never": ('prompts = ["a"]\nfail_below = 13', "fail_below: expected at most the 12 rows"),
}


@pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(text: str, told: str, tmp_path: Path):
    """Every fault of a recipe is told with its key, what was expected and found, before any row."""
    path = tmp_path / "r.toml"
    path.write_text(text if "license" in text else HEAD + text, "utf-8")
    with pytest.raises(RecipeError) as refusal:
        read_recipe(str(path))
    assert told in str(refusal.value), str(refusal.value)


def test_all_faults_are_told_at_once():
    """Three mistakes are three lines."""
    with pytest.raises(RecipeError) as refusal:
        recipe_of('prompts = ["{c}"]\ncolumns.fps = 0\nkeep.x = { at_least = 1 }')
    assert "3 faults" in str(refusal.value) and str(refusal.value).count("\n  ") == 3


def test_rows_that_do_not_go_together_are_no_manifest(tmp_path: Path):
    """What only a whole row shows is refused when it is built, and nothing is written."""
    recipe = recipe_of('prompts = ["a"]\ncolumns.num_frames = 4\ncolumns.segment_frames = 8')
    with pytest.raises(ManifestError, match="segment_frames"):
        build_recipe(recipe, NIGHT, tmp_path / "m.parquet")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_recipes(tmp_path: Path):
    """What is not there, is no text, is too long or no date is said, with what to do."""
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    (tmp_path / "long.toml").write_bytes(b"#" * (2**20 + 1))
    for name, told in (
        ("none.toml", "expected a recipe, a .toml file, or the bundled `nightly`"),
        ("latin.toml", "save it as UTF-8"),
        ("long.toml", "at most 1,048,576 bytes"),
        (".", "cannot be read"),
    ):
        with pytest.raises(RecipeError, match=told):
            read_recipe(str(tmp_path / name))
    for text in ("2026-02-30", "20261121", "today"):
        with pytest.raises(RecipeError, match="expected YYYY-MM-DD"):
            parse_date(text)


def test_the_identity_is_that_of_what_is_said():
    """Comments and layout leave it as it is; any other value, and another order of values, changes it."""
    text = 'prompts = ["{c}"]\nslots.c = ["x", "y"]'
    same = '# note\nprompts = [\n  "{c}",\n]\n[slots]\nc = ["x", "y"]\n'
    assert recipe_of(text).identity == recipe_of(same).identity
    for other in ('["y", "x"]', '["x"]', "{ x = 1, y = 2 }"):
        assert recipe_of(text.replace('["x", "y"]', other)).identity != recipe_of(text).identity
    assert recipe_of(text, HEAD.replace("cc0", "x")).identity != recipe_of(text).identity


def test_fewest_kept():
    """`fail_below` is a count, or a share of the rows rounded up; at least one clip is needed."""
    least = {"0": 1, "5": 5, "0.5": 6, "0.51": 7, "1.0": 12, "0.1": 2}
    for text, clips in least.items():
        assert recipe_of(f'prompts = ["a"]\nfail_below = {text}').least_kept() == clips


def test_the_example_is_of_the_bundled_models_world(tmp_path: Path):
    """nightly.toml: 24 valid rows of 8 frames whose words zs2-mini knows."""
    recipe, text = read_recipe("nightly")
    assert text == (EXAMPLES / "nightly.toml").read_text("utf-8")
    build_recipe(recipe, NIGHT, tmp_path / "m.parquet")
    rows = [row for _, row in check_rows(open_manifest(tmp_path / "m.parquet"))]
    assert len(rows) == 24
    assert all(isinstance(row, ManifestRow) and row.num_frames == 8 for row in rows)
    words = {"colour": COLOURS, "thing": THING_WORDS, "place": PLACE_WORDS, "size": SIZE_WORDS}
    for slot, known in words.items():
        assert set(recipe.slots[slot]) <= set(known)
