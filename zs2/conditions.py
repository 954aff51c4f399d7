"""What each frame is conditioned on: text, from one encoder or two and of any length; a source clip.

Every distinct text is encoded once, and by itself, because an encoder's answer depends on its batch in
the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from zs2.per_frame import Texts

LONG_PROMPTS = ("truncate", "chunk", "fail")
EMBEDS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)


class PromptError(ValueError):
    """A prompt that cannot be used as asked; the message says what was expected, found, and the remedy."""


class Encoded(NamedTuple):
    """Texts as the UNet reads them; `pooled` is SDXL's second condition, None elsewhere."""

    tokens: Float[Tensor, "text token feature"]
    pooled: Float[Tensor, "text feature"] | None

    def zeros(self) -> Encoded:
        """Zeros of the same shapes and dtype, as SDXL's `force_zeros_for_empty_prompt` asks for."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return Encoded(torch.zeros_like(self.tokens), pooled)


class TextEncoding:
    """How a pipeline encodes text.

    Args:
        pipe: of any Stable Diffusion family.
        long_prompt: past the encoder's length `truncate`s as diffusers does, `chunk`s (encodes part
            after part and puts the parts one behind the other) or `fail`s.
        clip_skip: layers to leave out at the end of the text encoder, for prompts, not negative ones.
        lora_scale: of LoRAs in the text encoder.
        second: SDXL's prompt_2 and negative_prompt_2, what its second encoder reads instead.
        kept: gives the encoding of a key, else what makes it (`TextCache.get`); None encodes anew.

    Raises:
        ValueError: another `long_prompt`, more layers left out than there are, or second prompts where
            there is no second encoder or long prompts are read in parts.
    """

    def __init__(
        self,
        pipe: Any,
        long_prompt: str = "truncate",
        clip_skip: int | None = None,
        lora_scale: float | None = None,
        second: tuple[str | None, str | None] = (None, None),
        kept: Callable[[Hashable, Callable[[], Encoded]], Encoded] | None = None,
    ) -> None:
        if long_prompt not in LONG_PROMPTS:
            raise ValueError(
                f"long_prompt: expected one of {', '.join(LONG_PROMPTS)}, found {long_prompt!r}"
            )
        self.pipe = pipe
        self.long_prompt = long_prompt
        self.clip_skip = clip_skip
        self.lora_scale = lora_scale
        self.kept = kept
        own = (getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2"))
        self.tokenizers = [tokenizer for tokenizer in own if tokenizer is not None]
        self.has_pooled = hasattr(pipe, "text_encoder_2")
        self.second = second
        if any(second) and (not self.has_pooled or long_prompt == "chunk"):
            raise ValueError(
                "prompt_2, negative_prompt_2: expected none without a second text encoder or with "
                f"long_prompt='chunk', found {second}"
            )
        if clip_skip is not None:
            self._check_clip_skip(clip_skip)

    def _check_clip_skip(self, clip_skip: int) -> None:
        layers = [
            getattr(self.pipe, name).config.num_hidden_layers
            for name in ("text_encoder", "text_encoder_2")
            if getattr(self.pipe, name, None) is not None
        ]
        if layers and not 0 <= clip_skip < min(layers):
            raise ValueError(
                f"clip_skip: expected 0 to {min(layers) - 1}, as the text encoder has {min(layers)} "
                f"layers, found {clip_skip}"
            )

    def conditions(
        self,
        prompts: Sequence[str],
        frame_prompt: Sequence[int],
        negative_prompt: str | None,
        guided: bool,
        given: Mapping[str, Tensor],
        table: Texts | None = None,
    ) -> dict[str, Tensor]:
        """The text arguments of the pipeline's call: one row a frame.

        Args:
            frame_prompt: of each frame, the index of its prompt.
            negative_prompt: None is none: zeros where the checkpoint was trained so, else as "".
            guided: negative embeddings are needed.
            given: embeddings by their diffusers names, instead of texts; one row, or one a frame.
            table: takes the texts, of which the arguments then have the numbers.

        Raises:
            PromptError: too long a prompt with long_prompt="fail".
            ValueError: given embeddings of a wrong shape.
        """
        positive = _encoded("", given)
        negative = _encoded("negative_", given) if guided else None
        is_zero = negative_prompt is None and self.pipe.config.get("force_zeros_for_empty_prompt")
        if guided and negative is None and is_zero and self.second[1] is not None:
            raise ValueError(
                "negative_prompt_2: expected beside a negative_prompt, as this model has zeros where "
                "there is none, found alone; give both, negative_prompt may be empty"
            )
        unwanted = negative_prompt or ""
        parts = {} if positive else {text: self._parts("prompt", text) for text in prompts}
        if guided and negative is None and not is_zero:
            parts |= {unwanted: self._parts("negative_prompt", unwanted)}
        most = max((len(pieces) for pieces in parts.values()), default=1)
        num_frames, own = len(frame_prompt), frame_prompt
        if positive is None:
            texts = list(dict.fromkeys(prompts))
            second, skip = self.second[0], self.clip_skip
            encoded = _stack([self._encode(parts[text], most, skip, second) for text in texts])
            positive = encoded
            own = [texts.index(prompts[i]) for i in frame_prompt]
        else:
            own = _rows_of(positive, num_frames)
        conditions = _named("", positive, own, table)
        if not guided:
            return conditions
        if negative is not None:
            own = _rows_of(negative, num_frames)
        elif is_zero:
            negative = positive.zeros()
        else:
            if "prompt_embeds" in given:
                most = max(1, positive.tokens.shape[1] // self.limit)
            negative = self._encode(parts[unwanted], most, None, self.second[1])
            own = [0] * num_frames
        found, wanted = negative.tokens.shape[1], positive.tokens.shape[1]
        if found != wanted:
            raise ValueError(
                f"negative_prompt_embeds: expected as many tokens as the prompt has, {wanted}, found "
                f"{found}; give prompt_embeds and negative_prompt_embeds of one length"
            )
        return conditions | _named("negative_", negative, own, table)

    @property
    def limit(self) -> int:
        """Tokens that the encoders read, start and end included."""
        return min(tokenizer.model_max_length for tokenizer in self.tokenizers)

    def length(self, text: str) -> int:
        """Tokens of a text, start and end included; of two tokenizers the longer answer."""
        convert = getattr(self.pipe, "maybe_convert_prompt", lambda text, _: text)
        return max(len(t(convert(text, t), truncation=False).input_ids) for t in self.tokenizers)

    def _parts(self, name: str, text: str) -> list[str]:
        """The text in parts that are encoded one by one."""
        last = "_2" if self.has_pooled else ""
        if any(
            getattr(self.pipe, part + last, None) is None for part in ("text_encoder", "tokenizer")
        ):
            raise PromptError(
                f"{name}: expected {name}_embeds, as the pipeline has no text encoder or no tokenizer, "
                f"found {text!r} to encode; give them, or a pipeline that has both"
            )
        if self.long_prompt == "truncate" or self.length(text) <= self.limit:
            return [text]
        if self.long_prompt == "chunk":
            return self._cut(text)
        raise PromptError(
            f"{name}: expected at most {self.limit} tokens, as the model's text encoder reads, found "
            f"{self.length(text)}; shorten it, or set long_prompt to truncate or chunk"
        )

    def _cut(self, text: str) -> list[str]:
        """Cut between words; a word that is too long by itself, between its letters."""
        parts = [""]
        for word in text.split():
            longer = f"{parts[-1]} {word}".strip()
            if self.length(longer) <= self.limit:
                parts[-1] = longer
                continue
            while self.length(word) > self.limit:
                fitting = _longest(word, lambda part: self.length(part) <= self.limit)
                parts.append(word[:fitting])
                word = word[fitting:]
            parts.append(word)
        return [part for part in parts if part]

    @torch.no_grad()
    def _encode(
        self, parts: Sequence[str], most: int, clip_skip: int | None, second: str | None
    ) -> Encoded:
        """Parts one behind the other; empty ones at the end, for all of a clip must be of one length."""
        padded = [*parts, *[""] * (most - len(parts))]
        encoded = [self._kept_part(part, clip_skip, second) for part in padded]
        return Encoded(torch.cat([part.tokens for part in encoded], dim=1), encoded[0].pooled)

    def _kept_part(self, text: str, clip_skip: int | None, second: str | None) -> Encoded:
        if self.kept is None:
            return self._encode_part(text, clip_skip, second)
        key = (text, clip_skip, second, self.lora_scale)
        return self.kept(key, lambda: self._encode_part(text, clip_skip, second))

    def _encode_part(self, text: str, clip_skip: int | None, second: str | None) -> Encoded:
        pipe = self.pipe
        options: dict[str, Any] = {"lora_scale": self.lora_scale, "clip_skip": clip_skip}
        if self.has_pooled:
            tokens, _, pooled, _ = pipe.encode_prompt(
                text, second, num_images_per_prompt=1, do_classifier_free_guidance=False, **options
            )
            return Encoded(tokens, pooled)
        # InstructPix2Pix's pipeline has no such method of its own; its text encoder is the same
        own = getattr(pipe, "encode_prompt", partial(StableDiffusionPipeline.encode_prompt, pipe))
        with _text_model(pipe.text_encoder):
            return Encoded(own(text, pipe._execution_device, 1, False, **options)[0], None)


def given_embeds(
    pipe: Any, given: Mapping[str, Any], num_frames: int, texts: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Those of `EMBEDS` that are given, in the UNet's dtype and on the pipeline's device.

    Args:
        given: arguments of a call; tensors of one row, or of one a frame.
        texts: the call's texts, by their arguments' names.

    Returns:
        Tokens and pooled condition of a text with as many rows as each other.

    Raises:
        ValueError: no tensor, another shape, one of the two without the other, or a text beside them.
    """
    kinds = ("", "pooled_") if hasattr(pipe, "text_encoder_2") else ("",)
    embeds: dict[str, Tensor] = {}
    for prefix in ("", "negative_"):
        names = [f"{prefix}{kind}prompt_embeds" for kind in kinds]
        found = {name: given[name] for name in names if given.get(name) is not None}
        if 0 < len(found) < len(names):
            there = next(iter(found))
            missing = names[names[0] == there]
            raise ValueError(f"{missing}: expected beside {there} for this model, found none")
        for name, value in found.items():
            _check_embeds(name, value, num_frames, pipe.unet.config)
        rows = max((len(value) for value in found.values()), default=0)
        for name, value in found.items():
            moved = value.to(pipe._execution_device, pipe.unet.dtype)
            embeds[name] = moved.expand(rows, *moved.shape[1:])
        for name in (f"{prefix}prompt", f"{prefix}prompt_2"):
            if found and _has_text(texts.get(name)):
                raise ValueError(
                    f"{name}: expected none beside {names[0]}, found both; leave one out"
                )
    return embeds


def _check_embeds(name: str, value: Any, num_frames: int, unet: Any) -> None:
    """See that embeddings have a row, or one a frame, of the width that this UNet reads."""
    if "pooled" in name:  # beside SDXL's, six numbers of the picture's size are embedded
        width = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim
        inner = f"{width}"
    else:
        width = unet.get("encoder_hid_dim") or unet.cross_attention_dim
        inner = f"token, {width}"
    shape = tuple(np.shape(value))
    ndim = 2 + inner.count(",")
    if (
        not isinstance(value, Tensor)
        or len(shape) != ndim
        or shape[0] not in (1, num_frames)
        or shape[-1] != width
    ):
        raise ValueError(
            f"{name}: expected a tensor of shape (1, {inner}) or ({num_frames}, {inner}), found "
            f"{type(value).__name__} of shape {shape}"
        )


def _has_text(value: Any) -> bool:
    """Whether there is a text in a prompt, or in one of a list of them; an empty one is none."""
    return bool(value) if isinstance(value, str) else any(map(_has_text, value or ()))


@torch.no_grad()
def source_latents(
    pipe: Any, video: UInt8[np.ndarray, "frame height width 3"], height: int, width: int
) -> Float[Tensor, "frame channel h w"]:
    """The source clip of InstructPix2Pix as its pipeline encodes a picture, one frame a call."""
    device = pipe._execution_device
    latents: list[Tensor] = []
    for frame in video:
        picture = pipe.image_processor.preprocess(Image.fromarray(frame), height, width)
        posterior = pipe.vae.encode(picture.to(device, pipe.vae.dtype)).latent_dist
        latents.append(posterior.mode())
    return torch.cat(latents)


@contextmanager
def _text_model(encoder: Any) -> Generator[None]:
    """transformers 5 has no `CLIPTextModel.text_model`; diffusers 0.42 asks for it when it skips layers."""
    if hasattr(encoder, "text_model"):
        yield
        return
    encoder.__dict__["text_model"] = encoder  # past Module.__setattr__: no child of its own
    try:
        yield
    finally:
        del encoder.__dict__["text_model"]


def _stack(rows: Sequence[Encoded]) -> Encoded:
    pooled = [row.pooled for row in rows if row.pooled is not None]
    return Encoded(torch.cat([row.tokens for row in rows]), torch.cat(pooled) if pooled else None)


def _named(
    prefix: str, texts: Encoded, own: Sequence[int], table: Texts | None
) -> dict[str, Tensor]:
    """The texts `own` of the frames, by diffusers' names."""
    index = torch.tensor(own, device=texts.tokens.device)
    tokens = texts.tokens[index] if table is None else table.stand_ins(texts.tokens, own)
    named = {f"{prefix}prompt_embeds": tokens}
    if texts.pooled is not None:
        named[f"{prefix}pooled_prompt_embeds"] = texts.pooled[index]
    return named


def _encoded(prefix: str, given: Mapping[str, Tensor]) -> Encoded | None:
    tokens = given.get(f"{prefix}prompt_embeds")
    if tokens is None:
        return None
    return Encoded(tokens, given.get(f"{prefix}pooled_prompt_embeds"))


def _rows_of(encoded: Encoded, num_frames: int) -> list[int]:
    """Of given embeddings, the row of each frame."""
    return [0] * num_frames if len(encoded.tokens) == 1 else list(range(num_frames))


def _longest(word: str, fits: Any) -> int:
    """Letters of the longest beginning that fits; at least one."""
    low, high = 1, len(word)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(word[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
