"""The shipped zs2-mini: its layout, its loading, and that it draws what prompts say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from infra.mini import checker, evaluate_clips, evaluate_pictures
from infra.mini.train_unet import normalise, scheduler
from zs2 import ZS2Sampler

MODEL = Path(__file__).parents[2] / "zs2" / "mini" / "zs2-mini"


@pytest.fixture(scope="module")
def sampler() -> ZS2Sampler:
    sampler = ZS2Sampler.from_pretrained("zs2-mini")
    sampler.pipe.set_progress_bar_config(disable=True)
    return sampler


def test_folder_is_small_and_holds_half_precision_safetensors():
    """The folder is below 40 MB; weights are safetensors in float16; no pickles."""
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40_000_000
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt")]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert {path.parent.name for path in weights} == {"unet", "vae", "text_encoder"}
    for path in weights:
        with safe_open(path, "pt") as opened:
            kinds = {opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, (path, kinds)


def test_scheduler_is_stable_diffusions():
    """SD 1.5's betas, no sample clipping, α at step −1 taken from the first, offset 1."""
    config = json.loads((MODEL / "scheduler" / "scheduler_config.json").read_text())
    wanted = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    assert {name: config[name] for name in wanted} == wanted
    assert torch.equal(scheduler().alphas_cumprod, scheduler().from_config(config).alphas_cumprod)


def test_defaults_travel_with_the_model(sampler):
    """zs2.json holds the model's own steps, guidance and size, and the sampler takes them."""
    own = json.loads((MODEL / "zs2.json").read_text())
    assert set(own) == {"num_inference_steps", "guidance_scale", "height", "width"}
    assert own["height"] == own["width"] == 64
    assert sampler.defaults.num_inference_steps == own["num_inference_steps"] <= 25
    assert sampler.defaults.guidance_scale == own["guidance_scale"]


def test_any_prompt_is_taken(sampler):
    """Empty, foreign and overlong prompts render finite pictures of 64×64."""
    for prompt in ("", "ein Räderwerk 🚀", "a red star " * 40):
        clip = sampler(prompt, num_frames=1, num_inference_steps=2, seed=1)
        assert clip.frames.shape == (1, 64, 64, 3)
        assert torch.isfinite(clip.latents).all()


def test_normalise_folds_exactly(sampler):
    """Folding the latents' mean and spread leaves reconstructions as they were, to 1e-4."""
    import copy

    network = copy.deepcopy(sampler.pipe.vae)
    torch.manual_seed(0)
    seen = torch.rand(8, 3, 64, 64) * 2 - 1
    before = network.decode(network.encode(seen).latent_dist.mode()).sample
    normalise(network, seen)
    latents = network.encode(seen).latent_dist.mode()
    assert torch.allclose(
        latents.std((0, 2, 3)), torch.ones(network.config.latent_channels), atol=1e-4
    )
    assert torch.allclose(network.decode(latents).sample, before, atol=1e-4)


def test_first_frames_say_what_the_prompt_says(sampler):
    """Of 40 held-out prompts at least 90 % are right in each attribute (of 1,000: 98 %)."""
    scenes, texts = evaluate_pictures.prompts(40)
    pictures = evaluate_pictures.first_frames(sampler, texts)
    for name, hits in checker.right(checker.trained(), pictures, scenes).items():
        assert hits.mean() >= 0.9, name


@pytest.mark.slow
def test_clips_move_and_hold_together(sampler):
    """Over 8 prompts at λ=0.05: flow of 0.3 px a frame or more, warp error at most half of iid's."""
    scenes, texts = evaluate_pictures.prompts(8)
    methods = evaluate_clips.methods()
    ours = evaluate_clips.measure(sampler, scenes, texts, methods["ZS² λ=0.05"])
    iid = evaluate_clips.measure(sampler, scenes, texts, methods["i.i.d., μ=0 (DDIM)"])
    assert ours["motion"].mean() >= 0.3
    assert ours["warp"].mean() <= iid["warp"].mean() / 2


@pytest.mark.slow
def test_two_hundred_prompts(sampler):
    """Of 200 prompts, and of 200 of combinations held out, at least 90 % are right in all three."""
    for held_out in (False, True):
        scenes, texts = evaluate_pictures.prompts(200, held_out)
        pictures = evaluate_pictures.first_frames(sampler, texts)
        found = checker.right(checker.trained(), pictures, scenes)
        assert np.logical_and.reduce(list(found.values())).mean() >= 0.9
