"""The command line: `zs2`. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import cli_bench, cli_dataset, cli_manifest, cli_results
from flows.console import printable, say
from flows.options import (
    BAD_USAGE,
    CANNOT_GO_ON,
    OK,
    AllowOption,
    ClipsPerCallOption,
    ClusterWaitOption,
    DtypeOption,
    EngineOption,
    GpusPerSamplerOption,
    InputRootOption,
    JsonOption,
    KeepLatentsOption,
    ManifestArgument,
    MinGpusOption,
    MinNodesOption,
    OutArgument,
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

app = typer.Typer(
    name="zs2",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"zs2 {version('zs2')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Declarative, bulk, zero-shot video rendering: a Parquet manifest in, finished videos out."""


@app.command()
def render(
    manifest: ManifestArgument,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="Run folder, or its URL; default renders/<manifest>."),
    ] = None,
    defaults: SetOption = None,
    on_invalid: Annotated[
        str,
        typer.Option(
            help="fail renders nothing; skip renders the good rows; the bad ones count as --fail-if says."
        ),
    ] = "fail",
    fail_if: Annotated[
        str,
        typer.Option(
            metavar="any|SHARE|never",
            help="Exit 3, and fail the run in Prefect: for any failed or invalid row, for more than "
            "this share of all rows (0 to 1), or never.",
        ),
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
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Where this machine's Ray serves metrics to Prometheus; default any."),
    ] = None,
    keep_latents: KeepLatentsOption = False,
    shard_rows: Annotated[int, typer.Option(help="Rows of one Prefect task run, at least.")] = 256,
    row_deadline: RowDeadlineOption = 3600,
    price_per_hour: PriceOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Render every row of a manifest that has no finished video yet."""
    from flows.commands import run as run_command

    settings = run_command.settings_of(
        defaults=defaults,
        on_invalid=on_invalid,
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
        metrics_port=metrics_port,
        keep_latents=keep_latents,
        shard_rows=shard_rows,
        row_deadline=row_deadline,
        price_per_hour=price_per_hour,
    )
    raise typer.Exit(run_command.run(manifest, out, settings, quiet=quiet, as_json=as_json))


@app.command()
def retry(out: OutArgument, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Render again only what failed, with the settings of the run that failed."""
    from flows.commands import run as run_command

    raise typer.Exit(run_command.run_again(out, quiet=quiet, as_json=as_json))


@app.command()
def sample(
    prompt: Annotated[
        list[str] | None, typer.Argument(help="The prompt; several are a storyboard.")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The video; its suffix decides the codec.")
    ] = Path("clip.mp4"),
    seed: Annotated[int | None, typer.Option(help="Default: from the file's name.")] = None,
    model: Annotated[str | None, typer.Option(help="Default zs2-mini.")] = None,
    defaults: SetOption = None,
    source: Annotated[
        str | None, typer.Option("--from", help="A manifest whose row --id to render instead.")
    ] = None,
    row_id: Annotated[str | None, typer.Option("--id", help="The row of --from.")] = None,
    input_root: InputRootOption = None,
    trust_pickle: TrustOption = None,
    dtype: DtypeOption = "auto",
    engine: EngineOption = "eager",
    clips_per_call: ClipsPerCallOption = 1,
    safety_checker: SafetyOption = "on",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Render one clip in this process: the same bytes as the same row in a run."""
    from flows.commands import sample as sample_command

    report = sample_command.sample(
        prompt or [],
        out,
        seed=seed,
        model=model,
        pairs=defaults or [],
        source=source,
        row_id=row_id,
        input_roots=input_root or [],
        trust_pickles=trust_pickle or [],
        dtype=dtype,
        engine=engine,
        clips_per_call=clips_per_call,
        safety_checker=safety_checker,
        threads=threads,
    )
    if as_json:
        print(json.dumps(report))
    elif not quiet:
        from manifests.kinds import count

        say(f"{out}: {count(report['num_frames'], 'frame')}, {report['width']}×{report['height']}")
    if note := report.get("note"):
        say(f"{out}: {note}")


@app.command()
def plan(
    manifest: ManifestArgument,
    out: Annotated[
        str | None, typer.Option("-o", "--out", help="Count its finished rows as done.")
    ] = None,
    defaults: SetOption = None,
    allow_model: AllowOption = None,
    input_root: InputRootOption = None,
    trust_pickle: TrustOption = None,
    dtype: DtypeOption = "auto",
    engine: EngineOption = "eager",
    clips_per_call: ClipsPerCallOption = 1,
    samplers: Annotated[int, typer.Option(help="Devices to divide the work among.")] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            help="UNet pictures of the model's size a second, of a device, eager and one clip a call; "
            "default: measured."
        ),
    ] = None,
    compiled_gain: Annotated[
        float,
        typer.Option(
            help="Of the engine compiled, as zs2 bench sampler --engine compiled finds it."
        ),
    ] = 1.0,
    clips_gain: Annotated[
        float,
        typer.Option(help="Of --clips-per-call, as zs2 bench sampler --clips-per-call finds it."),
    ] = 1.0,
    price_per_hour: PriceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Dry run: rows, frames, UNet calls, disk, estimated device-hours and cost. Renders nothing."""
    from flows.commands import plan as plan_command

    report = plan_command.plan(
        manifest,
        out,
        pairs=defaults or [],
        allow_models=allow_model,
        input_roots=input_root or [],
        trust_pickles=trust_pickle or [],
        dtype=dtype,
        engine=engine,
        clips_per_call=clips_per_call,
        samplers=samplers,
        rate=rate,
        compiled_gain=compiled_gain,
        clips_gain=clips_gain,
        price_per_hour=price_per_hour,
    )
    print(
        json.dumps(report, ensure_ascii=False) if as_json else printable(plan_command.text(report))
    )


@app.command()
def status(
    out: OutArgument,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw rows, frames and busy actors over time."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Counts, rate, ETA and failures by cause; works while a run is going on."""
    from flows.commands import status as status_command

    report = status_command.status(out, picture)
    print(
        json.dumps(report, ensure_ascii=False)
        if as_json
        else printable(status_command.text(report))
    )


@app.command()
def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Folders, files or hub ids to look at; default all at hand."),
    ] = None,
    trust_pickle: TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """The models at hand, bundled and cached: what they are, whether zs2 runs them, their memory."""
    from flows.commands import models as models_command

    entries = models_command.find(names or [], trust_pickle or [])
    print(models_command.as_json(entries) if as_json else printable(models_command.text(entries)))
    if not names and not as_json:
        print("Also: a diffusers folder, a .safetensors file, a hub id (owner/name@revision).")
    if names and not all(entry.is_usable for entry in entries):
        raise typer.Exit(BAD_USAGE)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: libraries, ffmpeg, devices, Ray, Prefect, disk."""
    from flows.commands import doctor as doctor_command

    checks = doctor_command.check()
    if as_json:
        print(json.dumps([check._asdict() for check in checks]))
    else:
        print(doctor_command.text(checks))
    raise typer.Exit(OK if all(check.ok for check in checks) else CANNOT_GO_ON)


app.add_typer(cli_dataset.app)
app.add_typer(cli_results.app)
app.add_typer(cli_manifest.app, name="manifest")
app.add_typer(cli_bench.app, name="bench")


def main() -> None:
    """Entry point: runs a command and turns known errors into one message and an exit code."""
    # Set before anything that reads it: nothing is reported anywhere, and only zs2 speaks.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_guarded(lambda: app(standalone_mode=True)))


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM is taken as Ctrl-C is: what was started ends with the command."""
    raise KeyboardInterrupt


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _guarded(command: Callable[[], Any]) -> int:
    from flows.errors import exit_code_of, told

    for word in sys.argv:
        if not _is_utf8(word):
            say(f"zs2: expected names in UTF-8, found {word!r}; rename the file or folder")
            return BAD_USAGE
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `zs2 … | head`
        return _end_quietly()
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which click turns into an exit
            raise
        return _end_quietly()
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise  # a fault of ours: the traceback is the report
        say(f"zs2: {told(error)}")
        return code
    return OK


def _end_quietly() -> int:
    """Nobody reads our output any more: that is no failure, and nothing to speak of."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


if __name__ == "__main__":
    main()
