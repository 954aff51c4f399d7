"""`zs2 plan`: where its estimate is from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.commands import plan as command
from flows.errors import UsageError
from manifests.head import write_head
from manifests.journal import Journal
from manifests.read import open_manifest
from manifests.result import ResultRow
from manifests.run_file import write_json
from manifests.storage import RunFolder
from tasks.catalogue import Catalogue
from tasks.job import Engine
from tasks.plan import Plan, make_plan
from tests.flows.running import write_rows


@pytest.fixture
def manifest(tiny_model: Path, tmp_path: Path) -> str:
    rows = [{"id": name, "prompt": "p", "model": str(tiny_model)} for name in "abc"]
    return str(write_rows(tmp_path / "m.parquet", rows))


def planned(manifest: str, out: Path | None, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        **{"pairs": [], "allow_models": None, "input_roots": [], "trust_pickles": []},
        **{"dtype": "auto", "engine": "eager", "samplers": 1, "rate": None, "price_per_hour": None},
    }
    return command.plan(manifest, str(out) if out else None, **given | more)


def write_results(folder: RunFolder, made: Plan) -> None:
    """The ledger of a killed run: `a` is done in 4 s; `b` is of another digest, `c` has failed."""
    digests = {name: made.digests.get(name) for name in "abc"[: made.rows]}
    with Journal(folder.results, "r") as journal:
        for name, status in (("a", "ok"), ("b", "ok"), ("c", "failed"))[: made.rows]:
            digest = "0" * 32 if name == "b" else (digests[name] or ("", ""))[0]
            row = ResultRow(name, digest, status, seconds_sample=4.0)  # type: ignore[arg-type]
            journal.append(row)
            video = folder.video_path(digest, name, "h264")
            video.parent.mkdir(parents=True, exist_ok=True)
            video.write_bytes(b"video")


def test_the_rate_is_of_finished_rows_where_no_summary_was_left(
    manifest: str, tmp_path: Path
) -> None:
    """Native pictures of the rows that are done over their seconds in the ledger; rows that changed
    or failed do not count. A summary, where there is one, goes before."""
    made = make_plan(open_manifest(manifest), Catalogue(), defaults={}, engine=Engine())
    folder = RunFolder(tmp_path / "out").create()
    write_results(folder, made)
    report = planned(manifest, folder.root)
    assert (report["done"], report["rate_from"]) == (
        1,
        "measured by the finished rows of this folder",
    )
    assert report["pictures_per_second"] == pytest.approx(made.work.native_pictures / 3 / 4.0)
    summarised(folder, 7.0)
    assert planned(manifest, folder.root)["pictures_per_second"] == 7.0
    write_json(folder.run_file, {"run_id": "a later one, which left no summary"})
    assert planned(manifest, folder.root)["rate_from"].startswith("measured by the finished rows")


def summarised(folder: RunFolder, rate: float, **settings: Any) -> None:
    """What a run with these settings leaves of its rate."""
    summary = {"run_id": "r", "native_pictures_per_second": rate}
    write_json(folder.summary_file, summary)
    settings = {"engine": "eager", "clips_per_call": 1, **settings}
    write_json(folder.run_file, {"run_id": "r", "settings": settings})


def test_finished_rows_count_as_a_run_does(manifest: str, tmp_path: Path) -> None:
    """One row of calls of 2 was sampled in a call that was filled up, as the run's own rate has it; the
    rate is then of these calls, and gains nothing on top. A row that keeps its calls to itself fills up
    nothing, and tells nothing of shared calls."""
    one = make_plan(open_manifest(manifest), Catalogue(), defaults={}, engine=Engine())
    declared: dict[str, Any] = {"clips_per_call": 2, "clips_gain": 1.6}
    for pairs, clips, name in (([], 2, "shared"), (["long_prompt=chunk"], 1, "alone")):
        made = make_plan(
            *(open_manifest(manifest), Catalogue()),
            defaults=dict(pair.split("=") for pair in pairs),
            engine=Engine(clips_per_call=2),
        )
        folder = RunFolder(tmp_path / name).create()
        write_results(folder, made)
        report = planned(manifest, folder.root, pairs=pairs, **declared)
        assert report["done"] == 1 and report["rate_clips_per_call"] == clips
        pictures = clips * one.work.native_pictures / 3
        assert report["pictures_per_second"] == pytest.approx(pictures / 4.0)
        left = report["work"]["native_pictures"]
        assert report["device_hours"] * 3600 == pytest.approx(left / (pictures / 4.0))


def test_rows_of_a_head_are_found_done(manifest: str, tmp_path: Path) -> None:
    """What was rendered of the first rows' own manifest is the whole manifest's, and measures its rate."""
    head = tmp_path / "elsewhere" / "head.parquet"
    assert write_head(open_manifest(manifest), 1, head) == 1
    made = make_plan(open_manifest(head), Catalogue(), defaults={}, engine=Engine())
    folder = RunFolder(tmp_path / "out").create()
    write_results(folder, made)
    report = planned(manifest, folder.root)
    assert (report["rows"], report["done"]) == (3, 1) and report["device_hours"] > 0
    assert "zs2 manifest head" in command.text(planned(manifest, None))


def test_an_unknown_rate_is_said_once(manifest: str) -> None:
    """With what makes it known."""
    (line,) = [
        line for line in command.text(planned(manifest, None)).splitlines() if "hours" in line
    ]
    assert line.count("unknown") == 1 and "--rate" in line


def test_the_plan_tells_when_compiling_pays(manifest: str) -> None:
    """By the pictures to sample and what it gains: none is ever chosen by itself, and where nothing is
    gained or the rate is unknown, nothing pays."""
    gain = {"compiled_gain": 1.2}
    slow, fast = (planned(manifest, None, rate=rate, **gain) for rate in (0.01, 1e6))
    assert (slow["engine"], slow["recommended_engine"]) == ("eager", "compiled")
    assert fast["recommended_engine"] == "eager"
    assert f"{slow['compiling_pays_from_pictures']:,} pictures" in command.text(slow)
    unknown = planned(manifest, None, **gain)
    assert unknown["recommended_engine"] is None and "engine" not in command.text(unknown)
    usual = planned(manifest, None, rate=0.01)
    assert usual["recommended_engine"] == "eager"
    assert usual["compiling_pays_from_pictures"] is None
    assert "zs2 bench sampler --engine compiled" in command.text(usual)
    with pytest.raises(UsageError, match="--compiled-gain: expected a number above 0, found 0"):
        planned(manifest, None, compiled_gain=0.0)
    with pytest.raises(UsageError, match="--engine: expected one of eager, compiled"):
        planned(manifest, None, engine="fast")


def test_the_plan_tells_whether_clips_should_share_calls(manifest: str) -> None:
    """Where they gain more than filling up calls costs: of three rows in calls of 2, a third more."""
    calls = planned(manifest, None)["work"]["unet_calls"]
    few, many = (planned(manifest, None, clips_per_call=2, clips_gain=g) for g in (1.3, 1.4))
    assert few["work"]["unet_calls"] == calls * 2 / 3
    assert few["work"]["filled_pictures"] * 4 == few["work"]["unet_pictures"]
    assert (few["recommended_clips_per_call"], many["recommended_clips_per_call"]) == (1, 2)
    assert "1: 2 gain 1.3 ×" in command.text(few) and "25.0 % of the pictures" in command.text(few)
    unknown = planned(manifest, None, clips_per_call=2)
    assert unknown["recommended_clips_per_call"] == 1
    assert "1, as long as no gain is known" in command.text(unknown)
    with pytest.raises(UsageError, match="--clips-gain: expected beside --clips-per-call of 2"):
        planned(manifest, None, clips_gain=1.2)
    assert "clips a call" not in command.text(planned(manifest, None))
    with pytest.raises(UsageError, match="--clips-per-call: expected 1 to 64, found 0"):
        planned(manifest, None, clips_per_call=0)
    with pytest.raises(UsageError, match="--samplers: expected at least 1, found 0"):
        planned(manifest, None, samplers=0)
    with pytest.raises(UsageError, match="--clips-gain: expected a number above 0, found -1"):
        planned(manifest, None, clips_gain=-1.0)


def test_the_estimate_has_the_gain_of_the_engine_that_is_declared(manifest: str) -> None:
    """`--compiled-gain` of all calls, `--clips-gain` of those that rows share, filled up: of three rows in
    calls of 2 a third more pictures, in which 1.6 × as many go by. Cost and time follow."""
    given: dict[str, Any] = {"rate": 10.0, "price_per_hour": 2.0, "samplers": 2}
    plain = planned(manifest, None, **given)
    assert plain["gains_applied"] == {} and "as fast" not in command.text(plain)
    hours = plain["device_hours"]
    assert hours * 3600 == pytest.approx(plain["work"]["native_pictures"] / 10)
    gains = {"compiled_gain": 1.25}
    assert planned(manifest, None, **given, **gains)["device_hours"] == hours  # eager is declared
    compiled = planned(manifest, None, **given, engine="compiled", **gains)
    assert compiled["device_hours"] == pytest.approx(hours / 1.25)
    assert "(--rate; 1.25 × as fast by --compiled-gain)" in command.text(compiled)
    clips = {"clips_per_call": 2, "clips_gain": 1.6}
    shared = planned(manifest, None, **given, **clips)
    assert shared["device_hours"] == pytest.approx(hours * 4 / 3 / 1.6)
    assert "1.6 × as fast by --clips-gain" in command.text(shared)
    both = planned(manifest, None, **given, engine="compiled", **gains, **clips)
    assert both["device_hours"] == pytest.approx(hours * 4 / 3 / 1.6 / 1.25)
    assert both["gains_applied"] == {"compiled_gain": 1.25, "clips_gain": 1.6}
    for report in (compiled, shared, both):
        assert report["wall_seconds"] == pytest.approx(report["device_hours"] * 1800)
        assert report["cost"] == pytest.approx(report["device_hours"] * 2)
        assert report["pictures_per_second"] == 10.0
    assert both["compiling_pays_from_pictures"] == pytest.approx(
        1.6 * compiled["compiling_pays_from_pictures"], rel=1e-6
    )  # the faster it is without, the less it saves
    assert compiled["compiling_pays_from_pictures"] == round(46 * 10 * 2 / (1 - 1 / 1.25))


def test_a_gain_is_not_counted_twice(manifest: str, tmp_path: Path) -> None:
    """What the last run into the folder measured with the engine that is declared has its gain already;
    of what it measured with another one the plan says so, and makes of it what is known."""
    folder = RunFolder(tmp_path / "out").create()
    gains = {"compiled_gain": 1.25}
    clips = {"clips_per_call": 2, "clips_gain": 1.6}
    summarised(folder, 10.0, engine="compiled", clips_per_call=2)
    same = planned(manifest, folder.root, engine="compiled", **gains, **clips)
    seconds = same["work"]["native_pictures"] / 10
    assert same["gains_applied"] == {} and same["wall_seconds"] == pytest.approx(seconds)
    assert (same["rate_engine"], same["rate_clips_per_call"]) == ("compiled", 2)
    told = "measured by the last run into this folder, engine compiled, 2 clips a call)"
    assert told in command.text(same)
    eager = planned(manifest, folder.root, **gains, **clips)
    assert eager["gains_applied"] == {"compiled_gain": 0.8} and told[:-1] in command.text(eager)
    assert eager["wall_seconds"] == pytest.approx(seconds * 1.25)
    for report in (same, eager):
        assert report["compiling_pays_from_pictures"] == round(46 * 8 / (1 - 1 / 1.25))
    four = planned(manifest, folder.root, engine="compiled", clips_per_call=4, clips_gain=1.8)
    assert four["gains_applied"] == {}
    summarised(folder, 10.0)
    assert planned(manifest, folder.root, **clips)["gains_applied"] == {"clips_gain": 1.6}


def test_rows_with_calls_of_their_own_are_told(tiny_model: Path, tmp_path: Path) -> None:
    """How many, by the reason, most first; the gain is not theirs. Where no row shares calls, no gain
    makes it worth declaring; without several clips a call no row is alone."""
    words = [{"long_prompt": "chunk"}, {"best_of": 2, "best_by": "dynamic_degree"}]
    rows = [
        {"id": f"r{i}", "prompt": "p", "model": str(tiny_model), **more}
        for i, more in enumerate([*[words[0]] * 2, words[1], {}, {}])
    ]
    mixed = str(write_rows(tmp_path / "m.parquet", rows))
    clips = {"clips_per_call": 2, "clips_gain": 1.6, "rate": 1.0}
    report = planned(mixed, None, **clips)
    reasons = {"its prompt may be of any length": 2, "its candidates are ranked one by one": 1}
    assert report["rows_alone"] == reasons
    told = ", ".join(f"{reason}: {rows}" for reason, rows in reasons.items())
    assert f"3 rows ({told})" in command.text(report)
    work = report["work"]
    alone = work["native_pictures"] - work["shared_native_pictures"]
    assert alone == 4 / 2 * work["shared_native_pictures"]  # two rows, and one of two candidates
    assert report["wall_seconds"] == pytest.approx(alone + (work["native_pictures"] - alone) / 1.6)
    assert planned(mixed, None)["rows_alone"] == {}
    none = planned(mixed, None, pairs=["long_prompt=chunk"], **clips)
    assert none["rows_alone"]["its prompt may be of any length"] == 4
    assert none["recommended_clips_per_call"] == 1 and none["gains_applied"] == {}
    assert "calls of their own" not in command.text(planned(mixed, None))
