"""`zs2 bench sampler`: both sides do the same work, it is counted, and the report says what was found."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.bench.machine import matmul_peak
from flows.bench.paired import in_turn, median_interval, ratios
from flows.bench.sampler import COMPILED, PLAIN, ZERO, ZS2, markdown, text
from flows.bench.sampler import sampler as bench
from flows.bench.work import counted
from flows.errors import UsageError

STEPS, FRAMES = 4, 8  # a call of the decoder


@pytest.fixture(scope="module")
def report(tiny_model: Path) -> dict[str, Any]:
    return bench(
        model=str(tiny_model), frames=FRAMES, batch=FRAMES, steps=STEPS, guidance=5.0, pairs=2
    )


def test_the_sides_do_the_same_work(report: dict[str, Any]):
    """Equal frames, UNet calls and pictures, texts; fewer operations, for the keys and values of the
    texts are computed once."""
    sides = report["sides"]
    assert list(sides) == [ZS2, PLAIN, ZERO]
    for name in (ZS2, PLAIN):
        assert sides[name]["unet_calls"] == STEPS
        assert sides[name]["unet_pictures"] == 2 * FRAMES * STEPS
        assert sides[name]["texts"] == 2 and sides[name]["decoded"] == FRAMES
    assert sides[PLAIN]["flops"] > sides[ZS2]["flops"] > 0.9 * sides[PLAIN]["flops"]
    assert sides[ZERO]["decoded"] == FRAMES


def test_the_report_has_every_figure(report: dict[str, Any]):
    """Ratios to both others with their spread, a share of the peak, the ablation; as a table for people
    and one for a page, and as JSON."""
    for name, side in report["sides"].items():
        assert side["frames_per_second"] == pytest.approx(FRAMES / side["seconds"])
        assert 0 < side["share"] < 1
        if name != ZS2:
            ratio = side["ratio"]
            assert ratio["least"] <= ratio["median"] <= ratio["most"]
    found = report["momentum"]
    share = found["share"]
    assert found["with"] > 0 and share["low"] <= share["median"] <= share["high"] < 1
    for told in (text(report), markdown(report)):
        assert all(name in told for name in report["sides"]) and "share of peak" in told
    assert json.loads(json.dumps(report)) == report


def test_work_is_counted_by_hand(tiny_pipe: Any):
    """A UNet call of 3 pictures is one of 3; so many operations as a product of matrices has, each
    product and its sum two; nothing is left on the model."""
    linear = torch.nn.Linear(7, 5, bias=False)

    def call() -> None:
        side = tiny_pipe.unet.config.sample_size
        text = torch.zeros(3, 4, tiny_pipe.unet.config.cross_attention_dim)
        tiny_pipe.unet(torch.zeros(3, 4, side, side), 1, text)

    with torch.no_grad():
        found = counted(tiny_pipe, call)
        both = counted(tiny_pipe, lambda: (call(), linear(torch.zeros(11, 7))))
    assert (found["unet_calls"], found["unet_pictures"], found["decode_calls"]) == (1, 3, 0)
    assert both["flops"] - found["flops"] == 2 * 11 * 7 * 5
    assert not tiny_pipe.unet.conv_in._forward_pre_hooks


def test_attention_is_counted_on_the_cpu(tiny_pipe: Any):
    """torch's own table has no entry for the CPU's kernel: two products of queries, keys and features."""
    q, k = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    found = counted(tiny_pipe, lambda: attend(q, k, k))
    assert found["flops"] == 2 * 2 * 3 * 5 * 7 * (8 + 8)


def test_sides_are_measured_in_turn():
    """A B A B; the ratio is theirs ÷ ours of each pair, processor time apart from waiting."""
    order: list[str] = []

    def a() -> None:
        order.append("a")
        time.sleep(0.01)

    def b() -> None:
        order.append("b")
        time.sleep(0.05)

    timings = in_turn({"a": a, "b": b}, 3)
    assert order == ["a", "b"] * 3
    found = ratios(timings["a"], timings["b"])
    assert found["least"] > 1 and all(timing.seconds >= 0.05 for timing in timings["b"])
    assert all(timing.cpu_seconds < timing.seconds for timing in timings["b"])


def test_the_interval_of_a_median_holds_it_as_often_as_it_says():
    """Of 400 draws of 80 values the interval has the true median in about 95 %; of few it is all of them."""
    rng = random.Random(0)
    hits = 0
    for _ in range(400):
        found = median_interval([rng.expovariate(1.0) for _ in range(80)])
        hits += found["low"] <= math.log(2) <= found["high"]
    assert 0.92 <= hits / 400 <= 0.99
    assert median_interval([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_the_peak_is_a_rate():
    """More than what a loop of Python does, less than what no processor does."""
    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32) < 1e14


def test_what_cannot_be_measured_is_refused(tiny_model: Path):
    """With what was expected and found."""
    wrongs = ({"frames": 1}, {"pairs": 0}, {"threads": 1000}, {"unet": "sd9"}, {"engine": "fast"})
    for wrong in wrongs:
        with pytest.raises(UsageError, match=f"--{next(iter(wrong))}: expected"):
            bench(**{"model": str(tiny_model), **wrong})


@pytest.mark.slow
def test_several_clips_a_call_are_measured_beside(tiny_model: Path):
    """Every side makes as many clips; ours that has them in one call leads, with as many pictures in a
    part of the calls. TextToVideoZero has the first frame sampled on its own, too."""
    sizes: dict[str, Any] = {"frames": 2, "batch": 2, "steps": 2, "pairs": 1, "threads": 1}
    report = bench(model=str(tiny_model), clips_per_call=3, **sizes)
    found, first = report["sides"], "zs2, 3 clips a call"
    assert report["first"] == first and list(found) == [first, ZS2, PLAIN, ZERO]
    assert found[ZS2]["unet_calls"] == 3 * found[first]["unet_calls"] == 3 * 2
    assert {found[name]["unet_pictures"] for name in (first, ZS2, PLAIN)} == {3 * 2 * 2 * 2}
    assert {side["decode_calls"] for side in found.values()} == {3}
    assert found[first]["frames_per_second"] == pytest.approx(3 * 2 / found[first]["seconds"])
    assert "3 clips of 2 frames" in text(report)


def test_the_other_engine_is_measured_beside(tiny_model: Path):
    """A side of its own, with the work of ours, that is compared with all others."""
    sizes = {"frames": 2, "batch": 2, "steps": 2, "pairs": 1, "guidance": 5.0}
    report = bench(model=str(tiny_model), engine="compiled", **sizes)
    found = report["sides"]
    assert list(found) == [ZS2, PLAIN, ZERO, COMPILED]
    assert found[COMPILED]["unet_calls"] == found[ZS2]["unet_calls"]
    assert [name for name in found if "ratio" not in found[name]] == [COMPILED]
    assert "zs2 compiled is faster by" in text(report)


def test_the_command_prints_json(tiny_model: Path):
    """Nothing beside it: the libraries' talk is silenced."""
    command = [sys.executable, "-m", "flows.cli", "bench", "sampler", "--model", str(tiny_model)]
    options = ["--frames", "3", "--batch", "2", "--steps", "2", "--pairs", "1", "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(json.loads(done.stdout)["sides"]) == [ZS2, PLAIN]  # Zero takes all frames at once
