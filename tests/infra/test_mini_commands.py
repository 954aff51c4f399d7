"""The three commands of the recipe: train, evaluate, export."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.mini import evaluate, export, train
from infra.mini.command import RecipeError

ROOT = Path(__file__).parents[2]


def command(program: str, *rest: str) -> list[str]:
    return [sys.executable, "-m", f"infra.mini.{program}", *rest]


def _env(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def refused(done: subprocess.CompletedProcess[str], status: int, says: str) -> None:
    """One message, no traceback."""
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the project in which nothing has been trained, and which training may write into."""
    without = shutil.ignore_patterns("work", "__pycache__")
    for package in ("infra", "zs2", "tasks", "manifests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=without)
    return tmp_path


def test_every_stage_is_a_program_with_the_options_it_is_called_with():
    """Stages and parts name modules; each takes `--minutes` and `--size` where it is given them."""
    for stage in train.STAGES.values():
        program = Path(str(importlib.import_module(f"infra.mini.{stage.program}").__file__))
        for option in train.command(stage, 0.5, 128, 1000)[3:]:
            if option.startswith("--"):
                assert f'"{option}"' in program.read_text("utf-8")
    for program, *_ in evaluate.PARTS.values():
        assert importlib.import_module(f"infra.mini.{program}").main


def test_minutes_are_scaled_and_sizes_passed_on():
    """Half of everything; a GPU's size reaches the stages that have one."""
    made = train.command(train.STAGES["unet"], 0.5, 128)
    assert made[2:] == ["infra.mini.train_unet", "--minutes", "71.5", "--size", "128"]
    assert train.command(train.STAGES["sr"], 1, 128)[3:] == ["--minutes", "42"]
    assert train.command(train.STAGES["decoder"], 1, 64)[2:4] == [
        "infra.mini.train_autoencoder",
        "--decoder",
    ]


@pytest.mark.parametrize("module", ["train", "evaluate", "export"])
def test_an_unknown_name_is_refused_with_those_there_are(module: str):
    """Nothing is begun."""
    done = subprocess.run(
        [sys.executable, "-m", f"infra.mini.{module}", "everything"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "expected some of" in done.stderr and "found everything" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train --scale 0", "argument --scale: expected a number above 0, found '0'"),
        ("train_unet --minutes nan", "argument --minutes: expected a number above 0, found 'nan'"),
        (
            "evaluate_pictures zs2-mini --threads 0",
            "expected a whole number of 1 or more, found '0'",
        ),
        (
            "evaluate_pictures zs2-mini --prompts 8 --sheet a.png",
            "expected --prompts 24 or more, found 8",
        ),
        ("evaluate_clips zs2-mini --method ZS", "expected some of ZS² λ=0; ZS² λ=0.01; "),
        ("export zs2-mini zs2", "expected some of zs2-mini, zs2-mini-clip, zs2-mini-sr, found zs2"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_begun(words: str, says: str):
    """What was expected, and what was found."""
    program, *rest = words.split(" ")
    refused(subprocess.run(command(program, *rest), capture_output=True, text=True), 2, says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("evaluate_pictures nosuchmodel", "nosuchmodel"),
        (
            "training_curves curves.svg",
            "expected logs of training, which are not shipped, found none",
        ),
        (
            "evaluate_sr --curve curves.svg",
            "which is not shipped, found none; run `python -m infra",
        ),
        ("export zs2-mini", "expected a checkpoint, found none; run `python -m infra.mini.train "),
        ("train decoder", "decoder: ended with status 1, as said above"),
    ],
)
def test_what_is_missing_is_one_message(words: str, says: str, recipe: Path):
    """No traceback, and nothing written."""
    program, *rest = words.split(" ")
    done = subprocess.run(
        command(program, *rest), capture_output=True, text=True, cwd=recipe, env=_env(recipe)
    )
    refused(done, 1, says)
    assert not list(recipe.glob("curves.*"))


@pytest.mark.slow
def test_both_sizes_are_trained_and_exported_by_one_command_each(recipe: Path):
    """Every stage, a moment of each, at 64 and then at 128 pixels; what was left of the other size is
    refused. What comes out is a model of its size."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        called = command(*words)
        return subprocess.run(called, capture_output=True, text=True, cwd=recipe, env=_env(recipe))

    few = ("--scale", "0.001", "--count", "600")
    for size in (64, 128):
        done = run("train", *few, "--size", str(size))
        assert done.returncode == 0, done.stderr
        done = run("export")
        assert done.returncode == 0, done.stderr
        folder = recipe / "zs2" / "mini" / "zs2-mini"
        assert f"{size}×{size} pixels" in (folder / "README.md").read_text("utf-8")
        assert json.loads((folder / "zs2.json").read_text())["height"] == size
        assert json.loads((folder / "unet" / "config.json").read_text())["sample_size"] == size // 8
        other = run("train", *few, "--size", str(192 - size), "autoencoder")
        refused(other, 1, f"expected a checkpoint of size {192 - size}, found {size}; move it away")
        shutil.rmtree(recipe / "infra" / "mini" / "work")


def test_an_export_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What it may have, what it has; files are readable by all."""

    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(bytes(100))

    monkeypatch.setitem(export.EXPORTS, "zs2-mini", (write, 101))
    assert export.export("zs2-mini", tmp_path) == 100
    assert (tmp_path / "zs2-mini" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    monkeypatch.setitem(export.EXPORTS, "zs2-mini", (write, 100))
    with pytest.raises(RecipeError, match="expected fewer than 100 bytes, found 100"):
        export.export("zs2-mini", tmp_path)
