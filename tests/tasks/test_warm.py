"""What an actor keeps warm: a switch reloads what differs and nothing else, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from manifests.object_store import ObjectStore
from manifests.row import parse_row
from manifests.stored_inputs import find_clip
from tasks import sampling
from tasks.catalogue import Catalogue
from tasks.clips import ClipError, read_clip
from tasks.job import Engine, Job
from tasks.warm import WarmModels, _at_hand
from tests import tiny_addons
from tests.zs2.test_control import dpt, lively
from zs2.conditions import PromptError

MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def folder(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, pictures and add-ons for the tiny model."""
    folder = tmp_path_factory.mktemp("warm")
    for net in ("net1", "net2"):
        tiny_addons.controlnet_folder(tiny_pipe, folder / net)
    config = folder / "net2" / "config.json"
    config.write_text(config.read_text() + "\n")
    tiny_addons.lora(tiny_pipe, folder / "lora", 1)
    tiny_addons.ip_adapter(tiny_pipe, folder / "adapter" / "ip.safetensors", 3)
    model, processor = dpt()
    lively(model).save_pretrained(folder / "depth")
    processor.save_pretrained(folder / "depth")
    (folder / "frames").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    for number, frame in enumerate(noise):
        picture = Image.fromarray(frame).resize((40, 40))
        picture.save(folder / "frames" / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def job(tiny_model: Path, folder: Path) -> MakeJob:
    """A job of the tiny model: 4 frames in segments of 2, 2 steps."""
    catalogue = Catalogue()

    def make(engine: Engine | None = None, **columns: Any) -> Job:
        few = {"num_frames": 4, "segment_frames": 2, "num_inference_steps": 2}
        own = {"id": "a", "prompt": "a b", "model": str(tiny_model), **few, **columns}
        return catalogue.job(parse_row(own), own, folder, 0, engine or Engine())

    return make


def control(folder: Path, **columns: Any) -> dict[str, Any]:
    net = str(folder / "net1")
    return {"control": "pose", "controlnet": net, "control_video": "frames", **columns}


def adapter(folder: Path, **columns: Any) -> dict[str, Any]:
    file = str(folder / "adapter" / "ip.safetensors")
    return {"ip_adapter": file, "ip_adapter_image": "frames/0.png", **columns}


def latents(models: WarmModels, job: Job) -> torch.Tensor:
    return sampling.sample(models, job).latents


def test_the_pipeline_is_as_the_signature_says(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the declared dtype, `auto` being float32 on the CPU, and by the declared engine; kept while
    the signature is the same."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    models = WarmModels()
    first = models.sampler(job())
    assert first.pipe.unet.dtype == torch.float32
    assert models.sampler(job(seed=3)) is first
    half = models.sampler(job(Engine("bfloat16", safety_checker=False)))
    assert half is not first and half.pipe.vae.dtype == torch.bfloat16
    assert not first.is_compiled
    assert models.sampler(job(Engine(engine="compiled"))).is_compiled


def test_a_switch_leaves_no_trace(job: MakeJob, folder: Path):
    """Whatever a warm pipeline had, each job's latents are those of a fresh one to the last bit; the
    pipeline is never reloaded, a ControlNet only for another one."""
    lora = str(folder / "lora")
    jobs = {
        "plain": job(),
        "control": job(**control(folder)),
        "LoRA": job(lora=lora),
        "weak LoRA": job(lora=f"{lora}:0.2"),
        "picture": job(**adapter(folder)),
        "weak picture": job(**adapter(folder, ip_adapter_scale=0.2)),
        "all": job(**control(folder), **adapter(folder), lora=lora),
    }
    fresh = {name: latents(WarmModels(), made) for name, made in jobs.items()}
    models = WarmModels()
    sampler = models.sampler(jobs["plain"])
    unet = sampler.pipe.unet
    nets: set[int] = set()
    for name in (
        "all",
        "plain",
        "control",
        "LoRA",
        "picture",
        "weak LoRA",
        "weak picture",
        "plain",
    ):
        assert torch.equal(latents(models, jobs[name]), fresh[name]), name
        nets.add(id(sampler.controlnet))
    assert models.sampler(jobs["plain"]) is sampler and sampler.pipe.unet is unet
    assert len(nets) == 1
    models.equip(job(**control(folder, controlnet=str(folder / "net2"))))
    assert id(sampler.controlnet) not in nets
    names = list(fresh)
    for i, name in enumerate(names):
        assert not any(torch.equal(fresh[name], fresh[other]) for other in names[:i]), name


def test_a_text_is_encoded_once(job: MakeJob, folder: Path):
    """Over rows of one prompt each of its texts once; anew where LoRAs have changed the encoder."""
    models = WarmModels()
    calls: list[int] = []
    encoder = models.sampler(job()).pipe.text_encoder
    encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    for seed in range(3):
        latents(models, job(seed=seed))
    assert len(calls) == 2
    latents(models, job(prompt="b a"))
    assert len(calls) == 3
    for _ in range(2):
        latents(models, job(lora=str(folder / "lora")))
    assert len(calls) == 5
    latents(models, job())
    assert len(calls) == 7


def test_control_frames(job: MakeJob, folder: Path):
    """Ready-made frames come at the clip's size as they are; canny draws edges by the row's
    thresholds; a depth model, loaded once, turns them into depths."""
    models = WarmModels()

    def frames(**columns: Any) -> Any:
        return models.equip(job(**control(folder, **columns)))["conditioning_frames"]

    pose = frames()
    assert pose.shape == (4, 32, 32, 3) and pose.dtype == np.uint8
    assert np.array_equal(frames(control="depth"), pose)
    low, high = (frames(control="canny", canny_low=v, canny_high=v + 1) for v in (10, 1000))
    assert set(np.unique(low)) == {0, 255} and low.sum() > high.sum()
    named = f"depth:{folder / 'depth'}"
    depth = frames(control=named)
    assert depth.shape == pose.shape and not np.array_equal(depth, pose)
    (folder / "depth").rename(folder / "moved")
    try:
        assert np.array_equal(frames(control=named), depth)  # no file is read for it again
    finally:
        (folder / "moved").rename(folder / "depth")


def test_what_cannot_be_used_is_an_error_that_says_so(job: MakeJob, folder: Path):
    """Too short a clip and a broken picture by name; what went away since the plan; too long a
    prompt where it shall fail. The next job is none the worse."""
    models = WarmModels()
    with pytest.raises(ClipError, match="frames: expected"):
        latents(models, job(**control(folder), num_frames=5))
    with pytest.raises(ClipError, match=r"broken\.png: expected a picture"):
        latents(models, job(**adapter(folder, ip_adapter_image="broken.png")))
    with pytest.raises(PromptError, match="at most 16 tokens"):
        latents(models, job(prompt="a " * 20, long_prompt="fail"))
    assert torch.equal(latents(models, job()), latents(WarmModels(), job()))


def test_a_clip_on_a_store_is_as_it_was_planned(bucket: str, tmp_path: Path):
    """Its frames are those of the same files on a disk; what is wrong with it is told by its URL; one
    that changed or went since it was found fails the row and says so."""
    store, size = ObjectStore(bucket), {"fps": 8.0, "height": 16, "width": 16}
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
        store.put(f"clip/{number}.png", tmp_path / f"{number}.png")
    clip = find_clip(f"{bucket}/clip")
    assert clip is not None
    with _at_hand(clip) as path:
        frames = read_clip(path, num_frames=3, **size)
    assert (frames == read_clip(tmp_path, num_frames=3, **size)).all()
    short = pytest.raises(ClipError, match=f"{bucket}/clip: expected a video or a folder")
    with short, _at_hand(clip) as path:
        read_clip(path, num_frames=4, **size)
    store.write("clip/1.png", b"another")
    with pytest.raises(ClipError, match=r"when the run was planned.*/1.png: it is another now"):
        _at_hand(clip).__enter__()
    store.delete(["clip/0.png"])
    with pytest.raises(ClipError, match=r"when the run was planned.*/0.png: it is gone"):
        _at_hand(clip).__enter__()
