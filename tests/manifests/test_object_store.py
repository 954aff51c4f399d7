"""manifests.object_store: one client for every store, against moto's S3, whole and broken."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.files import StorageError
from manifests.object_store import (
    PIECE,
    ChangedError,
    ObjectStore,
    UnreachableError,
    parse_url,
)
from tests.object_server import Fault, Store

slow = pytest.mark.slow

ODD = "mit leer/ü & ä+%41#?.bin"


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return ObjectStore(f"{bucket}/a prefix/run")


def listed(store: ObjectStore, under: str = "") -> dict[str, int]:
    return {store.name_of(found): found.size for found in store.list(under)}


def test_an_object_comes_back_as_it_went(store: ObjectStore, tmp_path: Path):
    """Bytes of any size, also none and more than one piece, and names of any kind; the listing has
    names relative to the URL, and nothing of a neighbour whose name only begins the same."""
    sizes = {"empty.bin": 0, "small.bin": 10, ODD: 11, "large.bin": 2 * PIECE + 12345}
    for name, size in sizes.items():
        (tmp_path / "up").write_bytes(os.urandom(size))
        store.put(name, tmp_path / "up")
        found = store.head(name)
        assert found is not None
        assert found.size == size
        store.fetch(found, tmp_path / "down")
        assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    ObjectStore(store.url + "-other").write("x", b"1")
    assert listed(store) == sizes
    assert listed(store, "mit leer") == {ODD: 11}
    assert listed(store, "mit") == {}
    store.delete([*sizes, "never-there"])
    assert listed(store) == {}
    assert store.read("small.bin") is None
    assert store.head("small.bin") is None


def test_a_condition_decides_between_two(store: ObjectStore):
    """`create` makes what is not there, `replace` follows the etag; the other's bytes stay, and one's
    own, already there, count as made."""
    first = store.create("lock", b"one")
    assert first
    assert store.create("lock", b"two") is None
    assert store.create("lock", b"one") == first
    second = store.replace("lock", b"three", first)
    assert second
    assert store.replace("lock", b"four", first) is None
    assert store.replace("never", b"five", first) is None
    assert store.read("lock") == (b"three", second)


def test_of_many_at_once_one_wins(store: ObjectStore):
    """Eight threads create the same object: one of them hears that it did."""
    won: list[int] = []
    barrier = threading.Barrier(8)

    def attempt(number: int) -> None:
        barrier.wait()
        if store.create("lock", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.read("lock")
    assert found is not None
    assert [b"%d" % number for number in won] == [found[0]]


def test_an_object_that_changed_is_not_mixed(store: ObjectStore, tmp_path: Path):
    """A download goes by the etag that was found: of another version, or of none, no byte passes
    for it."""
    store.write("clip", b"old")
    found = store.head("clip")
    assert found is not None
    store.write("clip", b"new")
    with pytest.raises(ChangedError, match="it is another now"):
        store.fetch(found, tmp_path / "clip")
    store.delete(["clip"])
    with pytest.raises(ChangedError, match="it is gone"):
        store.fetch(found, tmp_path / "clip")


@pytest.mark.parametrize(
    "kind",
    [
        "503",
        "cut-answer",
        *(pytest.param(k, marks=slow) for k in ("500", "cut-request", "silence")),
    ],
)
def test_a_store_that_stumbles_is_asked_again(
    s3: Store, store: ObjectStore, tmp_path: Path, kind: str
):
    """Errors, broken connections and timeouts of every kind of request pass unseen: the answer is
    that of an unharmed store, also where the store had done it and only the answer was lost."""
    (tmp_path / "up").write_bytes(os.urandom(PIECE + 5))
    times = 1 if kind == "silence" else 2
    s3.faults = [Fault(kind, times, method, seconds=2) for method in ("PUT", "GET", "HEAD", "POST")]
    etag = store.create("lock", b"mine")
    assert etag
    assert store.replace("lock", b"renewed", etag)
    assert store.create("lock", b"other") is None
    store.put("clip", tmp_path / "up")
    found = store.head("clip")
    assert found is not None
    store.fetch(found, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    assert listed(store) == {"clip": PIECE + 5, "lock": 7}
    store.delete(["clip", "lock"])
    assert listed(store) == {}
    assert sum(fault.times for fault in s3.faults) == 0, "a fault was not met"


def test_a_dead_store_is_given_up(
    s3: Store, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No request is repeated without end, and the message says what to look at."""
    monkeypatch.setenv("ZS2_STORE_RETRY_SECONDS", "0.3")
    store = ObjectStore(store.url)
    (tmp_path / "up").write_bytes(b"x")
    s3.is_dead = True
    attempts: list[Callable[[], object]] = [
        lambda: store.put("a", tmp_path / "up"),
        lambda: store.create("a", b""),
        lambda: store.read("a"),
        lambda: listed(store),
        lambda: store.delete(["a"]),
    ]
    for attempt in attempts:
        with pytest.raises(UnreachableError, match=r"does not answer.*look to the network"):
            attempt()
    assert 0 < len(s3.log) < 200


def test_an_upload_shows_whole_or_not_at_all(
    s3: Store, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """While a large file is uploaded through a store that breaks, and after it was given up, no
    listing shows anything but the whole object."""
    monkeypatch.setenv("ZS2_STORE_RETRY_SECONDS", "1")
    size = 3 * PIECE
    (tmp_path / "up").write_bytes(os.urandom(size))
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        watcher = ObjectStore(store.url)
        while not done.is_set():
            seen.update(listed(watcher).values())

    thread = threading.Thread(target=watch)
    thread.start()
    s3.faults = [Fault("cut-request", 10**6, "PUT", "partNumber=3")]
    with pytest.raises(UnreachableError):
        ObjectStore(store.url).put("clip", tmp_path / "up")
    assert listed(store) == {}
    s3.faults = [Fault("cut-request", 2, "PUT"), Fault("500", 2, "POST")]
    store.put("clip", tmp_path / "up")
    done.set()
    thread.join()
    assert seen <= {size}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://key:secret@bucket/x", "found credentials"),
        ("s3://bucket/x?X-Amz-Signature=secret", "found credentials or a query"),
        ("https://example.org/secret?sig=secret", "found credentials or a query"),
        ("ftp://bucket/x", "one of s3://, gs://, az://"),
        ("s3:///x", "found no bucket"),
        ("s3://", "found no bucket"),
        ("s3://bucket/a/../b", "single slashes"),
        ("s3://bucket/a//b", "single slashes"),
        ("s3://bucket/a\nb", "single slashes"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused(url: str, told: str):
    """Each with what was expected; what may be secret is not repeated."""
    with pytest.raises(StorageError, match=told) as refused:
        parse_url(url)
    assert "secret" not in str(refused.value).replace("AWS_SECRET_ACCESS_KEY", "").replace(
        "/secret", ""
    )


def test_what_is_wrong_with_a_store_is_told(s3: Store, monkeypatch: pytest.MonkeyPatch):
    """No bucket, no rights, no trust in plain http: each message has its remedy and no secret."""
    missing = ObjectStore("s3://no-such-bucket-here/run")
    for attempt in (lambda: missing.write("a", b""), lambda: listed(missing)):
        with pytest.raises(StorageError, match="no such bucket; create it"):
            attempt()
    s3.faults = [Fault("403")]
    with pytest.raises(StorageError, match=r"refuses these credentials \(403") as refused:
        missing.write("a", b"")
    assert "testing-secret" not in str(refused.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:9000")
    with pytest.raises(StorageError, match="plain http beyond this machine"):
        ObjectStore("s3://bucket").read("a")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("ZS2_STORE_RETRY_SECONDS", "0.1")
    with pytest.raises(UnreachableError):
        ObjectStore("s3://bucket").read("a")
    with pytest.raises(StorageError, match=r"not set up .*AZURE_STORAGE_ACCOUNT_NAME"):
        ObjectStore("az://container")
    monkeypatch.setenv("ZS2_STORE_TIMEOUT", "soon")
    with pytest.raises(StorageError, match="ZS2_STORE_TIMEOUT: expected seconds"):
        ObjectStore("s3://bucket")
