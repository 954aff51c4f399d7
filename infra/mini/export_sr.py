"""The trained mini-sr as the folder that zs2 reads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from infra.mini.train_sr import trained
from zs2.mini_sr import CONFIG, WEIGHTS

# Share of what the network adds to the bicubic enlargement that ships. All of it is best on drawn scenes, but
# overdoes photographs, and sharper edges make more of what flickers: see README.md.
STRENGTHS = {"2": 0.33, "4": 0.28}  # by scale

CARD = """---
license: apache-2.0
pipeline_tag: image-to-image
---
# zs2-mini-sr

Enlarges pictures twice or four times, bundled with zs2 as `spatial_sr` `mini-sr`, the default: {blocks}
residual blocks of {channels} channels at the picture's own size, a PixelShuffle head for each scale, over
a bicubic enlargement. {parameters:,} parameters, float16 weights, computed in float32.

    from tasks.spatial_sr import upscale

    larger = upscale(frames, 2)    # uint8 (frame, height, width, 3)

Made on a CPU by `infra/mini/train_sr.py` of the zs2 repository, on scenes and textures that the project
draws itself, reduced by several kernels, some of them blurred, made noisy or compressed. It has seen no
photograph. It sharpens what is there and invents nothing: no faces, no letters, no grain. A result depends
on the {reach} pixels around. `infra/mini/README.md` tells how to train it again and what it scores. Licence:
Apache-2.0.
"""


def export(folder: Path) -> None:
    """Write the model's folder."""
    network = trained()
    for scale, tail in network.tails.items():
        for parameter in tail.parameters():
            parameter.data *= STRENGTHS[scale]
    config = {"channels": network.head.out_channels, "blocks": len(network.trunk)}
    parameters = sum(p.numel() for p in network.parameters())
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    card = CARD.format(parameters=parameters, reach=network.reach, **config)
    (folder / "README.md").write_text(card, encoding="utf-8")
