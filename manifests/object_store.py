"""An object store: a bucket and a prefix in it, by URL. S3 (and what speaks it), GCS and Azure.

An object appears whole or not at all: every write is one put, or a multipart upload that counts when
its last request does. What is read again is checked by its etag. Server errors, timeouts and broken
connections are tried again for a bounded time.
"""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore.store import from_url

from manifests.files import StorageError
from manifests.kinds import describe

SCHEMES = ("s3", "gs", "az")
RETRY_SECONDS = 60.0  # that a request is tried again, in all; ZS2_STORE_RETRY_SECONDS
TIMEOUT = 60.0  # seconds of one request; ZS2_STORE_TIMEOUT
PIECE = 8 * 2**20  # bytes of one request of a large transfer
PIECES_AT_ONCE = 4

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


class UnreachableError(StorageError):
    """The store does not answer, or with errors of its own, for as long as it was asked."""


class ChangedError(StorageError):
    """An object is not what it was, or gone."""


class Stored(NamedTuple):
    """An object: its URL, bytes, and the etag that tells its content from another."""

    url: str
    size: int
    etag: str


class Address(NamedTuple):
    """A URL's parts. `key` has no slash at either end and may be empty."""

    scheme: str
    bucket: str
    key: str

    @property
    def url(self) -> str:
        """The parts as one URL, without a slash at its end."""
        return "/".join(filter(None, (f"{self.scheme}://{self.bucket}", self.key)))


def is_url(name: object) -> bool:
    """Whether a name means something on a network, rather than a path; also with a slash missing."""
    return "://" in str(name) or re.match(rf"({'|'.join(SCHEMES)}):/", str(name)) is not None


def parse_url(url: str) -> Address:
    """A URL's parts.

    Raises:
        StorageError: another kind of URL, one without a bucket, with credentials in it, or with
            parts that lead elsewhere (`..`). The message does not repeat what may be secret.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    shown = describe(f"{scheme}://…" if "@" in bucket else re.sub(r"[?#].*", "?…", url))
    if "@" in bucket or "?" in rest or "#" in rest:
        raise StorageError(
            f"{shown}: expected a plain URL, found credentials or a query in it; give credentials "
            "in the environment"
        )
    if scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise StorageError(f"{shown}: expected a local path or one of {known}; correct the URL")
    parts = key.rstrip("/").split("/") if key.strip("/") else []
    if not bucket or not bucket.isprintable() or " " in bucket:
        raise StorageError(f"{shown}: expected {scheme}://BUCKET/PREFIX, found no bucket")
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise StorageError(
            f"{shown}: expected names between single slashes, found an empty one, `.` or `..`; "
            "write the place in full"
        )
    return Address(scheme, bucket, "/".join(parts))


class ObjectStore:
    """The objects below a URL; `name` is always relative to it. Opening asks nothing of the network.

    Credentials and endpoint come from the environment alone (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
    GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and the like), and appear nowhere else.

    Args:
        patience: seconds for which a failing request is tried again.

    Raises:
        StorageError: from every method, with what to do; UnreachableError where the store is at fault.
    """

    def __init__(self, url: str, patience: float | None = None) -> None:
        self.address = parse_url(url)
        self.url = self.address.url
        self._prefix = f"{self.address.key}/" if self.address.key else ""
        patience = patience or _seconds("ZS2_STORE_RETRY_SECONDS", RETRY_SECONDS)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        client: Any = {
            "timeout": timedelta(seconds=_seconds("ZS2_STORE_TIMEOUT", TIMEOUT)),
            "connect_timeout": timedelta(seconds=5),
        }
        if endpoint and urlsplit(endpoint).scheme not in ("http", "https"):
            raise StorageError(
                f"AWS_ENDPOINT_URL: expected http://HOST:PORT or https://…, found {describe(endpoint)}"
            )
        trusted = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1")
        if self.address.scheme == "s3" and (trusted or urlsplit(endpoint).hostname in _LOOPBACK):
            client["allow_http"] = True
        try:
            self._bucket = from_url(
                f"{self.address.scheme}://{self.address.bucket}",
                client_options=client,
                retry_config={
                    "max_retries": 100,
                    "retry_timeout": timedelta(seconds=patience),
                    "backoff": {
                        "init_backoff": timedelta(seconds=0.1),
                        "max_backoff": timedelta(seconds=min(10.0, max(0.2, patience / 4))),
                        "base": 2,
                    },
                },
            )
        except (exceptions.BaseError, ValueError) as error:
            raise StorageError(
                f"{self.url}: the store is not set up ({_reason(str(error))}); "
                f"set {_CREDENTIALS[self.address.scheme]}"
            ) from None

    def url_of(self, name: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{name}"

    def put(self, name: str, path: Path) -> str:
        """Upload a finished file; returns the object's etag."""
        kind = mimetypes.guess_type(name)[0]
        with self._told(name):
            done = obstore.put(
                self._bucket,
                self._prefix + name,
                path,
                attributes={"Content-Type": kind} if kind else None,
                chunk_size=PIECE,
                max_concurrency=PIECES_AT_ONCE,
            )
        return done["e_tag"] or ""

    def copy(self, name: str, to: str) -> None:
        """Copy an object to another name, inside the store.

        Raises:
            ChangedError: it is gone.
        """
        try:
            with self._told(name):
                obstore.copy(self._bucket, self._prefix + name, self._prefix + to)
        except FileNotFoundError as error:
            raise ChangedError(f"{self.url_of(name)}: it is gone") from error

    def write(self, name: str, data: bytes) -> str:
        """Put an object of these bytes; returns its etag."""
        with self._told(name):
            done = obstore.put(self._bucket, self._prefix + name, data, use_multipart=False)
        return done["e_tag"] or ""

    def create(self, name: str, data: bytes) -> str | None:
        """Put an object where there is none; returns its etag, None where there is another."""
        return self._put_if(name, data, "create")

    def replace(self, name: str, data: bytes, etag: str) -> str | None:
        """Put an object in place of the one with this etag; None where it is no longer there."""
        return self._put_if(name, data, {"e_tag": etag})

    def _put_if(self, name: str, data: bytes, mode: Any) -> str | None:
        for is_last in (False, False, True):
            try:
                with self._told(name):
                    done = obstore.put(
                        self._bucket, self._prefix + name, data, mode=mode, use_multipart=False
                    )
                return done["e_tag"] or ""
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                unanswered = None
            except UnreachableError as error:  # such puts are not repeated blindly
                unanswered = error
            # A put whose answer was lost did happen, and refuses its own repetition.
            found = self.read(name)
            if found is not None and found[0] == data:
                return found[1]
            if unanswered is None:
                return None
            if is_last:
                raise unanswered
        return None

    def read(self, name: str) -> tuple[bytes, str] | None:
        """A small object's bytes and etag; None where there is none."""
        try:
            with self._told(name):
                got = obstore.get(self._bucket, self._prefix + name)
                return bytes(got.bytes()), got.meta["e_tag"] or ""
        except FileNotFoundError:
            return None

    def head(self, name: str) -> Stored | None:
        """What is known of an object; None where there is none."""
        try:
            with self._told(name):
                meta = obstore.head(self._bucket, self._prefix + name)
        except FileNotFoundError:
            return None
        return Stored(self.url_of(name), meta["size"], meta["e_tag"] or "")

    def fetch(self, found: Stored, path: Path) -> None:
        """Download an object into a file, in pieces that are all of the version that was found.

        Raises:
            ChangedError: it is another now, or gone.
        """
        key = found.url.removeprefix(f"{self.address._replace(key='').url}/")
        with path.open("wb") as file:
            for start in range(0, found.size, PIECE):
                wanted: Any = {"range": (start, min(start + PIECE, found.size))}
                if found.etag:
                    wanted["if_match"] = found.etag
                try:
                    with self._told(found.url):
                        file.write(obstore.get(self._bucket, key, options=wanted).bytes())
                except FileNotFoundError as error:
                    raise ChangedError(f"{found.url}: it is gone") from error
                except exceptions.PreconditionError as error:
                    raise ChangedError(f"{found.url}: it is another now") from error

    def list(self, under: str = "") -> Iterator[Stored]:
        """The objects below `under`, a name of whole parts; without empty markers of folders."""
        prefix = (self._prefix + under).rstrip("/")
        with self._told(under):
            for chunk in obstore.list(self._bucket, prefix or None):
                for meta in chunk:
                    url = f"{self.address.scheme}://{self.address.bucket}/{meta['path']}"
                    yield Stored(url, meta["size"], meta["e_tag"] or "")

    def name_of(self, found: Stored) -> str:
        """The name of a listed object."""
        return found.url.removeprefix(f"{self.url}/")

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects, in requests of up to 1000; one that is not there is no error."""
        if not names:
            return
        for is_last in (False, False, True):
            try:
                with self._told():
                    obstore.delete(self._bucket, [self._prefix + name for name in names])
                return
            except FileNotFoundError:
                if len(names) == 1:
                    return
                for name in names:
                    self.delete([name])
                return
            except UnreachableError:  # a bulk delete is not repeated by the client
                if is_last:
                    raise

    @contextmanager
    def _told(self, name: str = "") -> Generator[None]:
        """Errors in our words; missing objects and failed conditions are the caller's to tell."""
        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" not in str(error):
                raise
            raise self._no_bucket() from None
        except (exceptions.BaseError, OSError) as error:
            what = self.url_of(name) if name and not is_url(name) else name or self.url
            raise self._in_words(what, error) from None  # the cause repeats the request at length

    def _no_bucket(self) -> StorageError:
        address = self.address
        return StorageError(
            f"{address.scheme}://{address.bucket}: there is no such bucket; create it, or correct "
            "the URL, AWS_ENDPOINT_URL or AWS_REGION"
        )

    def _in_words(self, what: str, error: Exception) -> StorageError:
        told = str(error)
        if "NoSuchBucket" in told:
            return self._no_bucket()
        if "169.254." in told or "metadata.google" in told:
            return StorageError(
                f"{what}: no credentials were found; set {_CREDENTIALS[self.address.scheme]}"
            )
        # Of a listing they are a GenericError.
        refused = exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
        if isinstance(error, refused) or re.search(r"status code: 40[13]\b", told):
            return StorageError(
                f"{what}: the store refuses these credentials ({_reason(told)}); they need to list, "
                "read, write and delete there"
            )
        if "without LOCATION" in told:
            return StorageError(f"{what}: the bucket is in another region; set AWS_REGION")
        if "URL scheme is not allowed" in told or "builder error" in told:
            return StorageError(
                f"{what}: the endpoint is plain http beyond this machine; use https, or set "
                "AWS_ALLOW_HTTP=true where the network is trusted"
            )
        return UnreachableError(
            f"{what}: the store does not answer as it should ({_reason(told)}); look to the network "
            "and the endpoint, then run the same command again"
        )


def _reason(told: str) -> str:
    """The telling part of a client's message: a status, or what broke; no query, no dump."""
    told = told.partition("\n\nDebug source")[0]
    status = re.search(r"status code: (\d+[^:<\n]*)", told)
    code = re.search(r"<Code>(\w+)</Code>", told)
    if status:
        return " ".join(filter(None, (status[1].strip(), code and code[1])))
    told = " ".join(re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", told).split())
    return told if len(told) <= 240 else f"{told[:120]} … {told[-120:]}"


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise StorageError(f"{variable}: expected seconds above 0, found {describe(text)}")
    return seconds
