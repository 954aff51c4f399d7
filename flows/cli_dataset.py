"""`zs2 dataset`: the flow `nightly-dataset` by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.options import (
    AllowOption,
    ClipsPerCallOption,
    ClusterWaitOption,
    DtypeOption,
    EngineOption,
    GpusPerSamplerOption,
    InputRootOption,
    JsonOption,
    KeepLatentsOption,
    MinGpusOption,
    MinNodesOption,
    PriceOption,
    QuietOption,
    RayAddressOption,
    RowDeadlineOption,
    SafetyOption,
    SamplersOption,
    SamplerThreadsOption,
    SetOption,
    SplitClipsOption,
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
    samplers: SamplersOption = None,
    threads: SamplerThreadsOption = 1,
    gpus_per_sampler: GpusPerSamplerOption = 1.0,
    split_clips: SplitClipsOption = "auto",
    ray_address: RayAddressOption = None,
    min_nodes: MinNodesOption = 0,
    min_gpus: MinGpusOption = 0,
    cluster_wait: ClusterWaitOption = 3600,
    keep_latents: KeepLatentsOption = False,
    row_deadline: RowDeadlineOption = 3600,
    price_per_hour: PriceOption = None,
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
        split_clips=split_clips,
        ray_address=ray_address,
        min_nodes=min_nodes,
        min_gpus=min_gpus,
        cluster_wait=cluster_wait,
        keep_latents=keep_latents,
        row_deadline=row_deadline,
        price_per_hour=price_per_hour,
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
