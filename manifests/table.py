"""A hash table for millions of rows: short records of one width, by 16-byte keys."""

from __future__ import annotations

from array import array

KEY = 16
_MOST_FORESEEN = 2**21  # slots, 8 MB: what a damaged file says of its rows is not believed


class Table:
    """Records of `width` bytes by key (an `id_hash`), in about 16 + width + 10 bytes each.

    A dictionary takes four times that. The records stand one after another as they came; an index
    of slots (0 for a free one, else a record's number, from 1) tells where the one of a key is.

    Args:
        room: how many records there may be; more have room, too, but cost time.
    """

    def __init__(self, width: int, room: int = 0) -> None:
        self._size = KEY + width
        self._records = bytearray()
        slots = 1 << max(10, (room * 3 // 2).bit_length())
        self._slots = array("I", bytes(4 * min(slots, _MOST_FORESEEN)))

    def __len__(self) -> int:
        return len(self._records) // self._size

    def get(self, key: bytes) -> bytes | None:
        """The record of a key."""
        at = self._slots[self._slot(key)]
        return bytes(self._records[(at - 1) * self._size + KEY : at * self._size]) if at else None

    def has(self, key: bytes, record: bytes) -> bool:
        """Whether the key has this very record."""
        at = self._slots[self._slot(key)]
        return at > 0 and self._records.startswith(record, (at - 1) * self._size + KEY)

    def put(self, key: bytes, record: bytes) -> None:
        """Note a record; it replaces an earlier one of the key."""
        slot = self._slot(key)
        at = self._slots[slot]
        if at:
            self._records[(at - 1) * self._size + KEY : at * self._size] = record
        else:
            self._add(slot, key, record)

    def setdefault(self, key: bytes, record: bytes) -> bytes:
        """The record that the key has; where it has none, it is given this one."""
        slot = self._slot(key)
        at = self._slots[slot]
        if at:
            return bytes(self._records[(at - 1) * self._size + KEY : at * self._size])
        self._add(slot, key, record)
        return record

    def count_not_in(self, other: Table) -> int:
        """How many of the keys another table does not have."""
        keys = (self._records[at : at + KEY] for at in range(0, len(self._records), self._size))
        return sum(not other._slots[other._slot(bytes(key))] for key in keys)

    def column(self, offset: int) -> bytes:
        """One byte of every record, in the order in which their keys came."""
        return bytes(self._records[KEY + offset :: self._size])

    def _slot(self, key: bytes) -> int:
        """The slot of a key, or the free one where it belongs."""
        slots, records, size = self._slots, self._records, self._size
        mask = len(slots) - 1
        slot = hash(key) & mask
        while at := slots[slot]:
            if records.startswith(key, (at - 1) * size):
                break
            slot = (slot + 1) & mask
        return slot

    def _add(self, slot: int, key: bytes, record: bytes) -> None:
        self._records += key + record
        self._slots[slot] = number = len(self._records) // self._size
        if 3 * number > 2 * len(self._slots):
            self._widen()

    def _widen(self) -> None:
        # the old index is no longer needed: all that is in it follows from the records
        self._slots = array("I", bytes(8 * len(self._slots)))
        for number in range(len(self)):
            key = self._records[number * self._size : number * self._size + KEY]
            self._slots[self._slot(bytes(key))] = number + 1
