"""What a UNet call has for each picture beside the latents, cut to the rows of one segment."""

from __future__ import annotations

from typing import TypeVar

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
