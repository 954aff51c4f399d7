"""The catalogue: rows become jobs, with models, add-ons and input files found and told by content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manifests.fault import Fault
from manifests.inputs import InputFiles
from manifests.row import RowError, parse_row
from tasks.catalogue import IN_WORDS, Catalogue, fit_to_model
from tasks.job import Conditions, Engine, Job
from tests import tiny_addons, tiny_models
from tests.original_layout import write_single_file
from tests.tiny_interpolators import Crash, onnx_blend, script
from zs2.models import ModelInfo

MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def models(tiny_pipe: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's add-ons: `net`, `lora1`, `lora2`, `adapter/ip.safetensors`."""
    folder = tmp_path_factory.mktemp("addons")
    tiny_addons.controlnet_folder(tiny_pipe, folder / "net")
    for seed in (1, 2):
        tiny_addons.lora(tiny_pipe, folder / f"lora{seed}", seed)
    tiny_addons.ip_adapter(tiny_pipe, folder / "adapter" / "ip.safetensors", 3)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A manifest's folder, with inputs whose content nobody looks into here."""
    for name in ("a.mp4", "b.mp4", "a.png"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def job(tiny_model: Path, base: Path) -> MakeJob:
    """A job of the tiny model with these columns, by a catalogue of its own."""

    def make(catalogue: Catalogue | None = None, **columns: Any) -> Job:
        own = {"id": "a", "prompt": "p", "model": str(tiny_model), **columns}
        return (catalogue or Catalogue()).job(parse_row(own), own, base, 0, Engine())

    return make


def fault(make: Callable[[], object]) -> Fault:
    with pytest.raises(RowError) as error:
        make()
    (found,) = error.value.faults
    return found


def columns_of(models: Path) -> dict[str, dict[str, Any]]:
    adapter = str(models / "adapter" / "ip.safetensors")
    return {
        "control": {"control": "pose", "controlnet": str(models / "net"), "control_video": "a.mp4"},
        "lora": {"lora": [str(models / "lora1")]},
        "adapter": {"ip_adapter": adapter, "ip_adapter_image": "a.png"},
    }


def test_a_job_carries_what_its_actor_needs(job: MakeJob, models: Path, base: Path):
    """Paths resolved and add-ons described, with LoRAs in the row's order and weights; a plain row
    has none of it."""
    columns = columns_of(models)
    lora = [f"{models / 'lora2'}:0.5", str(models / "lora1")]
    made = job(**columns["control"], **columns["adapter"], lora=lora).conditions
    assert (made.control_video, made.ip_adapter_image) == (base / "a.mp4", base / "a.png")
    assert made.controlnet is not None and made.controlnet.location == str(models / "net")
    assert [(a.location, a.weight) for a in made.loras] == [
        (str(models / "lora2"), 0.5),
        (str(models / "lora1"), 1.0),
    ]
    assert made.ip_adapter is not None and made.depth is None and made.source_video is None
    assert job().conditions == Conditions()


def _touch(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


def _retrain(folder: Path) -> None:
    for file in folder.iterdir():
        shutil.copyfile(folder.parent / "lora2" / file.name, file)


CHANGES: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "clip": ("control", lambda base, models: (base / "a.mp4").write_bytes(b"other")),
    "picture": ("adapter", lambda base, models: (base / "a.png").write_bytes(b"other")),
    "ControlNet": ("control", lambda base, models: _touch(models / "net" / "config.json")),
    "LoRA": ("lora", lambda base, models: _retrain(models / "lora1")),
    "image encoder": (
        "adapter",
        lambda base, models: _touch(models / "adapter" / "image_encoder" / "config.json"),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_content_decides_the_digest(
    job: MakeJob, models: Path, base: Path, tmp_path: Path, what: str
):
    """Other content under the same name is another clip; the same content under another name is the
    same."""
    mine = tmp_path / "models"
    shutil.copytree(models, mine)
    group, change = CHANGES[what]
    before = job(**columns_of(mine)[group])
    moved = shutil.copytree(mine, tmp_path / "moved")
    assert job(**columns_of(moved)[group]).digest == before.digest
    change(base, mine)
    after = job(**columns_of(mine)[group])
    assert after.sample_digest != before.sample_digest and after.digest != before.digest


def test_local_names_count_from_the_working_folder_and_become_absolute(
    job: MakeJob, models: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    """An actor may have another working folder; the digests do not know of the place."""
    absolute = job(lora=str(models / "lora1"))
    monkeypatch.chdir(tiny_model.parent)
    own = {"model": tiny_model.name, "lora": os.path.relpath(models / "lora1")}
    made = job(**own)
    assert made.model.location == str(tiny_model) and made.digest == absolute.digest
    assert Path(made.conditions.loras[0].location).is_absolute()


def test_every_condition_decides_the_digest(job: MakeJob, models: Path):
    """Whether there is one, and how strong it is; the order of LoRAs too, for they are summed in it;
    a weight that is written out is the same weight."""
    columns = columns_of(models)
    one, two = (str(models / f"lora{seed}") for seed in (1, 2))
    rows: list[dict[str, Any]] = [
        {},
        columns["control"],
        columns["control"] | {"control": "depth"},
        columns["control"] | {"control": "canny"},
        columns["control"] | {"control": "canny", "canny_low": 50},
        columns["control"] | {"control_scale": 0.5},
        columns["control"] | {"control_video": "b.mp4"},
        columns["adapter"],
        columns["adapter"] | {"ip_adapter_scale": 0.5},
        {"lora": [one]},
        {"lora": [f"{one}:0.5"]},
        {"lora": [one, two]},
        {"lora": [two, one]},
        {"long_prompt": "chunk"},
    ]
    digests = [job(**row).sample_digest for row in rows]
    assert len(set(digests)) == len(digests)
    assert job(lora=[f"{one}:1"]).digest == job(lora=one).digest


def test_the_rate_decides_the_latents_where_a_clip_is_read(job: MakeJob, models: Path):
    """Frames of a clip are taken at the row's `fps`, so it is in the sample digest there; elsewhere it
    changes the video alone."""
    control = columns_of(models)["control"]
    assert job(fps=12, **control).sample_digest != job(fps=8, **control).sample_digest
    assert job(fps=12).sample_digest == job(fps=8).sample_digest
    assert job(fps=12).digest != job(fps=8).digest


def test_a_single_files_configuration_is_part_of_its_revision(tiny_pipe: Any, tmp_path: Path):
    """Another scheduler beside the same weights is another model; the same content moved is not."""

    def checkpoint(folder: Path) -> Path:
        tiny_pipe.save_pretrained(folder / "model")
        write_single_file(tiny_pipe, folder / "model.safetensors")
        return folder / "model.safetensors"

    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    revisions = [Catalogue().find(str(path))[1] for path in (one, two)]
    assert revisions[0] == revisions[1]
    _touch(tmp_path / "two" / "model" / "scheduler" / "scheduler_config.json")
    assert Catalogue().find(str(two))[1] != revisions[0]


def test_the_controlnet_is_in_the_signature_and_what_is_switched_is_not(job: MakeJob, models: Path):
    """An actor keeps its pipeline for LoRAs and IP-Adapters; rows of one ControlNet stand together."""
    columns = columns_of(models)
    plain = job().signature
    assert job(**columns["lora"]).signature == job(**columns["adapter"]).signature == plain
    controlled = job(**columns["control"]).signature
    assert controlled != plain and controlled.location == plain.location
    assert job(**columns["control"] | {"control_video": "b.mp4"}).signature == controlled


def test_add_ons_that_are_not_there_are_faults_of_their_columns(job: MakeJob, models: Path):
    """With the remedy of the one who looked; one LoRA twice is a fault too."""
    columns = columns_of(models)
    gone = str(models / "gone")
    for group, column in (("control", "controlnet"), ("lora", "lora"), ("adapter", "ip_adapter")):
        value = [gone] if column == "lora" else gone
        told = fault(lambda g=group, c=column, v=value: job(**columns[g] | {c: v}))
        assert (told.column, told.expected) == (column, f"a usable {IN_WORDS[column]}")
        assert "gone" in told.found and told.hint
    depth = columns["control"] | {"control": f"depth:{gone}"}
    assert fault(lambda: job(**depth)).column == "control"
    twice = [str(models / "lora1"), f"{models / 'lora1'}:0.5"]
    assert fault(lambda: job(lora=twice)).expected == "each LoRA once"
    assert fault(lambda: job(model="x" * 5000)).column == "model"
    assert fault(lambda: job(lora=["x" * 5000])).column == "lora"


def test_a_check_finds_what_a_job_would_without_hashing_or_asking(
    job: MakeJob, models: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    """A check refuses with the job's very faults, all of a row at once; it hashes nothing, asks no
    hub, and says which names only a hub knows; a LoRA's name written as JSON is refused by both."""

    def check(**columns: Any) -> list[str]:
        own = {"id": "a", "prompt": "p", "model": str(tiny_model), **columns}
        return Catalogue().check(parse_row(own), own)

    lora, gone = str(models / "lora1"), str(models / "gone")
    bad: list[dict[str, Any]] = [
        {"lora": gone},
        {"lora": [lora, f"{lora}:0.5"]},
        {"lora": f'["{lora}"]'},
        {"model": "zs3"},
        {"model": gone},
        {"model": "folder/gone.safetensors"},
        columns_of(models)["control"] | {"controlnet": gone},
        columns_of(models)["adapter"] | {"ip_adapter": gone},
        {"source_video": "a.mp4"},
    ]
    for columns in bad:
        assert fault(lambda c=columns: check(**c)) == fault(lambda c=columns: job(**c))
    with pytest.raises(RowError) as error:
        check(lora=[gone], model="zs3")
    assert [fault.column for fault in error.value.faults] == ["model", "lora"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    for name in ("folder_weights_hash", "file_sha256"):
        monkeypatch.setattr(f"tasks.catalogue.{name}", refuse)
    monkeypatch.setattr("zs2.checkpoints.hub.find", refuse)
    for columns in columns_of(models).values():
        assert check(**columns) == []
    loras = [lora, "owner/a:0.5", "owner/b@main/c/d.safetensors"]
    assert check(model="owner/name@v1", lora=loras) == ["owner/name@v1", *loras[1:]]


def test_the_allow_list_holds_for_add_ons(job: MakeJob, models: Path, tiny_model: Path):
    """A file or folder inside an allowed folder may be named, with any weight; anything else is
    refused before it is looked at, and names of a repository's files count as the repository."""
    columns = columns_of(models)
    allowed = [str(tiny_model), str(models)]
    for group in columns.values():
        assert job(Catalogue(allowed), **group).conditions.identity
    assert job(Catalogue(allowed), lora=f"{models / 'lora1'}:0.5").conditions.loras
    only = Catalogue([str(tiny_model), str(models / "net"), "owner/loras"])
    assert job(only, **columns["control"])
    for name in (str(models / "lora1"), "owner/other/a.safetensors:0.5", f"{models}/net/../lora1"):
        told = fault(lambda n=name: job(only, lora=n))
        assert "found another; allow it with --allow-model" in told.hint
    told = fault(lambda: job(only, lora="owner/loras@main/a.safetensors:0.5"))
    assert "--allow-model" not in told.hint  # allowed, but there is no hub here
    assert fault(lambda: job(Catalogue([str(models)]))).column == "model"


def test_inputs_outside_are_refused_for_every_job(job: MakeJob, models: Path, base: Path):
    """The catalogue's own folders hold: a job cannot be had around them."""
    control = columns_of(models)["control"] | {"control_video": "../x.mp4"}
    assert "--input-root" in fault(lambda: job(**control)).hint
    (base.parent / "x.mp4").write_bytes(b"x")
    roots = Catalogue(inputs=InputFiles([base.parent]))
    assert job(roots, **control).conditions.control_video == base.parent / "x.mp4"


def test_editing_models_and_source_clips_belong_together(info: ModelInfo):
    """A model that edits needs a clip, another one refuses it; a run default for one is dropped
    where it has no use."""
    edits = replace(info, pipeline="StableDiffusionInstructPix2PixPipeline")
    plain = parse_row({"id": "a", "prompt": "p"})
    own = {"source_video": "a.mp4"}
    clip = parse_row({"id": "a", "prompt": "p", **own})
    assert fit_to_model(clip, edits, own) == clip and fit_to_model(plain, info, {}) == plain
    assert fault(lambda: fit_to_model(plain, edits, {})).found == "no value"
    told = fault(lambda: fit_to_model(clip, info, own))
    assert told.column == "source_video" and "InstructPix2Pix" in told.hint
    assert fit_to_model(clip, info, {}) == plain


def test_an_interpolation_model_is_told_by_its_content(job: MakeJob, tmp_path: Path):
    """Its hash enters the digest and not the sample digest; its name does not; with temporal_scale 1 it
    is not looked for."""
    first, moved = script(tmp_path / "a.pt"), tmp_path / "b.pt"
    shutil.copy(first, moved)
    other = script(tmp_path / "c.pt", Crash)
    catalogue = Catalogue(trusted=[str(first), str(moved), str(other)])

    def of(path: Path) -> Job:
        return job(catalogue, temporal_sr=f"model:{path}", temporal_scale=2)

    made = of(first)
    assert made.conditions.interpolator is not None
    assert made.conditions.interpolator.location == str(first)
    assert of(moved).digest == made.digest != of(other).digest
    assert made.digest != job(temporal_scale=2).digest
    assert of(other).sample_digest == job().sample_digest == made.sample_digest
    assert job(temporal_sr="model:nowhere.pt").digest == job().digest


def test_an_interpolation_model_that_is_not_to_be_had(job: MakeJob, tmp_path: Path):
    """A file that is missing, carries code and is not trusted, or is not allowed: one fault that says
    so. `check`, which hashes nothing, finds the same."""
    path = script(tmp_path / "a.pt")
    missing = fault(lambda: job(temporal_sr="model:x.pt", temporal_scale=2))
    assert (missing.column, missing.expected) == ("temporal_sr", "a usable interpolation model")
    assert "no such file" in missing.hint
    own = {"id": "a", "prompt": "p", "temporal_sr": f"model:{path}", "temporal_scale": 2}
    for untrusted in (
        fault(lambda: job(temporal_sr=f"model:{path}", temporal_scale=2)),
        fault(lambda: Catalogue().check(parse_row(own), own)),
    ):
        assert untrusted.column == "temporal_sr" and "--trust-pickle" in untrusted.hint
    catalogue = Catalogue(["zs2-mini"], trusted=[str(path)])
    assert "--allow-model" in fault(lambda: catalogue.check(parse_row(own), own)).hint
    onnx = onnx_blend(tmp_path / "a.onnx")  # carries no code
    assert job(temporal_sr=f"model:{onnx}", temporal_scale=2).conditions.interpolator is not None


def test_an_upscaler_must_have_the_rows_scale(job: MakeJob, tmp_path: Path):
    """A ×4 pipeline in a row that wants ×2 is a fault of the row; at ×4 its content is in the digest."""
    (tmp_path / "parts").mkdir()
    folder = tmp_path / "x4"
    tiny_models.upscaler_x4(tmp_path / "parts").save_pretrained(folder)
    name = f"diffusers:{folder}"
    wrong = fault(lambda: job(spatial_sr=name, spatial_scale=2))
    assert (wrong.column, wrong.found) == ("spatial_scale", "2")
    assert wrong.expected.startswith("4, as ")
    made = job(spatial_sr=name, spatial_scale=4)
    assert made.conditions.upscaler is not None and made.conditions.upscaler.scale == 4
    assert made.conditions.post["spatial_sr"].startswith("diffusers:")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet.write_bytes(unet.read_bytes() + b" ")
    assert job(spatial_sr=name, spatial_scale=4).digest != made.digest
