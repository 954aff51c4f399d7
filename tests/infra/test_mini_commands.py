"""The three commands of the recipe: train, evaluate, export."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from infra.mini import evaluate, export, train


def test_every_stage_is_a_program_with_the_options_it_is_called_with():
    """Stages and parts name modules; each takes `--minutes` and `--size` where it is given them."""
    for stage in train.STAGES.values():
        program = Path(str(importlib.import_module(f"infra.mini.{stage.program}").__file__))
        for option in train.command(stage, 0.5, 128)[3::2]:
            assert f'"{option}"' in program.read_text("utf-8")
    for program, *_ in evaluate.PARTS.values():
        assert importlib.import_module(f"infra.mini.{program}").main


def test_minutes_are_scaled_and_sizes_passed_on():
    """Half of everything; a GPU's size reaches the stages that have one."""
    made = train.command(train.STAGES["unet"], 0.5, 128)
    assert made[2:] == ["infra.mini.train_unet", "--minutes", "45", "--size", "128"]
    assert train.command(train.STAGES["sr"], 1, 128)[3:] == ["--minutes", "42"]


@pytest.mark.parametrize("module", ["train", "evaluate", "export"])
def test_an_unknown_name_is_refused_with_those_there_are(module: str):
    """Nothing is begun."""
    done = subprocess.run(
        [sys.executable, "-m", f"infra.mini.{module}", "everything"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "expected some of" in done.stderr and "found everything" in done.stderr


def test_an_export_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What it may have, what it has; files are readable by all."""

    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(bytes(100))

    monkeypatch.setitem(export.EXPORTS, "zs2-mini", (write, 101))
    assert export.export("zs2-mini", tmp_path) == 100
    assert (tmp_path / "zs2-mini" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    monkeypatch.setitem(export.EXPORTS, "zs2-mini", (write, 100))
    with pytest.raises(ValueError, match="has 100 bytes, expected fewer than 100"):
        export.export("zs2-mini", tmp_path)
