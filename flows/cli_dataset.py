"""`zs2 dataset`: the flow `nightly-dataset` by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.options import (
    AllowOption,
    ClipsPerCallOption,
    DtypeOption,
    EngineOption,
    InputRootOption,
    JsonOption,
    QuietOption,
    SafetyOption,
    SetOption,
    TrustOption,
)

app = typer.Typer(rich_markup_mode=None)


@app.command()
def dataset(
    recipe: Annotated[
        str, typer.Argument(help="A recipe (.toml), its URL, or the bundled `nightly`.")
    ],
    out: Annotated[
        str, typer.Option("-o", "--out", help="Folder of all datasets, or its URL.")
    ] = "datasets",
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Default today, in UTC.")
    ] = None,
    defaults: SetOption = None,
    fail_if: Annotated[
        str,
        typer.Option(help="Exit with 3 if any row failed, a share of them (0.05), or never."),
    ] = "any",
    allow_model: AllowOption = None,
    input_root: InputRootOption = None,
    trust_pickle: TrustOption = None,
    dtype: DtypeOption = "auto",
    engine: EngineOption = "eager",
    clips_per_call: ClipsPerCallOption = 1,
    safety_checker: SafetyOption = "on",
    samplers: Annotated[
        int | None, typer.Option(help="Sampler actors; default one a GPU, or one a CPU core.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of a sampler.")] = 1,
    gpus_per_sampler: Annotated[float, typer.Option(help="0 renders on the CPU.")] = 1.0,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster; default $RAY_ADDRESS, else this machine.")
    ] = None,
    scoring_workers: Annotated[
        int | None, typer.Option(help="Processes that score; default one a CPU core.")
    ] = None,
    scoring_device: Annotated[str, typer.Option(help="Of the scorer: cpu, cuda.")] = "cpu",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a recipe's dataset of a date: render, score, keep what passes, publish OUT/NAME/DATE."""
    from flows.commands import dataset as dataset_command
    from flows.commands import run as run_command

    settings = run_command.settings_of(
        defaults=defaults,
        fail_if=fail_if,
        allow_models=allow_model,
        input_roots=input_root or [],
        trust_pickles=trust_pickle or [],
        dtype=dtype,
        engine=engine,
        clips_per_call=clips_per_call,
        safety_checker=run_command.switch("--safety-checker", safety_checker),
        samplers=samplers,
        threads=threads,
        gpus_per_sampler=gpus_per_sampler,
        ray_address=ray_address,
    )
    code = dataset_command.run(
        recipe,
        out,
        date,
        settings,
        scoring_workers=scoring_workers,
        scoring_device=scoring_device,
        quiet=quiet,
        as_json=as_json,
    )
    raise typer.Exit(code)
