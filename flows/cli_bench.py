"""`zs2 bench`: the words of its commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from flows.options import JsonOption

app = typer.Typer(
    help="Measure this machine and this version.", no_args_is_help=True, rich_markup_mode=None
)


def _tell(
    report: Mapping[str, Any], text: Callable[[Mapping[str, Any]], str], as_json: bool
) -> None:
    print(json.dumps(report, ensure_ascii=False) if as_json else text(report))


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
