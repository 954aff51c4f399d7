"""Models of a hub, against a small one on loopback: revisions, the cache, tokens, what is downloaded.

Each look-up is a process of its own, since the hub's settings are read when Python starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import HubServer, contents

ROOT = Path(__file__).parents[3]
CONFIGS = ["model_index.json", "unet/config.json", "vae/config.json"]
# Prints one JSON object: what a name is, or why not.
DESCRIBE = """
import json, sys
from dataclasses import asdict
from zs2.models import ModelError, describe
def look(name):
    try:
        return asdict(describe(name))
    except ModelError as error:
        return {"error": str(error)}
print(json.dumps({"torch": "torch" in sys.modules, **{n: look(n) for n in sys.argv[1:]}}))
"""
# For each line, a name, a dtype and what is trusted: loads it and prints the sum of the UNet's first
# weights, or why not.
LOAD = """
import json, sys, torch
from zs2.models import ModelError, describe, load_pipeline
for line in sys.stdin:
    name, dtype, trusted = json.loads(line)
    try:
        info = describe(name, trusted=trusted)
        pipe = load_pipeline(info, torch_dtype=getattr(torch, dtype), device="cpu")
        print(json.dumps(pipe.unet.conv_in.weight.float().sum().item()), flush=True)
    except ModelError as error:
        print(json.dumps(str(error)), flush=True)
"""
# What repositories have beside a pipeline's own files, and a render has no use for.
BALLAST = {
    "v1-5-pruned.ckpt": b"pickle",
    "v1-5-pruned.safetensors": b"all again",
    "README.md": b"words",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "unet/diffusion_pytorch_model.fp16.bin": b"pickle",
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"training's",
    "unet/flax_model.msgpack": b"flax",
    "unet/model.onnx": b"onnx",
    "text_encoder/pytorch_model.bin": b"pickle",
    "text_encoder/openvino_model.bin": b"openvino",
}


@pytest.fixture(scope="module")
def files(tiny_pipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository as they are: full and half-precision weights, and ballast."""
    import copy

    import torch

    folder = tmp_path_factory.mktemp("repository")
    tiny_pipe.save_pretrained(folder)
    half = copy.deepcopy(tiny_pipe.unet).half()
    torch.nn.init.constant_(half.conv_in.weight, 1)  # to be told from the full weights
    half.save_pretrained(folder / "unet", variant="fp16")
    return contents(folder) | BALLAST


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


Ask = Callable[..., Any]


def environment(hub: HubServer, home: Path, **settings: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return env | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), **settings}


@pytest.fixture
def ask(hub: HubServer, tmp_path: Path) -> Ask:
    """What `describe` says of names, with a cache of the test's own; nothing is said beside it."""

    def run(*names: str, **settings: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", DESCRIBE, *names],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(hub, tmp_path, **settings),
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


class Loader:
    """A process that loads models from a hub of its own; torch takes long to start, so one for all."""

    def __init__(self, hub: HubServer, home: Path, **settings: str) -> None:
        self.hub, self.home = hub, home
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOAD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(hub, home, **settings),
        )

    def load(self, name: str, dtype: str = "float32", trusted: Sequence[str] = ()) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([name, dtype, list(trusted)]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    with HubServer() as server:
        loader = Loader(server, tmp_path_factory.mktemp("home"))
        yield loader
        loader.close()


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: HubServer, ask: Ask, files):
    """Each is resolved to its commit, which is the model's revision; only three small files come,
    without torch, and a commit once known is never asked for again."""
    repo = hub.add("owner/model", files)
    old = repo.commit(files | {"README.md": b"older"}, "v1.0", "side/branch")
    new = repo.refs["main"]
    names = ("", "@main", "@v1.0", "@side/branch", f"@{old}")
    found = ask(*(f"owner/model{name}" for name in names))
    assert [found[f"owner/model{name}"]["revision"] for name in names] == [new, new, old, old, old]
    assert found["owner/model"]["location"] == "owner/model"
    assert (found["owner/model"]["height"], found["owner/model"]["latent_channels"]) == (32, 4)
    assert not found["torch"]
    assert sorted(set(hub.downloads())) == CONFIGS
    ask(f"owner/model@{old}")
    assert hub.log == []


def test_a_branch_that_moves_is_another_model(hub: HubServer, ask: Ask, files):
    """The commit is looked up anew each time, so that a digest follows the weights."""
    repo = hub.add("owner/model", files)
    first = ask("owner/model")["owner/model"]["revision"]
    moved = repo.commit(files | {"README.md": b"newer"})
    assert ask("owner/model")["owner/model"]["revision"] == moved != first


def test_what_is_cached_needs_no_hub(hub: HubServer, ask: Ask, files):
    """Offline, or with a hub that is down, names with and without a revision give what they gave;
    what was never looked up is an error that says why."""
    sha = hub.add("owner/model", files).commit(files, "main", "v1.0")
    names = ("owner/model", "owner/model@v1.0", f"owner/model@{sha}")
    before = ask(*names)
    hub.log.clear()
    offline = ask(*names, "owner/model@v2", HF_HUB_OFFLINE="1")
    down = ask(*names, "owner/model@v2", HF_ENDPOINT="http://127.0.0.1:9")
    assert [offline[name] for name in names] == [before[name] for name in names]
    assert [down[name] for name in names] == [before[name] for name in names]
    assert "since HF_HUB_OFFLINE is set; found it not" in offline["owner/model@v2"]["error"]
    assert "http://127.0.0.1:9 does not answer" in down["owner/model@v2"]["error"]
    assert "check the network and HF_ENDPOINT" in down["owner/model@v2"]["error"]
    assert hub.log == []


def test_errors_of_names_say_what_is_wrong(hub: HubServer, ask: Ask, files):
    """An unknown repository, an unknown revision, one that is gated, one that is no pipeline."""
    hub.add("owner/model", files)
    hub.add("owner/gated", files, gated=True)
    hub.add("owner/lora", {"lora.safetensors": b""})
    absent = f"owner/model@{'0' * 40}"
    found = ask("owner/none", "owner/model@none", absent, "owner/gated", "owner/lora", "a--b/c")
    errors = {name: value["error"] for name, value in found.items() if name != "torch"}
    assert f"a folder {ROOT / 'owner/none'}, or a repository on {hub.url};" in errors["owner/none"]
    assert "and the hub gave no such model; check the name" in errors["owner/none"]
    assert "expected a branch, tag or commit after '@'" in errors["owner/model@none"]
    assert "expected a branch, tag or commit after '@'" in errors[absent]
    assert "found that it is gated; accept its terms there" in errors["owner/gated"]
    assert "found no model_index.json in owner/lora" in errors["owner/lora"]
    assert "expected a hub id 'owner/name'" in errors["a--b/c"]
    assert all(error.startswith(f"model {name!r}: ") for name, error in errors.items())


def test_the_token_comes_from_the_environment(hub: HubServer, ask: Ask, files):
    """A private repository needs HF_TOKEN; a wrong token is told from a missing one."""
    hub.add("owner/private", files, token="right")
    hub.tokens = {"right", "another's"}
    tokens = {"none": {}, **{name: {"HF_TOKEN": name} for name in ("wrong", "another's", "right")}}
    found = {name: ask("owner/private", **token)["owner/private"] for name, token in tokens.items()}
    assert "set HF_TOKEN to a token that may read it" in found["none"]["error"]
    assert "it refused HF_TOKEN (401)" in found["wrong"]["error"]
    assert "set HF_TOKEN to a token that may read it" in found["another's"]["error"]
    assert found["right"]["height"] == 32


def test_an_endpoint_that_is_no_hub(hub: HubServer, ask: Ask):
    """HF_ENDPOINT names a web server of another kind."""
    hub.foreign = True
    error = ask("owner/model")["owner/model"]["error"]
    assert f"expected a hub at {hub.url}" in error
    assert "check HF_ENDPOINT" in error


def needed(files: dict[str, bytes]) -> list[str]:
    """The files of the repository that loading in full precision needs."""
    configuration = [name for name in files if name.endswith((".json", ".txt"))]
    weights = ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
    return sorted([*configuration, *(f"{name}.safetensors" for name in weights)])


def total(pipe: Any) -> Any:
    """What the loader says of a pipeline in full precision."""
    return pytest.approx(pipe.unet.conv_in.weight.sum().item(), abs=1e-4)


def test_only_what_is_needed_is_downloaded(loader: Loader, files, tiny_pipe):
    """Safetensors, of the half-precision variant where that is the dtype and there is one; no
    pickles, no second copies; nothing at all where a commit is in the cache."""
    hub = loader.hub
    sha = hub.add("owner/model", files).refs["main"]
    half = tiny_pipe.unet.conv_in.weight.numel()  # all ones
    assert loader.load("owner/model") == total(tiny_pipe)
    assert hub.downloads() == needed(files)
    assert loader.load("owner/model", "float16") == half
    assert hub.downloads() == ["unet/diffusion_pytorch_model.fp16.safetensors"]
    assert loader.load(f"owner/model@{sha}") == total(tiny_pipe)
    assert loader.load(f"owner/model@{sha}", "float16") == half
    assert hub.log == []


def test_half_precision_alone_loads_in_any(loader: Loader, files, tiny_pipe):
    """A repository with nothing but the fp16 variant of a part."""
    full = "unet/diffusion_pytorch_model.safetensors"
    loader.hub.add("owner/half", {name: data for name, data in files.items() if name != full})
    assert loader.load("owner/half") == tiny_pipe.unet.conv_in.weight.numel()


def test_pickles_of_a_hub_are_refused_unless_trusted(loader: Loader, files, tiny_pipe):
    """A repository with nothing but pickles: refused by name; trusted, it loads, and still without
    what other libraries read."""
    import io

    import torch

    pickles = {name: data for name, data in files.items() if not name.endswith("safetensors")}
    for part in ("unet", "vae", "text_encoder"):
        buffer = io.BytesIO()
        torch.save(getattr(tiny_pipe, part).state_dict(), buffer)
        stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        pickles[f"{part}/{stem}.bin"] = buffer.getvalue()
    loader.hub.add("owner/pickled", pickles)
    refused = loader.load("owner/pickled", trusted=["owner/another", "owner/pickled@v1"])
    assert "found pickled weights pytorch_model.bin, which can run code" in refused
    assert loader.load("owner/pickled", trusted=["owner/pickled"]) == total(tiny_pipe)
    sent = loader.hub.downloads()
    assert [name for name in sent if name.endswith(".bin")] == [
        "text_encoder/pytorch_model.bin",
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.bin",
    ]


def test_a_single_files_configuration_comes_from_the_reference(
    loader: Loader, files, tiny_pipe, tmp_path: Path
):
    """A file with nothing beside it: its family's JSON and tokenizer files come, and no weights."""
    from tests.original_layout import write_single_file

    loader.hub.add("stable-diffusion-v1-5/stable-diffusion-v1-5", files)
    file = str(write_single_file(tiny_pipe, tmp_path / "model.safetensors"))
    assert loader.load(file) == total(tiny_pipe)
    configuration = [name for name in files if name.endswith((".json", ".txt"))]
    assert loader.hub.downloads() == sorted(configuration)


@pytest.mark.slow
def test_what_is_cached_loads_without_a_hub(loader: Loader, files, tiny_pipe, tmp_path: Path):
    """In a new process with HF_HUB_OFFLINE=1: a repository, a revision of it, and a single file."""
    from tests.original_layout import write_single_file

    file = str(write_single_file(tiny_pipe, tmp_path / "model.safetensors"))
    loader.hub.add("stable-diffusion-v1-5/stable-diffusion-v1-5", files)
    loader.hub.add("owner/kept", {}).commit(files, "main", "v1.0")
    names = ("owner/kept", "owner/kept@v1.0", file)
    assert [loader.load(name) for name in names] == [total(tiny_pipe)] * 3
    loader.hub.log.clear()
    offline = Loader(loader.hub, loader.home, HF_HUB_OFFLINE="1")
    assert [offline.load(name) for name in names] == [total(tiny_pipe)] * 3
    offline.close()
    assert loader.hub.log == []
