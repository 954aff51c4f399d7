"""Shared fixtures: tiny pipelines with Stable Diffusion's true architecture and random weights."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

# Set before anything imports them: no test talks to a hub or counts as usage.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# One thread, as a sampler actor has: bytes are promised per thread count, and tiny models gain nothing.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from tests import tiny_models
from tests.object_server import Store, moto, proxied


def pytest_configure() -> None:
    """What a shell begins in the background ignores Ctrl-C, and hands that on to commands under test."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def build_tiny_pipe(folder: Path):
    """A StableDiffusionPipeline of two levels, quicker than those of tests/tiny_models.py, 32 px."""
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    tokenizer, size = tiny_models.build_tokenizer(folder)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=tiny_models.LATENT,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    pipe = StableDiffusionPipeline(
        vae=tiny_models.autoencoder(),
        text_encoder=CLIPTextModel(tiny_models.text_config(size, num_hidden_layers=2)).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=tiny_models.ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def tiny_pipe(tmp_path_factory: pytest.TempPathFactory):
    return build_tiny_pipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model(tiny_pipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline saved as a local model folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipe.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    """moto's server: an S3 on loopback."""
    with moto() as port:
        yield port


@pytest.fixture
def s3(moto_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """A store with nothing wrong with it yet, this process's environment set for it."""
    with proxied(moto_port) as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("ZS2_STAGING", str(tmp_path / "staging"))
        monkeypatch.setenv("ZS2_STORE_RETRY_SECONDS", "5")
        monkeypatch.setenv("ZS2_STORE_TIMEOUT", "1")
        yield store


@pytest.fixture
def bucket(s3: Store) -> str:
    """An empty bucket's URL."""
    return s3.bucket(f"test-{uuid4().hex[:12]}")
