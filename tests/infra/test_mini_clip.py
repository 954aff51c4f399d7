"""The bundled CLIP: its recipe's parts, what ships, and that it tells zs2-mini's pictures apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from infra.mini.captions import caption, plain_caption
from infra.mini.data import TEST_SEED, scene_list
from infra.mini.evaluate_scorer import meaning, meaning_of, right
from infra.mini.scenes import draw
from infra.mini.things import THINGS
from infra.mini.train_clip import PATCH, SIDE, contrastive_loss, patch_labels
from zs2 import ZS2Sampler
from zs2.clip_score import ClipScorer, clip_score, describe_scorer
from zs2.models import BUNDLED

FOLDER = BUNDLED / "zs2-mini-clip"
PROMPTS = (
    "a red star over the sea at night",
    "a yellow moon in the mountains at night",
    "a pink heart in the sky",
    "a green house in the snow",
)


def test_contrastive_loss_spares_what_means_the_same():
    """ln n where all look alike, 0 where each is with its own; a pair that means the same as another
    is not pushed away from it."""
    alike, apart = torch.ones(4, 3) / 3**0.5, torch.eye(4)
    numbers, scale = torch.arange(4)[:, None], torch.tensor(50.0)
    assert contrastive_loss(alike, alike, scale, numbers).item() == pytest.approx(math.log(4))
    assert contrastive_loss(apart, apart, scale, numbers).item() == pytest.approx(0, abs=1e-6)
    twins = apart[[0, 0, 2, 3]]
    assert contrastive_loss(twins, twins, scale, numbers).item() > 0.3
    same = torch.tensor([[0], [0], [2], [3]])
    assert contrastive_loss(twins, twins, scale, same).item() == pytest.approx(0, abs=1e-6)


def test_patch_labels_say_where_the_thing_is():
    """The patch under the thing's centre has its number, one further away than its radius none."""
    scenes = scene_list(TEST_SEED, 30)
    side = SIDE // PATCH
    labels = patch_labels(scenes).reshape(-1, side, side)
    line = (np.arange(side) + 0.5) / side
    for scene, found in zip(scenes, labels, strict=True):
        far = np.ones((side, side), bool)
        for spot in scene.spots:
            at = int(spot.y * side), int(spot.x * side)
            assert found[at] == 1 + THINGS.index(scene.thing)
            far &= np.hypot(line[None] - spot.x, line[:, None] - spot.y) > spot.radius + 0.01
        assert not found.numpy()[far].any()


def test_the_meaning_of_a_caption_is_that_of_its_scene():
    """Read from the words alone: thing, colour, place, time and count."""
    rng = np.random.default_rng(0)
    for scene in scene_list(TEST_SEED, 500):
        assert meaning_of(caption(scene, rng, complete=True)) == meaning(scene)


def test_what_ships_is_small_whole_and_loads_everywhere():
    """Safetensors in half precision, at most 4 MB with all that belongs to them; plain transformers
    loads model, tokenizer and image processor, with all tensors."""
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 4_000_000
    assert not list(FOLDER.rglob("*.bin"))
    model, told = CLIPModel.from_pretrained(FOLDER, output_loading_info=True)
    assert not told["missing_keys"] and model.dtype == torch.float16
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER)
    assert tokenizer(PROMPTS[0]).input_ids[0] == tokenizer.bos_token_id
    pixels = CLIPImageProcessorPil.from_pretrained(FOLDER)([np.zeros((64, 48, 3), np.uint8)])
    assert np.shape(pixels["pixel_values"]) == (1, 3, 64, 64)
    assert "License" in (Path(BUNDLED).parents[1] / "LICENSE").read_text()
    assert describe_scorer().identity.startswith("zs2-mini-clip@")


def test_it_finds_the_caption_of_a_held_out_picture():
    """Of 300 pictures that no training saw, each among 100 captions: at least four of five."""
    scorer = ClipScorer.from_pretrained()
    hits: list[np.ndarray] = []
    for start in (30_000, 30_100, 30_200):
        scenes = scene_list(TEST_SEED, 100, start)
        pictures = scorer.image_embeddings(np.stack([draw(scene) for scene in scenes]))
        texts = scorer.text_embeddings([plain_caption(scene) for scene in scenes])
        hits.append(right(pictures @ texts.T, scenes))
    assert np.mean(hits) >= 0.8


def test_a_generated_clip_scores_highest_with_its_own_prompt():
    """zs2-mini's clips of four prompts, each against all four."""
    scorer = ClipScorer.from_pretrained()
    texts = scorer.text_embeddings(PROMPTS)
    sampler = ZS2Sampler.from_pretrained("zs2-mini")
    sampler.pipe.set_progress_bar_config(disable=True)
    for number, prompt in enumerate(PROMPTS):
        frames = sampler(prompt, seed=number, num_frames=2).frames
        assert frames is not None
        images = scorer.image_embeddings(frames)
        scores = [clip_score(images, text) for text in texts]
        assert int(np.argmax(scores)) == number, dict(zip(PROMPTS, scores, strict=True))
