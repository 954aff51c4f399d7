"""`zs2 bench sampler`: ZS² beside diffusers' own pipelines on the same work, both sides in one run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, TextToVideoZeroPipeline

from flows.bench.machine import machine, machine_lines, matmul_peak
from flows.bench.paired import (
    Timing,
    in_turn,
    median_interval,
    medians,
    ratios,
    spread_text,
    timed,
)
from flows.bench.pipelines import sampler_of, set_threads, synchronize
from flows.bench.tables import markdown_table
from flows.bench.work import counted
from flows.computing import computing
from flows.console import table
from flows.errors import UsageError, check_least
from zs2.attention import MomentumState, momentum_attention
from zs2.baselines import begin_and_warp
from zs2.config import ClipConfig
from zs2.sampler import ZS2Sampler

PROMPT = "a red star over the sea at night"
ZS2, PLAIN, ZERO = "zs2", "diffusers DDIM", "TextToVideoZero"
COMPILED = "zs2 compiled"
ABLATION_CALLS = 16  # of the UNet, of each side, for each pair of clips


def sampler(
    *,
    model: str = "zs2-mini",
    unet: str | None = None,
    frames: int = 8,
    batch: int = 8,
    steps: int | None = None,
    guidance: float | None = None,
    side: int | None = None,
    dtype: str = "auto",
    engine: str = "eager",
    clips_per_call: int = 1,
    pairs: int = 5,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure a clip of ZS², the same pictures of diffusers', and what momentum attention adds.

    Args:
        model, unet: see `flows.bench.pipelines.sampler_of`.
        batch: frames a UNet call: segment_frames here, pictures a call there.
        steps, guidance, side: default the model's own.
        engine: with `compiled` ZS² by that engine is compared with all others, the eager one among them.
        clips_per_call: with k > 1 every side makes k clips, and ZS² with k in a UNet call is compared
            with all others, ZS² with one among them.
        pairs: rounds, each side once in every one.

    Returns:
        `machine`, `device`, `dtype`, `threads`, `clip` (frames, batch, steps, guidance, side), `clips`,
        `peak_flops` (a second, of matrix products), `sides` by name: medians, frames a second, work,
        `share` of the peak, and of those that `first` is compared with `ratio` (`paired.ratios`);
        `momentum`: seconds of a UNet call with and without, and the `share` of its time that momentum
        attention takes.

    Raises:
        UsageError: sizes that cannot be measured. ModelError: see `sampler_of`.
    """
    check_least("--frames", 2, frames)
    check_least("--batch", 1, batch)
    check_least("--pairs", 1, pairs)
    declared = computing(dtype, engine=engine, clips_per_call=clips_per_call)
    if steps is not None:
        check_least("--steps", 1, steps)
    if side is not None and (side < 8 or side % 8):
        raise UsageError(f"--side: expected a positive multiple of 8, found {side}")
    if guidance is not None and not math.isfinite(guidance):
        raise UsageError(f"--guidance: expected a number, found {guidance}")
    used = set_threads(threads)
    ours = sampler_of(model, unet, dtype)
    pipe: Any = ours.pipe
    wait = synchronize(pipe)
    own = ours.defaults
    clip = {
        "frames": frames,
        "batch": min(batch, frames),
        "steps": steps or own.num_inference_steps,
        "guidance": own.guidance_scale if guidance is None else guidance,
        "side": side or pipe.unet.config.sample_size * pipe.vae_scale_factor,
    }
    sides = _sides(ours, clip, clips_per_call)
    first = next(iter(sides))
    found: dict[str, dict[str, Any]] = {name: counted(pipe, call) for name, call in sides.items()}
    if declared.engine == "compiled":
        compiled = sampler_of(model, unet, dtype)
        compiled.compile()
        by_eager, first = first, first.replace(ZS2, COMPILED)
        sides[first] = _sides(compiled, clip, clips_per_call)[by_eager]
        found[first] = dict(found[by_eager])  # compiled code cannot be counted; it is the same work
    for call in sides.values():
        call()  # counting runs other code than measuring does
    timings = in_turn(sides, pairs, wait)
    peak = matmul_peak(pipe.unet.device, pipe.unet.dtype)
    for name, side_found in found.items():
        side_found |= _rates(
            side_found["flops"],
            timings[name],
            frames * clips_per_call,
            peak,
            None if wait else used,
        )
        if name != first:
            side_found["ratio"] = ratios(timings[first], timings[name])
    return {
        "machine": machine(),
        "model": unet or model,
        "device": _device_name(pipe),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "threads": used,
        "pairs": pairs,
        "clip": clip,
        "clips": clips_per_call,
        "first": first,
        "peak_flops": peak,
        "sides": found,
        "momentum": _momentum(pipe, clip, ABLATION_CALLS * pairs, wait),
    }


def _rates(
    flops: float, timings: Sequence[Timing], frames: int, peak: float, cores: int | None
) -> dict[str, float]:
    """Medians of a side, its frames a second and its share of the peak; `cores` None: a GPU's."""
    found = medians(timings)
    # on a CPU of the time that it had the cores: other work may have them, too
    busy = found["cpu_seconds"] / cores if cores else found["seconds"]
    rate = frames / found["seconds"]
    return {**found, "frames_per_second": rate, "share": flops / busy / peak}


def _device_name(pipe: Any) -> str:
    device = pipe.unet.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _sides(
    ours: ZS2Sampler, clip: Mapping[str, Any], clips: int
) -> dict[str, Callable[[], object]]:
    """Each side as one call that ends with the decoded frames of so many clips; the first is ours, with
    all of them in a UNet call."""
    pipe: Any = ours.pipe
    shared = {
        "height": clip["side"],
        "width": clip["side"],
        "num_inference_steps": clip["steps"],
        "guidance_scale": clip["guidance"],
    }
    frames, batch = clip["frames"], clip["batch"]

    def zs2(together: int) -> object:
        return ours(
            [PROMPT] * clips,
            num_frames=frames,
            segment_frames=batch,
            seed=list(range(clips)),
            clips_per_call=together,
            **shared,
        )

    def plain() -> object:
        generator = torch.Generator().manual_seed(0)
        return [
            pipe(
                PROMPT,
                num_images_per_prompt=min(batch, frames - start),
                generator=generator,
                output_type="np",
                **shared,
            )
            for start in [*range(0, frames, batch)] * clips
        ]

    sides: dict[str, Callable[[], object]] = {}
    if clips > 1:
        sides[f"{ZS2}, {clips} clips a call"] = partial(zs2, clips)
    sides |= {ZS2: partial(zs2, 1), PLAIN: plain}
    # it takes all frames at once, and fails without guidance
    if type(pipe) is StableDiffusionPipeline and frames == batch and clip["guidance"] > 1:
        sides[ZERO] = _zero(pipe, frames, shared, clips)
    return sides


def _zero(pipe: Any, frames: int, shared: Mapping[str, Any], clips: int) -> Callable[[], object]:
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    processors = dict(pipe.unet.attn_processors)
    steps = shared["num_inference_steps"]
    begin, warp = begin_and_warp(steps, None, None)
    times = {"t0": steps - 1 - warp, "t1": steps - 1 - begin}
    video = TextToVideoZeroPipeline(**parts, requires_safety_checker=False)
    video.set_progress_bar_config(disable=True)

    def zero() -> object:
        generator = torch.Generator().manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, how it calls it
            try:
                return [
                    video(PROMPT, video_length=frames, generator=generator, **times, **shared)
                    for _ in range(clips)
                ]
            finally:
                pipe.unet.set_attn_processor(dict(processors))  # it leaves its own there

    return zero


@torch.no_grad()
def _momentum(
    pipe: Any, clip: Mapping[str, Any], rounds: int, wait: Callable[[], object] | None
) -> dict[str, Any]:
    """UNet calls of one segment, with momentum attention and with the model's own, by turns first."""
    unet, count = pipe.unet, clip["batch"]
    config = unet.config
    pictures = count * (2 if clip["guidance"] > 1 else 1)
    place = {"device": unet.device, "dtype": unet.dtype}
    small = clip["side"] // pipe.vae_scale_factor
    latents = torch.randn(pictures, config.in_channels, small, small, **place)
    text = torch.randn(pictures, 77, config.cross_attention_dim, **place)
    conditions = _added(unet, pictures, place)
    step = torch.tensor(500, device=unet.device)
    state = MomentumState(ClipConfig(max(2, count)).momentums)

    def call() -> None:
        state.reset()
        state.enter_segment(0, count, count)
        unet(latents, step, text, added_cond_kwargs=conditions, return_dict=False)

    timings: dict[str, list[Timing]] = {"with": [], "without": []}
    for number in range(rounds + 1):
        for name in sorted(timings, reverse=number % 2 == 1):
            ours = momentum_attention(unet, state) if name == "with" else nullcontext()
            with ours:  # a clip enters it once, for all its calls
                timing = timed(call, wait)
            if number:  # the first warms up
                timings[name].append(timing)
    both = list(zip(timings["with"], timings["without"], strict=True))
    return {
        "rounds": rounds,
        **{name: medians(found)["seconds"] for name, found in timings.items()},
        "share": median_interval([1 - b.seconds / a.seconds for a, b in both]),
        "cpu_share": median_interval([1 - b.cpu_seconds / a.cpu_seconds for a, b in both]),
    }


def _added(unet: Any, pictures: int, place: Mapping[str, Any]) -> dict[str, Any] | None:
    """SDXL's further conditions: pooled text and six sizes."""
    config = unet.config
    if config.addition_embed_type != "text_time":
        return None
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return {
        "text_embeds": torch.zeros(pictures, pooled, **place),
        "time_ids": torch.zeros(pictures, 6, **place),
    }


HEADER = (
    *("side", "seconds", "CPU s", "frames/s", "UNet calls", "pictures", "decode calls", "texts"),
    *("TFLOP", "share of peak", "{first} is faster by", "by CPU s"),
)


def text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    return "\n".join(
        [
            *machine_lines(report["machine"]),
            _setting(report),
            "",
            table(_rows(report), _header(report)),
            _momentum_line(report["momentum"]),
            "faster by: their seconds ÷ ours, the median of the pairs (least to most)",
        ]
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The report for infra/performance.md."""
    lines = [*machine_lines(report["machine"]), _setting(report)]
    return "\n\n".join(
        [
            "\n".join(lines),
            markdown_table(_header(report), _rows(report)),
            _momentum_line(report["momentum"]),
        ]
    )


def _header(report: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name.format(first=report["first"]) for name in HEADER)


def _setting(report: Mapping[str, Any]) -> str:
    clip = report["clip"]
    return (
        f"{report['model']} on {report['device']}, {report['dtype']}, threads: {report['threads']}; "
        f"{_clips(report)}{clip['frames']} frames of {clip['side']}×{clip['side']}, {clip['batch']} a call, "
        f"{clip['steps']} steps, guidance {clip['guidance']:g}; {report['pairs']} pairs; "
        f"peak of matrix products {report['peak_flops'] / 1e12:.3g} TFLOP/s"
    )


def _clips(report: Mapping[str, Any]) -> str:
    return f"{report['clips']} clips of " if report["clips"] > 1 else ""


def _rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{found['seconds']:.3f}",
            f"{found['cpu_seconds']:.3f}",
            f"{found['frames_per_second']:.2f}",
            f"{found['unet_calls']}",
            f"{found['unet_pictures']}",
            f"{found['decode_calls']}",
            f"{found['texts']}",
            f"{found['flops'] / 1e12:.4f}",
            f"{found['share']:.1%}",
            spread_text(found["ratio"]) if "ratio" in found else "-",
            spread_text(found["ratio"]["cpu"]) if "ratio" in found else "-",
        )
        for name, found in report["sides"].items()
    ]


def _momentum_line(found: Mapping[str, Any]) -> str:
    share, cpu = found["share"], found["cpu_share"]
    return (
        f"momentum attention: {share['median']:.1%} of a UNet call's {found['with'] * 1e3:.1f} ms "
        f"(95 % interval {share['low']:.1%} to {share['high']:.1%}, {found['rounds']} pairs), "
        f"{cpu['median']:.1%} of its processor time"
    )
