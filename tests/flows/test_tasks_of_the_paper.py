"""Every task of the paper from one manifest, through real actors: text, control, edits, LoRA, pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.commands.sample import sample
from tasks.assemble import assemble
from tests import tiny_addons, tiny_models
from tests.flows.running import write_rows, zs2
from tests.zs2.test_control import dpt, lively

FRAMES = 4
MODELS = ("sd1", "sd2", "sdxl", "ip2p")
# Rows that cannot be rendered: status, error type, and what the message has to say.
BAD = {
    "missing": ("invalid", "InvalidRow", ("control_video", "gone.mp4", "nothing of that name")),
    "outside": ("invalid", "InvalidRow", ("source_video", "secret.mp4", "--input-root")),
    "nothing-to-edit": ("invalid", "InvalidRow", ("source_video", "no value")),
    "too-short": ("failed", "ClipError", ("short.mp4", "4 frames", "longer video")),
    "unreadable": ("failed", "ClipError", ("broken.mp4", "expected a video")),
    "too-long": ("failed", "PromptError", ("at most 16 tokens", "long_prompt")),
}


def moving_square(count: int, size: int = 48) -> np.ndarray[Any, Any]:
    frames = np.zeros((count, size, size, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[12:28, 4 * number : 4 * number + 16] = 255
    return frames


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips, pictures and models; a clip lies outside of it."""
    root = tmp_path_factory.mktemp("paper")
    folder = root / "project"
    (folder / "poses").mkdir(parents=True)
    for name in MODELS:
        build: Callable[[Path], Any] = getattr(tiny_models, name)
        pipe = build(root)
        pipe.save_pretrained(folder / name, safe_serialization=True)
        if name == "sd1":
            tiny_addons.controlnet_folder(pipe, folder / "net")
            for seed in (1, 2):
                tiny_addons.lora(pipe, folder / f"lora{seed}", seed)
            tiny_addons.ip_adapter(pipe, folder / "adapter" / "ip.safetensors", 3)
    model, processor = dpt()
    lively(model).save_pretrained(folder / "depth")
    processor.save_pretrained(folder / "depth")
    clip = moving_square(2 * FRAMES)
    for path, frames in ((folder / "clip.mp4", clip), (folder / "short.mp4", clip[:2])):
        assemble(frames, path, fps=8.0, codec="h264", quality=18, title="", comment="")
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / "poses" / f"{number}.png")
    Image.fromarray(clip[0]).save(folder / "square.png")
    (folder / "broken.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:200])
    (root / "secret.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    common = {"num_frames": FRAMES, "segment_frames": 2, "num_inference_steps": 2, "codec": "png"}
    sd1 = {"prompt": ["a star"], "model": str(folder / "sd1"), **common}
    net = {"controlnet": str(folder / "net")}
    canny = {**net, "control": "canny", "control_video": "clip.mp4"}
    edit = {"model": str(folder / "ip2p"), "guidance_scale": 5.0}
    lora = [str(folder / f"lora{seed}") for seed in (1, 2)]
    picture = {"ip_adapter": str(folder / "adapter" / "ip.safetensors")}
    picture["ip_adapter_image"] = "square.png"
    long = {"prompt": ["a b c d e f g h i j k l m n o p q"]}
    story = {"prompt": ["a", "b"], "kl_target": [0.01, 0.1, 0.3], "momentum": [1.0, 0.9, 0.5, 0.0]}
    columns: dict[str, dict[str, Any]] = {
        "plain": {},
        "v-prediction": {"model": str(folder / "sd2")},
        "sdxl": {"model": str(folder / "sdxl")},
        "canny": {**canny, "canny_low": 20, "canny_high": 60},
        "weaker": {**canny, "control_scale": 0.5, "canny_low": 20, "canny_high": 60},
        "depth": {**net, "control": "depth", "control_video": "poses"},
        "computed-depth": {**canny, "control": f"depth:{folder / 'depth'}"},
        "pose": {**net, "control": "pose", "control_video": "clip.mp4"},
        "edit": {**edit, "source_video": "clip.mp4"},
        "freer-edit": {**edit, "source_video": "clip.mp4", "image_guidance_scale": 3.0},
        "lora": {"lora": [lora[0]]},
        "weak-lora": {"lora": [f"{lora[0]}:0.3"]},
        "two-loras": {"lora": [f"{lora[0]}:0.3", f"{lora[1]}:0.5"]},
        "picture": picture,
        "all-at-once": {**canny, **picture, "lora": [lora[1]], "ip_adapter_scale": 0.5},
        "story": {**net, "control": "pose", "control_video": "poses", **story},
        "chunked": {**long, "long_prompt": "chunk"},
        "missing": {**canny, "control_video": "gone.mp4"},
        "outside": {**edit, "source_video": "../secret.mp4"},
        "nothing-to-edit": edit,
        "too-short": {**canny, "control_video": "short.mp4"},
        "unreadable": {**canny, "control_video": "broken.mp4"},
        "too-long": {**long, "long_prompt": "fail"},
    }
    return [{"id": name, **sd1, "seed": 5, **values} for name, values in columns.items()]


@pytest.mark.slow
def test_every_task_from_a_manifest(project: Path, tmp_path: Path):
    """Each row ends as it should, for the reason that it should, on one actor that switches between
    them; every task changes the clip; each row rendered alone in this process has the same bytes,
    whatever ControlNets, LoRAs and IP-Adapters the actor had before."""
    manifest, out = write_rows(project / "paper.parquet", rows_of(project)), tmp_path / "out"
    answer = zs2("render", manifest, "-o", out, "--on-invalid", "skip", "--samplers", 1)
    assert answer.code == 3, answer.err
    assert "Traceback" not in answer.err and "Warning" not in answer.err
    ledger = {row["id"]: row for row in pq.read_table(out / "results").to_pylist()}
    for name, row in ledger.items():
        status, kind, says = BAD.get(name, ("ok", None, ()))
        told = (row["status"], row["error_type"])
        assert told == (status, kind), (name, row["error_message"])
        assert all(words in row["error_message"] for words in says), row["error_message"]
        assert row["stage"] == {"invalid": "validate", "failed": "sample"}.get(status)

    good = {name: row["sha256"] for name, row in ledger.items() if name not in BAD}
    assert len(set(good.values())) == len(good), "two tasks gave the same clip"
    for name, sha256 in good.items():
        alone = sample_alone(manifest, name, tmp_path / name)
        assert alone["sha256"] == sha256, f"{name} is another clip when it is rendered alone"
        assert alone["digest"] == ledger[name]["digest"]

    known = json.loads(ledger["two-loras"]["params"])["inputs"]["lora"]
    assert [weight for *_, weight in known] == [0.3, 0.5]


def sample_alone(manifest: Path, row_id: str, out: Path) -> dict[str, Any]:
    """What `zs2 sample --from MANIFEST --id ID` does."""
    return sample(
        [],
        out,
        seed=None,
        model=None,
        pairs=[],
        source=str(manifest),
        row_id=row_id,
        input_roots=[],
        trust_pickles=[],
        dtype="auto",
        safety_checker="on",
        threads=1,
    )
