"""The rules between a row's columns, and the defaults that follow from other columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifests.best_by import DEFAULT as BEST_BY
from manifests.best_by import OF_PAIRS, parse_best_by
from manifests.columns import (
    COLUMNS,
    FAST_SCHEDULER,
    LEAST_FPS,
    LEAST_SIDE,
    MAX_SIDE,
    MOST_FPS,
    MOST_SIDES,
    NOISES_WITH_ALPHA,
    QUALITY,
    SEGMENT_FRAMES,
    WHERE_USED,
    fits_ffmpeg,
)
from manifests.fault import Fault
from manifests.kinds import describe, quoted


def check_together(
    row: dict[str, Any], own: Mapping[str, Any], bad: set[str], faults: list[Fault]
) -> None:
    """Check what the columns of one row say together, and settle what follows from other columns.

    A run default never makes a row wrong that could do without it: a longer `segment_frames` is cut
    to the clip, an `alpha` or `quality` without use is dropped.

    Args:
        row: a parsed value or None for every column, the run's defaults merged; settled in place.
        own: the row's own values.
        bad: columns that have a fault already; rules on them are passed over.
        faults: what is wrong is added here.
    """
    if "num_frames" not in bad and "segment_frames" not in bad:
        _check_frames(row, own, bad, faults)
    if "noise" not in bad and "alpha" not in bad:
        _check_alpha(row, own, faults)
    if "codec" not in bad and "quality" not in bad:
        _check_quality(row, own, faults)
    if not bad & {"codec", "fps", "temporal_scale"}:
        _check_rate(row, faults)
    if not bad & {"codec", "height", "width", "spatial_scale"}:
        _check_sides(row, faults)
    _check_control(row, own, bad, faults)
    if "source_video" not in bad:
        edits = row["source_video"] is not None
        _check_use(row, own, bad, ("image_guidance_scale",), edits, "no source_video", faults)
    if not bad & {"best_of", "best_by"}:
        _check_best(row, own, faults)
    if not bad & {"temporal_sr", "temporal_scale", "control_video", "source_video"}:
        _check_in_between(row, own, faults)
    if not bad & {"speed", "scheduler", "num_inference_steps", "source_video"}:
        _check_speed(row, own, faults)
    adapts = _is_wanted(row, own, bad, ("ip_adapter", "ip_adapter_image"), faults)
    _check_use(row, own, bad, ("ip_adapter_scale",), adapts, "no ip_adapter", faults)


def _check_frames(
    row: dict[str, Any], own: Mapping[str, Any], bad: set[str], faults: list[Fault]
) -> None:
    n: int = row["num_frames"]
    m: int | None = row["segment_frames"]
    most = SEGMENT_FRAMES if m is None else m  # of a longer clip
    if m is None:
        row["segment_frames"] = m = min(SEGMENT_FRAMES, n)
    elif m > n:
        if own.get("segment_frames") is not None:
            expected = f"at most num_frames, which is {n}"
            faults.append(
                Fault("segment_frames", expected, str(m), "leave it null for the default")
            )
            return
        row["segment_frames"] = m = n
    prompts = row["prompt"]
    segments = -(-n // m)
    if "prompt" not in bad and len(prompts) not in (1, segments):
        need = "1 prompt" if segments == 1 else f"1 prompt or {segments}, one per segment"
        found = f"{len(prompts)} prompts"
        remedy = f"one prompt per segment: set num_frames to {len(prompts) * most}"
        faults.append(Fault("prompt", need, found, f"{n} frames in segments of {m}; {remedy}"))
    for name, count in (("kl_target", n - 1), ("momentum", n)):
        value = row[name]
        if name not in bad and isinstance(value, tuple) and len(value) != count:
            need = f"1 value or {count}" if count > 1 else "1 value"
            rule = "one per frame pair" if name == "kl_target" else "one per frame"
            faults.append(Fault(name, need, describe(value), f"{rule}, with {n} frames"))


def _check_alpha(row: dict[str, Any], own: Mapping[str, Any], faults: list[Fault]) -> None:
    noise, alpha = row["noise"], row["alpha"]
    if noise in NOISES_WITH_ALPHA:
        if alpha is None:
            faults.append(
                Fault("alpha", f"a number ≥ 0 and ≤ 1, as noise is `{noise}`", "no value")
            )
    elif alpha is not None:
        if own.get("alpha") is None:
            row["alpha"] = None
            return
        hint = f"it belongs to noise {quoted(NOISES_WITH_ALPHA)}"
        faults.append(Fault("alpha", f"no value, as noise is `{noise}`", f"{alpha:g}", hint))


def _check_quality(row: dict[str, Any], own: Mapping[str, Any], faults: list[Fault]) -> None:
    codec, quality = row["codec"], row["quality"]
    limits = QUALITY.get(codec)
    if limits is None:
        row["quality"] = None
        return
    low, high, default = limits
    if quality is None:
        row["quality"] = default
    elif not low <= quality <= high:
        expected = f"a whole number from {low} to {high}, as codec is `{codec}`"
        faults.append(Fault("quality", expected, str(quality)))


def _check_best(row: dict[str, Any], own: Mapping[str, Any], faults: list[Fault]) -> None:
    if row["best_of"] == 1:
        if own.get("best_by") is not None:
            expected = "no value, as best_of is 1"
            hint = "set best_of to the number of candidates, or leave it null"
            faults.append(Fault("best_by", expected, describe(own["best_by"]), hint))
        row["best_by"] = None
        return
    row["best_by"] = row["best_by"] or BEST_BY
    if row["num_frames"] == 1:
        pairs = [name for name, _ in parse_best_by(row["best_by"]).terms if name in OF_PAIRS]
        if pairs:
            expected = "a score of single pictures, as num_frames is 1"
            faults.append(Fault("best_by", expected, quoted(pairs), "use clip_score or sharpness"))


def _check_rate(row: dict[str, Any], faults: list[Fault]) -> None:
    rate, most = row["fps"] * row["temporal_scale"], MOST_FPS[row["codec"]]
    if rate > most:
        expected = f"fps × temporal_scale of at most {most:g}, as codec is `{row['codec']}`"
        faults.append(Fault("fps", expected, f"{rate:g}"))
    elif rate < LEAST_FPS:
        expected = f"fps × temporal_scale of at least {LEAST_FPS:g}"
        faults.append(Fault("fps", expected, f"{rate:g}"))


def _check_sides(row: dict[str, Any], faults: list[Fault]) -> None:
    least, scale = LEAST_SIDE.get(row["codec"], 1), row["spatial_scale"]
    largest = MOST_SIDES.get(row["codec"], (MAX_SIDE * scale,) * 2)
    hint = "with its spatial_scale; make it smaller, or choose another codec"
    before = len(faults)
    for name, most in zip(("height", "width"), largest, strict=True):
        side: int | None = row[name]  # a model's own is neither so small nor so large
        if side is not None and side * scale < least:
            expected = f"at least {least} pixels of the video, as codec is `{row['codec']}`"
            faults.append(Fault(name, expected, f"{side * scale}"))
        elif side is not None and side * scale > most:
            expected = f"at most {most} pixels of the video, as codec is `{row['codec']}`"
            faults.append(Fault(name, expected, f"{side * scale}", hint))
    height, width = ((row[name] or 0) * scale for name in ("height", "width"))
    if len(faults) == before and not fits_ffmpeg(height, width):
        expected = "a video of less than 2^28 pixels a frame, as ffmpeg takes"
        faults.append(Fault("height", expected, f"{height}×{width}", hint))


def _check_in_between(row: dict[str, Any], own: Mapping[str, Any], faults: list[Fault]) -> None:
    """Frames in between have no picture to follow where a clip guides the others."""
    if row["temporal_sr"] != "latent" or row["temporal_scale"] == 1:
        return
    given = next((n for n in ("control_video", "source_video") if row[n] is not None), None)
    if given is not None and own.get("temporal_sr") is None:
        row["temporal_sr"] = COLUMNS["temporal_sr"].default
    elif given is not None:
        expected = f"`flow` or `model:FILE`, as there is a {given}"
        faults.append(Fault("temporal_sr", expected, "`latent`", "or leave it null"))


def _check_speed(row: dict[str, Any], own: Mapping[str, Any], faults: list[Fault]) -> None:
    """Edits are exact; a fast row that names neither scheduler nor steps has the solver of few steps."""
    if row["speed"] == "fast" and row["source_video"] is not None:
        if own.get("speed") is None:
            row["speed"] = COLUMNS["speed"].default
        else:
            expected = "`exact`, as there is a source_video"
            faults.append(Fault("speed", expected, "`fast`", "or leave it null"))
    if row["scheduler"] is None:
        is_few = row["speed"] == "fast" and row["num_inference_steps"] is None
        row["scheduler"] = FAST_SCHEDULER if is_few else COLUMNS["scheduler"].default


def _check_control(
    row: dict[str, Any], own: Mapping[str, Any], bad: set[str], faults: list[Fault]
) -> None:
    group = ("control", "controlnet", "control_video")
    controlled = _is_wanted(row, own, bad, group, faults)
    if controlled and row["source_video"] is not None:
        if own.get("source_video") is None:
            row["source_video"] = None
        elif all(own.get(name) is None for name in group):
            row.update(dict.fromkeys(group))
            controlled = False
        else:
            expected = "no value, as there is a control clip"
            found = describe(row["source_video"])
            faults.append(Fault("source_video", expected, found, "leave one of them null"))
    _check_use(row, own, bad, ("control_scale",), controlled, "no control", faults)
    if "control" in bad:
        return
    control, thresholds = row["control"], ("canny_low", "canny_high")
    lacks = f"control `{control}`" if controlled else "no control"
    _check_use(row, own, bad, thresholds, control == "canny", lacks, faults)
    low, high = (row[name] for name in thresholds)
    if control == "canny" and not bad & {*thresholds} and low >= high:
        hint = f"the defaults are {WHERE_USED['canny_low']} and {WHERE_USED['canny_high']}"
        faults.append(Fault("canny_low", f"less than canny_high, which is {high}", str(low), hint))


def _is_wanted(
    row: dict[str, Any],
    own: Mapping[str, Any],
    bad: set[str],
    group: tuple[str, ...],
    faults: list[Fault],
) -> bool:
    """Whether the row asks for what a group of columns describes together; then none may be missing.

    Run defaults ask for it by themselves only when they are complete.
    """
    missing = [name for name in group if row[name] is None and name not in bad]
    if missing and all(own.get(name) is None for name in group):
        row.update(dict.fromkeys(group))
        return False
    for name in missing:
        given = next(other for other in group if other not in missing)
        article = "an" if given[0] in "aeiou" else "a"
        expected = f"{COLUMNS[name].kind.expected}, as there is {article} {given}"
        faults.append(Fault(name, expected, "no value"))
    return True


def _check_use(
    row: dict[str, Any],
    own: Mapping[str, Any],
    bad: set[str],
    names: tuple[str, ...],
    is_used: bool,
    lacks: str,
    faults: list[Fault],
) -> None:
    """Columns that only have a use beside others: their defaults there, and no value elsewhere."""
    for name in names:
        if name in bad:
            continue
        if is_used:
            row[name] = WHERE_USED[name] if row[name] is None else row[name]
        elif own.get(name) is None:
            row[name] = None
        else:
            expected = f"no value, as there is {lacks}"
            faults.append(Fault(name, expected, describe(row[name]), "leave it null"))
