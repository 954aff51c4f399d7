"""ZS²: zero-shot video sampling from any Stable Diffusion checkpoint (arXiv 2407.21475).

Tensors in, tensors out; this package knows no Ray, no Prefect, no Parquet and no run folder.

Reading order, one concept a file:

1. `config`     what a clip is made of: frames, λ, μ, segments; defaults and their validation
2. `noise`      the dependency noise model (section 3.1, Eq. 1, Algorithm 1) and its comparisons
3. `attention`  temporal momentum attention (section 4.1, Eq. 2) on hidden states
4. `segments`   long clips in segments of m frames (section 6.1) under an unmodified pipeline
5. `sampler`    `ZS2Sampler`: the above around a diffusers pipeline

`denoising` has the contexts that it opens, in their order. `compiled` has the other engine: the UNet's
blocks compiled, as functions of tensors.

What the sampler leans on: `schedulers` (step noise that follows the clip), `conditions` (text and source
clips, frame by frame), `text_attention` (a text's keys and values, once), `per_frame` (cut to a segment),
`controlnet` (guidance inside the segments), `in_between` (frames between frames), `relay` (one clip on
several samplers), `speed` and `reuse` (what may be left out), `decoding`, `arguments` and `request` (a
call, checked), `clip` (its result).

Checkpoints: `models` (names, families), `addons` (ControlNet, LoRA, IP-Adapter), `checkpoints` (their
files). Signals: `control` (edges, depth), `optical_flow`, `metrics`. What ZS² is compared with:
`baselines`; what a table of scores may claim: `statistics`. Bundled models: `mini`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zs2.attention import momentum_matrix
    from zs2.clip import Clip
    from zs2.config import ClipConfig
    from zs2.noise import dependency_noise, kl_divergence
    from zs2.sampler import ZS2Sampler

__all__ = [
    "Clip",
    "ClipConfig",
    "ZS2Sampler",
    "__version__",
    "dependency_noise",
    "kl_divergence",
    "momentum_matrix",
]

__version__: str

_HOMES = {
    "Clip": "zs2.clip",
    "ClipConfig": "zs2.config",
    "ZS2Sampler": "zs2.sampler",
    "dependency_noise": "zs2.noise",
    "kl_divergence": "zs2.noise",
    "momentum_matrix": "zs2.attention",
}


def __getattr__(name: str) -> object:
    # Lazy, because `import zs2.models` must answer without torch (the command line plans without it).
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        return version("zs2")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
