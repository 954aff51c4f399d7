"""Encodings of texts, kept from one call of the sampler to the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zs2.conditions import Encoded

MOST_BYTES = 64 * 2**20  # of tensors: about 250 texts of SD 1.5 in float32, 100 of SDXL


class TextCache:
    """The texts used last, up to `most_bytes` of encodings.

    It knows nothing of the encoders: whoever changes them (weights, LoRAs, dtype) has to `clear` it.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._kept: OrderedDict[Hashable, Encoded] = OrderedDict()

    def get(self, key: Hashable, encode: Callable[[], Encoded]) -> Encoded:
        """What is kept under this key, else what `encode` gives, which is then kept."""
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = encode()
            self.bytes += _bytes(found)
        self._kept.move_to_end(key)
        while self.bytes > self.most_bytes and len(self._kept) > 1:
            self.bytes -= _bytes(self._kept.popitem(last=False)[1])
        return found

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.bytes = 0


def _bytes(encoded: Encoded) -> int:
    return sum(tensor.nbytes for tensor in encoded if tensor is not None)
