"""Temporal momentum attention (section 4.1, Eq. 2): keys and values from a running average over frames.

K̈^{1:1} = K^1, K̈^{1:i} = μ_i·K̈^{1:i−1} + (1−μ_i)·K^i, and likewise V̈; queries stay per frame. μ = 0 is
plain self-attention, μ = 1 is cross-frame attention to frame 1. Keys and values are linear in the
hidden state and the weights sum to 1, so the *hidden states* are averaged once and projected after:
half the work and half the state, and biases and LoRA stay right.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0
from jaxtyping import Float
from torch import Tensor

from zs2.arguments import per_frame
from zs2.checks import in_range, spread


def momentum_matrix(
    momentum: float | Sequence[float], num_frames: int
) -> Float[Tensor, "frame frame"]:
    """Eq. 2 as one lower-triangular matrix M with K̈ = M·K over the frame axis, in float64.

    M_ij = (1−μ_j)·Π_{k=j+1..i} μ_k, the factor (1−μ_1) replaced by 1; rows sum to 1.

    Args:
        momentum: μ in [0, 1], one value or `num_frames` of them (the first is not used).

    Raises:
        ValueError: for μ outside [0, 1] or a wrong number of them.
    """
    values = spread("momentum", per_frame("momentum", momentum), num_frames, "num_frames")
    in_range("momentum", values, 0.0, 1.0)
    M = torch.zeros(num_frames, num_frames, dtype=torch.float64)
    for i, mu in enumerate(values):
        if i == 0:
            M[0, 0] = 1
        else:
            M[i] = mu * M[i - 1]
            M[i, i] = 1 - mu
    return M


def momentum_average(
    hidden_states: Float[Tensor, "copy frame token feature"],
    momentum: Sequence[float],
    carried: Float[Tensor, "copy token feature"] | None,
) -> Float[Tensor, "copy frame token feature"]:
    """The running average of Eq. 2 over the frames of one segment.

    Args:
        momentum: μ of these frames.
        carried: the average up to the frame before; None at the clip's first frame.

    Returns:
        The average at each frame, in the input's dtype; half precisions are averaged in float32, for
        an increment of 1−μ is otherwise lost in rounding. Frame by frame, so that the result does not
        depend on how a clip is cut into segments.
    """
    exact = hidden_states.dtype not in (torch.float16, torch.bfloat16)
    states = hidden_states if exact else hidden_states.float()
    average = torch.empty_like(states)
    previous = carried
    for mu, current, out in zip(momentum, states.unbind(1), average.unbind(1), strict=True):
        if previous is None:
            out.copy_(current)
        else:
            torch.lerp(current, previous, mu, out=out)
        previous = out
    return average


@dataclass
class MomentumState:
    """The running average of every layer while a clip is denoised, and where in the clip we are.

    Attributes:
        momentum: μ of every frame of the clip.
        chain: at a segment border, `exact` carries the average, `anchor` the last frame itself.
        start, count: the segment's first frame, and how many of its frames are not padding.
        padded_count: frames in the UNet call.
        texts: the clip's `zs2.text_attention.TextState`, where there is one.
        first: the clip's frame that the batch begins with; not 0 where it holds a share of the clip.
    """

    momentum: Sequence[float]
    chain: str = "exact"
    first: int = 0
    start: int = 0
    count: int = 0
    padded_count: int = 0
    carried: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    texts: Any = None

    def reset(self) -> None:
        """Forget the averages: the clip's first frame comes next (each denoising step)."""
        self.carried.clear()

    def enter_segment(self, start: int, count: int, padded_count: int) -> None:
        """Turn to the segment that begins `start` frames after `first`."""
        self.start, self.count, self.padded_count = self.first + start, count, padded_count

    def average(
        self, layer: str, hidden_states: Float[Tensor, "batch token feature"]
    ) -> Float[Tensor, "batch token feature"]:
        """Average one layer's hidden states over the segment's frames; keep what the next one needs.

        The batch is (g m): guidance copies outermost, frames innermost.
        """
        states = hidden_states.unflatten(0, (-1, self.padded_count))
        # Padding repeats the last frame at the end: its μ only has to be some number.
        mu = [*self.momentum[self.start : self.start + self.count]]
        mu += mu[-1:] * (self.padded_count - self.count)
        average = momentum_average(states, mu, self.carried.get(layer))
        if self.start + self.count < len(self.momentum):
            kept = average if self.chain == "exact" else states.to(average.dtype)
            self.carried[layer] = kept[:, self.count - 1].clone()
        return average.to(hidden_states.dtype).flatten(0, 1)


class MomentumAttnProcessor:
    """Self-attention whose keys and values come from the averaged hidden states.

    It hands the average to the processor it stands for, as that processor's `encoder_hidden_states`:
    whatever computes attention (SDPA, xFormers, projections with LoRA) goes on doing so.
    """

    def __init__(self, layer: str, inner: Any, state: MomentumState) -> None:
        self.layer = layer
        self.inner = inner
        self.state = state
        # diffusers reads here which cross_attention_kwargs a processor takes; calls go to the class
        self.__call__ = inner.__call__

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if encoder_hidden_states is not None:  # `only_cross_attention` blocks: text, not self
            return self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        average = self.state.average(self.layer, hidden_states)
        return self.inner(attn, hidden_states, average, *args, **kwargs)


@contextmanager
def momentum_attention(model: Any, state: MomentumState, prefix: str = "") -> Generator[None]:
    """Replace every self-attention (`attn1`) of a UNet or ControlNet while the context is open.

    The model has its own processors back afterwards, also after an exception. `prefix` tells the layers
    of two models that share a state apart.
    """
    originals = dict(model.attn_processors)
    replaced = {
        name: MomentumAttnProcessor(prefix + name, _unfused(inner), state)
        if ".attn1." in name
        else inner
        for name, inner in originals.items()
    }
    model.set_attn_processor(replaced)
    try:
        yield
    finally:
        model.set_attn_processor(dict(originals))


def _unfused(inner: Any) -> Any:
    """Fused projections take queries, keys and values from one input; here there are two."""
    return AttnProcessor2_0() if isinstance(inner, FusedAttnProcessor2_0) else inner
