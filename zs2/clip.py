"""What the sampler returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from zs2.noise import NoiseTrace


@dataclass(frozen=True, eq=False)
class Clip:
    """One sampled clip.

    Attributes:
        frames: RGB, 0..255; None with output_type="latent".
        latents: what the pipeline denoised, before decoding.
        prompts: one, or one per segment.
        seed: what `seed=` renders the clip again (with the same `latents`, where they were given); None
            when a generator was given.
        trace: λ reached and α used per frame pair; None when latents were given.
    """

    frames: UInt8[np.ndarray, "frame height width 3"] | None
    latents: Float[Tensor, "frame channel h w"]
    prompts: tuple[str, ...]
    seed: int | None
    trace: NoiseTrace | None

    @property
    def images(self) -> list[Any]:
        """The frames as PIL pictures."""
        return [] if self.frames is None else [Image.fromarray(frame) for frame in self.frames]
