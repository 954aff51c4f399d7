"""LoRAs on a warm pipeline against diffusers' own loading, on tiny SD 1 and SDXL pipelines."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import save_file

from tests import tiny_addons, tiny_models
from zs2 import ZS2Sampler, momentum_matrix
from zs2.addons import AddOn, describe_addon, use_loras
from zs2.attention import MomentumState, momentum_attention
from zs2.checkpoints.lora import MOST_LOADED
from zs2.models import ModelError

PROMPT = "a star"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Per family: a pipeline, two LoRA files with text encoder parts, and the first as kohya's."""
    found: dict[str, Any] = {}
    for family in ("sd1", "sdxl"):
        folder = tmp_path_factory.mktemp(family)
        pipe = getattr(tiny_models, family)(folder)
        found[family] = {
            "pipe": pipe,
            "a": tiny_addons.lora(pipe, folder / "a", 1),
            "b": tiny_addons.lora(pipe, folder / "b", 2),
            "kohya": tiny_addons.kohya_lora(pipe, folder / "kohya.safetensors", 1),
        }
    return found


@pytest.fixture
def pipe(files: dict[str, Any]) -> Any:
    return copy.deepcopy(files["sd1"]["pipe"])


def loras(files: dict[str, Any], *names: str, family: str = "sd1") -> list[AddOn]:
    """Add-ons of the files called a, b and kohya, each optionally with `:weight`."""
    parts = [name.partition(":") for name in names]
    return [
        describe_addon("lora", f"{files[family][name]}{colon}{weight}")
        for name, colon, weight in parts
    ]


def picture(pipe: Any) -> torch.Tensor:
    """One step of one frame: enough for a byte to differ."""
    call = {"num_inference_steps": 1, "guidance_scale": 5.0, "output_type": "latent"}
    return ZS2Sampler(pipe)(PROMPT, num_frames=1, seed=1, **call).latents


def text(pipe: Any) -> torch.Tensor:
    with torch.no_grad():
        call = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        return pipe.encode_prompt(PROMPT, device="cpu", **call)[0]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_one_frame_is_diffusers_own_with_the_same_loras(files: dict[str, Any], family: str):
    """f = 1 with a at 0.5 and b at 1 equals, to the bit, load_lora_weights and set_adapters; text
    encoders included. So does the file in kohya's layout: it is the same LoRA as a."""
    plain = files[family]["pipe"]
    ours, theirs = copy.deepcopy(plain), copy.deepcopy(plain)
    for name in "ab":
        file = files[family][name]
        theirs.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    theirs.set_adapters(["a", "b"], [0.5, 1.0])
    wanted = theirs(
        PROMPT,
        latents=torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)),
        num_inference_steps=2,
        guidance_scale=5.0,
        output_type="latent",
    ).images
    for first in ("a:0.5", "kohya:0.5"):
        use_loras(ours, loras(files, first, "b", family=family))
        clip = ZS2Sampler(ours)(
            PROMPT,
            num_frames=1,
            latents=torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)),
            num_inference_steps=2,
            guidance_scale=5.0,
            output_type="latent",
        )
        assert torch.equal(clip.latents, wanted)
    assert (text(ours) - text(plain)).abs().max() > 0.1


def test_switching_gives_what_each_gave_on_a_fresh_pipeline(files: dict[str, Any], pipe: Any):
    """a → b → none → a and b → a on one warm pipeline: the bytes of fresh ones, and of one that never
    had a LoRA; the checkpoint's own weights stay the very tensors they were."""
    plain = files["sd1"]["pipe"]
    own = {p.data_ptr() for part in (pipe.unet, pipe.text_encoder) for p in part.parameters()}
    fresh: dict[tuple[str, ...], torch.Tensor] = {(): picture(plain)}
    for names in (("a",), ("b:0.3",), ("a:0.5", "b")):
        other = copy.deepcopy(plain)
        use_loras(other, loras(files, *names))
        fresh[names] = picture(other)
    assert len({tensor.numpy().tobytes() for tensor in fresh.values()}) == 4
    for names in (("a",), ("b:0.3",), (), ("a:0.5", "b"), ("a",), ()):
        use_loras(pipe, loras(files, *names))
        assert torch.equal(picture(pipe), fresh[names]), names
    now = {p.data_ptr() for part in (pipe.unet, pipe.text_encoder) for p in part.parameters()}
    assert own < now


def test_a_switch_between_loaded_ones_reads_no_file(
    files: dict[str, Any], pipe: Any, tmp_path: Path
):
    """A spoilt file put in the place of a loaded one, of its size and times, is not noticed; with other
    times it is another LoRA, and is read."""
    path = tmp_path / "lora.safetensors"
    path.write_bytes(files["sd1"]["a"].read_bytes())
    addon = describe_addon("lora", str(path))
    use_loras(pipe, [addon])
    wanted = text(pipe)
    use_loras(pipe, [])
    state = path.stat()
    spoilt = tmp_path / "spoilt"  # not written in place, for weights on the CPU are mapped
    spoilt.write_bytes(bytes(state.st_size))
    os.utime(spoilt, ns=(state.st_atime_ns, state.st_mtime_ns))
    spoilt.replace(path)
    use_loras(pipe, [addon])
    assert torch.equal(text(pipe), wanted)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with pytest.raises(ModelError, match=r"lora .*lora\.safetensors'.*cannot be loaded"):
        use_loras(pipe, [addon])


def unet_lora(path: Path, seed: int) -> AddOn:
    """A LoRA of a single layer, quick to load."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    generator = torch.Generator().manual_seed(seed)
    shapes = {"lora_A": (2, 16), "lora_B": (16, 2)}
    tensors = {
        f"{layer}.{part}.weight": torch.randn(shape, generator=generator)
        for part, shape in shapes.items()
    }
    save_file(tensors, path)
    return describe_addon("lora", str(path))


def test_the_least_recently_used_goes(pipe: Any, tmp_path: Path):
    """More than MOST_LOADED: the one that was used longest ago is unloaded, and can come again."""
    many = [unet_lora(tmp_path / f"{i}.safetensors", i) for i in range(MOST_LOADED + 1)]
    for addon in many[:-1]:
        use_loras(pipe, [addon])
    before = set(pipe.get_list_adapters()["unet"])
    use_loras(pipe, [many[0]])
    use_loras(pipe, [many[-1]])
    after = set(pipe.get_list_adapters()["unet"])
    assert len(before) == len(after) == MOST_LOADED
    [gone], [come] = before - after, after - before
    use_loras(pipe, [many[1]])
    assert gone in pipe.get_list_adapters()["unet"]
    assert come in pipe.get_list_adapters()["unet"]


def test_a_copied_pipeline_goes_on(pipe: Any, tmp_path: Path):
    """A copy of a pipeline with LoRAs of ours knows them as ours: it switches, and to none."""
    plain = picture(pipe)
    a, b = (unet_lora(tmp_path / f"{i}.safetensors", i) for i in (1, 2))
    use_loras(pipe, [a])
    with_a = picture(pipe)
    other = copy.deepcopy(pipe)
    use_loras(other, [b])
    use_loras(other, [a])
    assert torch.equal(picture(other), with_a)
    assert not torch.equal(with_a, plain)
    use_loras(other, [])
    assert torch.equal(picture(other), plain)


def test_its_owners_loras_are_left_alone(files: dict[str, Any], pipe: Any):
    """A LoRA that the pipeline's owner loaded keeps its strength and acts, beside ours and after."""
    file = files["sd1"]["b"]
    pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="mine")
    pipe.set_adapters(["mine"], [0.3])
    alone = picture(pipe)
    use_loras(pipe, loras(files, "a:0.5"))
    both = copy.deepcopy(files["sd1"]["pipe"])
    use_loras(both, loras(files, "b:0.3", "a:0.5"))
    assert torch.equal(picture(pipe), picture(both))
    use_loras(pipe, [])
    assert torch.equal(picture(pipe), alone)
    assert pipe.get_active_adapters() == ["mine"]


def test_fused_and_switched_off_loras_are_refused(files: dict[str, Any], pipe: Any):
    """Where a LoRA of ours would silently not act, ModelError says what to call."""
    file = files["sd1"]["b"]
    pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="mine")
    pipe.disable_lora()
    with pytest.raises(ModelError, match=r"switched off; call pipe.enable_lora\(\)"):
        use_loras(pipe, loras(files, "a"))
    pipe.enable_lora()
    pipe.fuse_lora()
    with pytest.raises(ModelError, match=r"mine fused; call pipe.unfuse_lora\(\)"):
        use_loras(pipe, loras(files, "a"))


def test_a_lora_that_does_not_fit_is_refused(files: dict[str, Any], pipe: Any, tmp_path: Path):
    """One of another family, and one of unknown layers: ModelError, and the pipeline is as it was and
    takes the next LoRA."""
    wanted = picture(pipe)
    [other] = loras(files, "a", family="sdxl")
    save_file({"unet.nowhere.lora_A.weight": torch.ones(2, 16)}, tmp_path / "x.safetensors")
    nowhere = describe_addon("lora", str(tmp_path / "x.safetensors"))
    for addon in (other, nowhere):
        with pytest.raises(ModelError, match="name another LoRA or another model"):
            use_loras(pipe, [*loras(files, "b"), addon])
        assert torch.equal(picture(pipe), wanted)
    use_loras(pipe, loras(files, "a"))
    assert not torch.equal(picture(pipe), wanted)


def test_a_lora_of_another_size_names_the_tensor(pipe: Any, tmp_path: Path):
    """The layers have their names here and other widths, as with a larger model of the family."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    tensors = {
        f"{layer}.lora_A.weight": torch.ones(2, 17),
        f"{layer}.lora_B.weight": torch.ones(17, 2),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"to_k\S+ of shape \[2, 17\] where \[2, 16\] is expected"):
        use_loras(pipe, [describe_addon("lora", str(tmp_path / "x.safetensors"))])


def test_the_same_lora_twice_is_refused(files: dict[str, Any], pipe: Any):
    """diffusers would take the last weight silently."""
    with pytest.raises(ModelError, match="expected each LoRA once"):
        use_loras(pipe, loras(files, "a:0.5", "a"))


def test_layers_without_a_place_are_told(pipe: Any, tmp_path: Path, caplog: Any):
    """A LoRA of which only some layers fit acts with these, and the log says how many."""
    path = tmp_path / "some.safetensors"
    unet_lora(path, 0)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    tensors = {
        f"{layer}.lora_A.weight": torch.ones(2, 16),
        f"{layer}.lora_B.weight": torch.ones(16, 2),
    }
    away = {
        name.replace("mid_block", "top_block"): tensor.clone() for name, tensor in tensors.items()
    }
    save_file({**tensors, **away}, path)
    use_loras(pipe, [describe_addon("lora", str(path))])
    assert "1 of 2 layers found a place" in caplog.text


class KeyValueAverage:
    """Eq. 2 to the letter: keys and values are projected per frame, then averaged over frames."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        frames = len(self.matrix)

        def averaged(projection: Any) -> torch.Tensor:
            values = projection(hidden_states).unflatten(0, (-1, frames))
            return torch.einsum("ij,cjtf->citf", self.matrix, values).flatten(0, 1)

        def heads(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query, key, value = attn.to_q(hidden_states), averaged(attn.to_k), averaged(attn.to_v)
        weights = (heads(query) @ heads(key).transpose(-1, -2) * attn.scale).softmax(-1)
        return attn.to_out[0]((weights @ heads(value)).transpose(1, 2).flatten(2))


def test_averaging_hidden_states_is_averaging_keys_and_values_with_lora(
    files: dict[str, Any], pipe: Any
):
    """Section 2 with two LoRAs on the keys and values of every self-attention, through the real
    processor and a whole UNet in float64: to 1e-10."""
    use_loras(pipe, loras(files, "a:0.5", "b"))
    frames = 3
    unet = pipe.unet.double()
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2 * frames, 4, 16, 16, dtype=torch.float64, generator=generator)
    words = torch.randn(2 * frames, 16, 16, dtype=torch.float64, generator=generator)
    state = MomentumState([0.6] * frames)
    state.enter_segment(0, frames, frames)
    with torch.no_grad(), momentum_attention(unet, state):
        ours = unet(sample, 500, encoder_hidden_states=words).sample
    loop = KeyValueAverage(momentum_matrix(0.6, frames))
    unet.set_attn_processor(
        {name: loop if ".attn1." in name else AttnProcessor2_0() for name in unet.attn_processors}
    )
    with torch.no_grad():
        wanted = unet(sample, 500, encoder_hidden_states=words).sample
    assert (ours - wanted).abs().max() < 1e-10
    assert wanted.abs().max() > 0.1
