"""What a call does, counted: UNet calls, pictures, decoded frames, texts, floating-point operations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products: queries with keys, and the weights with values; shapes (batch, head, token, feature)."""
    batch, heads, queries, features = query
    keys, values = key[-2], value[-1]
    return 2 * batch * heads * queries * keys * (features + values)


# torch's own table lacks the CPU's kernel
_MORE = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def counted(pipe: Any, call: Callable[[], object]) -> dict[str, Any]:
    """The work of one call of something that samples with `pipe`'s own parts.

    Returns:
        `unet_calls`, `unet_pictures` (frames times guidance copies, padding included), `decode_calls`,
        `decoded`, `texts` (encoded), `flops` (a product and its sum are two), `bytes` (what calling the
        UNet reads of its weights).
    """
    seen = {"unet_calls": 0, "unet_pictures": 0, "decode_calls": 0, "decoded": 0, "texts": 0}

    def count(calls: str | None, rows: str) -> Callable[..., None]:
        def hook(_module: Any, inputs: Any, kwargs: Any) -> None:
            first = inputs[0] if inputs else kwargs["input_ids"]
            seen[rows] += len(first)
            if calls:
                seen[calls] += 1

        return hook

    hooks = [
        (pipe.unet.conv_in, count("unet_calls", "unet_pictures")),
        (pipe.vae.decoder, count("decode_calls", "decoded")),
        (pipe.text_encoder, count(None, "texts")),
    ]
    with ExitStack() as stack:
        for module, hook in hooks:
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        flops = stack.enter_context(FlopCounterMode(display=False, custom_mapping=_MORE))
        call()
    weights = sum(weight.nbytes for weight in pipe.unet.parameters())
    return {**seen, "flops": flops.get_total_flops(), "bytes": weights * seen["unet_calls"]}
