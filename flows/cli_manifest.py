"""`zs2 manifest`: validate, build and look at manifests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from flows.console import printable, say
from flows.options import (
    BAD_USAGE,
    InputRootOption,
    JsonOption,
    ManifestArgument,
    SetOption,
    TrustOption,
)
from manifests.kinds import count

app = typer.Typer(
    help="Validate, build and look at manifests.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("validate")
def manifest_validate(
    manifest: ManifestArgument,
    defaults: SetOption = None,
    input_root: InputRootOption = None,
    trust_pickle: TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every row; all problems in one report. Exit code 2 when there are any.

    Models and add-ons on this machine are looked at; those of a hub are named, and `zs2 plan` asks it.
    """
    from flows.commands import manifest as manifest_commands

    found = manifest_commands.validate(
        manifest, defaults or [], input_root or [], trust_pickle or []
    )
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    elif not found["problems"]:
        print(printable(manifest_commands.verdict(found)))
    if found["problems"]:
        if not as_json:
            say(manifest_commands.report(found))
        raise typer.Exit(BAD_USAGE)


@app.command("build")
def manifest_build(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The manifest to write; of --study also a folder.")
    ],
    source: Annotated[
        Path | None, typer.Argument(help="A .txt, .csv or .jsonl of prompts.")
    ] = None,
    study: Annotated[
        bool,
        typer.Option("--study", help="Instead of a source: the paper's λ and μ grid and prompts."),
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Instead of a source: a recipe, as `zs2 dataset` takes."),
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Of --recipe; default today in UTC.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds of the grid; repeatable.")] = None,
    kl_target: Annotated[
        list[float] | None, typer.Option(help="λ values of the grid; repeatable.")
    ] = None,
    momentum: Annotated[
        list[float] | None, typer.Option(help="μ values of the grid; repeatable.")
    ] = None,
    slot: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=A,B,…", help="Values of a {NAME} in the prompts; repeatable."),
    ] = None,
    defaults: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="COLUMN=VALUE", help="A column for every row."),
    ] = None,
) -> None:
    """Turn prompts into a manifest: prompt × slots × seed × λ × μ; or a recipe into a date's."""
    from flows.commands import manifest as manifest_commands

    written = manifest_commands.build_manifests(
        source,
        out,
        study=study,
        recipe=recipe,
        date=date,
        seeds=seed or [],
        kl_targets=kl_target or [],
        momentums=momentum or [],
        slots=slot or [],
        pairs=defaults or [],
    )
    for path, rows in written:
        print(f"{path}: {count(rows, 'row')}")


@app.command("head")
def manifest_head(
    manifest: ManifestArgument,
    rows: Annotated[int, typer.Argument(help="How many; all where there are fewer.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="The manifest to write; clips that rows name are looked for beside it.",
        ),
    ],
) -> None:
    """Write the first rows as a manifest, to render them before the others into the same run folder."""
    from flows.commands import manifest as manifest_commands

    print(f"{out}: {count(manifest_commands.head(manifest, rows, out), 'row')}")


@app.command("show")
def manifest_show(
    manifest: ManifestArgument,
    limit: Annotated[int, typer.Option(help="Rows to show.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Print the first rows."""
    from flows.commands import manifest as manifest_commands

    print(manifest_commands.show_rows(manifest, limit, as_json))


@app.command("columns")
def manifest_columns(as_json: JsonOption = False) -> None:
    """Print the columns a manifest may have, with types and defaults."""
    from flows.commands import manifest as manifest_commands

    print(manifest_commands.columns(as_json, shutil.get_terminal_size().columns))
