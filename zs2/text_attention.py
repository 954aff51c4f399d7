"""Keys and values of the text, projected once a clip for each text instead of for every frame and step.

Cross-attention reads the same text at every frame of a segment and in every denoising step, so its keys
and values are the same there, too. Text by text they are projected when a clip first needs them, held,
and given to whatever computes the attention.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor

from zs2.attention import MomentumState
from zs2.segments import Segment

# Calls with other texts whose keys and values are held: a storyboard may have any number.
MOST_HELD = 4

Projected = tuple[Tensor, Tensor]


@dataclass
class _Texts:
    """The distinct texts of a UNet call.

    Attributes:
        first: of each distinct text, the batch row where it is first.
        row: of each batch row, the number of its text.
        layers: keys and values (text, token, feature) of every layer that has asked.
    """

    tokens: Float[Tensor, "text token feature"]
    first: Tensor
    row: Tensor
    layers: dict[str, Projected] = field(default_factory=dict[str, Projected])


class TextState:
    """The projected texts of one clip, and which of them the UNet call that comes next reads.

    Args:
        holds: from one denoising step to the next. Not where the user's callback runs between them: it
            may change the weights.
        apart: equal texts of two clips of a call are two, so that what one clip reads does not decide
            how many are projected together, and with it the last bits of the other.
    """

    def __init__(self, holds: bool = True, apart: bool = False) -> None:
        self.holds = holds
        self.apart = apart
        self.texts: _Texts | None = None
        self._clip: tuple[Tensor | None, int] = (None, 0)
        self._calls: dict[tuple[int, int], _Texts] = {}
        self._held: OrderedDict[int, _Texts] = OrderedDict()

    def next_step(self, text: Tensor | None) -> None:
        """A denoising step begins, with these embeddings of the whole clip."""
        version = 0 if text is None or text.is_inference() else text._version
        if not self.holds or text is not self._clip[0] or version != self._clip[1]:
            self._clip = (text, version)
            self._calls.clear()
            self._held.clear()

    def enter_segment(
        self, segment: Segment, text: Float[Tensor, "batch token feature"] | None
    ) -> None:
        """The UNet call of this segment comes next.

        Args:
            text: its own rows of the embeddings, (g m).
        """
        if text is None:
            self.texts = None
            return
        call = segment.start, len(text)  # guidance may end before the clip does
        found = self._calls.get(call)
        if found is None:
            found = self._calls[call] = self._known(
                _distinct(text, segment.padded_count, self.apart)
            )
        self.texts = found
        self._held[id(found)] = found
        self._held.move_to_end(id(found))
        while len(self._held) > MOST_HELD:
            self._held.popitem(last=False)[1].layers.clear()

    def project(
        self, layer: str, attn: Any, text: Float[Tensor, "batch token feature"]
    ) -> Projected:
        """Keys and values of a layer for the whole batch of this call."""
        texts = self.texts
        assert texts is not None, "asked of a call without text"
        if layer not in texts.layers:
            own = text.index_select(0, texts.first)
            texts.layers[layer] = attn.to_k(own), attn.to_v(own)
        keys, values = texts.layers[layer]
        return keys.index_select(0, texts.row), values.index_select(0, texts.row)

    def _known(self, texts: _Texts) -> _Texts:
        """Texts equal to these that another segment has, so that all segments share what is held."""
        for known in self._held.values():
            same = known.row.shape == texts.row.shape and known.tokens.shape == texts.tokens.shape
            if same and known.tokens.is_meta:
                return known
            if (
                same
                and torch.equal(known.row, texts.row)
                and torch.equal(known.tokens, texts.tokens)
            ):
                return known
        return texts


def _distinct(text: Float[Tensor, "batch token feature"], padded_count: int, apart: bool) -> _Texts:
    """Neighbouring rows that are equal are one text, but for those of two copies `apart`."""
    begins = [number % padded_count == 0 for number in range(len(text))]
    if not text.is_meta:  # no data to compare there: one text a copy, as most clips have
        differs = [True, *(text[1:] != text[:-1]).flatten(1).any(1).tolist()]
        begins = [new or (apart and edge) for new, edge in zip(differs, begins, strict=True)]
    numbers = [number for number, is_new in enumerate(begins) if is_new]
    first = torch.tensor(numbers, device=text.device)
    row = torch.tensor([count - 1 for count in accumulate(begins)], device=text.device)
    return _Texts(text.index_select(0, first), first, row)


class _Given:
    """An attention layer whose keys and values are there already; all else is the layer's own."""

    def __init__(self, attn: Any, projected: Projected) -> None:
        self._attn = attn
        self._projected = projected

    def to_k(self, _: Tensor) -> Tensor:
        return self._projected[0]

    def to_v(self, _: Tensor) -> Tensor:
        return self._projected[1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attn, name)


class TextAttnProcessor:
    """Cross-attention with keys and values from a `TextState`, computed by the processor it stands for."""

    def __init__(self, layer: str, inner: Any, state: TextState) -> None:
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
        texts = self.state.texts
        if encoder_hidden_states is None or texts is None or attn.norm_cross:
            return self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        projected = self.state.project(self.layer, attn, encoder_hidden_states)
        given = _Given(attn, projected)
        return self.inner(given, hidden_states, encoder_hidden_states, *args, **kwargs)


@contextmanager
def text_attention(
    unet: Any, state: MomentumState, holds: bool = True, apart: bool = False
) -> Generator[None]:
    """Give every cross-attention (`attn2`) of a UNet its keys and values while the context is open, of the
    texts that `state.texts` is told of (`zs2.segments`).

    Only diffusers' standard processor is replaced: others (IP-Adapters', a user's own) may make more of
    the text. Blocks with a forward that is not their class's (compiled ones) keep theirs, too. The
    model has its own processors back afterwards, also after an exception.
    """
    originals: Mapping[str, Any] = dict(unet.attn_processors)
    state.texts = texts = TextState(holds, apart)
    unet.set_attn_processor(
        {
            name: TextAttnProcessor(name, inner, texts)
            if type(inner) is AttnProcessor2_0 and _is_plain(unet, name)
            else inner
            for name, inner in originals.items()
        }
    )
    try:
        yield
    finally:
        state.texts = None
        unet.set_attn_processor(dict(originals))


def _is_plain(unet: Any, name: str) -> bool:
    block, found, _ = name.partition(".attn2.")
    return bool(found) and "forward" not in vars(unet.get_submodule(block))
