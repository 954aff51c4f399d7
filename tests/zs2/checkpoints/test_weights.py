"""zs2.checkpoints.weights: which of a repository's files are loaded, and what a header says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zs2.checkpoints.weights import names_in, read_header, select

# As the repositories of SD 1.5 and SDXL list them, with the formats of other libraries.
SD1: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
CONFIGURATION = [
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "safety_checker/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
]
ENCODERS = ("safety_checker", "text_encoder")
NAMES = [
    *CONFIGURATION,
    "README.md",
    "v1-inference.yaml",
    "v1-5-pruned-emaonly.safetensors",
    "controlnet/config.json",
    "vae_1_0/diffusion_pytorch_model.safetensors",
    *(
        f"{part}/{stem}{variant}.{ending}"
        for part in ("unet", "vae", *ENCODERS)
        for variant in ("", ".fp16", ".non_ema", ".bf16")
        for stem, ending in (
            ("model" if part in ENCODERS else "diffusion_pytorch_model", "safetensors"),
            ("pytorch_model" if part in ENCODERS else "diffusion_pytorch_model", "bin"),
        )
    ),
    "unet/diffusion_flax_model.msgpack",
    "unet/model.onnx",
    "unet/openvino_model.bin",
    "text_encoder/flax_model.msgpack",
]


def weights(variant: str, *parts: str) -> list[str]:
    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
    return [f"{part}/{stems.get(part, 'model')}{variant}.safetensors" for part in parts]


ALL = ("safety_checker", "text_encoder", "unet", "vae")


@pytest.mark.parametrize(("half", "variant"), [(True, ".fp16"), (False, "")])
def test_one_format_and_one_variant_of_each_part(half: bool, variant: str):
    """Of a repository with everything, the safetensors of the wanted precision, and what configures
    the parts that the index names."""
    found = select(SD1, NAMES, half=half)
    assert sorted(found.weights) == weights(variant, *ALL)
    assert sorted(found.configuration) == CONFIGURATION
    assert found.variant == (variant[1:] or None)
    assert found.pickled == found.missing == ()


def test_a_part_that_is_not_wanted_is_left_out():
    """Without the safety checker neither its weights nor its configuration come."""
    found = select(SD1, NAMES, half=False, without=("safety_checker",))
    assert not [name for name in found.weights + found.configuration if "safety" in name]


def test_a_part_without_the_variant_gives_its_full_weights():
    """Half precision of what has it; a part that has nothing but the variant gives it always."""
    names = [name for name in NAMES if not name.startswith("vae/") or ".fp16" not in name]
    parts = ("safety_checker", "text_encoder", "unet")
    expected = [*weights(".fp16", *parts), *weights("", "vae")]
    assert sorted(select(SD1, names, half=True).weights) == expected
    only = [name for name in names if not name.startswith("unet/") or ".fp16" in name]
    found = select(SD1, only, half=False)
    assert found.variant == "fp16"
    assert weights(".fp16", "unet")[0] in found.weights


def test_shards_come_all():
    """Both ways in which shards of a variant are named."""
    shards = [f"unet/diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {"unet": ["diffusers", "UNet2DConditionModel"]}
    assert list(select(index, shards, half=True).weights) == shards
    shards = [f"unet/diffusion_pytorch_model-0000{i}-of-00002.fp16.safetensors" for i in (1, 2)]
    assert list(select(index, shards, half=True).weights) == shards


def test_pickles_only_where_there_is_nothing_else():
    """They are told apart, and a part with neither is missing."""
    names = [name for name in NAMES if name != "vae/diffusion_pytorch_model.safetensors"]
    names = [name for name in names if not name.startswith(("unet/", "text_encoder/"))]
    found = select(SD1, [*names, "unet/diffusion_pytorch_model.bin"], half=False)
    assert found.pickled == ("unet/diffusion_pytorch_model.bin",)
    assert found.missing == ("text_encoder",)


def test_a_header_tells_names_shapes_and_numbers(tmp_path: Path):
    """As the format's own library writes it; integers are no parameters."""
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    tensors = {
        "a.weight": torch.zeros(2, 3, dtype=torch.float16),
        "b.scale": torch.tensor(1.0),
        "a.ids": torch.arange(7),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.shapes == {"a.weight": (2, 3), "b.scale": (), "a.ids": (7,)}
    assert header.dtypes["a.weight"] == "F16"
    assert header.metadata == {"format": "pt"}
    assert (header.parameters(), header.parameters("a.")) == (7, 6)


def test_links_are_followed_and_end(tmp_path: Path):
    """Files of linked folders are named as if they lay there; links in a circle add none."""
    (tmp_path / "one" / "unet").mkdir(parents=True)
    (tmp_path / "one" / "unet" / "w").write_text("")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "unet").symlink_to("../one/unet")
    (tmp_path / "one" / "unet" / "round").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "up").symlink_to(tmp_path)
    (tmp_path / "two" / "gone").symlink_to("nowhere")
    assert names_in(tmp_path / "two") == ["unet/w"]
    assert names_in(tmp_path / "nowhere") == []
