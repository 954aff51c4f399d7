"""`zs2 gallery`: the page of a run folder, written anew from its ledger."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.gallery import gallery, text
from flows.errors import UsageError
from manifests.object_store import ObjectStore
from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks.previews import needs_preview
from tests.gallery_folder import CODECS, clip_row, data_of, rows_of, write_run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that ended, of every codec, without a page and with one preview lost."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "out")
    rows = [clip_row(folder, f"clip-{codec}", codec) for codec in CODECS]
    rows.append(ResultRow("bad", "", "failed", stage="sample", error_message="NaN"))
    write_run(folder, rows)
    for path in folder.preview_path(rows[1].digest, rows[1].id).iterdir():
        path.unlink()
    return folder


def test_the_page_and_the_previews_are_made(out: RunFolder):
    """Every row is on it, the manifest's name its title; the preview that was lost is made again, and
    a second time there is nothing to make."""
    report = gallery(str(out.root))
    assert (report["rows"], report["shown"], report["previews"]) == (8, 8, 1)
    data = data_of(out.root)
    assert (data["title"], data["state"]) == ("squares.parquet", "finished")
    shown = {row["id"]: row.get("preview") for row in rows_of(out.root)}
    assert shown == {f"clip-{codec}": needs_preview(codec) or None for codec in CODECS} | {
        "bad": None
    }
    page = out.gallery_file.read_bytes()
    assert gallery(str(out.root))["previews"] == 0 and out.gallery_file.read_bytes() == page
    assert "8 rows" in text(report) and "1 preview made" in text(report)


def test_a_run_that_goes_on_and_one_that_was_killed(out: RunFolder):
    """While another holds the folder the page says `running`, with how many rows there will be, and
    the run is not disturbed; of one that left no word it says that it was killed."""
    content = json.loads(out.run_file.read_text("utf-8"))
    out.run_file.write_text(json.dumps({**content, "state": "running", "rows": 9}))
    try:
        with out.lock("r2"):
            gallery(str(out.root))
            data = data_of(out.root)
            assert data["state"] == "running" and data["news"]["total"] == 9
        gallery(str(out.root))
        assert data_of(out.root)["state"] == "killed"
    finally:
        out.run_file.write_text(json.dumps(content))


def test_open(out: RunFolder, monkeypatch: pytest.MonkeyPatch):
    """--open gives the page's address to the browser; where there is none, it says so."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(opened.append(url)))
    report = gallery(str(out.root), open_page=True)
    assert opened == [out.gallery_file.as_uri()] and "open the page yourself" in report["faults"][0]


def test_no_run(tmp_path: Path):
    """A folder without a run is wrong usage, and is left as it is."""
    with pytest.raises(UsageError, match=r"found no run\.json"):
        gallery(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_store(out: RunFolder, bucket: str):
    """Of a store the page is written from its ledger and put there; nobody can open it."""
    url = f"{bucket}/run"
    store = ObjectStore(url)
    for path in [out.run_file, *out.results.iterdir()]:
        name = out.file_name(path).replace("journal-r1", "journal-r1-000000")
        store.write(name, path.read_bytes())
    report = gallery(url)
    assert report["page"] == f"{url}/index.html" and report["previews"] == 0
    found = store.read("index.html")
    assert found is not None and b"clip-gif" in found[0]
    with pytest.raises(UsageError, match="--open"):
        gallery(url, open_page=True)


def test_the_command(out: RunFolder):
    """As JSON the report; in words the page's address."""
    runner = CliRunner()
    said = runner.invoke(app, ["gallery", str(out.root), "--json"])
    assert said.exit_code == 0 and json.loads(said.stdout)["shown"] == 8
    assert str(out.gallery_file) in runner.invoke(app, ["gallery", str(out.root)]).stdout
