"""The UNet's blocks compiled by torch: the engine `compiled`.

Two kinds of block take nearly all of a UNet's time, and blocks of one shape share one compiled graph
(regional compilation). What is compiled are functions of tensors alone: the running averages of momentum
attention go in and come out as tensors, and so does μ. No number of a segment is a constant of a graph,
so that all segments, steps and clips of one shape run the same code.

The rest of the UNet, ControlNets, the text encoders and the autoencoder run as they are. The first clip of
a shape takes a minute or more longer, less where `~/.cache/zs2/compiled` has its code; results differ from
eager ones in their last bits. A LoRA, an IP-Adapter, parts that are offloaded one by one and frames in
between are refused. On a GPU this has not been measured; CUDA graphs are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, no_type_check

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float
from torch import Tensor

from zs2.attention import MomentumAttnProcessor, MomentumState
from zs2.compiler import check_compiler, keep_compiled_code
from zs2.models import ModelError
from zs2.patching import forward_as

BLOCKS = (BasicTransformerBlock, ResnetBlock2D)
MOST_GRAPHS = 512  # of one kind of block in a process, over all shapes; torch itself stops at 8


class CompiledMomentum:
    """`MomentumAttnProcessor` as a function of tensors, for compiled blocks.

    Attributes:
        momentum: μ of the frames of this call; 0 for a clip's first frame, 1 for padding.
        carried: the running average up to the frame before; after the call what the next segment takes.
        is_anchored: the next segment takes the last frame itself (chain `anchor`).
    """

    momentum: Float[Tensor, " frame"]
    carried: Float[Tensor, "copy token feature"]
    is_anchored: bool

    def __init__(self, layer: str, inner: Any, state: MomentumState) -> None:
        self.layer = layer
        self.inner = inner
        self.state = state

    @no_type_check  # torch could not compile a checked function
    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        others = (attention_mask, temb)
        if encoder_hidden_states is not None:  # `only_cross_attention` blocks: text, not self
            return self.inner(attn, hidden_states, encoder_hidden_states, *others)
        states = hidden_states.unflatten(0, (-1, self.momentum.shape[0])).to(self.carried.dtype)
        average = self.carried
        averages: list[Tensor] = []
        for current, mu in zip(states.unbind(1), self.momentum.unbind(), strict=True):
            average = torch.lerp(current, average, mu)
            averages.append(average)
        # its own memory, not a view of all frames'
        self.carried = (states[:, -1] if self.is_anchored else average).clone()
        seen = torch.stack(averages, dim=1).to(hidden_states.dtype).flatten(0, 1)
        return self.inner(attn, hidden_states, seen, *others)

    def enter(self, hidden_states: Float[Tensor, "batch token feature"]) -> None:
        """Before its block is called: take from the clip's state what the block needs."""
        state = self.state
        is_half = hidden_states.dtype in (torch.float16, torch.bfloat16)
        options: dict[str, Any] = {
            "dtype": torch.float32 if is_half else hidden_states.dtype,
            "device": hidden_states.device,
        }
        momentum = [*state.momentum[state.start : state.start + state.count]]
        carried = state.carried.get(self.layer)
        if carried is None:  # the clip's first frame: what this holds has no weight
            copies = hidden_states.shape[0] // state.padded_count
            carried = torch.zeros((copies, *hidden_states.shape[1:]), **options)
            momentum[0] = 0.0
        momentum += [1.0] * (state.padded_count - state.count)
        self.momentum = torch.tensor(momentum, **options)
        self.carried = carried
        self.is_anchored = state.chain == "anchor"

    def leave(self) -> None:
        """After its block was called: leave what the next segment needs."""
        state = self.state
        if state.start + state.count < len(state.momentum):
            state.carried[self.layer] = self.carried


def prepare(unet: Any) -> None:
    """Make a UNet ready for `compiled`: its weights in channels_last order, their values unchanged.

    Raises:
        ModelError: there is no C++ compiler, with what to install.
    """
    check_compiler()
    keep_compiled_code()
    unet.to(memory_format=torch.channels_last)


@contextmanager
def compiled(unet: Any, in_between: int = 1) -> Generator[None]:
    """Run a UNet's blocks compiled while the context is open, and its momentum attention with them;
    shapes met for the first time are compiled then.

    Raises:
        ModelError: it has a LoRA or an IP-Adapter, is offloaded part by part, or there are to be frames
            in between.
    """
    from torch._dynamo import config as dynamo

    _check_plain(unet)
    if in_between > 1:
        raise ModelError(
            f"in_between: expected 1 with the engine compiled, found {in_between}; use the engine eager"
        )
    blocks = [module for module in unet.modules() if isinstance(module, BLOCKS)]
    with ExitStack() as contexts:
        contexts.enter_context(
            dynamo.patch(recompile_limit=MOST_GRAPHS, accumulated_recompile_limit=MOST_GRAPHS)
        )
        for block in blocks:
            contexts.enter_context(forward_as(block, _with_momentum(block)))
        originals = dict(unet.attn_processors)
        unet.set_attn_processor({name: _as_tensors(inner) for name, inner in originals.items()})
        contexts.callback(unet.set_attn_processor, originals)
        yield


def _as_tensors(processor: Any) -> Any:
    if not isinstance(processor, MomentumAttnProcessor):
        return processor
    return CompiledMomentum(processor.layer, processor.inner, processor.state)


def _with_momentum(block: Any) -> Callable[..., Any]:
    run = _compile(type(block).forward)

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        processor = getattr(getattr(block, "attn1", None), "processor", None)
        if not isinstance(processor, CompiledMomentum):
            return run(block, hidden_states, *args, **kwargs)
        processor.enter(hidden_states)
        output = run(block, hidden_states, *args, **kwargs)
        processor.leave()
        return output

    return forward


@lru_cache
def _compile(forward: Callable[..., Any]) -> Callable[..., Any]:
    """In one piece, for fixed shapes, and without timing kernels to choose among them: which one is
    the quickest is another answer every time, with other bits."""
    from torch._inductor import config

    options: dict[str, Any] = {}
    if hasattr(config, "deterministic"):  # not in torch 2.6
        options["deterministic"] = True
    return torch.compile(forward, fullgraph=True, dynamic=False, options=options)


def _check_plain(unet: Any) -> None:
    reason = None
    if getattr(unet, "peft_config", None):
        reason = "a LoRA, of which each would be compiled anew"
    elif getattr(unet, "encoder_hid_proj", None) is not None:
        reason = "an IP-Adapter, of which each would be compiled anew"
    elif any(hasattr(m, "_hf_hook") for block in unet.children() for m in block.modules()):
        reason = "one that is offloaded part by part, whose parts cannot be compiled"
    if reason is not None:
        raise ModelError(
            f"engine compiled: expected a UNet of its own weights, found {reason}; "
            "use the engine eager"
        )
