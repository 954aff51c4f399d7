"""What a UNet call has for each picture beside the latents, cut to the rows of one segment.

Texts are long (77 tokens by 768 features and more) and few. A pipeline puts its embeddings into one batch
of all frames; so it is given their numbers in their place, and the texts themselves are gathered when a
segment needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")

# What a UNet takes per picture, beside the latents; everything else passes through untouched.
PER_FRAME_ARGUMENTS = (
    "encoder_hidden_states",
    "class_labels",
    "timestep_cond",
    "attention_mask",
    "added_cond_kwargs",
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
    "encoder_attention_mask",
)


def take_rows(value: T, rows: Tensor, batch: int) -> T:
    """Select batch rows from every tensor of a nest that has `batch` of them; leave the rest alone."""
    if isinstance(value, Tensor):
        if value.ndim and value.shape[0] == batch:
            return value.index_select(0, rows.to(value.device))  # pyright: ignore[reportReturnType]
        return value
    if isinstance(value, dict):
        return {k: take_rows(v, rows, batch) for k, v in value.items()}  # pyright: ignore
    if isinstance(value, list | tuple):
        return type(value)(take_rows(v, rows, batch) for v in value)  # pyright: ignore
    return value


class Texts:
    """The distinct texts of a clip by number, of as many tokens each."""

    # Numbers have two digits, for bfloat16 has no whole numbers beyond 256.
    BASE = 128

    def __init__(self) -> None:
        self._texts: list[Float[Tensor, "token feature"]] = []

    def stand_ins(
        self, texts: Float[Tensor, "text token feature"], frames: Sequence[int]
    ) -> Float[Tensor, "frame one digit"]:
        """Numbers for the text of each frame, in the texts' own dtype; `frames` counts in `texts`."""
        first = len(self._texts)
        self._texts += list(texts)
        digits = [divmod(first + number, self.BASE) for number in frames]
        return torch.tensor(digits, dtype=texts.dtype, device=texts.device)[:, None, :]

    def gather(self, numbers: Float[Tensor, "row one digit"]) -> Float[Tensor, "row token feature"]:
        """The texts of a segment's rows; what is no number, for a caller put it there, is as it is."""
        if tuple(numbers.shape[1:]) != (1, 2):
            return numbers
        digits = numbers[:, 0].long().tolist()
        rows = [self._texts[high * self.BASE + low] for high, low in digits]
        return torch.stack(rows)
