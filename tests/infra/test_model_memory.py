"""The report on memory is of the real architectures, and says what the program computes."""

from __future__ import annotations

import json

import pytest

from flows.commands.model_memory import SHIPPED
from infra.model_memory import (
    ARCHITECTURES,
    IP2P,
    REPORT,
    SD1,
    SD2,
    SD2_BASE,
    SDXL,
    Architecture,
    bundled,
    need_rows,
    published_table,
)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        # UNet, autoencoder and text encoders as their checkpoints have them
        (SD1, 859_520_964 + 83_653_863 + 123_060_480),
        (SD2, 865_910_724 + 83_653_863 + 340_387_840),
        (SDXL, 2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_840),
    ],
)
def test_the_architectures_are_the_real_ones(kind: Architecture, count: int):
    """As many numbers as the public checkpoints have."""
    assert kind.parameters() == count


def test_what_is_shipped_of_the_bundled_models_is_what_they_need():
    """zs2/mini/memory.json is the estimate of today's code for every bundled model, and no more."""
    assert json.loads(SHIPPED.read_text("utf-8")) == bundled()


@pytest.mark.slow
def test_the_report_says_what_is_computed():
    """SD 1.5's rows; every architecture has its two."""
    report = REPORT.read_text("utf-8").splitlines()
    assert set(need_rows(SD1)) <= set(report)
    for kind in ARCHITECTURES:
        assert sum(line.startswith(f"| {kind.name} |") for line in report) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SD2_BASE, SD2, SDXL, IP2P], ids=lambda kind: kind.name)
def test_the_report_says_it_of_every_architecture(kind: Architecture):
    """Its rows in infra/memory.md are those that the program computes."""
    assert set(need_rows(kind)) <= set(REPORT.read_text("utf-8").splitlines())


@pytest.mark.slow
def test_the_report_compares_what_is_computed():
    """The table beside others' measurements is the one that the program computes."""
    assert published_table() in REPORT.read_text("utf-8")
