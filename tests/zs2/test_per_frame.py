"""A clip's texts are kept once a distinct text; the pipeline has their numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zs2 import ZS2Sampler
from zs2.memory import held
from zs2.per_frame import Texts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_stand_for_texts(dtype: torch.dtype) -> None:
    """Of a thousand texts each comes back from its number, bit by bit, in half precision too, whatever
    text came before them; what a caller puts in their place is left as it is."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(1000, 3, 5, generator=generator).to(dtype)
    others = torch.randn(2, 3, 5, generator=generator).to(dtype)
    table = Texts()
    first = table.stand_ins(others, [1, 0, 1])
    frames = [999, 0, 128, 127, 257, 257]
    numbers = table.stand_ins(texts, frames)
    assert numbers.dtype == dtype and numbers.shape == (6, 1, 2)
    assert torch.equal(table.gather(numbers), texts[frames])
    assert torch.equal(table.gather(first), others[[1, 0, 1]])
    assert torch.equal(table.gather(texts[:4]), texts[:4])


def test_a_long_clip_holds_a_text_once(tiny_pipe: Any) -> None:
    """From 16 to 64 frames what a clip holds grows by less than one text a frame, where diffusers by
    itself holds four: its own and the unwanted one, and both again in one batch."""
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(2, 1, 1024, 16, generator=generator)
    given = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    peaks: list[int] = []
    for frames in (16, 64):
        with held(tiny_pipe.unet) as live:
            ZS2Sampler(tiny_pipe)(
                None,
                num_frames=frames,
                seed=1,
                num_inference_steps=1,
                guidance_scale=2.0,
                output_type="latent",
                **given,
            )
        peaks.append(live.peak)
    assert peaks[1] - peaks[0] < 48 * positive.nbytes


def test_a_callback_sees_the_texts(tiny_pipe: Any) -> None:
    """Where a caller looks into the pipeline's call, the embeddings are there, one row a frame and copy;
    the clip is the same."""
    seen: list[torch.Size] = []

    def look(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["prompt_embeds"].shape)
        return {}

    values = {"num_frames": 3, "seed": 1, "num_inference_steps": 2, "guidance_scale": 2.0}
    sampler = ZS2Sampler(tiny_pipe)
    plain = sampler("a b", output_type="latent", **values)
    looked = sampler(
        "a b",
        output_type="latent",
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
        **values,
    )
    assert seen == [(6, 16, 16)] * 2
    assert torch.equal(plain.latents, looked.latents)
