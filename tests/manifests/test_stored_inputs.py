"""manifests.stored_inputs, and reading through it: manifests and clips that lie on a store."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.files import StorageError
from manifests.inputs import InputFiles
from manifests.object_store import ChangedError, ObjectStore
from manifests.read import ManifestError, open_manifest
from manifests.row import RowError, parse_row
from manifests.stored_inputs import StoredClip
from manifests.validate import check_rows
from tests.object_server import Store


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return ObjectStore(f"{bucket}/data")


def put(store: ObjectStore, name: str, *ids: str, **columns: list[Any]) -> None:
    buffer = io.BytesIO()
    table = pa.table({"id": ids or ["a"], "prompt": ["p"] * (len(ids) or 1), **columns})
    pq.write_table(table, buffer)
    store.write(name, buffer.getvalue())


def ids(source: str) -> list[str]:
    return [raw.values["id"] for raw in open_manifest(source).rows()]


def test_a_manifest_is_an_object_a_folder_or_a_glob(store: ObjectStore):
    """As of a disk: in the order of names, hidden ones left out, `*` within a name, `**` across."""
    put(store, "m/b.parquet", "b")
    put(store, "m/a.parquet", "a")
    put(store, "m/deep/c.parquet", "c")
    put(store, "m/_temporary/d.parquet", "d")
    put(store, "m/.e.parquet", "e")
    store.write("m/notes.txt", b"no manifest")
    assert ids(f"{store.url}/m/b.parquet") == ["b"]
    assert ids(f"{store.url}/m") == ids(f"{store.url}/m/") == ["a", "b", "c"]
    assert ids(f"{store.url}/m/*.parquet") == ["a", "b"]
    assert ids(f"{store.url}/m/[b-z].parquet") == ["b"]
    assert ids(f"{store.url}/m/?.parquet") == ["a", "b"]
    assert ids(f"{store.url}/**/*.parquet") == ["d", "a", "b", "c"]
    assert ids(f"{store.url}/m/*/c.parquet") == ["c"]
    assert ids(f"{store.url}/m/.*.parquet") == ["e"]
    file = open_manifest(f"{store.url}/m/b.parquet")
    assert file.locate(0) == (f"{store.url}/m/b.parquet", 0)
    assert file.identity()[0]["file"] == f"{store.url}/m/b.parquet"


def test_a_manifest_is_downloaded_when_it_changes(s3: Store, store: ObjectStore):
    """The second opening reads the local copy; another content under the name is another copy."""
    put(store, "m.parquet", "a")
    assert ids(f"{store.url}/m.parquet") == ["a"]
    before = s3.count("GET", "m.parquet")
    assert ids(f"{store.url}/m.parquet") == ["a"]
    assert s3.count("GET", "m.parquet") == before
    put(store, "m.parquet", "b")
    assert ids(f"{store.url}/m.parquet") == ["b"]


def test_what_is_wrong_is_told_by_url(store: ObjectStore):
    """Nothing there, not Parquet, bad columns, bad rows, credentials: each names the URL, and none the
    local copy or a secret."""
    store.write("text.parquet", b"not parquet")
    put(store, "column.parquet", "a", promt=["x"])
    put(store, "row.parquet", "a", "a")
    url = store.url
    for source, told in {
        f"{url}/none.parquet": f"{url}/none.parquet is not there",
        f"{url}/none/*.parquet": f"no object matches {url}/none",
        f"{url}/text.parquet": f"{url}/text.parquet is not Parquet",
        f"{url}/column.parquet": f"{url}/column.parquet: `promt`: unknown column",
    }.items():
        with pytest.raises(ManifestError) as refused:
            open_manifest(source)
        assert told in str(refused.value)
        assert "staging" not in str(refused.value)
    problems = [found for _, found in check_rows(open_manifest(f"{url}/row.parquet"))][1]
    assert isinstance(problems, list)
    assert str(problems[0]).startswith(f"{url}/row.parquet row 1: id")
    with pytest.raises(StorageError, match="no such bucket"):
        open_manifest("s3://no-such-bucket-here/m.parquet")
    for source in (
        "s3://key:secret@bucket/m.parquet",
        "s3://bucket/m.parquet?X-Amz-Signature=secret",
    ):
        with pytest.raises(StorageError) as refused:
            open_manifest(source)
        assert "secret" not in str(refused.value)


def find(name: str, base: Any, roots: Any = (), column: str = "source_video") -> Any:
    adapter = {"ip_adapter": "a/b/c/d.safetensors"} if column == "ip_adapter_image" else {}
    row = parse_row({"id": "a", "prompt": "p", column: name, **adapter})
    return InputFiles(roots).find(row, base)[column]


def test_clips_are_found_beside_the_manifest_and_in_roots(store: ObjectStore, tmp_path: Path):
    """Relative names count from the manifest's prefix, then from each root, wherever it is; full URLs
    are taken where they lie inside one of these."""
    store.write("m/clips/a.mp4", b"a")
    store.write("shared/b.mp4", b"b")
    (tmp_path / "c.mp4").write_bytes(b"c")
    base, shared = f"{store.url}/m", f"{store.url}/shared"
    assert find("clips/a.mp4", base).url == f"{base}/clips/a.mp4"
    assert find("./clips/../clips/a.mp4", base).url == f"{base}/clips/a.mp4"
    assert find(f"{base}/clips/a.mp4", base).url == f"{base}/clips/a.mp4"
    assert find("b.mp4", base, [tmp_path, shared]).url == f"{shared}/b.mp4"
    assert find("c.mp4", base, [tmp_path, shared]) == (tmp_path / "c.mp4").resolve()
    assert find("b.mp4", tmp_path, [shared]).url == f"{shared}/b.mp4"
    assert find(f"{shared}/b.mp4", tmp_path, [shared]).url == f"{shared}/b.mp4"
    assert find(f"{shared}/b.mp4", tmp_path, None).url == f"{shared}/b.mp4"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../secret.mp4", "expected a path inside"),
        ("clips/../../secret.mp4", "expected a path inside"),
        ("/etc/passwd", "expected a path inside"),
        ("s3://other-bucket/a.mp4", "expected a path inside"),
        ("{data}/secret.mp4", "expected a path inside"),
        ("{data}/m-other/a.mp4", "expected a path inside"),
        ("{data}/m/../secret.mp4", "single slashes"),
        ("s3://key:hidden@bucket/a.mp4", "found credentials"),
        ("https://example.org/a.mp4", "one of s3://"),
        ("clips/none.mp4", "nothing of that name at {data}/m/clips/none.mp4"),
        ("clips", "expected a picture"),
    ],
)
def test_a_clip_outside_is_refused(store: ObjectStore, name: str, told: str):
    """No name leads out of the prefix, to another bucket or to the disk, though something is there."""
    for there in ("secret.mp4", "m-other/a.mp4", "m/clips/x.png"):
        store.write(there, b"x")
    column = "ip_adapter_image" if name == "clips" else "source_video"
    with pytest.raises(RowError) as refused:
        find(name.replace("{data}", store.url), f"{store.url}/m", column=column)
    assert told.replace("{data}", store.url) in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_clip_is_told_by_etag_and_fetched_as_it_was(s3: Store, store: ObjectStore):
    """Its identity follows the content and costs no download; the copy goes after use; what changed
    since it was found is refused."""
    inputs = InputFiles()
    store.write("a.mp4", b"one")
    clip = find("a.mp4", store.url)
    first = inputs.content("source_video", clip)
    assert s3.count("GET", "a.mp4") == 0
    with clip.local_copy() as path:
        assert path.name == "a.mp4"
        assert path.read_bytes() == b"one"
    assert not path.exists()
    store.write("a.mp4", b"two")
    assert inputs.content("source_video", find("a.mp4", store.url)) != first
    with pytest.raises(ChangedError, match="it is another now"), clip.local_copy():
        pass
    store.delete(["a.mp4"])
    with pytest.raises(ChangedError, match="it is gone"), clip.local_copy():
        pass
    store.write("a.mp4", b"one")
    assert inputs.content("source_video", find("a.mp4", store.url)) == first


def test_a_folder_of_images_is_a_clip(store: ObjectStore):
    """What lies directly in it; another image or name is another identity."""
    for name in ("10.png", "2.png", "deep/3.png"):
        store.write(f"clip/{name}", name.encode())
    clip = find("clip", store.url)
    assert isinstance(clip, StoredClip)
    with clip.local_copy() as path:
        assert sorted(p.name for p in path.iterdir()) == ["10.png", "2.png"]
        assert (path / "2.png").read_bytes() == b"2.png"
    before = clip.content()
    store.write("clip/11.png", b"11.png")
    assert find("clip", store.url).content() != before
