"""manifests.build: manifests from .txt, .csv and .jsonl, with grids and templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from manifests.build import build, show
from manifests.columns import is_id
from manifests.read import ManifestError, open_manifest
from manifests.row import ManifestRow
from manifests.validate import check_rows
from tests.flows.running import zs2


def rows(path: Path) -> list[ManifestRow]:
    checked = [result for _, result in check_rows(open_manifest(path))]
    assert all(isinstance(row, ManifestRow) for row in checked)
    return [row for row in checked if isinstance(row, ManifestRow)]


def make(tmp_path: Path, name: str, content: str | bytes, **options: Any) -> list[ManifestRow]:
    source = tmp_path / name
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    output = tmp_path / "new" / "m.parquet"
    count = build(source, output, **options)
    made = rows(output)
    assert len(made) == count
    assert [p.name for p in output.parent.iterdir()] == ["m.parquet"]
    return made


def test_text_is_a_prompt_a_line(tmp_path: Path):
    """Blank lines and comments are passed over; ids come from the prompt and are unique."""
    text = "\ufeffA red star, over the sea!\r\n\n# a comment\na red star over the sea\n日本の海\n  spaced  \n"
    made = make(tmp_path, "p.txt", text)
    assert [(row.id, row.prompt) for row in made] == [
        ("a-red-star-over-the-sea", ("A red star, over the sea!",)),
        ("a-red-star-over-the-sea-2", ("a red star over the sea",)),
        ("clip", ("日本の海",)),
        ("spaced", ("spaced",)),
    ]


def test_csv_columns_go_by_name_and_type(tmp_path: Path):
    """Empty cells are null, numbers and lists are JSON, text that looks like a number stays text."""
    text = (
        "id, prompt,num_frames,kl_target,momentum,negative_prompt,meta_n\n"
        'a,"p, q",3,"[0.1, 0.2]",,,1\n'
        'b,"[""one"", ""two""]",9,0.5,0.9,7,\n'
        "c,42,,,,,x\n"
    )
    a, b, c = make(tmp_path, "p.csv", text)
    assert (a.prompt, a.num_frames, a.kl_target, a.momentum) == (("p, q",), 3, (0.1, 0.2), 0.98)
    assert (b.prompt, b.kl_target, b.momentum, b.negative_prompt) == (("one", "two"), 0.5, 0.9, "7")
    assert c.prompt == ("42",)
    assert [row.meta for row in (a, b, c)] == [{"meta_n": "1"}, {}, {"meta_n": "x"}]


def test_jsonl_keeps_types(tmp_path: Path):
    """Lists, numbers, nulls and meta columns of any kind."""
    records = [
        {"id": "a", "prompt": ["one", "two"], "num_frames": 16, "meta_t": ["x"], "meta_m": 1},
        {"id": "b", "prompt": "p", "seed": None, "kl_target": 0.5, "meta_m": "one"},
    ]
    a, b = make(tmp_path, "p.jsonl", "\n".join(map(json.dumps, records)) + "\n\n")
    assert (a.prompt, a.meta) == (("one", "two"), {"meta_t": ["x"], "meta_m": "1"})
    assert (b.prompt, b.kl_target, b.meta) == (("p",), 0.5, {"meta_m": "one"})


def test_a_grid_makes_every_combination_with_readable_ids(tmp_path: Path):
    """prompt × seed × λ × μ: each row once, each id says where it stands in the grid."""
    grid = {"seed": [1, 2], "kl_target": [0.01, [0.1, 0.2]], "momentum": [0.9, 0.98]}
    made = make(tmp_path, "p.txt", "a star\na moon\n", grid=grid, columns={"num_frames": 3})
    assert len(made) == 16 and all(is_id(row.id) for row in made)
    assert len({(row.prompt, row.seed, row.kl_target, row.momentum) for row in made}) == 16
    assert made[0].id == "a-star-s1-kl0.01-mu0.9"
    assert made[-1].id == "a-moon-s2-kl0.1_0.2-mu0.98"
    assert {row.num_frames for row in made} == {3}


def test_a_grid_extends_given_ids(tmp_path: Path):
    """A given id stays recognisable."""
    made = make(tmp_path, "p.csv", "id,prompt\nx,a\ny,b\n", grid={"scheduler": ["ddim", "dpm++"]})
    assert [row.id for row in made] == [
        "x-schedulerddim",
        "x-schedulerdpm",
        "y-schedulerddim",
        "y-schedulerdpm",
    ]


def test_templates_fill_their_slots_with_every_value(tmp_path: Path):
    """A prompt is made once for each combination of the slots that it names."""
    slots = {"color": ["red", "blue"], "thing": ["star", "moon"]}
    made = make(
        tmp_path, "p.txt", "a {color} {thing}\na {color} sea, {color}\nplain\n", slots=slots
    )
    assert [row.prompt[0] for row in made] == [
        "a red star",
        "a red moon",
        "a blue star",
        "a blue moon",
        "a red sea, red",
        "a blue sea, blue",
        "plain",
    ]


def test_braces_are_text_where_no_slots_are_given(tmp_path: Path):
    """Prompts may hold anything."""
    (row,) = make(tmp_path, "p.txt", "a {color} star\n")
    assert row.prompt == ("a {color} star",)


def test_slots_without_values_are_told(tmp_path: Path):
    """The command writes them as text and says so, once each and on standard error; braces around
    anything but a name, and prompts of a command with --slot, are not mentioned."""
    source, out = tmp_path / "p.txt", tmp_path / "m.parquet"
    source.write_text("a {} star { and } {a b}\na {color} star\na {color} {thing}\n")
    answer = zs2("manifest", "build", source, "-o", out)
    assert (answer.code, answer.out) == (0, f"{out}: 3 rows\n")
    says = "but no --slot {0}=A,B,… was given; it stays in the prompt as it stands"
    assert answer.err.splitlines() == [
        f"{source} line 2: the prompt has {{color}}, {says.format('color')}",
        f"{source} line 3: the prompt has {{thing}}, {says.format('thing')}",
    ]
    assert rows(out)[1].prompt == ("a {color} star",)
    slots = ["--slot", "color=red", "--slot", "thing=star"]
    assert zs2("manifest", "build", source, "-o", out, *slots).err == ""


def test_an_id_of_a_prompt_does_not_depend_on_its_neighbours(tmp_path: Path):
    """A line put in between renames no other row, so a rerun renders that line alone."""
    before = {row.prompt: row.id for row in make(tmp_path, "p.txt", "one\ntwo\n")}
    after = {row.prompt: row.id for row in make(tmp_path, "p.txt", "one\nnew\ntwo\n")}
    assert after.items() >= before.items()


BAD = [
    ("p.csv", "id,promt\na,b\n", ["line 1", "did you mean `prompt`?"]),
    ("p.csv", "id,prompt,prompt\na,b,c\n", ["line 1", "twice"]),
    ("p.csv", "id,prompt\na,b,c\n", ["line 2", "more cells"]),
    ("p.csv", "id,prompt,height\na,b,37\n", ["line 2", "height", "32 or 40"]),
    ("p.csv", "id,prompt,seed\na,b,x\n", ["line 2", "seed", "'x'"]),
    ("p.csv", "id,prompt\na,b\na,c\n", ["line 3", "line 2 has it"]),
    ("p.csv", "id,prompt\n../x,b\n", ["line 2", "id"]),
    ("p.csv", "id,prompt\na,\n", ["line 2", "prompt", "no value"]),
    ("p.csv", 'id,prompt\na,"b\n', ["cannot be read"]),
    ("p.csv", "", ["no prompts"]),
    ("p.csv", "id,prompt\na," + "x" * 200_000 + "\n", ["cannot be read"]),
    ("p.txt", "# nothing\n\n", ["no prompts"]),
    ("p.txt", b"\xff\xfe", ["UTF-8"]),
    ("p.txt", "a\0b\n", ["line 1", "NUL"]),
    ("p.jsonl", "{\n", ["line 1", "not JSON"]),
    ("p.jsonl", "[1]\n", ["line 1", "JSON object"]),
    ("p.jsonl", '{"prompt": "a", "speed": "quick"}\n', ["line 1", "`exact` or `fast`"]),
    ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b", "sede": 1}\n', ["line 2", "`seed`"]),
    ("p.jsonl", '{"prompt": 7}\n', ["line 1", "prompt"]),
    ("p.jsonl", "[" * 100_000 + "\n", ["line 1", "not JSON"]),
    ("p.jsonl", '{"prompt": "a", "id": 3}\n', ["line 1", "id"]),
    ("p.yaml", "a: b\n", [".txt, .csv or .jsonl"]),
    ("p.json", "[]", [".txt, .csv or .jsonl", "one object a line", "name it .jsonl"]),
    ("p.tsv", "prompt\tseed\n", [".txt, .csv or .jsonl", "with commas", "name it .csv"]),
    ("p.csv", "prompt;seed\na;1\n", ["line 1: expected commas", "semicolons in 'prompt;seed'"]),
    ("p.csv", "prompt\tseed\na\t1\n", ["line 1: expected commas", "tabs in"]),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD)
def test_a_bad_source_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str, content: str | bytes, words: list[str]
):
    """One message with the line and the remedy; no file, no temporary."""
    source = tmp_path / name
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestError) as error:
        build(source, tmp_path / "m.parquet")
    for word in words:
        assert word in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"grid": {"sede": [1]}}, "`seed`"),
        ({"grid": {"seed": []}}, "no values"),
        ({"grid": {"prompt": ["a"]}}, "row by row"),
        ({"grid": {"seed": [1, 1]}}, "id"),
        ({"grid": {"height": [37]}}, "height"),
        ({"columns": {"id": "x"}}, "row by row"),
        ({"columns": {"speed": "quick"}}, "`exact` or `fast`"),
        ({"slots": {"thing": ["x"]}}, "{color}"),
        ({"slots": {"color": []}}, "no values"),
        ({"slots": {"color": ["red"], "thing": ["x"], "n": ["1"]}}, "has {thing}; write it"),
    ],
)
def test_a_bad_grid_template_or_column_is_refused(
    tmp_path: Path, options: dict[str, Any], word: str
):
    """Before anything is written."""
    source = tmp_path / "p.csv"
    source.write_text("id,prompt\na,a {color} star\n")
    with pytest.raises(ManifestError) as error:
        build(source, tmp_path / "m.parquet", **options)
    assert word in str(error.value)
    assert not (tmp_path / "m.parquet").exists()


def test_a_value_that_is_also_in_the_grid_is_refused(tmp_path: Path):
    """Neither of the two is dropped in silence."""
    with pytest.raises(ManifestError, match=r"line 2.*`seed`.*grid"):
        make(tmp_path, "p.csv", "prompt,seed\na,1\n", grid={"seed": [2]})


def test_many_bad_rows_make_a_short_report(tmp_path: Path):
    """50 lines and a count."""
    source = tmp_path / "p.csv"
    source.write_text("prompt,height\n" + "a,37\n" * 1000)
    with pytest.raises(ManifestError) as error:
        build(source, tmp_path / "m.parquet")
    assert len(str(error.value).splitlines()) == 52
    assert "950 more" in str(error.value)


def test_an_output_that_cannot_be_written_is_said(tmp_path: Path):
    """A folder, or a place below a file."""
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(ManifestError, match="is a folder"):
        build(tmp_path / "p.txt", tmp_path)
    with pytest.raises(ManifestError, match="cannot be written"):
        build(tmp_path / "p.txt", tmp_path / "p.txt" / "m.parquet")


@pytest.mark.parametrize("name", ["p.csv", "sub/../p.csv", "link.parquet"])
def test_the_source_is_not_written_over(tmp_path: Path, name: str):
    """Under whatever name the output is the source, it stays what it was."""
    source = tmp_path / "p.csv"
    source.write_text("prompt\na star\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.parquet").symlink_to(source)
    with pytest.raises(ManifestError, match="is the source itself: name another file"):
        build(source, tmp_path / name)
    assert source.read_text() == "prompt\na star\n" and (tmp_path / "link.parquet").is_symlink()


@pytest.mark.parametrize("name", ["out.csv", "out"])
def test_a_manifest_has_the_name_of_a_parquet_file(tmp_path: Path, name: str):
    """Nothing is Parquet under another name; the message has one that is right."""
    (tmp_path / "p.txt").write_text("a star\n")
    with pytest.raises(ManifestError, match=r"ends in \.parquet.*name it .*/out\.parquet$"):
        build(tmp_path / "p.txt", tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["p.txt"]


def test_a_failed_build_leaves_the_old_manifest(tmp_path: Path):
    """Written aside, checked, renamed."""
    make(tmp_path, "p.txt", "one\n")
    (tmp_path / "bad.csv").write_text("prompt,height\na,37\n")
    with pytest.raises(ManifestError):
        build(tmp_path / "bad.csv", tmp_path / "new" / "m.parquet")
    assert [row.id for row in rows(tmp_path / "new" / "m.parquet")] == ["one"]


def test_the_columns_have_the_documented_types(tmp_path: Path):
    """A list column only where a list stands."""
    text = (
        '{"prompt": "a", "seed": 1, "height": 64, "kl_target": 0.5, "momentum": [0.5], "fps": 8}\n'
    )
    make(tmp_path, "p.jsonl", text)
    schema = pq.read_schema(tmp_path / "new" / "m.parquet")
    found = {name: str(schema.field(name).type) for name in schema.names}
    assert found == {
        "id": "string",
        "prompt": "string",
        "seed": "int64",
        "height": "int32",
        "kl_target": "double",
        "momentum": "list<element: double>",
        "fps": "double",
    }


def test_show_gives_the_first_rows(write: Any):
    """Position and the values that are there."""
    manifest = open_manifest(write({"id": ["a", "b"], "prompt": ["p", "q"], "seed": [None, 3]}))
    assert show(manifest, limit=1) == [{"row": 0, "id": "a", "prompt": "p"}]
    assert show(manifest, limit=5, start=1) == [{"row": 1, "id": "b", "prompt": "q", "seed": 3}]
    assert show(manifest, limit=0) == []
