"""`zs2 bench`: the words of its commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from flows.errors import UsageError
from flows.options import DtypeOption, JsonOption, ThreadsOption

app = typer.Typer(
    help="Measure this machine and this version.", no_args_is_help=True, rich_markup_mode=None
)


MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print it for a report.")]
RoundsOption = Annotated[int, typer.Option(help="How often each is measured, in turn.")]
SidesOption = Annotated[list[int], typer.Option("--side", help="Pixels; repeatable.")]
CoresOption = Annotated[
    int | None, typer.Option("--threads", help="Of the CPU; default its cores.")
]
PairsOption = Annotated[int, typer.Option(help="How often each side is measured, in turn.")]


def _tell(
    report: Mapping[str, Any],
    text: Callable[[Mapping[str, Any]], str],
    as_json: bool,
    markdown: Callable[[Mapping[str, Any]], str] | None = None,
) -> None:
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print((markdown or text)(report))


def _one_form(as_json: bool, as_markdown: bool) -> None:
    if as_json and as_markdown:
        raise UsageError("expected --json or --markdown, found both")


def _cores(threads: int | None) -> int:
    return len(os.sched_getaffinity(0)) if threads is None else threads


@app.command("sampler")
def bench_sampler(
    model: Annotated[str, typer.Option(help="As in a manifest.")] = "zs2-mini",
    unet: Annotated[
        str | None, typer.Option(help="sd15 or sdxl: that size with random weights, for a GPU.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Of the clip; of 2 or more.")] = 8,
    batch: Annotated[int, typer.Option(help="Frames a UNet call, of each side.")] = 8,
    steps: Annotated[int | None, typer.Option(help="Default the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default the model's own.")] = None,
    side: Annotated[int | None, typer.Option(help="Pixels; default the model's own.")] = None,
    dtype: DtypeOption = "auto",
    engine: Annotated[str, typer.Option(help="compiled measures that engine, too.")] = "eager",
    clips_per_call: Annotated[
        int, typer.Option(help="Of each side so many clips; ZS² with as many in a call, too.")
    ] = 1,
    pairs: PairsOption = 5,
    threads: CoresOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """ZS² beside diffusers' DDIM and TextToVideoZero on the same work; what momentum attention adds."""
    _one_form(as_json, as_markdown)
    from flows.commands.sample import prepare_torch

    prepare_torch(1)  # and the sampler's own number after
    from flows.bench import sampler

    report = sampler.sampler(
        model=model,
        unet=unet,
        frames=frames,
        batch=batch,
        steps=steps,
        guidance=guidance,
        side=side,
        dtype=dtype,
        engine=engine,
        clips_per_call=clips_per_call,
        pairs=pairs,
        threads=_cores(threads),
    )
    _tell(report, sampler.text, as_json, sampler.markdown if as_markdown else None)


@app.command("noise")
def bench_noise(
    model: Annotated[str, typer.Option(help="As in a manifest.")] = "zs2-mini",
    frames: Annotated[int, typer.Option(help="Of the clip.")] = 8,
    kl_target: Annotated[float, typer.Option(help="λ.")] = 0.01,
    rounds: RoundsOption = 9,
    threads: CoresOption = None,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Time of each noise solver a frame pair, and its share in a clip."""
    _one_form(as_json, as_markdown)
    from flows.commands.sample import prepare_torch

    prepare_torch(1)  # and the sampler's own number after
    from flows.bench import noise

    report = noise.noise(
        model=model, frames=frames, kl_target=kl_target, rounds=rounds, threads=_cores(threads)
    )
    _tell(report, noise.text, as_json, noise.markdown if as_markdown else None)


@app.command("post")
def bench_post(
    frames: Annotated[int, typer.Option(help="Of the clip.")] = 8,
    sides: SidesOption = [64, 256],  # noqa: B006 typer's way
    rounds: RoundsOption = 3,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Frames a second and bytes of the temporal and spatial methods."""
    _one_form(as_json, as_markdown)
    from flows.commands.sample import prepare_torch

    prepare_torch(threads)
    from flows.bench import stages

    report = stages.post(frames=frames, sides=sides, rounds=rounds)
    _tell(report, stages.text, as_json, stages.markdown if as_markdown else None)


@app.command("encode")
def bench_encode(
    frames: Annotated[int, typer.Option(help="Of the clip.")] = 24,
    sides: SidesOption = [64, 256],  # noqa: B006 typer's way
    rounds: RoundsOption = 3,
    as_json: JsonOption = False,
    as_markdown: MarkdownOption = False,
) -> None:
    """Frames a second and bytes of each codec, verified as in a render."""
    _one_form(as_json, as_markdown)
    from flows.bench import stages

    report = stages.encode(frames=frames, sides=sides, rounds=rounds)
    _tell(report, stages.text, as_json, stages.markdown if as_markdown else None)


@app.command("plan")
def bench_plan(
    rows: Annotated[int, typer.Option(help="To plan, resume and publish.")] = 100_000,
    run_rows: Annotated[
        int | None, typer.Option(help="To run with actors that do nothing; default a fifth.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rows a second and memory of planning, resuming, status, publishing and the run's driver."""
    from flows.bench import plan

    runs = min(100_000, max(1000, rows // 5)) if run_rows is None else run_rows
    _tell(plan.plan(rows, runs), plan.text, as_json)


@app.command("scale")
def bench_scale(
    actors: Annotated[int, typer.Option(help="That sleep over each batch.")] = 64,
    batches: Annotated[int, typer.Option(help="For each of them.")] = 16,
    seconds: Annotated[float, typer.Option(help="Of sleep in a batch.")] = 2.0,
    real: Annotated[
        bool, typer.Option(help="One and two real samplers of zs2-mini, too, of a thread each.")
    ] = False,
    rows: Annotated[int, typer.Option(help="For each real sampler in a round.")] = 6,
    pairs: Annotated[int, typer.Option(help="Rounds of one and of two.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """How busy one driver keeps many actors, and what a second sampler adds."""
    from flows.bench import scale

    _tell(
        scale.scale(actors, batches, seconds, real=real, rows=rows, pairs=pairs),
        scale.text,
        as_json,
    )


@app.command("startup")
def bench_startup(
    runs: Annotated[int, typer.Option(help="Each in a fresh process.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """From the command to the first sampled row, step by step."""
    from flows.bench import startup

    _tell(startup.startup(runs), startup.text, as_json)


@app.command("pipeline")
def bench_pipeline(
    rows: Annotated[int, typer.Option(help="Of zs2-mini, temporal ×2, spatial ×2.")] = 256,
    samplers: Annotated[int, typer.Option(help="Of one thread each.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """The whole flow's rate beside that of its samplers alone, and why they waited."""
    from flows.bench import pipeline

    _tell(pipeline.pipeline(rows, samplers), pipeline.text, as_json)


@app.command("chain")
def bench_chain(
    frames: Annotated[
        list[int] | None,
        typer.Option(
            help="Length of a clip; repeatable; default 8, 16, 64, 256 and 1024; 0: none."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Of these clips.")] = 2,
    pairs: Annotated[
        int, typer.Option(help="Of one sampler and two on the same clip; 0 leaves that out.")
    ] = 5,
    relay_frames: Annotated[int, typer.Option(help="Of that clip.")] = 64,
    relay_steps: Annotated[int, typer.Option(help="Of that clip.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Time and memory of long clips, and of one clip on two samplers."""
    from flows.bench import chain

    lengths = [8, 16, 64, 256, 1024] if frames is None else [f for f in frames if f]
    _tell(chain.chain(lengths, steps, pairs, relay_frames, relay_steps), chain.text, as_json)
