"""`zs2 plan`: what a run would do and cost, without torch, Ray or Prefect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from flows.computing import computing
from flows.console import duration, size, table
from flows.errors import UsageError
from flows.rate import rate_of
from manifests.inputs import InputFiles
from manifests.kinds import count
from manifests.ledger import known
from manifests.read import open_manifest
from manifests.row import parse_defaults
from manifests.storage import RunFolder
from manifests.validate import format_problems
from tasks.job import CONTROLNET_COST
from tasks.plan import Catalogue, Plan, make_plan
from tasks.work import Work

# What compiling one shape of clips takes where none of it is kept from before: zs2-mini on a busy server
# core (30 s on a quiet one, infra/performance.md). Larger models take longer.
COMPILE_SECONDS = 46.0


def plan(
    manifest: str,
    out: str | None,
    *,
    pairs: Sequence[str],
    allow_models: Sequence[str] | None,
    input_roots: Sequence[str],
    trust_pickles: Sequence[str],
    dtype: str,
    engine: str = "eager",
    clips_per_call: int = 1,
    samplers: int,
    rate: float | None,
    compiled_gain: float = 1.0,
    clips_gain: float = 1.0,
    price_per_hour: float | None,
) -> dict[str, Any]:
    """The plan as a record, for --json and `text`.

    Args:
        compiled_gain: eager seconds ÷ those of the engine compiled; 1, what a CPU was measured to gain, never
            recommends it.
        clips_gain: seconds of a clip by itself ÷ those of one of `clips_per_call` in a call.

    Raises:
        UsageError: bad rows (all in one message). ManifestError, RowError, StorageError.
    """
    declared = computing(dtype, engine=engine, clips_per_call=clips_per_call)
    for name, gain in (("--compiled-gain", compiled_gain), ("--clips-gain", clips_gain)):
        if not 0 < gain < math.inf:
            raise UsageError(f"{name}: expected a number above 0, found {gain}")
    if clips_gain != 1 and clips_per_call == 1:
        raise UsageError(
            f"--clips-gain: expected beside --clips-per-call of 2 or more, found {clips_gain} without"
        )
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise UsageError(f"--price-per-hour: expected a number from 0, found {price_per_hour}")
    if samplers < 1:
        raise UsageError(f"--samplers: expected at least 1, found {samplers}")
    source = open_manifest(manifest)
    with RunFolder(out).view() if out else nullcontext() as folder:
        made = make_plan(
            source,
            Catalogue(allow_models, trusted=trust_pickles, inputs=InputFiles(input_roots)),
            defaults=parse_defaults(pairs),
            engine=declared,
            known=known(folder.root) if folder else None,
            folder=folder,
            samplers=samplers,
        )
        if made.invalid_rows:
            raise UsageError(f"{manifest}: {format_problems(made.problems)}")
        measured = rate_of(rate, folder, made, declared)
    shared_gain = clips_gain if made.work.shared_native_pictures else 1.0
    gains = measured.gains_of(declared, compiled_gain, shared_gain)
    seconds = measured.seconds_of(made.work, gains)
    hours = seconds / 3600 if seconds is not None else None
    as_eager = measured.gains_of(replace(declared, engine="eager"), compiled_gain, shared_gain)
    pays = _compiling_pays(measured.seconds_of(made.work, as_eager), made, compiled_gain, samplers)
    return {
        "manifest": manifest,
        "rows": made.rows,
        "done": made.done,
        "dropped": made.dropped,
        "shards": len(made.shards),
        "signatures": len({shard.signature for shard in made.shards}),
        "switches": asdict(made.switches),
        "switches_in_manifest_order": asdict(made.switches_in_manifest_order),
        "padding": made.work.padding,
        "work": asdict(made.work),
        "rows_alone": dict(made.alone),
        "pictures_per_second": measured.pictures_per_second,
        "rate_from": measured.source,
        "rate_engine": measured.engine,
        "rate_clips_per_call": measured.clips_per_call,
        "gains_applied": gains,
        "device_hours": hours,
        "wall_seconds": seconds / samplers if seconds is not None else None,
        "cost": hours * price_per_hour if hours is not None and price_per_hour else None,
        "shapes": made.shapes,
        "engine": engine,
        "compiled_gain": compiled_gain,
        "compiling_pays_from_pictures": pays,
        "recommended_engine": _recommended(made.work.native_pictures, pays, compiled_gain),
        "clips_per_call": clips_per_call,
        "clips_gain": clips_gain,
        "recommended_clips_per_call": (
            clips_per_call if _sharing_pays(made.work, clips_gain) else 1
        ),
    }


def _sharing_pays(work: Work, gain: float) -> bool:
    """Whether the calls that rows share, filled up, take less time than calls of their own."""
    shared = work.shared_native_pictures
    return shared / gain < shared - work.filled_native_pictures


def _recommended(pictures: float, pays: int | None, gain: float) -> str | None:
    if gain <= 1 or not pictures:
        return "eager"
    if pays is None:
        return None
    return "compiled" if pictures > pays else "eager"


def _compiling_pays(
    eager_seconds: float | None, made: Plan, gain: float, samplers: int
) -> int | None:
    """UNet pictures of the model's size from which on compiling takes less time than it saves; None where
    it saves none, or the rate is unknown.

    Args:
        eager_seconds: of one device for the work, as the engine eager has it.
    """
    if not eager_seconds or gain <= 1:
        return None
    seconds = COMPILE_SECONDS / (1 - 1 / gain) * max(1, made.shapes) * samplers
    return round(made.work.native_pictures / eager_seconds * seconds)


def _controlled(work: Mapping[str, Any]) -> str:
    pictures = work["controlled_pictures"]
    return f"{pictures:,} of the pictures; each is taken as {CONTROLNET_COST:g} in the estimate"


def _switches(found: Mapping[str, int]) -> str:
    models, add_ons, shapes = (found[name] for name in ("models", "add_ons", "shapes"))
    return f"{models:,} of model, {add_ons:,} of add-ons, {shapes:,} of shape"


def _estimate(report: Mapping[str, Any]) -> str:
    source, hours = report["rate_from"], report["device_hours"]
    if hours is None:
        return source
    words = {
        "compiled_gain": "{:g} × as fast by --compiled-gain",
        "clips_gain": "calls that rows share {:g} × as fast by --clips-gain",
    }
    faster = [words[name].format(gain) for name, gain in report["gains_applied"].items()]
    return f"{hours:.3f} ({'; '.join([source, *faster])})"


def _alone(report: Mapping[str, Any]) -> str:
    reasons = sorted(report["rows_alone"].items(), key=lambda each: -each[1])
    told = ", ".join(f"{reason}: {rows:,}" for reason, rows in reasons)
    return f"{count(sum(rows for _, rows in reasons), 'row')} ({told})"


def _clips_advice(report: Mapping[str, Any]) -> str:
    work, clips = report["work"], report["clips_per_call"]
    filling = f"{100 * work['filled_pictures'] / work['unet_pictures']:.1f} % of the pictures fill up calls"
    if report["clips_gain"] == 1:
        return (
            f"1, as long as no gain is known: measure it, `zs2 bench sampler --clips-per-call {clips}`, "
            f"and give --clips-gain; {filling}"
        )
    return (
        f"{report['recommended_clips_per_call']}: {clips} gain {report['clips_gain']:g} × "
        f"(--clips-gain), and {filling}"
    )


def text(report: Mapping[str, Any]) -> str:
    """The plan as a table for people."""
    work = report["work"]
    cost = report["cost"]
    rows = [
        ("rows", f"{report['rows']:,} ({report['done']:,} done, {work['rows']:,} to render)"),
        ("frames", f"{work['frames']:,} sampled, {work['output_frames']:,} in the videos"),
        (
            "UNet calls",
            f"{work['unet_calls']:,} ({work['unet_pictures']:,} pictures; "
            f"{work['padded_frames']:,} frames of padding: {100 * report['padding']:.1f} % of the "
            "pictures, in any order)",
        ),
        (
            "shards",
            f"{count(report['shards'], 'Prefect task run')}, {count(report['signatures'], 'signature')}",
        ),
        ("switches", f"{_switches(report['switches'])} (one actor, in the order of the run)"),
        ("", f"{_switches(report['switches_in_manifest_order'])} (in the manifest's own order)"),
        (
            "disk",
            f"about {size(work['video_bytes'])} of videos; "
            f"{size(work['latent_bytes'])} more with --keep-latents",
        ),
        ("device-hours", _estimate(report)),
    ]
    if report["dropped"]:
        dropped = f"{count(report['dropped'], 'result')} of the folder, of no row of this manifest"
        rows.insert(1, ("to be dropped", dropped))
    if work["shallow_pictures"]:
        shallow = (
            f"{work['shallow_pictures']:,} of the pictures run through the outermost blocks alone"
        )
        rows.insert(3, ("deep reuse", shallow))
    if work["controlled_pictures"]:
        rows.insert(3, ("with ControlNet", _controlled(work)))
    if report["wall_seconds"] is not None:
        rows.append(("sampling takes", f"about {duration(report['wall_seconds'])}"))
    if cost is not None:
        rows.append(("cost", f"{cost:,.2f}" if cost >= 0.005 or not cost else "under 0.01"))
    if (pays := report["compiling_pays_from_pictures"]) is not None and work["rows"]:
        advice = f"{report['recommended_engine']}: compiling pays from about {pays:,} pictures on"
        rows.append(("engine to use", f"{advice}, {count(report['shapes'], 'shape')} of clips"))
    elif report["recommended_engine"] == "eager" and work["rows"]:
        rows.append(("engine to use", "eager (the other: `zs2 bench sampler --engine compiled`)"))
    if report["rows_alone"]:
        rows.append(("calls of their own", _alone(report)))
    if report["clips_per_call"] > 1 and work["rows"]:
        rows.append(("clips a call to use", _clips_advice(report)))
    return table(rows)
