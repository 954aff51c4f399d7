"""The bundled network that enlarges pictures: a few small convolutions over a bicubic enlargement.

One trunk at the input's size, one head for ×2 and one for ×4, whose channels PixelShuffle spreads
over the larger picture (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an
Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016). It learns only what bicubic misses.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

SCALES = (2, 4)
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class MiniSR(nn.Module):
    """Pictures twice or four times as large.

    Args:
        channels: of the trunk.
        blocks: residual blocks of two convolutions each.
    """

    def __init__(self, channels: int = 32, blocks: int = 5) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.trunk = nn.Sequential(*(_Residual(channels) for _ in range(blocks)))
        self.tails = nn.ModuleDict(
            {str(scale): nn.Conv2d(channels, 3 * scale**2, 3, padding=1) for scale in SCALES}
        )
        self.reach = 2 * blocks + 2 + 2  # pixels: a result depends on none further away
        for tail in self.tails.values():  # starts as bicubic
            assert isinstance(tail, nn.Conv2d) and tail.bias is not None
            nn.init.zeros_(tail.weight)
            nn.init.zeros_(tail.bias)

    def forward(
        self, pictures: Float[Tensor, "batch 3 height width"], scale: int
    ) -> Float[Tensor, "batch 3 larger_height larger_width"]:
        """Pictures of 0..1 (about), `scale` (2 or 4) times as high and wide; not clipped."""
        features = self.head(pictures - 0.5)
        detail = self.tails[str(scale)](features + self.trunk(features))
        smooth = F.interpolate(
            pictures, scale_factor=scale, mode="bicubic", antialias=True, align_corners=False
        )
        return smooth + F.pixel_shuffle(detail, scale)


def load(folder: Path) -> MiniSR:
    """The network of a folder (`config.json`, `model.safetensors`), in float32, ready to use."""
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    network = MiniSR(channels=config["channels"], blocks=config["blocks"])
    network.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
    network = network.eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
