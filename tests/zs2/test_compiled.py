"""The engine `compiled`: the same clips to rounding, one compilation a shape, refusals with a remedy."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from tests.conftest import build_tiny_pipe
from zs2 import ZS2Sampler
from zs2.compiled import compiled
from zs2.compiler import check_compiler, keep_compiled_code
from zs2.models import ModelError

# Three segments of two frames, the last one padded.
CLIP = {"num_frames": 5, "segment_frames": 2, "num_inference_steps": 2, "kl_target": 0.1}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What is set in the test is unset after it, by whomever."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    yield monkeypatch
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    if before is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


@pytest.mark.slow
def test_compiled_clips_are_the_eager_ones_and_compile_once(
    environment: pytest.MonkeyPatch, tmp_path: Path
):
    """Latents within 1e-4 of the eager ones, over segment borders and padding, in both chains; the
    second clip of a shape compiles nothing; afterwards the UNet is as it was. Code is kept on disk."""
    from torch._dynamo.utils import counters

    environment.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    environment.setenv("XDG_CACHE_HOME", str(tmp_path))
    sampler = ZS2Sampler(build_tiny_pipe(tmp_path))
    unet = sampler.pipe.unet
    processors = dict(unet.attn_processors)

    def latents(seed: int, chain: str = "exact") -> torch.Tensor:
        return sampler("a star", seed=seed, chain=chain, output_type="latent", **CLIP).latents

    wanted = [latents(1), latents(2), latents(2, "anchor")]
    sampler.compile()
    found = [latents(1)]
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    found.append(latents(2))
    assert counters["stats"]["unique_graphs"] == graphs
    assert torch.equal(latents(1), found[0])
    found.append(latents(2, "anchor"))
    for eager, other in zip(wanted, found, strict=True):
        assert (other - eager).abs().max() < 1e-4 * eager.abs().max()
    assert not torch.equal(found[1], found[2])  # the chains are not one and the same
    assert any((tmp_path / "zs2" / "compiled").iterdir())
    assert unet.attn_processors == processors
    assert not any("forward" in vars(module) for module in unet.modules())


def test_a_lora_is_refused(tiny_pipe):
    """It would be compiled anew with every switch, which takes longer than it saves."""
    unet = copy.deepcopy(tiny_pipe.unet)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ModelError, match=r"found a LoRA.*engine eager"), compiled(unet):
        pass


def test_frames_in_between_are_refused(environment: pytest.MonkeyPatch, tmp_path: Path):
    """Their momentum is another function, which is not compiled."""
    environment.setenv("XDG_CACHE_HOME", str(tmp_path))
    sampler = ZS2Sampler(build_tiny_pipe(tmp_path))
    sampler.compile()
    with pytest.raises(ModelError, match="in_between: expected 1"):
        sampler("a star", in_between=2, **CLIP)


def test_without_a_compiler_nothing_is_compiled(tiny_pipe, environment: pytest.MonkeyPatch):
    """Told what is missing and what to install; the sampler stays eager."""
    check_compiler()
    environment.setenv("CXX", "no-such-compiler")
    sampler = ZS2Sampler(tiny_pipe)
    with pytest.raises(ModelError, match=r"found no no-such-compiler; install .*g\+\+"):
        sampler.compile()
    assert not sampler.is_compiled


def test_compiled_code_is_kept_in_the_users_cache(environment: pytest.MonkeyPatch, tmp_path: Path):
    """Below $XDG_CACHE_HOME, unless torch has been told another place; nowhere that cannot be
    written."""
    torchs_own = str(Path(tempfile.gettempdir(), "torchinductor_me"))  # set when it is imported
    environment.setenv("TORCHINDUCTOR_CACHE_DIR", torchs_own)
    blocked = tmp_path / "file"
    blocked.write_text("")
    environment.setenv("XDG_CACHE_HOME", str(blocked))
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == torchs_own
    environment.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "zs2" / "compiled")
    environment.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "zs2" / "compiled")
