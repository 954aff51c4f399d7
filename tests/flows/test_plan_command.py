"""`zs2 plan`: where its estimate is from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.commands import plan as command
from flows.errors import UsageError
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
    digests = {name: made.digests.get(name) for name in "abc"}
    with Journal(folder.results, "r") as journal:
        for name, status in (("a", "ok"), ("b", "ok"), ("c", "failed")):
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
    write_json(folder.summary_file, {"native_pictures_per_second": 7.0})
    assert planned(manifest, folder.root)["pictures_per_second"] == 7.0


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
    with pytest.raises(UsageError, match="--clips-gain: expected a number above 0, found -1"):
        planned(manifest, None, clips_gain=-1.0)
