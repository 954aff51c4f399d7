"""manifests.columns: the table of columns."""

from __future__ import annotations

import pytest

from manifests.columns import COLUMNS, WHERE_USED, column_records, is_id

# fmt: off
PUBLIC = [
    "id", "prompt", "negative_prompt", "seed", "model", "lora", "num_frames", "segment_frames",
    "chain", "height", "width", "num_inference_steps", "guidance_scale", "scheduler", "noise",
    "alpha", "kl_target", "solver", "noise_candidates", "momentum", "speed", "long_prompt",
    "control", "controlnet", "control_video", "control_scale", "canny_low", "canny_high",
    "source_video", "image_guidance_scale", "ip_adapter", "ip_adapter_image", "ip_adapter_scale",
    "best_of", "best_by", "fps", "temporal_sr", "temporal_scale", "spatial_sr", "spatial_scale",
    "codec", "quality",
]
# fmt: on


def test_the_columns_are_the_public_ones_in_their_order():
    """The table has every column of the public schema, and no other."""
    assert list(COLUMNS) == PUBLIC


def test_every_built_in_default_is_a_value_that_its_column_takes():
    """A default may be written into a manifest as it stands."""
    for column in COLUMNS.values():
        if column.default not in (None, ()):
            assert column.kind.parse(column.default) == column.default, column.name
    for name, default in WHERE_USED.items():
        assert COLUMNS[name].kind.parse(default) == default and COLUMNS[name].default is None


def test_the_printed_table_has_a_line_for_each_column():
    """`zs2 manifest columns` shows name, type, default and meaning."""
    records = {record["column"]: record for record in column_records()}
    assert list(records) == [*PUBLIC, "meta_*"]
    assert all(isinstance(value, str) and value for r in records.values() for value in r.values())
    assert records["kl_target"]["default"] == "0.01"
    assert records["negative_prompt"]["default"] == '""'
    assert records["segment_frames"]["default"] == "min(8, num_frames)"
    assert records["canny_high"]["default"] == "200 (with control canny)"
    assert records["canny_high"]["type"] == "int32" and records["control_scale"]["type"] == "float"
    assert records["best_by"]["default"] == "clip_score (with best_of above 1)"


@pytest.mark.parametrize("value", ["a", "A-1_b.c", "0", "-", "_x", "x" * 128])
def test_ids_that_are_allowed(value: str):
    """1 to 128 of A-Za-z0-9._-, not starting with a dot."""
    assert is_id(value)


@pytest.mark.parametrize(
    "value",
    ["", ".", "..", ".x", "../x", "a/b", "a\\b", "a b", "a\n", "é", "x" * 129, "a\0", "٣", 7, None],
)
def test_ids_that_are_not_allowed(value: object):
    """Nothing that could leave a folder, hide a file or end a line is an id."""
    assert not is_id(value)
