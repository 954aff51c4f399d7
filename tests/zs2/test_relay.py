"""One clip on several samplers: shares put together are the clip that one sampler makes, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny_models
from tests.conftest import build_tiny_pipe
from zs2 import ZS2Sampler
from zs2.relay import Averages, Share, cut

FRAMES, SEGMENT = 10, 4  # three segments, the last one padded


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[ZS2Sampler]]:
    """Equal samplers of a family, each with a pipeline of its own, as actors have."""
    made: dict[str, list[ZS2Sampler]] = {}

    def samplers(family: str, count: int) -> list[ZS2Sampler]:
        own = made.setdefault(family, [])
        while len(own) < count:
            build = build_tiny_pipe if family == "tiny" else getattr(tiny_models, family)
            own.append(ZS2Sampler(build(tmp_path_factory.mktemp(family))))
        return own[:count]

    return samplers


def relayed(samplers: list[ZS2Sampler], n: int, m: int, **values: Any) -> list[Any]:
    """The clips of the shares, sampled at once, each in a thread of its own; what passes between them
    is asked for by the number of its call, and all of it is used."""
    parts = cut(n, m, len(samplers))
    assert len(parts) == len(samplers)
    lines: list[Queue[tuple[int, Averages]]] = [Queue() for _ in parts]

    def sampled(at: int) -> Any:
        def receive(call: int) -> Averages:
            number, averages = lines[at].get(timeout=60)
            assert number == call
            return averages

        def send(call: int, averages: Averages) -> None:
            lines[at + 1].put((call, averages))

        share = Share(*parts[at], receive, send)
        return samplers[at](
            **{"num_frames": n, "segment_frames": m, "seed": 7, "share": share, **values}
        )

    with ThreadPoolExecutor(len(parts)) as threads:
        clips = list(threads.map(sampled, range(len(parts))))
    assert all(line.empty() for line in lines)
    return clips


def check(samplers: list[ZS2Sampler], n: int = FRAMES, m: int = SEGMENT, **values: Any) -> None:
    values = {"num_inference_steps": 3, "guidance_scale": 4.0, "kl_target": 0.3, **values}
    values["output_type"] = "latent"  # decoding has its own rule: `tasks.split.share_unit`
    whole = samplers[0](num_frames=n, segment_frames=m, seed=7, **values)
    clips = relayed(samplers, n, m, **values)
    assert torch.equal(torch.cat([clip.latents for clip in clips]), whole.latents)
    assert not torch.equal(whole.latents[0], whole.latents[-1])
    for clip in clips:
        assert clip.trace is not None and torch.equal(clip.trace.kl, whole.trace.kl)


@pytest.mark.parametrize(
    ("family", "shares", "scheduler", "chain"),
    [
        ("sd1", 2, "ddim", "exact"),
        ("sd1", 3, "euler_a", "anchor"),
        ("sdxl", 3, "dpm++", "exact"),
        ("tiny", 2, "pndm", "anchor"),
        ("tiny", 2, "unipc", "exact"),
        ("tiny", 2, "lcm", "exact"),
    ],
)
def test_shares_are_the_clip(built: Any, family: str, shares: int, scheduler: str, chain: str):
    """Two and three shares of ten frames in segments of four; also where the scheduler adds noise, and
    where it calls the UNet once more than it has steps."""
    check(built(family, shares), prompt="a star", scheduler=scheduler, chain=chain)


def test_shares_of_a_fast_clip(built: Any):
    """At speed fast each share reuses its own deep features, and hands on what its layers left."""
    fast = {"speed": "fast", "scheduler": "dpm++", "num_inference_steps": 7}
    check(built("tiny", 2), prompt="a star", **fast)


def test_a_storyboard(built: Any):
    """Each share has the prompts of its own segments, and each frame its own μ and λ."""
    mu = [0.0, *np.linspace(0.2, 0.98, FRAMES - 1)]
    values = {"momentum": mu, "kl_target": list(np.linspace(0.0, 1.0, FRAMES - 1))}
    samplers = built("tiny", 3)
    values |= {"num_inference_steps": 3, "output_type": "latent"}
    board = [["a star", "a tree", "a boat"]]
    whole = samplers[0](board, num_frames=FRAMES, segment_frames=SEGMENT, seed=7, **values)[0]
    clips = relayed(samplers, FRAMES, SEGMENT, prompt=board, **values)
    assert torch.equal(torch.cat([clip.latents for [clip] in clips]), whole.latents)


def test_frames_in_between(built: Any):
    """Those in the gap at a border belong to the share of the frame before it."""
    check(built("tiny", 2), 5, 2, prompt="a star", in_between=3, scheduler="euler_a")


def test_a_clip_to_edit(built: Any):
    """InstructPix2Pix: each share reads the source frames of its own."""
    side = 2 * tiny_models.LATENT
    video = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), np.uint8)
    check(built("ip2p", 2), 5, 2, prompt="a star", video=video)


def test_a_controlnet(built: Any, tmp_path: Path):
    """Its own averages are handed on too, and its pictures are the share's."""
    samplers = built("tiny", 2)
    side = 2 * tiny_models.LATENT
    pictures = np.random.default_rng(1).integers(0, 256, (5, side, side, 3), np.uint8)
    nets = [tiny_models.controlnet(sampler.pipe) for sampler in samplers]
    for sampler, net in zip(samplers, nets, strict=True):
        sampler.controlnet = net
    try:
        check(samplers, 5, 2, prompt="a star", conditioning_frames=pictures)
    finally:
        for sampler in samplers:
            sampler.controlnet = None


def test_a_share_is_a_run_of_segments(built: Any):
    """A share that cuts a segment, is empty or leaves the clip is refused; so are latents beside it,
    for the noise of a scheduler would differ."""
    [sampler] = built("tiny", 1)

    def nothing(*_: Any) -> Any:
        raise AssertionError("nobody is there")

    for start, stop in ((2, 8), (0, 6), (4, 4), (8, 12), (-4, 4)):
        with pytest.raises(ValueError, match="share: expected a run of whole segments"):
            sampler(
                "a", num_frames=10, segment_frames=4, share=Share(start, stop, nothing, nothing)
            )
    with pytest.raises(ValueError, match="share: expected none beside latents"):
        sampler(
            "a",
            num_frames=10,
            segment_frames=4,
            latents=torch.zeros(10, 4, 16, 16),
            share=Share(0, 4, nothing, nothing),
        )


def test_cut():
    """Shares cover the clip, are equal to a segment, and are never more than its segments."""
    assert cut(10, 4, 2) == [(0, 8), (8, 10)]
    assert cut(10, 4, 9) == [(0, 4), (4, 8), (8, 10)]
    assert cut(10, 4, 0) == [(0, 10)]
    assert cut(64, 8, 3) == [(0, 24), (24, 48), (48, 64)]
