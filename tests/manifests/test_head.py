"""manifests.head: the first rows as a manifest of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.errors import exit_code_of
from manifests.head import write_head
from manifests.read import ManifestError, open_manifest


def write(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def values(path: Path) -> list[dict[str, Any]]:
    return [row.values for row in open_manifest(path).rows()]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder of two files, three rows each, in row groups of two; the second has columns of its own, and
    a float32 where the first has nothing."""
    words = {"id": ["a", "b", "c"], "prompt": [["p", "q"], ["r"], ["s"]], "meta_n": [1, 2, None]}
    first = pa.table({**words, "kl_target": pa.nulls(3)})
    (tmp_path / "parts").mkdir()
    pq.write_table(first, tmp_path / "parts" / "0.parquet", row_group_size=2)
    more = {**words, "id": ["d", "e", "f"], "kl_target": pa.array([0.1, None, 0.3], pa.float32())}
    kept = pa.array(["x", "x", None]).dictionary_encode()
    write(tmp_path / "parts" / "1.parquet", {**more, "meta_kept": kept, "codec": ["gif"] * 3})
    return tmp_path / "parts"


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 100])
def test_they_are_the_same_rows(parts: Path, tmp_path: Path, rows: int):
    """Value for value, over row groups and files, in order; no more than there are."""
    out = tmp_path / "new" / "head.parquet"
    assert write_head(open_manifest(parts), rows, out) == min(rows, 6)
    assert values(out) == values(parts)[:rows]
    assert [path.name for path in out.parent.iterdir()] == ["head.parquet"]


def test_texts_and_whole_numbers_of_any_width(tmp_path: Path):
    """One table has them narrow and the next one wide: they are the same values."""
    write(
        tmp_path / "m" / "0.parquet",
        {"id": ["a"], "prompt": ["p"], "seed": pa.array([1], pa.int32())},
    )
    wide = {"prompt": pa.array(["p"], pa.large_string()), "seed": pa.array([2**40])}
    write(tmp_path / "m" / "1.parquet", {"id": ["b"], **wide})
    out = tmp_path / "head.parquet"
    assert write_head(open_manifest(tmp_path / "m"), 10**30, out) == 2
    assert [row["seed"] for row in pq.read_table(out).to_pylist()] == [1, 2**40]


def test_a_value_is_never_another_one(tmp_path: Path):
    """A float32 of one file is not made the double of another: 0.1 would be 0.10000000149."""
    words = {"id": ["a", "b"], "prompt": ["p", "p"]}
    write(tmp_path / "m" / "0.parquet", {**words, "kl_target": [0.1, 0.2]})
    single = pa.array([0.1, 0.2], pa.float32())
    write(tmp_path / "m" / "1.parquet", {**words, "id": ["c", "d"], "kl_target": single})
    manifest, out = open_manifest(tmp_path / "m"), tmp_path / "head.parquet"
    with pytest.raises(ManifestError, match=r"`kl_target`: expected double as in .*, found float;"):
        write_head(manifest, 3, out)
    assert not out.exists()
    assert write_head(manifest, 2, out) == 2


def test_the_manifest_itself_stays_as_it_is(parts: Path):
    """A head is never written over a file of the manifest, nor where its rows would be there twice."""
    before = {path: path.read_bytes() for path in parts.iterdir()}
    for source in (parts, parts / "*.parquet"):
        for name, found in (("0.parquet", "of the manifest itself"), ("h.parquet", "there twice")):
            with pytest.raises(ManifestError, match=found):
                write_head(open_manifest(source), 1, parts / name)
            assert {path: path.read_bytes() for path in parts.iterdir()} == before
    with pytest.raises(ManifestError, match="is a folder: name a file"):
        write_head(open_manifest(parts), 1, parts)
    assert write_head(open_manifest(parts), 1, parts / "_head.parquet") == 1  # which it passes over
    assert open_manifest(parts).num_rows == 6


def test_the_command(parts: Path, tmp_path: Path):
    """Says what it wrote; less than a row, and a place that is not local, are refused."""
    out = tmp_path / "head.parquet"
    done = CliRunner().invoke(app, ["manifest", "head", str(parts), "4", "-o", str(out)])
    assert done.exit_code == 0 and done.output == f"{out}: 4 rows\n"
    for words, found in (
        (["0", "-o", str(out)], "ROWS: expected at least 1, found 0"),
        (["1", "-o", "s3://bucket/head.parquet"], "--out: expected a local path"),
    ):
        done = CliRunner().invoke(app, ["manifest", "head", str(parts), *words])
        assert done.exception is not None and exit_code_of(done.exception) == 2
        assert found in str(done.exception)
    assert len(values(out)) == 4
