"""Add-ons by name: what is found, what is refused, and that it costs no torch; a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny_addons, tiny_models
from tests.hub_server import HubServer, contents
from zs2.addons import AddOn, describe_addon, fetch_addon, identity_of, use_loras
from zs2.models import ModelError

LORA = {"unet.layer.lora_A.weight": torch.ones(2, 4), "unet.layer.lora_B.weight": torch.ones(4, 2)}
PLAIN = {"unet.layer.weight": torch.ones(2, 4)}


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    path = tmp_path / "star.safetensors"
    save_file(LORA, path)
    return path


def test_a_file_is_described_without_torch(lora: Path):
    """Kind, name less the weight, place and weight; torch is not imported."""
    code = (
        "import sys; from zs2.addons import AddOn, describe_addon; "
        f"found = describe_addon('lora', '{lora}:0.8'); "
        f"assert found == AddOn('lora', '{lora}', '{lora}', None, None, 0.8), found; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(("text", "weight"), [("", 1), (":0.8", 0.8), (":-1", -1), (":1e-1", 0.1)])
def test_a_loras_weight(lora: Path, text: str, weight: float):
    """The number after the last colon; 1 without."""
    assert describe_addon("lora", f"{lora}{text}").weight == weight


@pytest.mark.parametrize("text", [":", ":strong", ":nan", ":inf", ":0.5:x"])
def test_a_bad_weight_is_refused(lora: Path, text: str):
    """What is no number is named, with an example."""
    with pytest.raises(ModelError, match=r"a number after ':'.*write for instance .*:0\.8"):
        describe_addon("lora", f"{lora}{text}")


def test_a_name_that_is_there_as_a_whole_is_no_weight(lora: Path):
    """A colon in a file's or folder's own name; a weight can still follow."""
    named = lora.rename(lora.with_name("v1:2.safetensors"))
    found = [describe_addon("lora", f"{named}{weight}") for weight in ("", ":0.5")]
    assert [(addon.location, addon.weight) for addon in found] == [
        (str(named), 1),
        (str(named), 0.5),
    ]
    folder = lora.parent / "style:3"
    folder.mkdir()
    save_file(LORA, folder / "x.safetensors")
    assert describe_addon("lora", str(folder)).weight == 1


def test_a_folder_means_its_one_lora(lora: Path):
    """One file, or the name that diffusers gives; of several others one must be named."""
    folder = lora.parent
    assert describe_addon("lora", f"{folder}:2").file == "star.safetensors"
    save_file(LORA, folder / "moon.safetensors")
    with pytest.raises(ModelError, match=r"found moon\.safetensors, star\.safetensors; name the"):
        describe_addon("lora", str(folder))
    save_file(LORA, folder / "pytorch_lora_weights.safetensors")
    found = describe_addon("lora", str(folder))
    assert fetch_addon(found) == folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("kind", ["lora", "ip_adapter", "controlnet", "depth"])
@pytest.mark.parametrize(
    "name", ["", "./nowhere", "/no/such.safetensors", "a/b.safetensors", "nothing"]
)
def test_unknown_names_are_refused(kind: str, name: str):
    """What is neither here nor a hub id: the forms that the kind takes."""
    with pytest.raises(
        ModelError, match=rf"{kind} '.*expected .*found none of them; check the name"
    ):
        describe_addon(kind, name)


@pytest.mark.parametrize(
    ("kind", "tensors", "found"),
    [
        ("lora", PLAIN, r"tensors named like lora; found unet\.layer\.weight"),
        ("lora", {**LORA, "unet.layer.dora_scale": torch.ones(4)}, "found a DoRA"),
        ("controlnet", LORA, r"found unet\.layer\.lora_A\.weight, unet\.layer\.lora_B"),
        ("ip_adapter", LORA, r"image_proj.*found unet\.layer\.lora_A"),
        (
            "ip_adapter",
            {"image_proj.proj.0.weight": torch.ones(2, 2), "ip_adapter.1.x": torch.ones(1)},
            "found one that reads faces",
        ),
    ],
)
def test_another_kind_of_file_is_refused(
    tmp_path: Path, kind: str, tensors: dict[str, Any], found: str
):
    """Seen by the names of the tensors, before anything is loaded."""
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=rf"{kind} '.*expected .*{found}.*; name another file"):
        describe_addon(kind, str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("kind", ["lora", "ip_adapter", "controlnet"])
def test_unreadable_and_other_files_are_refused(tmp_path: Path, kind: str):
    """A spoilt file, and one of another format."""
    (tmp_path / "x.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ModelError, match=r"expected a readable \.safetensors file; found"):
        describe_addon(kind, str(tmp_path / "x.safetensors"))
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(ModelError, match=r"expected \.safetensors weights; found x\.zip"):
        describe_addon(kind, str(tmp_path / "x.zip"))


def test_pickles_are_refused_unless_trusted(tmp_path: Path):
    """A pickled LoRA: refused, whether file or folder is named; trusted by file or folder, it loads."""
    pipe = tiny_models.sd1(tmp_path)
    path = tmp_path / "own" / "lora.bin"
    path.parent.mkdir()
    layers = tiny_addons.lora_layers(pipe, 1, text=False)["unet"]
    torch.save({f"unet.{name}": tensor for name, tensor in layers.items()}, path)
    for name in (path, path.parent):
        with pytest.raises(ModelError, match=r"lora\.bin, which .*--trust-pickle .*trusted="):
            describe_addon("lora", str(name))
        for trusted in (path, path.parent):
            found = describe_addon("lora", str(name), trusted=[str(trusted)])
            assert fetch_addon(found) == path
    use_loras(pipe, [describe_addon("lora", str(path), trusted=[str(path)])])
    assert len(pipe.get_active_adapters()) == 1


def test_a_pickle_that_runs_code_does_not(tmp_path: Path):
    """Also where it is trusted: weights are read by torch's restricted unpickler."""
    pipe = tiny_models.sd1(tmp_path)
    torch.save({"unet.x.lora_A.weight": Hostile(tmp_path / "ran")}, tmp_path / "x.bin")
    found = describe_addon("lora", str(tmp_path / "x.bin"), trusted=[str(tmp_path)])
    with pytest.raises(ModelError, match="cannot be loaded"):
        use_loras(pipe, [found])
    assert not (tmp_path / "ran").exists()


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_folders_of_another_kind_are_refused(tmp_path: Path):
    """A pipeline or a UNet as ControlNet, a ControlNet as depth model: found and expected classes."""
    pipe = tiny_models.sd1(tmp_path)
    pipe.unet.save_pretrained(tmp_path / "unet")
    tiny_addons.controlnet_folder(pipe, tmp_path / "net")
    with pytest.raises(
        ModelError, match="expected a ControlNetModel; found a UNet2DConditionModel"
    ):
        describe_addon("controlnet", str(tmp_path / "unet"))
    with pytest.raises(ModelError, match="expected a …ForDepthEstimation; found a ControlNetModel"):
        describe_addon("depth", str(tmp_path / "net"))
    with pytest.raises(ModelError, match=r"expected the config\.json of a ControlNetModel; found"):
        describe_addon("controlnet", str(tmp_path))
    with pytest.raises(ModelError, match=r"expected a file; found config\.json"):
        describe_addon("ip_adapter", str(tmp_path / "unet"))


def test_a_depth_model(tmp_path: Path):
    """A folder of transformers' with a class for depth estimation; a file is none."""
    config = {"architectures": ["DPTForDepthEstimation"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"its weights as model\.safetensors; found config\.json"):
        describe_addon("depth", str(tmp_path))
    save_file(PLAIN, tmp_path / "model.safetensors")
    assert describe_addon("depth", str(tmp_path)).file == "model.safetensors"
    with pytest.raises(ModelError, match="expected a hub id"):
        describe_addon("depth", str(tmp_path / "model.safetensors"))


def test_identity_is_of_the_weights(lora: Path):
    """The same for every weight of a LoRA and every spelling of the name; another one when the file is
    written again; a clear error when it is gone."""
    first = identity_of(describe_addon("lora", f"{lora}:0.1"))
    found = describe_addon("lora", str(lora))
    assert identity_of(found) == first
    os.utime(lora, ns=(0, 0))
    assert identity_of(found) != first
    lora.unlink()
    with pytest.raises(ModelError, match="expected its file as before"):
        identity_of(found)


HUB_SCRIPT = """
import json, sys
from dataclasses import asdict
from zs2.addons import describe_addon, fetch_addon
from zs2.models import ModelError

found = []
for kind, name in json.loads(sys.argv[1]):
    try:
        addon = describe_addon(kind, name)
        found.append({**asdict(addon), "torch": "torch" in sys.modules})
    except ModelError as error:
        found.append(str(error))
described = [line for line in found if isinstance(line, dict)]
paths = [str(fetch_addon(describe_addon(line["kind"], line["name"]))) for line in described]
print(json.dumps({"found": found, "paths": paths}))
"""

LOADING_SCRIPT = """
import sys
from pathlib import Path
from tests import tiny_models
from zs2.addons import describe_addon, load_controlnet, use_ip_adapter

load_controlnet(describe_addon("controlnet", "o/net@v1"), device="cpu")
pipe = tiny_models.sd1(Path(sys.argv[1]))
use_ip_adapter(pipe, describe_addon("ip_adapter", "o/ip/models/ip.safetensors"))
print(pipe.image_encoder.config.projection_dim)
"""


def on_hub(hub: HubServer, home: Path, script: str, argument: str) -> Any:
    """The last line that a script prints in a process whose hub is the given one, its cache empty."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, argument],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=home.parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_names_on_a_hub(tmp_path: Path, lora: Path):
    """Every form of a hub name: its commit and file, without torch; only what is needed is downloaded,
    and once."""
    pipe = tiny_models.sd1(tmp_path)
    tiny_addons.ip_adapter(pipe, tmp_path / "ip" / "models" / "ip.safetensors", 1)
    tiny_addons.controlnet_folder(pipe, tmp_path / "net")
    with HubServer() as hub:
        repo = hub.add("o/lora", {"star.safetensors": lora.read_bytes(), "readme.md": b""})
        old = repo.commit({"a/b.safetensors": lora.read_bytes()}, "v1")
        hub.add("o/several", {f"{name}.safetensors": lora.read_bytes() for name in "ab"})
        hub.add("o/pickled", {"pytorch_lora_weights.bin": b""})
        hub.add("o/wrong", {"x.safetensors": b"not safetensors"})
        hub.add("o/net", {}).commit(contents(tmp_path / "net"), "v1")
        hub.add("o/ip", tmp_path / "ip")
        single = (tmp_path / "net" / "diffusion_pytorch_model.safetensors").read_bytes()
        hub.add("o/nets", {"some/control.safetensors": single})
        good = [
            ("lora", "o/lora:0.5"),
            ("lora", "o/lora@v1/a/b.safetensors"),
            ("lora", "o/several/b.safetensors:2"),
            ("controlnet", "o/net@v1"),
            ("ip_adapter", "o/ip/models/ip.safetensors"),
            ("controlnet", "o/nets/some/control.safetensors"),
        ]
        bad = {
            ("lora", "o/several"): "name the file itself",
            ("lora", "o/several/c.safetensors"): "found a.safetensors, b.safetensors; name one",
            ("lora", "o/pickled"): "pickled weights pytorch_lora_weights.bin",
            ("lora", "o/nowhere"): "check the name",
            ("lora", "o/lora@v9"): "check the revision",
            ("controlnet", "o/lora"): "expected the config.json of a ControlNetModel",
            ("ip_adapter", "o/ip"): "expected a file; found",
        }
        answer = on_hub(hub, tmp_path / "home", HUB_SCRIPT, json.dumps([*good, *bad]))
        new = repo.refs["main"]
        sent = hub.downloads()
    found, refused = answer["found"][: len(good)], answer["found"][len(good) :]
    assert not any(line.pop("torch") for line in found)
    assert AddOn(**found[0]) == AddOn("lora", "o/lora", "o/lora", new, "star.safetensors", 0.5)
    assert [(line["revision"], line["file"]) for line in found[1:2]] == [(old, "a/b.safetensors")]
    assert (found[2]["file"], found[2]["weight"]) == ("b.safetensors", 2)
    assert found[3]["file"] == "diffusion_pytorch_model.safetensors"
    for line, (name, message) in zip(refused, bad.items(), strict=True):
        assert message in line, (name, line)
    assert all(Path(path).is_file() for path in answer["paths"])
    assert "readme.md" not in sent
    assert "a.safetensors" not in sent
    assert len(sent) == len(set(sent))


@pytest.mark.slow
def test_loading_from_a_hub(tmp_path: Path):
    """A ControlNet at a revision, and an IP-Adapter with the image encoder beside it."""
    pipe = tiny_models.sd1(tmp_path)
    tiny_addons.ip_adapter(pipe, tmp_path / "ip" / "models" / "ip.safetensors", 1)
    tiny_addons.controlnet_folder(pipe, tmp_path / "net")
    with HubServer() as hub:
        hub.add("o/net", {}).commit(contents(tmp_path / "net"), "v1")
        hub.add("o/ip", tmp_path / "ip")
        assert on_hub(hub, tmp_path / "home", LOADING_SCRIPT, str(tmp_path)) == 16
        sent = hub.downloads()
    assert "models/image_encoder/model.safetensors" in sent
    assert len(sent) == len(set(sent))
