"""`zs2 models`: what is at hand, what it is, what it needs, and why the rest cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.console import size
from tests.hub_server import HubServer, contents

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
    yield home


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9"}


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
    """Bundled and cached models with their pipeline, size, steps, and the memory of their weights at
    both precisions; the hub is not asked and torch not loaded."""
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


def test_what_cannot_be_used_says_why(models: Callable[..., Any]):
    """What is cached and no pipeline for zs2 is listed with the reason; one whose weights have not
    come is usable, its memory unknown."""
    found = {entry["name"]: entry for entry in json.loads(models("--json").stdout)}
    assert found["owner/begun"]["usable"]
    assert found["owner/begun"]["bytes_float16"] is None
    assert not found["owner/inpainting"]["usable"]
    assert "an inpainting model" in found["owner/inpainting"]["reason"]
    assert found["owner/control"]["reason"] == "no pipeline, but ControlNetModel"
    assert found["owner/lora"]["reason"] == "no pipeline, but single files"


def test_the_table(models: Callable[..., Any], tiny_pipe):
    """For people: one line a model, sizes in units, and the reasons below."""
    lines = models().stdout.splitlines()
    columns = ["model", "from", "pipeline", "size", "steps", "guidance", "float16", "float32"]
    assert lines[0].split() == columns
    whole = next(line for line in lines if line.startswith("owner/whole"))
    assert whole.split()[1:6] == ["cached", "StableDiffusion", "32×32", "50", "7.5"]
    count = parameters_of(tiny_pipe)
    assert whole.endswith(f"{size(2 * count)}  {size(4 * count)}")
    assert next(line for line in lines if line.startswith("owner/begun")).split()[-2:] == ["-", "-"]
    assert any(line.startswith("owner/inpainting: not usable: expected") for line in lines)
    assert any(line.startswith("Memory is that of the weights alone") for line in lines)


def test_named_models(models: Callable[..., Any], tiny_model: Path):
    """A folder, a cached id with a revision and a bundled name are described, and nothing else is."""
    names = [str(tiny_model), "owner/whole@v1", "zs2-mini"]
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
