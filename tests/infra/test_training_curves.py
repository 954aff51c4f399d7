"""The picture of what training logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.mini.command import RecipeError
from infra.mini.training import Clock, log
from infra.mini.training_curves import draw_curves, read_log


def test_a_log_is_read_as_it_was_written_and_later_points_count(tmp_path: Path):
    """A run that was cut off goes on from its checkpoint, and logs some steps again."""
    path = tmp_path / "unet.log"
    log("unet", path, 50, Clock(10), loss=0.5)
    log("unet", path, 100, Clock(10), loss=0.4)
    log("unet", path, 50, Clock(10, spent=120), loss=0.3)
    first, second = read_log(path)
    assert (first["step"], first["loss"], first["minutes"]) == (50, 0.3, 2)
    assert (second["step"], second["loss"]) == (100, 0.4)


def test_stages_that_have_a_log_get_a_panel(tmp_path: Path):
    """The same logs give the same file; a stage without a log is left out."""
    for stage, name in (("unet", "loss"), ("clip", "right"), ("autoencoder", "loss")):
        for step in (50, 100, 150):
            log(stage, tmp_path / f"{stage}.log", step, Clock(10, step), **{name: 1 / step})
    for name in ("one.svg", "two.svg"):
        draw_curves(tmp_path / name, tmp_path)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert "denoiser" in drawn and "scorer" in drawn and "decoder alone" not in drawn


def test_without_a_log_it_says_what_makes_one(tmp_path: Path):
    """No empty picture."""
    with pytest.raises(RecipeError, match=r"infra\.mini\.train"):
        draw_curves(tmp_path / "curves.svg", tmp_path)
    assert not (tmp_path / "curves.svg").exists()
