"""What a checkpoint needs in memory beside its weights, before any weights are loaded.

UNet and autoencoder are built from their configuration on torch's `meta` device, where tensors have
shapes and no data, and do what they do in a render: a UNet call of a segment in the middle of a long
clip, with momentum attention, its carried averages and the projected text, and a call of decoding.
Storages are counted from when an operator makes them until Python lets go of the last tensor on them;
the most at once is the answer.

Assumed: attention by a fused kernel (flash or memory-efficient, which is what
`scaled_dot_product_attention` takes on a GPU), which holds its output and a log-sum-exp a query and never
the matrix of all pairs. Not counted: what a kernel takes for itself while it runs (cuDNN's workspaces),
what the allocator rounds up and keeps (torch.cuda.max_memory_reserved), the CUDA context, ControlNets,
IP-Adapters, LoRAs, text encoders at work, and what a long clip holds a frame (latents and embeddings).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from zs2.attention import MomentumState, momentum_attention
from zs2.config import SEGMENT_FRAMES, ClipConfig
from zs2.decode_calls import frames_a_call
from zs2.models import Memory, ModelError, ModelInfo, configurations
from zs2.segments import segmented
from zs2.text_attention import text_attention

TOKENS = 77  # of a prompt, for CLIP's text encoders


def activation_bytes(
    info: ModelInfo,
    segment_frames: int = SEGMENT_FRAMES,
    height: int | None = None,
    width: int | None = None,
    dtype: torch.dtype = torch.float16,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    tokens: int = TOKENS,
) -> Memory:
    """The most that one UNet call and decoding hold at once, in bytes, beside the model's weights.

    It takes about a second a model, on the CPU; the clip's length has no say in it.

    Args:
        segment_frames: pictures a UNet call, times the guidance copies: 2, or InstructPix2Pix's 3; 1 for
            a model that prefers none.
        height, width: pixels; default the model's own.
        dtype: of the weights, and so of the activations.
        configs: the model's configuration files; default those on this machine (`configurations`).
        tokens: of a prompt; more than CLIP's 77 where long ones are read in parts.

    Raises:
        ModelError: no UNet or autoencoder can be built from its configuration, or run at this size.
    """
    from zs2.checkpoints.quiet import brief, quiet

    configs = configurations(info) if configs is None else configs
    size = (height or info.height, width or info.width)
    try:
        with quiet(), torch.no_grad(), torch.device("meta"):
            unet = _build("UNet2DConditionModel", configs["unet/config.json"], dtype)
            kind = configs["model_index.json"].get("vae") or ("diffusers", "AutoencoderKL")
            vae = _build(kind[1], configs["vae/config.json"], dtype)
            return Memory(
                unet=_unet_bytes(info, unet, segment_frames, size, tokens),
                decode=_decode_bytes(info, vae, size),
            )
    # a configuration put together wrongly makes diffusers raise anything
    except Exception as error:
        raise ModelError(
            f"model {info.name!r}: expected a configuration of which a UNet and an autoencoder can be "
            f"built that run at {size[1]}×{size[0]}, found that they cannot: {brief(error)}; check the "
            "size, or copy or save the model again"
        ) from error


def _build(kind: str, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    import diffusers

    model = getattr(diffusers, kind).from_config(dict(config)).eval()
    return torch.nn.Module.to(model, dtype)  # diffusers' own warns that float16 is slow on a CPU


def guidance_copies(info: ModelInfo, unet: Any) -> int:
    """How many pictures a UNet call has a frame, with the model's own guidance."""
    if info.defaults.guidance_scale <= 1:
        return 1
    if info.edits:
        return 3
    return 1 if unet.config.time_cond_proj_dim else 2  # distilled: guidance is a condition


def _unet_bytes(
    info: ModelInfo, unet: Any, segment_frames: int, size: tuple[int, int], tokens: int
) -> int:
    """Of the second of three segments: it has a segment's averages before and after it."""
    num_frames = 2 * segment_frames
    batch = guidance_copies(info, unet) * num_frames
    state = MomentumState(ClipConfig(3 * segment_frames).momentums)
    config = unet.config
    height, width = (pixels // info.scale_factor for pixels in size)
    with (
        held(unet) as live,
        momentum_attention(unet, state),
        text_attention(unet, state),
        segmented(unet, num_frames, segment_frames, state),
    ):
        text = (tokens, config.encoder_hid_dim or config.cross_attention_dim)
        unet(
            torch.empty(batch, config.in_channels, height, width, dtype=unet.dtype),
            torch.empty((), dtype=torch.int64),
            # one text, which each segment's call has a row a picture of (`zs2.per_frame.Texts`)
            torch.empty(1, *text, dtype=unet.dtype).expand(batch, -1, -1),
            added_cond_kwargs=_added_conditions(unet, batch),
            return_dict=False,
        )
    return live.peak


def _added_conditions(unet: Any, batch: int) -> dict[str, Tensor] | None:
    """SDXL's: the second encoder's text, pooled, and six sizes."""
    config = unet.config
    if config.addition_embed_type != "text_time":
        return None
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return {
        "text_embeds": torch.empty(batch, pooled, dtype=unet.dtype),
        "time_ids": torch.empty(batch, 6, dtype=unet.dtype),
    }


def _decode_bytes(info: ModelInfo, vae: Any, size: tuple[int, int]) -> int:
    """Of the autoencoder with a call's frames, and the weights that decoding in float32 adds to float16's."""
    more = 0
    sdxl = info.pipeline == "StableDiffusionXLPipeline"
    if sdxl and vae.dtype == torch.float16 and vae.config.get("force_upcast"):
        more = sum(weight.nbytes for weight in vae.parameters())
        torch.nn.Module.to(vae, torch.float32)
    height, width = size
    small = (height // info.scale_factor, width // info.scale_factor)
    with held(vae) as live:
        count = frames_a_call(height, width)
        latents = torch.empty(count, info.latent_channels, *small, dtype=vae.dtype)
        vae.decode(latents, return_dict=False)
    if info.edits:  # its source frames are encoded
        with held(vae) as encoding:
            vae.encode(torch.empty(1, 3, height, width, dtype=vae.dtype), return_dict=False)
        return more + max(live.peak, encoding.peak)
    return more + live.peak


@contextmanager
def held(model: torch.nn.Module) -> Generator[Live]:
    """Count what tensors hold while the context is open, less the model's own."""
    live = Live([*model.parameters(), *model.buffers()])
    with _FusedAttention(), live:
        yield live


class Live(TorchDispatchMode):
    """Bytes of the storages that operators have made and that are still in use.

    Attributes:
        peak: the most at once so far.
    """

    def __init__(self, uncounted: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}
        for tensor in uncounted:
            self._see(tensor.untyped_storage(), 0)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._see(storage, storage.nbytes())
        return made

    def _see(self, storage: Any, count: int) -> None:
        # views share a storage, whose Python object lives as long as it does
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, partial(self._forget, key, count))
            self.bytes += count
            self.peak = max(self.peak, self.bytes)

    def _forget(self, key: int, count: int, _: object) -> None:
        del self._storages[key]
        self.bytes -= count


class _FusedAttention(TorchFunctionMode):
    """Answers attention with a tensor of the result's shape and layout, as a fused kernel leaves it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _fused(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    batch, heads, tokens, _features = query.shape
    _logsumexp = query.new_empty(batch, heads, tokens, dtype=torch.float32)
    return query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)
