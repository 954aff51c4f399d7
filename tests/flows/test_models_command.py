"""`zs2 models`: what is at hand, what it is, what it needs, and why the rest cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.commands.model_memory import configuration_key, needed
from flows.commands.models import find
from flows.console import size
from tests.hub_server import HubServer, contents
from zs2.memory import activation_bytes
from zs2.models import ModelDefaults, configurations, describe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Path]:
    """A hub cache: a whole pipeline, one of which only the configuration came, an inpainting model,
    a ControlNet, a LoRA."""
    home = tmp_path_factory.mktemp("home")
    files = contents(tiny_model)
    unet = json.loads(files["unet/config.json"])
    inpainting = json.dumps(unet | {"in_channels": 9}).encode()
    control = {"config.json": b'{"_class_name": "ControlNetModel"}'}
    with HubServer() as hub:
        hub.add("owner/whole", {}).commit(files, "main", "v1")
        hub.add("owner/begun", files)
        hub.add("owner/inpainting", files | {"unet/config.json": inpainting})
        hub.add("owner/control", control)
        hub.add("owner/lora", {"pytorch_lora_weights.safetensors": b"x"})
        code = (
            "from huggingface_hub import snapshot_download as get\n"
            "for n in ('whole', 'inpainting', 'control', 'lora'): get('owner/' + n)\n"
            "get('owner/whole', revision='v1')\n"
            "get('owner/begun', allow_patterns=['*.json'])"
        )
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env={**environment(home), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url},
        )
    # the first look at a configuration takes torch, and all of these models have one
    command = [sys.executable, "-m", "flows.cli", "models", str(tiny_model)]
    first = subprocess.run(command, capture_output=True, text=True, env=environment(home), cwd=ROOT)
    assert (first.returncode, first.stderr) == (0, "")
    yield home


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "XDG_CACHE_HOME": str(home / "cache"),
    }


@pytest.fixture
def models(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `zs2 models` with that cache and no hub."""
    code = (
        "import sys; from flows.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "models", *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**environment(home), "HF_HUB_OFFLINE": "0"},
        )

    return run


def parameters_of(pipe: Any) -> int:
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    return sum(p.numel() for part in parts for p in part.parameters())


def test_what_is_at_hand(models: Callable[..., Any], tiny_pipe):
    """Bundled and cached models with their pipeline, size, steps, and the memory they need at both
    precisions; the hub is not asked, and torch not loaded once a configuration has been looked at."""
    done = models("--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert found["zs2-mini"]["source"] == "bundled"
    assert found["zs2-mini"]["usable"]
    whole = found["owner/whole"]
    count = parameters_of(tiny_pipe)
    assert (whole["source"], whole["usable"], whole["reason"]) == ("cached", True, None)
    assert (whole["pipeline"], whole["height"]) == ("StableDiffusionPipeline", 32)
    assert (whole["bytes_float16"], whole["bytes_float32"]) == (2 * count, 4 * count)
    assert len(whole["revision"]) == 40


def test_memory_is_the_weights_and_the_larger_of_what_comes_after_each_other(
    models: Callable[..., Any], tiny_model: Path
):
    """Of both precisions: the estimate of zs2.memory for this model, and its peak with the weights."""
    (found,) = json.loads(models("--json", str(tiny_model)).stdout)
    for dtype in ("float16", "float32"):
        memory = activation_bytes(describe(str(tiny_model)), dtype=getattr(torch, dtype))
        assert found[f"unet_bytes_{dtype}"] == memory.unet
        assert found[f"decode_bytes_{dtype}"] == memory.decode
        assert found[f"total_bytes_{dtype}"] == found[f"bytes_{dtype}"] + memory.peak


def test_an_estimate_is_of_one_configuration(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Equal configurations have one estimate, whatever they say of who saved them; another size, other
    guidance or another width are found anew; what the cache holds and is no estimate is not believed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    info = describe(str(tiny_model))
    keys: set[str] = set()
    for change in ({}, {"_diffusers_version": "0.1"}, {"norm_eps": 0.1}):
        configs = configurations(info)
        configs["unet/config.json"] |= change
        keys.add(configuration_key(info, configs))
    for other in (
        replace(info, width=64),
        replace(info, defaults=ModelDefaults(guidance_scale=1.0)),
    ):
        keys.add(configuration_key(other, configurations(info)))
    assert len(keys) == 4
    found = needed(info)
    (kept,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    kept.write_text('{"float16": {"unet": 1}}')
    assert needed(info) == found
    kept.write_text(kept.read_text().replace(str(found["float16"].unet), "7"))
    assert needed(info)["float16"].unet == 7


def test_what_cannot_be_built_is_not_usable(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A configuration that no UNet can be built from is said with its reason, and not kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["down_block_types"] = ["NoBlock"] * 2
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    (entry,) = find([str(folder)])
    assert not entry.is_usable
    assert entry.reason
    assert entry.reason.startswith("expected a configuration")
    assert "NoBlock" in entry.reason
    assert not (tmp_path / "cache").exists()


def test_what_cannot_be_used_says_why(models: Callable[..., Any]):
    """What is cached and no pipeline for zs2 is listed with the reason; one whose weights have not
    come is usable, its memory unknown."""
    found = {entry["name"]: entry for entry in json.loads(models("--json").stdout)}
    assert found["owner/begun"]["usable"]
    assert found["owner/begun"]["bytes_float16"] is None
    assert found["owner/begun"]["total_bytes_float16"] is None
    assert found["owner/begun"]["unet_bytes_float16"] == found["owner/whole"]["unet_bytes_float16"]
    assert not found["owner/inpainting"]["usable"]
    assert "an inpainting model" in found["owner/inpainting"]["reason"]
    assert found["owner/control"]["reason"] == "no pipeline, but ControlNetModel"
    assert found["owner/lora"]["reason"] == "no pipeline, but single files"


def test_the_table(models: Callable[..., Any]):
    """For people, in 80 columns: one line a model, sizes in units, and the reasons below."""
    lines = models().stdout.splitlines()
    (known,) = json.loads(models("--json", "owner/whole").stdout)
    columns = ["model", "from", "pipeline", "size", "steps", "guidance", "float16", "float32"]
    assert lines[0].split() == columns
    whole = next(line for line in lines if line.startswith("owner/whole"))
    assert whole.split()[1:6] == ["cached", "SD", "32×32", "50", "7.5"]
    totals = [size(known[f"total_bytes_{dtype}"]) for dtype in ("float16", "float32")]
    assert whole.split()[6:] == " ".join(totals).split()
    assert next(line for line in lines if line.startswith("owner/begun")).split()[-2:] == ["-", "-"]
    assert any(line.startswith("owner/inpainting: not usable: expected") for line in lines)
    assert any(line.startswith("Memory, at least: the weights") for line in lines)
    assert max(len(line) for line in lines if "not usable" not in line) <= 80


def test_named_models(models: Callable[..., Any], tiny_model: Path):
    """A folder, a cached id with a revision and a bundled name are described, and nothing else is."""
    names = [str(tiny_model), "owner/whole@v1", "zs2-mini"]
    lines = models(*names).stdout.splitlines()
    assert sum(line.startswith("zs2-mini, float") for line in lines) == 2
    done = models("--json", *names)
    entries = json.loads(done.stdout)
    assert done.returncode == 0
    assert [entry["name"] for entry in entries] == names
    assert {entry["source"] for entry in entries} == {"named"}
    assert entries[0]["bytes_float32"] == entries[1]["bytes_float32"]


def test_a_name_that_is_no_model_is_bad_usage(models: Callable[..., Any]):
    """Exit code 2, and the others are still described."""
    done = models("zs2-mini", "no-such-model")
    assert done.returncode == 2
    assert "zs2-mini" in done.stdout
    assert "no-such-model: not usable: expected a bundled name" in done.stdout
