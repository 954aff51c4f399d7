"""Commands about what came out: scores, galleries, comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.console import printable
from flows.options import (
    DtypeOption,
    InputRootOption,
    JsonOption,
    ModelArgument,
    OutArgument,
    PromptOption,
    PromptsOption,
    QuietOption,
    SafetyOption,
    ScorerOption,
    SetOption,
    ThreadsOption,
    TrustOption,
)

app = typer.Typer(rich_markup_mode=None)


@app.command()
def gallery(
    out: OutArgument,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser (local folders).")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write OUT/index.html from the ledger as it is now, and the previews that are missing."""
    from flows.commands import gallery as gallery_command

    report = gallery_command.gallery(out, open_page=open_page)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    elif not quiet:
        print(printable(gallery_command.text(report)))


@app.command()
def compare(
    model: ModelArgument = "zs2-mini",
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of clips, tables and page.")
    ] = Path("comparison"),
    prompts: PromptsOption = None,
    prompt: PromptOption = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Some of ddim, text2video-zero, mixed, mixed-matched, progressive, "
            "progressive-matched, with commas; zs2 is always there. Default all."
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(help="Clips of each prompt by each method.")] = 1,
    num_frames: Annotated[int | None, typer.Option(help="Of a clip; default 8.")] = None,
    limit: Annotated[int | None, typer.Option(help="Take only so many prompts.")] = None,
    defaults: SetOption = None,
    scorer: ScorerOption = "zs2-mini-clip",
    input_root: InputRootOption = None,
    trust_pickle: TrustOption = None,
    dtype: DtypeOption = "auto",
    safety_checker: SafetyOption = "on",
    threads: ThreadsOption = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """ZS² beside DDIM, Text2Video-Zero and other noises on the same prompts and seeds.

    Leaves clips, scores.parquet, table.md, table.json, a page with the clips side by side, and the
    manifest that renders them again. The same command again goes on where it stopped.
    """
    from flows.commands import compare as compare_command

    options = compare_command.Options(
        model=model,
        source=prompts,
        texts=tuple(prompt or ()),
        limit=limit,
        seeds=seeds,
        num_frames=num_frames,
        pairs=tuple(defaults or ()),
        scorer=scorer,
        out=out,
        input_roots=tuple(input_root or ()),
        trust_pickles=tuple(trust_pickle or ()),
        dtype=dtype,
        safety_checker=safety_checker,
        threads=threads,
        quiet=quiet,
    )
    names = [name.strip() for name in methods.split(",") if name.strip()]
    found = compare_command.compare(options, names)
    if as_json:
        print(compare_command.shown(found))
    elif not quiet:
        print(compare_command.table_text(out))


@app.command()
def study(
    model: ModelArgument = "zs2-mini",
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of clips, pictures, tables and page.")
    ] = Path("study"),
    prompts: PromptsOption = None,
    prompt: PromptOption = None,
    parts: Annotated[
        str, typer.Option(help="grid: λ × μ; long: noise models over long clips.")
    ] = "grid,long",
    kl_target: Annotated[
        list[float] | None, typer.Option(help="λ of the grid; repeatable. Default 0 .01 .05 .1 .25")
    ] = None,
    momentum: Annotated[
        list[float] | None, typer.Option(help="μ of the grid; repeatable. Default 0 .5 .9 .98 1")
    ] = None,
    num_frames: Annotated[int | None, typer.Option(help="Of the grid's clips; default 8.")] = None,
    long_frames: Annotated[int, typer.Option(help="Of the long clips.")] = 64,
    limit: Annotated[int, typer.Option(help="Take only so many prompts.")] = 8,
    seeds: Annotated[int, typer.Option(help="Clips of each prompt at each point.")] = 1,
    defaults: SetOption = None,
    scorer: ScorerOption = "zs2-mini-clip",
    input_root: InputRootOption = None,
    trust_pickle: TrustOption = None,
    dtype: DtypeOption = "auto",
    safety_checker: SafetyOption = "on",
    threads: ThreadsOption = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What λ and μ do (a contact sheet and curves), and what long clips keep of their prompt by noise.

    The same command again goes on where it stopped.
    """
    from flows.commands import compare as compare_command
    from flows.commands import study as study_command
    from tasks.study import KL_TARGETS, MOMENTUMS

    options = compare_command.Options(
        model=model,
        source=prompts,
        texts=tuple(prompt or ()),
        limit=limit,
        seeds=seeds,
        num_frames=num_frames,
        pairs=tuple(defaults or ()),
        scorer=scorer,
        out=out,
        input_roots=tuple(input_root or ()),
        trust_pickles=tuple(trust_pickle or ()),
        dtype=dtype,
        safety_checker=safety_checker,
        threads=threads,
        quiet=quiet,
    )
    found = study_command.study(
        options,
        [part.strip() for part in parts.split(",") if part.strip()],
        kl_targets=kl_target or KL_TARGETS,
        momentums=momentum or MOMENTUMS,
        long_frames=long_frames,
    )
    if as_json:
        print(compare_command.shown(found))


@app.command("eval")
def evaluate(
    out: OutArgument,
    scorer: ScorerOption = "zs2-mini-clip",
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Group the table by a column's values.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html: the quality of the data set.")
    ] = False,
    trust_pickle: TrustOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that score; default one a CPU core.")
    ] = None,
    device: Annotated[str, typer.Option(help="Of the scorer: cpu, or cuda.")] = "cpu",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score finished clips: CLIP score, consistency, motion, warp error, flicker, sharpness."""
    from flows.commands import eval as eval_command

    raise typer.Exit(
        eval_command.run(
            out,
            quiet=quiet,
            as_json=as_json,
            scorer=scorer,
            by=by,
            report=report,
            trust_pickles=trust_pickle or [],
            workers=workers,
            device=device,
        )
    )


@app.command()
def show(
    clip: Annotated[str, typer.Argument(help="A clip's file; or a run folder, and ID after it.")],
    row_id: Annotated[str | None, typer.Argument(metavar="ID", help="Of a row.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What rendered a clip: its row, digest, parameters, seconds, and how to render it again."""
    from flows.commands import show as show_command

    report = show_command.show(clip, row_id)
    print(
        json.dumps(report, ensure_ascii=False) if as_json else printable(show_command.text(report))
    )


@app.command()
def export(
    out: OutArgument,
    dest: Annotated[str, typer.Option("-o", "--out", help="A new folder, or a URL.")],
    form: Annotated[
        str, typer.Option("--format", help="webdataset, parquet or videofolder.")
    ] = "webdataset",
    size: Annotated[
        str, typer.Option("--shard-size", help="Clips, as 1000, or bytes, as 500MB.")
    ] = "1GB",
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Only such clips; also != >= <= > <; a column, a parameter or a score; repeatable.",
        ),
    ] = None,
    min_score: Annotated[
        list[str] | None,
        typer.Option(metavar="SCORE=NUMBER", help="Only clips scored at least so; repeatable."),
    ] = None,
    skip_damaged: Annotated[
        bool,
        typer.Option(
            "--skip-damaged", help="Leave out clips that are gone or damaged; reads all twice."
        ),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write finished clips with their prompts, parameters and scores into shards, as trainers read them.

    The same rows give the same shards, byte by byte; the same command again writes what has changed.
    """
    from flows.commands import export as export_command

    report = export_command.export(
        *(out, dest, form, size, where or [], min_score or []),
        skip_damaged=skip_damaged,
        quiet=quiet or as_json,
    )
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    elif not quiet:
        print(printable(export_command.text(report)))


@app.command()
def prune(
    out: OutArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed.")] = False,
    latents: Annotated[
        bool, typer.Option("--latents", help="And all kept latents: a change is sampled again.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the videos and previews that no row names any more; with --yes, delete them."""
    from flows.commands import prune as prune_command

    report = prune_command.prune(out, yes=yes, latents=latents)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    elif not quiet:
        print(printable(prune_command.text(report)))
