"""Text conditions: encoded once and alone, per frame; prompts longer than the encoder reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import tiny_models
from zs2 import ZS2Sampler
from zs2.conditions import PromptError, TextEncoding

LIMIT = tiny_models.TOKENS  # start and end included; the tiny tokenizer has a token a letter
SHORT = "a b c"
LONG = "a b c d e f g h i j k l m n o p q r"  # 18 letters, 14 fit
QUICK: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 7.5, "output_type": "latent"}


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return getattr(tiny_models, request.param)(tmp_path_factory.mktemp(request.param))


def conditions(
    pipe: Any, prompts: list[str], long_prompt: str, negative: str | None = None, frames: int = 2
):
    rows = [min(i, len(prompts) - 1) for i in range(frames)]
    return TextEncoding(pipe, long_prompt).conditions(prompts, rows, negative, True, {})


def tokens(pipe: Any, text: str) -> torch.Tensor:
    return conditions(pipe, [text], "truncate", frames=1)["prompt_embeds"]


def test_truncate_is_diffusers_own(pipe: Any):
    """What is past the limit has no say; f = 1 equals diffusers with the same long prompt."""
    sampler = ZS2Sampler(pipe)
    own = pipe(LONG, generator=torch.Generator().manual_seed(1), height=32, width=32, **QUICK)
    clip = sampler(LONG, seed=1, num_frames=1, **QUICK)
    assert torch.equal(clip.latents, own.images)
    assert torch.equal(
        clip.latents, sampler(LONG[:-1] + "z", seed=1, num_frames=1, **QUICK).latents
    )


def test_chunk_reads_everything(pipe: Any):
    """The parts are encoded one by one and put one behind the other: f = 1 equals diffusers given
    these embeddings, and a word past the limit acts."""
    encoded = conditions(pipe, [LONG], "chunk", frames=1)
    first, second = LONG[: 2 * 14 - 1], LONG[2 * 14 :]
    wanted = torch.cat([tokens(pipe, first), tokens(pipe, second)], dim=1)
    assert torch.equal(encoded["prompt_embeds"], wanted)
    call = {**QUICK, **encoded, "generator": torch.Generator().manual_seed(1)}
    own = pipe(height=32, width=32, **call).images
    run = {"seed": 1, "num_frames": 1, "long_prompt": "chunk", **QUICK}
    sampler = ZS2Sampler(pipe)
    assert torch.equal(sampler(LONG, **run).latents, own)
    assert not torch.equal(sampler(LONG[:-1] + "z", **run).latents, own)


def test_chunk_changes_nothing_for_a_prompt_that_fits(pipe: Any):
    """At or below the limit all three settings are the same bytes."""
    exact = " ".join("abcdefghijklmn")  # 14 letters: all that fits
    for text in (SHORT, exact):
        encoded = [conditions(pipe, [text], how) for how in ("truncate", "chunk", "fail")]
        for other in encoded[1:]:
            assert all(torch.equal(encoded[0][name], other[name]) for name in encoded[0])


def test_fail_says_what_is_too_long(pipe: Any):
    """A PromptError that names the argument, the limit, the length and the remedy; the negative prompt
    counts too."""
    with pytest.raises(
        PromptError, match=r"^prompt: expected at most 16 tokens.*found 20; shorten"
    ):
        conditions(pipe, [LONG], "fail")
    with pytest.raises(PromptError, match=r"^negative_prompt: expected at most 16 tokens"):
        conditions(pipe, [SHORT], "fail", negative=LONG)
    with pytest.raises(ValueError, match="long_prompt: expected one of truncate, chunk, fail"):
        conditions(pipe, [SHORT], "cut")


def test_all_of_a_clip_are_of_one_length(pipe: Any):
    """A storyboard with a short and a long prompt, and a negative prompt of three parts: every row has
    the length of the longest; short ones end in the encoding of nothing."""
    negative = " ".join("abcdefghijklmnopqrstuvwxyzabcdefg")  # 33 letters: three parts
    encoded = conditions(pipe, [SHORT, LONG], "chunk", negative=negative)
    assert encoded["prompt_embeds"].shape[:2] == (2, 3 * LIMIT)
    assert encoded["negative_prompt_embeds"].shape[:2] == (2, 3 * LIMIT)
    nothing = tokens(pipe, "")
    assert torch.equal(
        encoded["prompt_embeds"][:1], torch.cat([tokens(pipe, SHORT), nothing, nothing], dim=1)
    )


def test_a_word_longer_than_the_encoder_is_cut_between_letters(pipe: Any):
    """No letter is lost, wherever a text has no spaces."""
    word = "abcdefghijklmnopqrstuvwxyz" * 2
    text = f"x y {word} z"
    encoding = TextEncoding(pipe, "chunk")
    parts = encoding._parts("prompt", text)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")
    assert all(encoding.length(part) <= LIMIT for part in parts)
    assert len(parts) == 5


def test_sdxls_pooled_condition_is_the_first_parts(pipe: Any):
    """SDXL's second condition has one size: it is that of the first part."""
    if not hasattr(pipe, "text_encoder_2"):
        assert "pooled_prompt_embeds" not in conditions(pipe, [LONG], "chunk")
        return
    whole = conditions(pipe, [LONG], "chunk")["pooled_prompt_embeds"]
    first = conditions(pipe, [LONG[: 2 * 14 - 1]], "truncate")["pooled_prompt_embeds"]
    assert torch.equal(whole, first)


def test_each_distinct_text_is_encoded_once(pipe: Any):
    """A storyboard of a, b, a, b over 8 frames calls each text encoder once a text: a, b and, where it
    is encoded, the negative one."""
    batches: list[int] = []
    hook = pipe.text_encoder.register_forward_pre_hook(
        lambda _, inputs: batches.append(len(inputs[0])), with_kwargs=False
    )
    ZS2Sampler(pipe)([["a", "b", "a", "b"]], num_frames=8, segment_frames=2, seed=1, **QUICK)
    hook.remove()
    zeros = pipe.config.get("force_zeros_for_empty_prompt")
    assert batches == [1] * (2 if zeros else 3)
