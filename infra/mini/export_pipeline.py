"""The trained autoencoder, text encoder and denoiser as a StableDiffusionPipeline folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from infra.mini import train_text, train_unet
from infra.mini.captions import words

DEFAULTS = {"num_inference_steps": 20, "guidance_scale": 4.0, "height": 64, "width": 64}

CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
---
# zs2-mini

A small latent text-to-image model in diffusers' StableDiffusionPipeline layout, bundled with zs2 so
that it renders without a download or a GPU. 64×64 pixels, {parameters:.1f} million parameters,
float16 weights, v-prediction on SD 1.5's noise schedule, f=8 latents of {channels} channels.

Made from scratch on a CPU by `infra/mini/` of the zs2 repository, on scenes that the project draws
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
| times | by day (unless told otherwise), at sunset (at dusk, in the evening), at night |
| counts | a, two (a pair of), three |
| styles | flat (plain), outlined (line drawing), shaded (shiny, soft shading) |
| sizes | small (little, tiny), medium, large (big, huge) |
| positions | on the left, on the right, at the top, at the bottom |

    a red star over the sea at night · two small blue fish, desert · at dusk, a pink cat in the city

Every word of the grammar is one token ({words} words); other words are spelt out and mostly ignored.
Things of two kinds in one prompt, and actions, are beyond it. Its own defaults are in `zs2.json`.
"""


def export(folder: Path) -> None:
    """Write the model's folder."""
    tokenizer, encoder = train_text.trained()
    parts: dict[str, Any] = {
        "vae": train_unet.autoencoder(),
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "unet": train_unet.trained(),
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
    (folder / "zs2.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    card = CARD.format(
        parameters=parameters, words=len(words()), channels=pipe.vae.config.latent_channels
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
