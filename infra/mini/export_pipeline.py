"""The trained autoencoder, text encoder and denoiser as a StableDiffusionPipeline folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from infra.mini import train_text, train_unet
from infra.mini.captions import words

DEFAULTS = {"num_inference_steps": 20, "guidance_scale": 4.0}  # beside the size

CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
---
# zs2-mini

A small latent text-to-image model in diffusers' StableDiffusionPipeline layout, bundled with zs2 so
that it renders without a download or a GPU. {size}×{size} pixels, {parameters:.1f} million parameters,
float16 weights, v-prediction on SD 1.5's noise schedule, f=8 latents of {channels} channels.

Made from scratch by `infra/mini/` of the zs2 repository, on scenes that the project draws
itself (`infra/mini/scenes.py`) and captions by grammar (`infra/mini/captions.py`). It has seen no
photograph and no picture made by anybody else. `infra/mini/README.md` tells how to train it again
and what it scores. Licence: Apache-2.0.

It knows one to three things of one kind and colour, in one place by day, at sunset or at night:

| | |
| --- | --- |
| things | star, heart, ball (circle), moon (crescent), fish, house (home), boat (ship), tree (fir), |
| | balloon, car (automobile), cat (kitten), mushroom (toadstool) |
| colours | red, orange, yellow, green, turquoise (teal), blue, purple (violet), pink, brown, white |
| places | sky (clouds), sea (ocean, water), meadow (grass, field), desert (dunes, sand), |
| | snow (winter), mountains (hills), city (town), space (outer space) |
| times | by day (in daylight; unless told otherwise), at sunset (at dusk, in the evening), |
| | at night (by night); space has none |
| counts | a, two (a pair of), three |
| styles | flat (plain, flat colours), outlined (outline style, line drawing), |
| | shaded (shiny, soft shading, with soft light) |
| sizes | small (little, tiny), medium, large (big, huge) |
| positions | of one thing: on the left, on the right, at the top (high up), at the bottom (low down) |

    a red star over the sea at night · two small blue fish, desert · at dusk, a pink cat in the city

Every word of the grammar is one token ({words} words); other words are spelt out and mostly ignored.
It reads {tokens} tokens, their begin and end included. Its own defaults are in `zs2.json`.

What it cannot do: a thing that it does not know becomes one that it knows; of two kinds in one prompt
it draws one; more than three, actions and letters are beyond it; an empty prompt gives a shape without
a name. Asked for three it sometimes draws four. Outlined fishes and cats are often misshapen, small
stars become lumps, and moons close together grow into rings.
"""


def export(folder: Path) -> None:
    """Write the model's folder."""
    tokenizer, encoder = train_text.trained()
    size = train_unet.size_trained()
    parts: dict[str, Any] = {
        "vae": train_unet.autoencoder(size),
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "unet": train_unet.trained(encoder),
        "scheduler": train_unet.scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    networks = (pipe.vae, pipe.text_encoder, pipe.unet)
    parameters = sum(p.numel() for network in networks for p in network.parameters()) / 1e6
    pipe.to(dtype=torch.float16)
    pipe.save_pretrained(folder)
    train_text.write_tokenizer(
        folder / "tokenizer"
    )  # vocab.json and merges.txt, for transformers 4
    defaults = DEFAULTS | {"height": size, "width": size}
    (folder / "zs2.json").write_text(json.dumps(defaults, indent=2) + "\n")
    card = CARD.format(
        size=size,
        parameters=parameters,
        words=len(words()),
        tokens=train_text.CONTEXT,
        channels=pipe.vae.config.latent_channels,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
