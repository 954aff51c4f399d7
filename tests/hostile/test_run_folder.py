"""A run folder on shared storage, where somebody else has been."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.journal import Journal
from manifests.ledger import compact, iter_results, known
from manifests.result import ResultRow
from manifests.run_file import read_json
from manifests.storage import RunFolder, StorageError
from tasks.gallery import write_gallery
from tasks.publish import Tally, publish
from tasks.sampling import read_latents
from tasks.stages import finish, output_path

pytestmark = pytest.mark.timeout(60)

DIGEST = "ab" * 16
PARTS = ("videos", "results", "latents", "logs")


def row(row_id: str, **more: Any) -> ResultRow:
    values: dict[str, Any] = {
        "file_name": f"videos/ab/{row_id}.mp4",
        "prompt": "p",
        "params": "{}",
        **more,
    }
    return ResultRow(row_id, DIGEST, "ok", **values)


def ended(folder: Path, *rows: ResultRow) -> RunFolder:
    """A run folder with these results in a journal."""
    made = RunFolder(folder).create()
    with Journal(made.results, "one") as journal:
        for result in rows:
            journal.append(result)
    return made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside, which must stay empty but for its precious file."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    return folder


def assert_untouched(elsewhere: Path) -> None:
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_text() == "precious"


def test_out_itself_may_be_a_link(tmp_path: Path, elsewhere: Path) -> None:
    """Whoever gives the run folder says where it lies: a link to a folder is that folder."""
    (elsewhere / "precious").unlink()
    (tmp_path / "out").symlink_to(elsewhere)
    ended(tmp_path / "out", row("a"))
    assert {path.name for path in elsewhere.iterdir()} >= {*PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_a_link_is_refused(part: str, tmp_path: Path, elsewhere: Path) -> None:
    """Nothing is written through a link inside the run folder; the refusal names it, where it leads
    and what to do."""
    out = tmp_path / "out"
    out.mkdir()
    (out / part).symlink_to(elsewhere)
    with pytest.raises(StorageError, match=rf"{part} is a link to .*elsewhere: expected.*remove"):
        RunFolder(out).create()
    assert_untouched(elsewhere)


def test_a_folder_of_videos_that_is_a_link(tmp_path: Path, elsewhere: Path, make_job: Any) -> None:
    """Where the folder of a digest's first letters is a link, the row fails; nothing is written."""
    folder = RunFolder(tmp_path / "out").create()
    job = make_job("a")
    (folder.videos / job.digest[:2]).symlink_to(elsewhere)
    with pytest.raises(OSError, match="is a link to"):
        output_path(folder, job)
    assert_untouched(elsewhere)


@pytest.mark.parametrize("codec", ["h264", "png"])
def test_a_video_that_is_a_link(codec: str, tmp_path: Path, elsewhere: Path, make_job: Any) -> None:
    """A link where a video belongs is no video, and is replaced, not followed."""
    import numpy as np

    folder = RunFolder(tmp_path / "out").create()
    job = make_job("a", codec=codec)
    path = output_path(folder, job)
    path.parent.mkdir()
    path.symlink_to(elsewhere if codec == "png" else elsewhere / "precious")
    assert not folder.has_video(job.digest, "a", codec)
    finish(job, [np.zeros((8, 32, 32, 3), np.uint8)], path)
    assert_untouched(elsewhere)
    assert folder.has_video(job.digest, "a", codec)


FILES = ("metadata.parquet", "summary.json", "index.html", "run.json")


def test_files_that_are_links(tmp_path: Path, elsewhere: Path) -> None:
    """What a run writes anew replaces links and leaves what they lead to alone."""
    folder = ended(tmp_path / "out", row("a"))
    for name in ("metadata.parquet", "index.html"):
        (folder.root / name).symlink_to(elsewhere / "precious")
    ids = known(folder.root)
    publish(folder, ids, Tally(), run_id="one", title="t")
    assert_untouched(elsewhere)
    assert not folder.metadata_file.is_symlink() and folder.metadata_file.is_file()


LOCKS: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda path, there: path.symlink_to(there / "precious"),
    "a link to nothing": lambda path, there: path.symlink_to(there / "new"),
    "a folder": lambda path, there: path.mkdir(),
    "a pipe": lambda path, there: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_that_is_none(kind: str, tmp_path: Path, elsewhere: Path) -> None:
    """The lock is a file of the run's own: what else stands there is refused, and left alone."""
    folder = RunFolder(tmp_path / "out").create()
    LOCKS[kind](folder.lock_file, elsewhere)
    with (
        pytest.raises(StorageError, match=r"run\.lock cannot be written .*remove"),
        folder.lock("r"),
    ):
        pass
    assert_untouched(elsewhere)


def line(record: dict[str, Any]) -> bytes:
    """A journal's line as it should be, whatever is in it."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return b'{"crc":"%08x","row":%s}\n' % (crc32(text), text)


GOOD = {"id": "x", "digest": DIGEST, "status": "ok", "file_name": "videos/ab/x.mp4"}
FORGED: dict[str, Any] = {
    "no id": {"digest": DIGEST, "status": "ok"},
    "a number for an id": GOOD | {"id": 5},
    "no digest": {"id": "x", "status": "ok"},
    "a digest of words": GOOD | {"digest": "../../etc"},
    "a new status": GOOD | {"status": "fine"},
    "a file elsewhere": GOOD | {"file_name": "../../etc/passwd"},
    "a file at the root": GOOD | {"file_name": "/etc/passwd"},
    "a file on the network": GOOD | {"file_name": "https://example.org/x.mp4"},
    "a file by script": GOOD | {"file_name": "javascript:alert(1)//.mp4"},
    "a file beside": GOOD | {"file_name": "run.json"},
    "text for a size": GOOD | {"bytes": "many"},
    "a large size": GOOD | {"bytes": 2**70},
    "a list for a prompt": GOOD | {"prompt": ["p"]},
    "text for λ": GOOD | {"kl_achieved": ["x"]},
    "a bad time": GOOD | {"started_at": "yesterday"},
    "parameters that are no JSON": GOOD | {"params": "{"},
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_line_counts_as_not_done(kind: str, tmp_path: Path) -> None:
    """A line of a journal that no run wrote is passed over, however sound its checksum: the lines
    beside it count, and metadata and gallery name nothing else."""
    folder = ended(tmp_path / "out", row("a"), row("b"))
    (path,) = folder.results.glob("journal-*.jsonl")
    head, first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + first + line(FORGED[kind]) + second)
    assert [result.id for result in iter_results(folder.root)] == ["a", "b"]
    publish(folder, known(folder.root), Tally(), run_id="one", title="t")
    table = pq.read_table(folder.metadata_file)
    assert table["file_name"].to_pylist() == ["videos/ab/a.mp4", "videos/ab/b.mp4"]
    page = folder.gallery_file.read_text()
    assert not any(word in page for word in ("passwd", "javascript:alert", "example.org"))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("file_name", "../../etc/passwd"),
        ("file_name", "videos/ab/../../../x.mp4"),
        ("digest", "xyz"),
        ("status", "fine"),
    ],
)
def test_a_forged_part_counts_as_not_done(column: str, value: str, tmp_path: Path) -> None:
    """A row of the compacted ledger that no run wrote is passed over; the others count."""
    folder = ended(tmp_path / "out", row("a"), row("b"))
    compact(folder.root)
    (part,) = folder.results.glob("part-*.parquet")
    table = pq.read_table(part)
    at = table.column_names.index(column)
    values = [value, *table[column].to_pylist()[1:]]
    field = table.schema.field(column)
    pq.write_table(table.set_column(at, field, pa.array(values, pa.string())), part)
    assert [result.id for result in iter_results(folder.root)] == ["b"]
    assert "a" not in known(folder.root) and "b" in known(folder.root)


def _write(table: pa.Table) -> Callable[[Path], object]:
    return lambda path: pq.write_table(table, path)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


PARTS_OF_OTHERS: dict[str, Callable[[Path], object]] = {
    "no Parquet": lambda path: path.write_bytes(b"PAR1" + bytes(100)),
    "other columns": _write(pa.table({"a": [1]})),
    "other types": _write(
        pa.table({"id": [1], "digest": ["x"], "status": ["ok"], "file_name": ["x"]})
    ),
    "a pipe": _pipe,
}


@pytest.mark.parametrize("kind", PARTS_OF_OTHERS)
def test_a_part_that_is_none(kind: str, tmp_path: Path) -> None:
    """A part of the ledger that no run wrote is one plain error that says what to remove."""
    folder = ended(tmp_path / "out", row("a"))
    compact(folder.root)
    (part,) = folder.results.glob("part-*.parquet")
    PARTS_OF_OTHERS[kind](part)
    with pytest.raises(StorageError, match=r"cannot be read .*remove that part"):
        known(folder.root)


def test_a_journal_that_is_a_pipe(tmp_path: Path) -> None:
    """It is no journal, and nobody waits for it."""
    folder = ended(tmp_path / "out", row("a"))
    os.mkfifo(folder.results / "journal-two.jsonl")
    assert len(known(folder.root)) == 1


@pytest.mark.parametrize("content", ["[" * 200_000, "{", "[1]", '"x"', "\udcff"])
def test_a_run_file_that_is_none(content: str, tmp_path: Path) -> None:
    """Every file that is no JSON object is one plain error with what to do."""
    path = tmp_path / "run.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(StorageError, match="remove it to start afresh"):
        read_json(path)


def test_a_run_file_without_end(tmp_path: Path) -> None:
    """A pipe and a terabyte are not read."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    for name in ("pipe", "large"):
        with pytest.raises(StorageError, match="remove it"):
            read_json(tmp_path / name)


def test_megabytes_make_no_page_of_gigabytes(tmp_path: Path) -> None:
    """The gallery cuts what no card can show, and says how long it was."""
    text = "<" * 2**20
    rows = [row(f"r{i}", prompt=text, meta={"meta_x": text, "meta_y": [text]}) for i in range(50)]
    summary = {"rows": {"ok": 50, "failed": 0, "invalid": 0}, "frames": 8}
    write_gallery(RunFolder(tmp_path), rows, title="t", summary=summary)
    assert (tmp_path / "index.html").stat().st_size < 10_000_000
    assert "(1,048,576 characters)" in (tmp_path / "index.html").read_text()


def _save(latents: Any, kl: Any = (0.01,) * 7) -> Callable[[Path], object]:
    from safetensors.torch import save_file

    metadata = {"kl": json.dumps(list(kl)) if isinstance(kl, tuple) else kl}
    return lambda path: save_file({"latents": latents}, path, metadata=metadata)


def _latents(kind: str) -> Callable[[Path], object]:
    import pickle

    import torch

    sound = torch.zeros(8, 4, 16, 16)
    makers: dict[str, Callable[[Path], object]] = {
        "sound": _save(sound),
        "a pickle": lambda path: path.write_bytes(pickle.dumps(1)),
        "fewer frames": _save(sound[:4].clone()),
        "other sides": _save(torch.zeros(8, 4, 32, 8)),
        "flat": _save(torch.zeros(8192)),
        "NaN": _save(sound + float("nan")),
        "half precision": _save(sound.half()),
        "λ in words": _save(sound, ("x",)),
        "λ that is no JSON": _save(sound, "["),
        "a link": lambda path: (_save(sound)(path.parent / "x"), path.symlink_to("x")),
        "a pipe": lambda path: os.mkfifo(path),
    }
    return makers[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("sound", "a pickle", "fewer frames", "other sides", "flat", "NaN", "half precision"),
        *("λ in words", "λ that is no JSON", "a link", "a pipe"),
    ],
)
def test_latents_that_are_not_the_rows_are_sampled_again(
    kind: str, tmp_path: Path, make_job: Any
) -> None:
    """Latents on disk are taken only where they are a file with finite numbers of the row's own
    shape and λ beside them."""
    path = tmp_path / "latents.safetensors"
    _latents(kind)(path)
    found = read_latents(path, make_job("a"))
    assert (found is not None) == (kind == "sound")
