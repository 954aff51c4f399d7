"""manifests.misspelt: what an unknown column was meant to be."""

from __future__ import annotations

import pytest

from flows.settings import RenderSettings
from manifests.columns import COLUMNS
from manifests.misspelt import OF_THE_RUN, meant, nearest


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("promt", "prompt"),
        ("Prompt", "prompt"),
        ("negative prompt", "negative_prompt"),
        ("num-frames", "num_frames"),
        ("lambda", "kl_target"),
        ("λ", "kl_target"),
        ("steps", "num_inference_steps"),
        ("hieght", "height"),
        ("metasource", "meta_source"),
        ("meta-source", "meta_source"),
        ("zzzzzz", None),
        ("", None),
    ],
)
def test_a_misspelt_column_is_recognised(typed: str, known: str | None):
    """The nearest known column is named, or none where nothing is near."""
    assert nearest(typed) == known
    assert (f"`{known}`" if known else "zs2 manifest columns") in meant(typed)


def test_nearest_is_quick_for_a_name_of_any_length():
    """A column's name may be a megabyte; only its beginning is compared."""
    assert nearest("x" * 1_000_000) is None


def test_a_setting_of_the_run_is_told_as_one():
    """With its option; each of them is a setting, and none a column."""
    assert meant("clips_per_call").endswith("--clips-per-call")
    assert set(RenderSettings.model_fields) >= OF_THE_RUN
    assert not OF_THE_RUN & set(COLUMNS)
