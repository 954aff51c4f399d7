import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from manifests.result import ResultRow
from manifests.row import ManifestRow, RowError, parse_row
from tasks.ending import Ending, parameters, result_row
from tasks.job import (
    CONTROLNET_COST,
    POST_COLUMNS,
    SHALLOW_COST,
    Conditions,
    Engine,
    Job,
    check_engine,
    resolve,
)
from zs2.addons import AddOn
from zs2.models import ModelDefaults, ModelInfo

BASE = {"id": "a", "prompt": "a star", "seed": 1, "num_frames": 16, "segment_frames": 8}

# For every column that is built: another value than its default, with what else it needs.
SAMPLED: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": ["a star", "a moon"]},
    "negative_prompt": {"negative_prompt": "blurred"},
    "seed": {"seed": 2},
    "num_frames": {"num_frames": 15},
    "segment_frames": {"segment_frames": 4},
    "chain": {"chain": "anchor"},
    "height": {"height": 64},
    "width": {"width": 64},
    "num_inference_steps": {"num_inference_steps": 5},
    "guidance_scale": {"guidance_scale": 4},
    "scheduler": {"scheduler": "euler"},
    "noise": {"noise": "iid"},
    "alpha": {"noise": "mixed", "alpha": 0.5},
    "kl_target": {"kl_target": [0.02] * 15},
    "solver": {"solver": "exact"},
    "noise_candidates": {"noise_candidates": 2},
    "momentum": {"momentum": 0.5},
    "speed": {"speed": "fast"},
    "long_prompt": {"long_prompt": "chunk"},
    "best_of": {"best_of": 2},
    "best_by": {"best_of": 2, "best_by": "sharpness"},
}
POST: dict[str, dict[str, Any]] = {
    "fps": {"fps": 12},
    "temporal_scale": {"temporal_scale": 2},
    "spatial_scale": {"spatial_scale": 2},
    "codec": {"codec": "ffv1"},
    "quality": {"quality": 20},
}
# Columns with one value so far, or that tell rows apart without changing what is rendered. What
# names clips and add-ons is tested with the catalogue that finds them.
NEITHER = {"id", "meta", "model", "temporal_sr", "spatial_sr"}

# Of the rows in finished_rows.jsonl, which was a demo once, with a fixed model: sample digest, digest. They
# may not change while RECIPE is the same: users' finished videos are found by them.
FINISHED = {
    "star-over-sea": (
        "1eab289309e6821597287b87956e49a8",
        "89f96533a36d4f0d238dd0af696b5a20",
    ),
    "heart-in-sky": (
        "2361ca4416cf0accf69ba672dbcc8de6",
        "ffdc455ddab0ed7bb22e6cb968ec71d2",
    ),
    "moon-long": (
        "ce66301ac52c8f8f5253bf5ece2391bc",
        "d0e1e468d48570ed5808dbc27dda613c",
    ),
    "ball-storyboard": (
        "867520c4952fdf5ebdfb11bb8a4da4e4",
        "b7b52e99dde3cf6f1d10f450149f8baf",
    ),
    "ball-speeds-up": (
        "81653ab7e284c3727200d6ab78645550",
        "be01c85e191adb6ea43877fe2676b158",
    ),
    "house-still": (
        "b4353e6e84fd76e9b2a67f1166033415",
        "a821ed8405b7bf39cc961691cdf63472",
    ),
    "triangle-smooth": (
        "10c958997e0569e10ae8ea6fea94bd80",
        "b78c7ee795bd3a6a2606da4464614c80",
    ),
    "house-large": (
        "85010a77ba95a5f042785480cdbe758f",
        "63fd76d95035b3d444d7aea67d83026d",
    ),
    "heart-gif": (
        "89600fde645d0040fcaa9f386954f0bc",
        "a4a2bb5234f65f7b7c75e974e79bb48f",
    ),
    "square-webp": (
        "403d05ff12224494d38df802eb92b56d",
        "74a53db945aa939cc9f8190bb9177a47",
    ),
}


@pytest.fixture
def job_of(info: ModelInfo):
    def make(changes: dict[str, Any] | None = None, engine: Engine | None = None) -> Job:
        row = parse_row({**BASE, **(changes or {})})
        return resolve(row, 0, info, "0" * 32, engine or Engine())

    return make


@pytest.mark.parametrize("column", SAMPLED)
def test_what_the_latents_depend_on_changes_both_digests(job_of, column: str):
    """Every sampling column is in the sample digest, and with it in the digest."""
    job, changed = job_of(), job_of(SAMPLED[column])
    assert changed.sample_digest != job.sample_digest
    assert changed.digest != job.digest


@pytest.mark.parametrize("column", POST)
def test_post_processing_changes_the_digest_alone(job_of, column: str):
    """A changed post-processing column finds the latents of the unchanged row."""
    job, changed = job_of(), job_of(POST[column])
    assert changed.sample_digest == job.sample_digest
    assert changed.digest != job.digest


@pytest.mark.parametrize(
    "changes",
    [{"id": "b"}, {"meta_x": 1}, {"codec": None, "kl_target": None}, {"lora": [], "best_of": 1}],
    ids=["id", "meta", "nulls", "no LoRAs, one candidate"],
)
def test_what_changes_no_digest(job_of, changes: dict[str, Any]):
    """Names, the user's own columns and unset columns do not make a clip another clip."""
    job, changed = job_of(), job_of(changes)
    assert (changed.sample_digest, changed.digest) == (job.sample_digest, job.digest)


def test_every_column_is_accounted_for(job_of):
    """A column that is added to the manifest is added to one of this file's tables, so that nobody
    forgets to say what it decides; columns not built yet are unset and in no digest."""
    unset = {f.name for f in fields(ManifestRow) if getattr(job_of().row, f.name) in (None, ())}
    told = {*SAMPLED, *POST, *NEITHER}
    assert {f.name for f in fields(ManifestRow)} - told <= unset
    assert {*POST, "temporal_sr", "spatial_sr"} == set(POST_COLUMNS)


@pytest.mark.parametrize(
    ("engine", "same_latents"),
    [
        (Engine("bfloat16"), False),
        (Engine(safety_checker=False), True),
        (Engine(engine="compiled"), False),
    ],
    ids=["dtype", "safety checker", "compiled"],
)
def test_the_engine_is_in_the_digest(job_of, engine: Engine, same_latents: bool):
    """The declared dtype and compiling decide the latents; the safety checker only what is shown of
    them. Each wants a pipeline of its own."""
    job, changed = job_of(), job_of(engine=engine)
    assert changed.digest != job.digest
    assert changed.signature != job.signature
    assert (changed.sample_digest == job.sample_digest) is same_latents


@pytest.mark.parametrize(
    "columns",
    [
        {"lora": ["o/n:0.5"]},
        {"ip_adapter": "o/n", "ip_adapter_image": "a.png"},
        {"temporal_sr": "latent", "temporal_scale": 2},
    ],
    ids=["LoRA", "IP-Adapter", "frames in between"],
)
def test_what_cannot_be_compiled_is_refused(columns: dict[str, Any]):
    """Before the run, with the remedy; the eager engine computes it."""
    row = parse_row({**BASE, **columns})
    check_engine(row, Engine())
    with pytest.raises(RowError, match=r"the engine compiled.*--engine eager"):
        check_engine(row, Engine(engine="compiled"))


def test_the_weights_are_in_the_digest(info: ModelInfo):
    """Other weights under the same name are another clip; the same weights under another name or in
    another folder are not."""
    row = parse_row(BASE)
    job = resolve(row, 0, info, "0" * 32, Engine())
    assert resolve(row, 0, info, "1" * 32, Engine()).sample_digest != job.sample_digest
    elsewhere = replace(info, name="other", location="/elsewhere")
    renamed = resolve(replace(row, model="other"), 0, elsewhere, "0" * 32, Engine())
    assert renamed.digest == job.digest


def test_digests_of_finished_runs_stay():
    """A version that knows more columns gives a row that does not use them the digests of before;
    those finished when lanczos was the default keep theirs where it is named."""
    model = ModelInfo("zs2-mini", "/m", None, 64, 64, 4, 2, ModelDefaults(20, 3.0))
    found: dict[str, tuple[str, str]] = {}
    for line in Path(__file__).with_name("finished_rows.jsonl").read_text("utf-8").splitlines():
        row = parse_row(json.loads(line), {"spatial_sr": "lanczos"})
        job = resolve(row, 0, model, "0" * 32, Engine())
        found[job.row.id] = (job.sample_digest, job.digest)
    assert found == FINISHED


SPELLED_OUT = {
    "model": "zs2-mini",
    "negative_prompt": "",
    "chain": "exact",
    "height": 32,
    "width": 32,
    "num_inference_steps": 4,
    "guidance_scale": 3,
    "scheduler": "ddim",
    "noise": "dependency",
    "kl_target": 0.01,
    "solver": "expected",
    "noise_candidates": 1,
    "momentum": 0.98,
    "speed": "exact",
    "fps": 8,
    "temporal_scale": 1,
    "spatial_scale": 1,
    "codec": "h264",
    "quality": 18,
}


@pytest.mark.parametrize("column", SPELLED_OUT)
def test_a_default_spelled_out_is_the_default(job_of, column: str):
    """Absent, and the default's value written out: one digest. So is 3 for 3.0."""
    assert job_of({column: SPELLED_OUT[column]}).digest == job_of().digest


def test_other_spellings_of_the_same_value(job_of):
    """A list of one is a scalar, a whole-number double an integer."""
    other = {"prompt": ["a star"], "seed": 1.0, "kl_target": [0.01], "momentum": [0.98]}
    assert job_of(other).digest == job_of().digest


def test_a_models_own_defaults_may_be_whole_numbers(info: ModelInfo):
    """zs2.json may say 3 where a row says 3.0: the same clip."""
    defaults = ModelDefaults(num_inference_steps=4)
    object.__setattr__(defaults, "guidance_scale", 3)  # as json reads it; tests check types
    whole = replace(info, defaults=defaults)
    row = parse_row(BASE)
    jobs = [resolve(row, 0, model, "0" * 32, Engine()) for model in (info, whole)]
    assert jobs[0].digest == jobs[1].digest


@pytest.mark.parametrize("method", ["temporal_sr", "spatial_sr"])
def test_an_unused_method_is_in_no_digest(info: ModelInfo, method: str):
    """Which method would have been used at scale 1 decides nothing; at scale 2 it does."""

    def digest(scale: int, name: str) -> str:
        row = parse_row({**BASE, method.replace("_sr", "_scale"): scale})
        return resolve(replace(row, **{method: name}), 0, info, "0" * 32, Engine()).digest

    assert digest(1, "x") == digest(1, "y")
    assert digest(2, "x") != digest(2, "y")


def test_work_of_a_job(job_of):
    """Segments, steps, guidance and padding as the sampler runs them."""
    job = job_of({"num_frames": 20, "num_inference_steps": 10, "temporal_scale": 2})
    assert job.unet_calls == 3 * 10
    assert job.unet_pictures == 3 * 10 * 8 * 2  # guidance is two pictures a frame
    assert job.output_frames == 39
    unguided = job_of({"num_frames": 20, "num_inference_steps": 10, "guidance_scale": 1})
    assert unguided.unet_pictures == 3 * 10 * 8
    assert job_of({"scheduler": "pndm", "num_inference_steps": 10}).unet_calls == 2 * 11


def test_work_of_a_fast_job(job_of: Any):
    """Steps, scheduler and digest are those of the row that spells them out; of 10 steps 7 are guided,
    and of these 3, and 1 of the others, are shallow, which counts less."""
    fast = job_of({"speed": "fast"})
    spelled = job_of({"speed": "fast", "scheduler": "dpm++", "num_inference_steps": 2})
    assert (fast.row.scheduler, fast.row.num_inference_steps) == ("dpm++", 2)  # of the model's 4
    assert fast.digest == spelled.digest
    job = job_of({"speed": "fast", "num_frames": 20, "num_inference_steps": 10})
    assert job.unet_calls == 3 * 10
    assert job.unet_pictures == 3 * 8 * (7 * 2 + 3)
    assert job.shallow_pictures == 3 * 8 * (3 * 2 + 1)
    whole = job.unet_pictures - job.shallow_pictures
    assert job.native_pictures == pytest.approx(whole + SHALLOW_COST * job.shallow_pictures)
    several = job_of({"speed": "fast", "best_of": 3, "num_frames": 20, "num_inference_steps": 10})
    assert several.shallow_pictures == 3 * job.shallow_pictures


REPORT = {
    "kl_achieved": [0.01, 0.02],
    "seconds_sample": 1.0,
    "seconds_temporal": 2.0,
    "seconds_spatial": 3.0,
    "seconds_assemble": 4.0,
    "device": "cpu",
    "node": "here",
    "file_name": "videos/ab/a.mp4",
    "sha256": "f" * 64,
    "bytes": 10,
    "num_frames": 16,
    "height": 32,
    "width": 32,
    "fps": 8.0,
    "unet_calls": 8,
}


def test_result_of_a_job_that_went_well(job_of):
    """Each column of the ledger comes from the row, the job, the ending or the stages' report; none
    is forgotten."""
    job = job_of({"prompt": ["a star", "a moon"], "meta_x": 1})
    begun, ended = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    row = result_row(Ending(job, "ok", begun, ended, attempts=2, report=REPORT))
    told = {name: value for name, value in REPORT.items() if name != "unet_calls"}
    assert {name: getattr(row, name) for name in told} == {**told, "kl_achieved": (0.01, 0.02)}
    assert (row.id, row.digest, row.status, row.attempts) == ("a", job.digest, "ok", 2)
    assert (row.prompt, row.seed, row.model) == ("a star\na moon", 1, "zs2-mini")
    assert (row.model_revision, row.meta) == ("0" * 32, {"meta_x": 1})
    assert (row.started_at, row.finished_at) == (begun, ended)
    empty = [f.name for f in fields(ResultRow) if getattr(row, f.name) is None]
    assert empty == ["stage", "error_type", "error_message"]


def test_result_of_a_job_that_failed(job_of):
    """The stage and the reason; of the video nothing."""
    now = datetime.now(UTC)
    ending = Ending(job_of(), "failed", now, now, stage="decode", error_type="E", error_message="m")
    row = result_row(ending)
    assert (row.status, row.stage, row.error_type, row.error_message) == (
        *("failed", "decode", "E", "m"),
    )
    assert row.file_name is None and row.sha256 is None and row.kl_achieved is None


def test_parameters_render_the_clip_again(info: ModelInfo, job_of):
    """A row made of the ledger's params, prompt and seed has the job's digest; the engine's settings
    stand beside the columns."""
    job = job_of({"kl_target": [0.02] * 15, "temporal_scale": 2, "noise": "mixed", "alpha": 0.5})
    params = json.loads(parameters(job))
    engine = Engine(params.pop("dtype"), params.pop("safety_checker"), params.pop("engine"))
    again = parse_row({"id": "other", "prompt": "a star", "seed": 1, **params})
    assert resolve(again, 0, info, "0" * 32, engine).digest == job.digest


def test_parameters_tell_what_files_and_add_ons_were(info: ModelInfo):
    """By content and revision, since names alone do not; a row without them has no such entry."""
    row = parse_row({**BASE, "lora": ["o/n:0.5"]})
    known = {"lora": [["c0ffee", "a.safetensors", 0.5]]}
    job = resolve(row, 0, info, "0" * 32, Engine(), Conditions(identity=known))
    assert json.loads(parameters(job))["inputs"] == known
    assert "inputs" not in json.loads(parameters(resolve(row, 0, info, "0" * 32, Engine())))


def test_an_edit_has_three_pictures_a_frame(info: ModelInfo):
    """Both guidances on: with the prompt and the clip, with the clip, with neither. Where either is
    off, one."""
    edits = replace(info, pipeline="StableDiffusionInstructPix2PixPipeline")

    def pictures(**columns: Any) -> int:
        row = parse_row({**BASE, "source_video": "a.mp4", **columns})
        return resolve(row, 0, edits, "0" * 32, Engine()).unet_pictures

    one = 2 * 4 * 8  # segments, steps, frames a segment
    assert pictures() == 3 * one
    assert pictures(guidance_scale=1.0) == pictures(image_guidance_scale=0.9) == one


def test_a_controlnet_costs_its_share(info: ModelInfo):
    """It adds no UNet call; in the figure that rates are counted in, each picture weighs more."""
    net = AddOn("controlnet", "o/net", "o/net", "c0ffee", None)
    conditions = Conditions(controlnet=net, identity={"controlnet": ["c0ffee", None]})
    row = parse_row(BASE)
    plain = resolve(row, 0, info, "0" * 32, Engine())
    job = resolve(row, 0, info, "0" * 32, Engine(), conditions)
    assert job.unet_pictures == plain.unet_pictures
    assert job.native_pictures == pytest.approx(CONTROLNET_COST * plain.native_pictures)
    assert (job.signature.controlnet, job.signature.controlnet_revision) == ("o/net", "c0ffee")


def test_sampled_frames_in_between_decide_the_latents(make_job: Any):
    """With `latent` the scale is part of the sample digest, and the plan counts their UNet calls, those
    that the sampler makes; without, it is only the video's."""
    from zs2.config import ClipConfig
    from zs2.in_between import FineClip

    shape = {"num_frames": 7, "segment_frames": 3, "num_inference_steps": 5}
    plain, flow = make_job(**shape), make_job(**shape, temporal_scale=4)
    assert plain.sample_digest == flow.sample_digest
    two, four = (make_job(**shape, temporal_sr="latent", temporal_scale=scale) for scale in (2, 4))
    assert len({plain.sample_digest, two.sample_digest, four.sample_digest}) == 3
    for job in (plain, two, four):
        calls = FineClip(ClipConfig(num_frames=7, segment_frames=3), job.row.in_between).plan
        assert job.unet_calls == 5 * len(calls)
    assert four.output_frames == flow.output_frames == 25
