"""IP-Adapters on a warm pipeline against diffusers' own loading, on tiny SD 1 and SDXL pipelines."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny_addons, tiny_models
from zs2 import ZS2Sampler
from zs2.addons import AddOn, describe_addon, use_ip_adapter
from zs2.models import ModelError

CALL = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "latent"}


@pytest.fixture(scope="module", params=["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family's pipeline, and two IP-Adapters made for it."""
    folder = tmp_path_factory.mktemp(request.param)
    pipe = getattr(tiny_models, request.param)(folder)
    files = [tiny_addons.ip_adapter(pipe, folder / f"{seed}.safetensors", seed) for seed in (1, 2)]
    return pipe, [describe_addon("ip_adapter", str(file)) for file in files]


@pytest.fixture
def pipe(made: Any) -> Any:
    return copy.deepcopy(made[0])


@pytest.fixture
def adapters(made: Any) -> list[AddOn]:
    return made[1]


def red() -> Image.Image:
    return Image.new("RGB", (40, 30), "red")


def noise(num_frames: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_frames, 4, 16, 16, generator=generator)


def frame(pipe: Any, **kwargs: Any) -> torch.Tensor:
    return ZS2Sampler(pipe)("a star", num_frames=1, latents=noise(), **CALL, **kwargs).latents


def test_one_frame_is_diffusers_own_with_the_same_picture(pipe: Any, adapters: list[AddOn]):
    """f = 1 equals, to the bit, the plain pipeline with load_ip_adapter, at two scales; the second
    costs no loading, and the picture counts."""
    theirs = copy.deepcopy(pipe)
    path = Path(adapters[0].location)
    theirs.load_ip_adapter(str(path.parent), subfolder="", weight_name=path.name)
    for scale in (0.7, 0.2):
        theirs.set_ip_adapter_scale(scale)
        use_ip_adapter(pipe, adapters[0], scale)
        wanted = theirs("a star", latents=noise(), ip_adapter_image=red(), **CALL).images
        assert torch.equal(frame(pipe, ip_adapter_image=red()), wanted)
        projection = pipe.unet.encoder_hid_proj
        use_ip_adapter(pipe, adapters[0], scale)
        assert pipe.unet.encoder_hid_proj is projection
    blue = Image.new("RGB", (40, 30), "blue")
    assert not torch.equal(frame(pipe, ip_adapter_image=blue), wanted)


def test_switching_gives_what_each_gave_on_a_fresh_pipeline(pipe: Any, adapters: list[AddOn]):
    """a → b → none → a on one warm pipeline: the bytes of fresh ones, and of one that never had an
    adapter; the very processor objects and parts are back."""
    plain = frame(pipe)
    own = dict(pipe.unet.attn_processors)
    parts = (pipe.image_encoder, pipe.feature_extractor, pipe.unet.encoder_hid_proj)
    fresh: list[torch.Tensor] = []
    for adapter in adapters:
        other = copy.deepcopy(pipe)
        use_ip_adapter(other, adapter, 0.5)
        fresh.append(frame(other, ip_adapter_image=red()))
    assert not torch.equal(*fresh)
    for number in (0, 1, None, 0, None):
        use_ip_adapter(pipe, None if number is None else adapters[number], 0.5)
        if number is None:
            assert torch.equal(frame(pipe), plain)
            assert all(pipe.unet.attn_processors[name] is own[name] for name in own)
            now = (pipe.image_encoder, pipe.feature_extractor, pipe.unet.encoder_hid_proj)
            assert all(a is b for a, b in zip(now, parts, strict=True))
        else:
            assert torch.equal(frame(pipe, ip_adapter_image=red()), fresh[number])


def test_every_frame_of_a_chained_clip_sees_the_picture(pipe: Any, adapters: list[AddOn]):
    """5 frames in segments of 2 equal the one-shot clip (< 1e-5 of its size), and each differs from the
    clip of another picture; of the same noise and μ = 0, each frame is the picture that it is alone."""
    use_ip_adapter(pipe, adapters[0], 0.8)
    sampler = ZS2Sampler(pipe)
    clip = {"num_frames": 5, "seed": 3, "kl_target": 0.1, **CALL}
    whole = sampler("a star", segment_frames=5, ip_adapter_image=red(), **clip).latents
    parts = sampler("a star", segment_frames=2, ip_adapter_image=red(), **clip).latents
    assert (whole - parts).abs().max() < 1e-5 * whole.abs().max()
    blue = Image.new("RGB", (40, 30), "blue")
    other = sampler("a star", segment_frames=2, ip_adapter_image=blue, **clip).latents
    assert ((other - parts).abs().amax((1, 2, 3)) > 1e-3).all()
    clip = {
        "num_frames": 5,
        "segment_frames": 2,
        "momentum": 0.0,
        "latents": noise().repeat(5, 1, 1, 1),
    }
    still = sampler("a star", ip_adapter_image=red(), **clip, **CALL).latents
    assert (still - frame(pipe, ip_adapter_image=red())).abs().max() < 1e-5 * still.abs().max()


def test_the_owners_image_encoder_serves(pipe: Any, adapters: list[AddOn], tmp_path: Path):
    """A pipeline with an image encoder of its own keeps and uses it: no folder is needed; one that
    gives other numbers is refused."""
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(Path(adapters[0].location).read_bytes())
    adapter = describe_addon("ip_adapter", str(path))
    with pytest.raises(ModelError, match=r"expected a folder image_encoder beside adapter\.safe"):
        use_ip_adapter(pipe, adapter)
    encoder, processor = tiny_models.image_encoder()
    pipe.register_modules(image_encoder=encoder, feature_extractor=processor)
    use_ip_adapter(pipe, adapter)
    assert pipe.image_encoder is encoder
    assert np.isfinite(frame(pipe, ip_adapter_image=red()).numpy()).all()
    use_ip_adapter(pipe, None)
    assert pipe.image_encoder is encoder
    encoder.config.projection_dim = 17
    with pytest.raises(ModelError, match="projection_dim 16, found 17 in the pipeline's own"):
        use_ip_adapter(pipe, adapter)


def test_an_encoder_shared_in_models_is_found(pipe: Any, adapters: list[AddOn], tmp_path: Path):
    """As in the adapters' first repository: sdxl_models/… may be made for models/image_encoder, where
    the one beside it gives other numbers."""
    source = Path(adapters[0].location)
    path = tmp_path / "sdxl_models" / source.name
    wrong = path.parent / "image_encoder"
    wrong.mkdir(parents=True)
    path.write_bytes(source.read_bytes())
    (wrong / "config.json").write_text('{"projection_dim": 24}')
    adapter = describe_addon("ip_adapter", str(path))
    with pytest.raises(ModelError, match=r"projection_dim 16; found .*image_encoder with 24"):
        use_ip_adapter(pipe, adapter)
    tiny_models.image_encoder()[0].save_pretrained(tmp_path / "models" / "image_encoder")
    use_ip_adapter(pipe, adapter)
    assert pipe.image_encoder.config.projection_dim == 16


def test_an_adapter_of_another_family_is_refused(pipe: Any, adapters: list[AddOn], tmp_path: Path):
    """ModelError, and the pipeline is as it was, also where another of ours acted before."""
    plain = frame(pipe)
    family = tiny_models.sd1 if hasattr(pipe, "text_encoder_2") else tiny_models.sdxl
    path = tiny_addons.ip_adapter(family(tmp_path), tmp_path / "other.safetensors", 1)
    use_ip_adapter(pipe, adapters[0])
    with pytest.raises(
        ModelError, match=r"checkpoint's family.* to_k_ip\S+ of shape .* is expected"
    ):
        use_ip_adapter(pipe, describe_addon("ip_adapter", str(path)))
    assert torch.equal(frame(pipe), plain)


def test_the_owners_adapter_is_left_alone(pipe: Any, adapters: list[AddOn]):
    """An IP-Adapter that the owner loaded acts again after ours; none of ours does not touch it."""
    path = Path(adapters[0].location)
    pipe.load_ip_adapter(str(path.parent), subfolder="", weight_name=path.name)
    pipe.set_ip_adapter_scale(0.4)
    wanted = frame(pipe, ip_adapter_image=red())
    for adapter in (None, adapters[1], None):
        use_ip_adapter(pipe, adapter, 0.9)
    assert torch.equal(frame(pipe, ip_adapter_image=red()), wanted)
