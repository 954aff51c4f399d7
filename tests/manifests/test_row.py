"""manifests.row: one row with defaults merged and every rule checked."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.columns import COLUMNS, WHERE_USED
from manifests.row import ManifestRow, RowError, check_defaults, parse_defaults, parse_row, seed_of

GOOD = {"id": "star", "prompt": "a red star"}
CONTROL = {"control": "canny", "controlnet": "owner/net", "control_video": "a.mp4"}


def parse(**values: Any) -> ManifestRow:
    return parse_row({**GOOD, **values})


def test_a_row_of_id_and_prompt_has_the_documented_defaults():
    """Only id and prompt are required; the model's own defaults stay open."""
    row = parse_row(GOOD)
    assert row.prompt == ("a red star",)
    assert (row.negative_prompt, row.model, row.lora) == ("", "zs2-mini", ())
    assert (row.num_frames, row.segment_frames, row.chain) == (8, 8, "exact")
    assert (row.height, row.width, row.num_inference_steps, row.guidance_scale) == (None,) * 4
    assert (row.scheduler, row.noise, row.alpha) == ("ddim", "dependency", None)
    assert (row.kl_target, row.solver, row.noise_candidates) == (0.01, "expected", 1)
    assert (row.momentum, row.speed, row.long_prompt, row.best_of) == (0.98, "exact", "truncate", 1)
    assert (row.fps, row.temporal_sr, row.temporal_scale) == (8.0, "flow", 1)
    assert (row.spatial_sr, row.spatial_scale) == ("mini-sr", 1)
    assert (row.codec, row.quality, row.meta) == ("h264", 18, {})


def test_what_belongs_to_clips_and_adapters_is_unset_where_there_are_none():
    """So that the digest of a plain row does not know of it."""
    row = parse_row(GOOD)
    assert all(getattr(row, name) is None for name in (*CONTROL, *WHERE_USED))
    assert (row.source_video, row.ip_adapter, row.ip_adapter_image) == (None,) * 3


def test_what_belongs_to_clips_and_adapters_has_its_defaults_where_there_are_some():
    """Strengths are 1, the thresholds 100 and 200 with canny alone, the image guidance 1.5."""
    canny = parse(**CONTROL)
    assert (canny.control_scale, canny.canny_low, canny.canny_high) == (1.0, 100, 200)
    for control in ("pose", "depth", "depth:owner/model", "depth:/models/d:1"):
        row = parse(**{**CONTROL, "control": control, "control_scale": 0.5})
        assert (row.control, row.control_scale) == (control, 0.5)
        assert (row.canny_low, row.canny_high) == (None, None)
    assert parse(source_video="a.mp4").image_guidance_scale == 1.5
    assert parse(ip_adapter="a.safetensors", ip_adapter_image="b.png").ip_adapter_scale == 1.0


def test_run_defaults_of_control_wait_for_the_rows_that_have_a_clip():
    """Defaults that are no control by themselves serve the rows that complete them, and are dropped
    elsewhere; complete ones hold for every row; thresholds of the run go with canny alone."""
    half: dict[str, Any] = {"control": "canny", "controlnet": "o/n", "canny_high": 150}
    row = parse_row({**GOOD, "control_video": "a.mp4"}, half)
    assert (row.control, row.canny_low, row.canny_high) == ("canny", 100, 150)
    assert parse_row(GOOD, half) == parse_row(GOOD)
    posed = parse_row({**GOOD, **CONTROL, "control": "pose"}, half)
    assert (posed.control, posed.canny_high, posed.control_scale) == ("pose", None, 1.0)
    assert parse_row(GOOD, {**half, "control_video": "b.mp4"}).control_video == "b.mp4"
    rest = {"image_guidance_scale": 2.0, "ip_adapter": "a.safetensors", "ip_adapter_scale": 0.5}
    assert parse_row(GOOD, rest) == parse_row(GOOD)
    assert parse_row({**GOOD, "ip_adapter_image": "b.png"}, rest).ip_adapter_scale == 0.5


def test_a_row_is_controlled_or_edited_and_its_own_clip_decides():
    """No model does both at once: the row's own clip goes before the run's."""
    edited = parse_row({**GOOD, "source_video": "s.mp4"}, CONTROL)
    assert (edited.source_video, edited.control, edited.control_scale) == ("s.mp4", None, None)
    run: dict[str, Any] = {"source_video": "s.mp4", "image_guidance_scale": 2.0}
    controlled = parse_row({**GOOD, **CONTROL}, run)
    assert (controlled.source_video, controlled.image_guidance_scale) == (None, None)


def test_loras_are_a_list_or_one():
    """One name need not stand in a list; an empty list is none; weights stay with the names."""
    assert parse(lora="owner/a:0.5").lora == ("owner/a:0.5",)
    assert parse(lora=["owner/a:0.5", "b.safetensors"]).lora == ("owner/a:0.5", "b.safetensors")
    assert parse(lora=[]).lora == ()


def test_a_number_past_its_column_is_told_the_highest():
    """A message that names a lower limit alone would contradict itself."""
    with pytest.raises(RowError, match="a whole number from 1 to 2147483647, found 2147483648"):
        parse(num_frames=2**31)


def test_the_seed_of_a_row_follows_from_its_id():
    """The first 8 bytes of sha256(id), mod 2^63: the same everywhere, another for another id."""
    assert parse_row(GOOD).seed == seed_of("star") == 5935403586174966748
    assert 0 <= seed_of("other") < 2**63
    assert parse(seed=7).seed == 7


def test_a_null_is_an_absent_value():
    """None in a row is the default: the run's, then the built-in."""
    assert parse(num_frames=None).num_frames == 8
    assert parse_row({**GOOD, "num_frames": None}, {"num_frames": 4}).num_frames == 4


BAD = [
    ({"id": "../x"}, "id"),
    ({"id": ".hidden"}, "id"),
    ({"id": ""}, "id"),
    ({"id": "a b"}, "id"),
    ({"id": "x" * 129}, "id"),
    ({"id": None}, "id"),
    ({"id": 7}, "id"),
    ({"id": b"\xff"}, "id"),
    ({"prompt": None}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["a", None]}, "prompt"),
    ({"prompt": ["a", "b"]}, "prompt"),
    ({"prompt": ["a", "b"], "num_frames": 24}, "prompt"),
    ({"prompt": "a\0b"}, "prompt"),
    ({"prompt": "x" * 100_001}, "prompt"),
    ({"prompt": b"\xffa"}, "prompt"),
    ({"negative_prompt": ["a"]}, "negative_prompt"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"seed": True}, "seed"),
    ({"seed": "7"}, "seed"),
    ({"model": ""}, "model"),
    ({"model": 1}, "model"),
    ({"lora": [""]}, "lora"),
    ({"lora": ["a/b", None]}, "lora"),
    ({"lora": 1}, "lora"),
    ({"num_frames": 0}, "num_frames"),
    ({"num_frames": -3}, "num_frames"),
    ({"num_frames": math.nan}, "num_frames"),
    ({"num_frames": 2**31}, "num_frames"),
    ({"segment_frames": 0}, "segment_frames"),
    ({"segment_frames": 9}, "segment_frames"),
    ({"chain": "loose"}, "chain"),
    ({"height": 37}, "height"),
    ({"height": 0}, "height"),
    ({"width": -8}, "width"),
    ({"width": 1_000_000}, "width"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 1001}, "num_inference_steps"),
    ({"guidance_scale": -1.0}, "guidance_scale"),
    ({"guidance_scale": math.inf}, "guidance_scale"),
    ({"scheduler": "dimm"}, "scheduler"),
    ({"noise": "white"}, "noise"),
    ({"noise": "mixed"}, "alpha"),
    ({"noise": "progressive", "alpha": 1.5}, "alpha"),
    ({"noise": "iid", "alpha": 0.5}, "alpha"),
    ({"alpha": 0.5}, "alpha"),
    ({"kl_target": -0.1}, "kl_target"),
    ({"kl_target": math.nan}, "kl_target"),
    ({"kl_target": [0.1] * 8}, "kl_target"),
    ({"kl_target": [0.1, -0.1] + [0.1] * 5}, "kl_target"),
    ({"kl_target": []}, "kl_target"),
    ({"kl_target": [0.1, 0.2], "num_frames": 1}, "kl_target"),
    ({"solver": "guess"}, "solver"),
    ({"noise_candidates": 0}, "noise_candidates"),
    ({"momentum": 1.01}, "momentum"),
    ({"momentum": [0.9] * 7}, "momentum"),
    ({"momentum": [0.9] * 7 + [2]}, "momentum"),
    ({"speed": "quick"}, "speed"),
    ({"speed": "fast", "source_video": "a.mp4"}, "speed"),
    ({"long_prompt": "cut"}, "long_prompt"),
    ({**CONTROL, "control": "edges"}, "control"),
    ({**CONTROL, "control": "canny:x"}, "control"),
    ({**CONTROL, "control": "depth:"}, "control"),
    ({**CONTROL, "controlnet": None}, "controlnet"),
    ({**CONTROL, "controlnet": " "}, "controlnet"),
    ({**CONTROL, "control_video": None}, "control_video"),
    ({**CONTROL, "control": None}, "control"),
    ({**CONTROL, "control_scale": -0.1}, "control_scale"),
    ({**CONTROL, "canny_low": 300}, "canny_low"),
    ({**CONTROL, "canny_high": 100}, "canny_low"),
    ({**CONTROL, "canny_high": 2041}, "canny_high"),
    ({**CONTROL, "control": "pose", "canny_high": 150}, "canny_high"),
    ({"control_scale": 1.0}, "control_scale"),
    ({"canny_low": 50}, "canny_low"),
    ({"source_video": ""}, "source_video"),
    ({"image_guidance_scale": 1.5}, "image_guidance_scale"),
    ({"source_video": "a.mp4", "image_guidance_scale": -1}, "image_guidance_scale"),
    ({**CONTROL, "source_video": "a.mp4"}, "source_video"),
    ({"ip_adapter": "a/b/c.safetensors"}, "ip_adapter_image"),
    ({"ip_adapter_image": "a.png"}, "ip_adapter"),
    ({"ip_adapter_scale": 0.5}, "ip_adapter_scale"),
    ({"best_of": 0}, "best_of"),
    ({"best_of": 65}, "best_of"),
    ({"best_by": "clip_score"}, "best_by"),
    ({"best_of": 4, "best_by": "clip"}, "best_by"),
    ({"best_of": 4, "best_by": "frame_consistency", "num_frames": 1}, "best_by"),
    ({"fps": 0}, "fps"),
    ({"fps": 241}, "fps"),
    ({"temporal_scale": 3}, "temporal_scale"),
    ({"temporal_sr": "film"}, "temporal_sr"),
    ({"temporal_sr": "model:"}, "temporal_sr"),
    ({"spatial_sr": "diffusers"}, "spatial_sr"),
    ({"spatial_scale": 3}, "spatial_scale"),
    ({"spatial_scale": 8}, "spatial_scale"),
    ({"spatial_sr": "mini-sr:x"}, "spatial_sr"),
    ({"codec": "mp4"}, "codec"),
    ({"quality": 52}, "quality"),
    ({"quality": -1}, "quality"),
    ({"quality": 101, "codec": "webp"}, "quality"),
    ({"quality": 52, "codec": "h265"}, "quality"),
    ({"quality": 64, "codec": "av1"}, "quality"),
    ({"height": 24, "codec": "h265"}, "height"),
    ({"width": 8, "codec": "av1"}, "width"),
    ({"width": 8192, "height": 8, "spatial_scale": 4}, "width"),
    ({"height": 4104, "width": 8, "spatial_scale": 4, "codec": "webp"}, "height"),
    ({"height": 4360, "width": 16, "spatial_scale": 2, "codec": "av1"}, "height"),
    ({"height": 8192, "width": 8192, "spatial_scale": 2, "codec": "png"}, "height"),
    ({"promt": "a"}, "promt"),
    ({"frobnicate": 1}, "frobnicate"),
]


@pytest.mark.parametrize(("values", "column"), BAD)
def test_a_bad_value_is_one_fault_that_names_its_column(values: dict[str, Any], column: str):
    """Each fault says the column, what it takes and what stood there, and drags no other in."""
    with pytest.raises(RowError) as error:
        parse_row({**GOOD, **values})
    (fault,) = error.value.faults
    assert fault.column == column
    assert fault.expected and fault.found
    assert column in str(error.value)


def test_all_faults_of_a_row_are_told_at_once():
    """Not the first alone: a user mends a row once."""
    with pytest.raises(RowError) as error:
        parse_row({"id": "../x", "height": 37, "kl_target": -1, "promt": "x", "momentum": [1, 2]})
    assert {fault.column for fault in error.value.faults} == {
        "id",
        "height",
        "kl_target",
        "promt",
        "prompt",
        "momentum",
    }


@pytest.mark.parametrize(
    ("values", "column", "parsed"),
    [
        ({"prompt": ["a"]}, "prompt", ("a",)),
        ({"prompt": ["a", "b", "c"], "num_frames": 24}, "prompt", ("a", "b", "c")),
        ({"prompt": ["a", "b"], "num_frames": 9}, "prompt", ("a", "b")),
        ({"prompt": ""}, "prompt", ("",)),
        ({"num_frames": 24.0}, "num_frames", 24),
        ({"num_frames": 3}, "segment_frames", 3),
        ({"num_frames": 1, "kl_target": [0.2]}, "kl_target", 0.2),
        ({"num_frames": 3, "kl_target": [0.1, 0.2]}, "kl_target", (0.1, 0.2)),
        ({"num_frames": 2, "momentum": [0, 1]}, "momentum", (0.0, 1.0)),
        ({"kl_target": 0}, "kl_target", 0.0),
        ({"kl_target": 100}, "kl_target", 100.0),
        ({"noise": "mixed", "alpha": 0}, "alpha", 0.0),
        ({"codec": "webp"}, "quality", 90),
        ({"codec": "h265"}, "quality", 20),
        ({"codec": "av1"}, "quality", 24),
        ({"codec": "av1", "quality": 63}, "quality", 63),
        ({"codec": "webp", "quality": 60}, "quality", 60),
        ({"codec": "gif", "quality": 18}, "quality", None),
        ({"codec": "png"}, "quality", None),
        ({"seed": 2**63 - 1}, "seed", 2**63 - 1),
        ({"height": 8192, "width": 8}, "height", 8192),
        ({"height": 8, "codec": "h265", "spatial_scale": 4}, "height", 8),
        ({"meta_tags": ["a", 1]}, "meta", {"meta_tags": ["a", 1]}),
        ({"best_of": 1}, "best_of", 1),
        ({"best_of": 4}, "best_by", "clip_score"),
        (
            {"best_of": 4, "best_by": " 1.0*clip_score  -100*warp_error in 8 steps"},
            "best_by",
            "clip_score - 100*warp_error in 8 steps",
        ),
    ],
)
def test_good_values_and_what_follows_from_them(values: dict[str, Any], column: str, parsed: Any):
    """Storyboards, per-frame lists, and defaults that depend on other columns."""
    assert getattr(parse(**values), column) == parsed


@pytest.mark.parametrize(
    ("values", "frames"),
    [({}, 24), ({"num_frames": 2}, 24), ({"num_frames": 20, "segment_frames": 5}, 15)],
)
def test_a_storyboard_of_another_length_is_told_its_frames(values: dict[str, Any], frames: int):
    """Those that make one segment a prompt: the row is good with them."""
    story = {**values, "prompt": ["a", "b", "c"]}
    with pytest.raises(RowError, match=f"one prompt per segment: set num_frames to {frames}\\)$"):
        parse(**story)
    assert parse(**{**story, "num_frames": frames}).num_segments == 3


def test_segments_cover_the_clip():
    """⌈n/m⌉ segments."""
    assert parse(num_frames=24).num_segments == 3
    assert parse(num_frames=25).num_segments == 4
    assert parse(num_frames=1).num_segments == 1


def test_run_defaults_hold_where_the_row_has_no_value():
    """--set comes before the built-in default and after the row's own value."""
    defaults = {"num_frames": 4, "codec": "gif"}
    assert parse_row(GOOD, defaults).num_frames == 4
    assert parse_row({**GOOD, "num_frames": 2}, defaults).num_frames == 2
    assert parse_row(GOOD, defaults).codec == "gif"


def test_several_loras_are_a_json_list():
    """`--set lora=` takes one name as it stands, or a JSON list; a text that begins with a bracket is
    no list elsewhere."""
    assert parse_defaults(["lora=a/b:0.5"])["lora"] == ("a/b:0.5",)
    assert parse_defaults(['lora=["a/b:0.5", "c/d"]'])["lora"] == ("a/b:0.5", "c/d")
    assert parse_defaults(["negative_prompt=[blur]"])["negative_prompt"] == "[blur]"
    with pytest.raises(RowError, match="lora: expected LoRAs"):
        parse_defaults(["lora=[a/b"])


def test_run_defaults_do_not_make_rows_wrong_that_can_do_without():
    """A longer segment is cut to the clip; α and quality are dropped where they have no use."""
    defaults = {"segment_frames": 8, "alpha": 0.5, "quality": 23}
    row = parse_row({**GOOD, "num_frames": 4, "codec": "ffv1"}, defaults)
    assert (row.segment_frames, row.alpha, row.quality) == (4, None, None)
    mixed = parse_row({**GOOD, "noise": "mixed"}, defaults)
    assert (mixed.segment_frames, mixed.alpha, mixed.quality) == (8, 0.5, 23)


def test_run_defaults_that_were_stored_as_json_work_again():
    """run.json gives lists back where tuples were."""
    defaults = {"kl_target": [0.1] * 7, "lora": []}
    assert parse_row(GOOD, defaults).kl_target == (0.1,) * 7


@pytest.mark.parametrize(
    ("pair", "column", "parsed"),
    [
        ("num_frames=24", "num_frames", 24),
        ("kl_target=0.05", "kl_target", 0.05),
        ("kl_target=[0.1, 0.2]", "kl_target", (0.1, 0.2)),
        ("negative_prompt=a=b, c", "negative_prompt", "a=b, c"),
        ("model=runwayml/sd@main", "model", "runwayml/sd@main"),
        (" codec=gif", "codec", "gif"),
        ("fps=12.5", "fps", 12.5),
        ("seed=9007199254740993", "seed", 9007199254740993),
    ],
)
def test_settings_are_parsed_by_their_columns_type(pair: str, column: str, parsed: Any):
    """`--set column=value`: text as it stands, numbers and lists as JSON."""
    assert parse_defaults([pair]) == {column: parsed}


@pytest.mark.parametrize(
    ("pair", "word"),
    [
        ("num_frames", "column=value"),
        ("=3", "column=value"),
        ("num_frames=abc", "num_frames"),
        ("num_frames=", "num_frames"),
        ("num_frames=0", "num_frames"),
        ("num_frames=true", "num_frames"),
        ("kl_target=[0.1", "kl_target"),
        ("kl_target=NaN", "kl_target"),
        ("kl_target=" + "[" * 5000, "kl_target"),
        ("seed=" + "9" * 5000, "seed"),
        ("numframes=3", "num_frames"),
        ("id=x", "belongs to the rows"),
        ("prompt=x", "belongs to the rows"),
        ("meta_x=1", "belongs to the rows"),
        ("speed=Fast", "`fast`"),
        ("best_by=beauty", "no score is called `beauty`"),
        ("control=edge", "`canny`, `depth`, `pose` or `depth:NAME`"),
    ],
)
def test_bad_settings_are_refused_with_the_remedy(pair: str, word: str):
    """Each names the column, what it takes and what was found."""
    with pytest.raises(RowError, match="expected") as error:
        parse_defaults([pair])
    assert word in str(error.value)


def test_settings_from_a_run_file_or_a_deployment_are_checked_alike():
    """Values by column, as JSON gives them: normalised, nulls left out, faults told at once."""
    assert check_defaults({"kl_target": [0.1, 0.2], "num_frames": 3.0, "seed": None}) == {
        "kl_target": (0.1, 0.2),
        "num_frames": 3,
    }
    with pytest.raises(RowError) as error:
        check_defaults({"num_frames": "3", "id": "x", "numframes": 3})
    assert len(error.value.faults) == 3


def test_all_bad_settings_are_told_at_once_and_a_column_has_one_value():
    """A command line is mended once."""
    with pytest.raises(RowError) as error:
        parse_defaults(["num_frames=0", "height=37"])
    assert len(error.value.faults) == 2
    assert parse_defaults(["seed=1", "seed=1"]) == {"seed": 1}
    with pytest.raises(
        RowError, match=r"--set: expected one value of seed, found '1' and '2' \(leave"
    ):
        parse_defaults(["seed=1", "height=64", "seed=2"])


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.dictionaries(st.sampled_from([*COLUMNS, "meta_x", "other"]), ANYTHING, max_size=8))
def test_any_values_make_a_row_or_a_row_error(values: dict[str, Any]):
    """Nothing in a row can raise anything but RowError, and what passes obeys the rules."""
    try:
        row = parse_row({**GOOD, **values})
    except RowError as error:
        assert error.faults
        return
    assert len(row.prompt) in (1, row.num_segments)
    assert 1 <= row.segment_frames <= row.num_frames
    assert 0 <= row.seed < 2**63
    assert (row.control is None) == (row.control_video is None) == (row.control_scale is None)
    assert (row.canny_low is None) == (row.control != "canny")
    assert (row.ip_adapter is None) == (row.ip_adapter_scale is None)
    targets = row.kl_target if isinstance(row.kl_target, tuple) else (row.kl_target,)
    assert all(math.isfinite(target) and target >= 0 for target in targets)


ROWS = st.fixed_dictionaries(
    {"num_frames": st.integers(1, 40)},
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "kl_target": st.floats(0, 5),
        "momentum": st.floats(0, 1),
        "codec": st.sampled_from(["h264", "gif", "png"]),
        "fps": st.floats(0.5, 12.0),
        "height": st.integers(1, 1024).map(lambda k: 8 * k),
    },
)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(ROWS)
def test_good_rows_keep_their_values(values: dict[str, Any]):
    """What a row asks for is what it gets."""
    row = parse(**values)
    for name, value in values.items():
        assert getattr(row, name) == value


@pytest.mark.parametrize(
    "values",
    [
        {"codec": "h264", "height": 4096, "width": 8, "spatial_scale": 4},
        {"codec": "av1", "height": 4352, "width": 32, "spatial_scale": 2},
        {"codec": "av1", "height": 16, "width": 4096, "spatial_scale": 4},
        {"codec": "webp", "height": 4088, "width": 8, "spatial_scale": 4},
        {"codec": "gif", "height": 8192, "width": 8, "spatial_scale": 4},
    ],
)
def test_the_largest_video_of_a_codec_is_allowed(values: dict[str, Any]):
    """What its encoder takes is refused by nobody: x264's 16384, SVT-AV1's 8704 × 16384, a WebP's 16383."""
    assert parse(**values).height == values["height"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"codec": "av1", "fps": 200, "temporal_scale": 2}, "400"),
        ({"codec": "gif", "fps": 240}, "240"),
        ({"codec": "gif", "fps": 60, "temporal_scale": 4}, "240"),
        ({"codec": "h264", "fps": 240, "temporal_scale": 8}, "1920"),
        ({"codec": "h264", "fps": 0.005}, "0.005"),
        ({"codec": "png", "fps": 0.002, "temporal_scale": 4}, "0.008"),
    ],
)
def test_a_rate_that_the_codec_cannot_keep_is_refused(values: dict[str, Any], found: str):
    """fps × temporal_scale is checked against the codec before anything is sampled."""
    with pytest.raises(RowError) as error:
        parse(**values)
    (fault,) = error.value.faults
    assert (fault.column, fault.found) == ("fps", found)
    assert parse(codec="gif", fps=25, temporal_scale=4).fps == 25
    assert parse(fps=0.005, temporal_scale=2).fps == 0.005


@pytest.mark.parametrize(("name", "words"), [("ip_adapter", "an ip_"), ("control", "a control")])
def test_what_a_missing_companion_is_told(name: str, words: str):
    """The column that is there is named, in English."""
    values = {"ip_adapter": "a.safetensors", "control": "pose"}
    with pytest.raises(RowError, match=f"as there is {words}"):
        parse(**{name: values[name]})


def test_frames_in_between_that_are_sampled():
    """`latent` needs no clip that guides the others: a row that asks for both is refused, a run's default
    gives way; it counts the frames that come from the model."""
    row = parse(temporal_sr="latent", temporal_scale=4, num_frames=5)
    assert (row.in_between, row.sampled_frames) == (4, 17)
    assert parse(temporal_sr="flow", temporal_scale=4, num_frames=5).sampled_frames == 5
    assert parse(temporal_sr="latent", num_frames=5).in_between == 1
    editing = {"source_video": "clip.mp4", "temporal_scale": 2}
    with pytest.raises(RowError) as error:
        parse(temporal_sr="latent", **editing)
    assert [fault.column for fault in error.value.faults] == ["temporal_sr"]
    assert parse_row({**GOOD, **editing}, {"temporal_sr": "latent"}).temporal_sr == "flow"


@pytest.mark.parametrize(
    ("values", "defaults", "wanted"),
    [
        ({"speed": "fast"}, {}, ("fast", "dpm++", None)),
        ({}, {"speed": "fast"}, ("fast", "dpm++", None)),
        ({"speed": "exact"}, {"speed": "fast"}, ("exact", "ddim", None)),
        ({"speed": "fast", "scheduler": "ddim"}, {}, ("fast", "ddim", None)),
        ({"speed": "fast"}, {"scheduler": "euler"}, ("fast", "euler", None)),
        ({"speed": "fast", "num_inference_steps": 9}, {}, ("fast", "ddim", 9)),
        ({"speed": "fast"}, {"num_inference_steps": 9}, ("fast", "ddim", 9)),
        ({"source_video": "a.mp4"}, {"speed": "fast"}, ("exact", "ddim", None)),
    ],
)
def test_fast_rows(values: dict[str, Any], defaults: dict[str, Any], wanted: tuple[Any, ...]):
    """A fast row that names neither scheduler nor steps, and whose run names neither, has dpm++; a run's
    default gives way where a clip is edited."""
    row = parse_row({**GOOD, **values}, defaults)
    assert (row.speed, row.scheduler, row.num_inference_steps) == wanted
