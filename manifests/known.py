"""What is known of each id of a run: its digest and how it ended."""

from __future__ import annotations

from collections import Counter

from manifests.digest import id_hash
from manifests.result import STATUSES, Status
from manifests.table import Table

_CODES: dict[str, int] = {status: code for code, status in enumerate(STATUSES)}
_DIGEST_BYTES = 16  # a longer one is none of ours: it is cut, and its length kept
_HEADS = {status: bytes((code, _DIGEST_BYTES)) for status, code in _CODES.items()}


class Known:
    """Digest and status by id, in about 45 bytes a row: a digest's bytes, after its status and length.

    Args:
        room: how many rows there may be; more have room, too.
    """

    def __init__(self, room: int = 0) -> None:
        self._rows = Table(2 + _DIGEST_BYTES, room)

    def put(self, row_id: str, digest: str, status: str) -> None:
        """Note a result; it replaces an earlier one of the id. An invalid row's digest is empty."""
        self._rows.put(id_hash(row_id), _record(digest, status))

    def get(self, row_id: str) -> tuple[str, Status] | None:
        """(digest, status) of an id, or None."""
        row = self._rows.get(id_hash(row_id))
        if row is None:
            return None
        return row[2 : 2 + row[1]].hex(), STATUSES[row[0]]

    def is_done(self, row_id: str, digest: str) -> bool:
        """Whether the id has an ok result of this very digest."""
        return self._rows.has(id_hash(row_id), _record(digest, "ok"))

    def counts(self) -> dict[Status, int]:
        """Rows by status."""
        counts = Counter(self._rows.column(0))
        return {status: counts[code] for code, status in enumerate(STATUSES)}

    def count_not_in(self, other: Known) -> int:
        """How many of the ids are not among another's."""
        return self._rows.count_not_in(other._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row_id: str) -> bool:
        return self._rows.get(id_hash(row_id)) is not None


def _record(digest: str, status: str) -> bytes:
    content = bytes.fromhex(digest)
    if len(content) == _DIGEST_BYTES:
        return _HEADS[status] + content
    head = bytes((_CODES[status], min(len(content), 255)))
    return head + content[:_DIGEST_BYTES].ljust(_DIGEST_BYTES, b"\0")
