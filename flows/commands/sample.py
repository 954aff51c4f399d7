"""`zs2 sample`: one clip in this process, without Prefect and Ray."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.computing import computing
from flows.errors import RenderError, UsageError, check_local, exit_code_of
from manifests.inputs import InputFiles
from manifests.read import RawRow, open_manifest
from manifests.row import ManifestRow, RowError, parse_defaults, parse_row
from manifests.storage import SUFFIXES, aside_path, make_folder
from manifests.validate import folder_of
from tasks import stages
from tasks.allocator import keep_freed_memory
from tasks.catalogue import Catalogue
from tasks.codecs import check_encoders
from tasks.job import Job
from tasks.warm import WarmModels
from zs2.compiler import check_compiler

FRAME = re.compile(r"\d{5,}\.png")


def sample(
    prompts: Sequence[str],
    out: Path,
    *,
    seed: int | None,
    model: str | None,
    pairs: Sequence[str],
    source: str | None,
    row_id: str | None,
    input_roots: Sequence[str],
    trust_pickles: Sequence[str],
    dtype: str,
    engine: str = "eager",
    clips_per_call: int = 1,
    safety_checker: str,
    threads: int,
) -> dict[str, Any]:
    """Render one clip to `out`; returns what the ledger would say of it.

    Args:
        input_roots: folders that a manifest's row may read from, beside the manifest's own. Clips
            and pictures that the command line itself names may lie anywhere.

    Raises:
        UsageError, RowError, RootError, ManifestError, ModelError, AssembleError (no encoder): before
            anything is rendered.
        SamplingError, AssembleError, ClipError, PromptError, ModelError: while rendering.
        RenderError: what else the libraries found wrong then.
    """
    declared = computing(dtype, safety_checker, engine, clips_per_call)
    if threads < 1:
        raise UsageError(f"--threads: expected at least 1, found {threads}")
    check_local("--out", out)
    defaults = parse_defaults(pairs)
    inputs = InputFiles(input_roots)
    if source is not None:
        raw = _row_of(source, row_id, prompts)
        row, own, base = parse_row(raw.values, defaults), raw.values, folder_of(raw.file)
    else:
        if row_id is not None:
            raise UsageError(
                f"--id: expected --from MANIFEST with it, found {row_id!r} alone; give the manifest, or "
                "leave it out: a clip of its own is named by --out"
            )
        own = defaults | _values_from_words(prompts, out, seed, model, defaults)
        row, base, inputs = _row_from_words(own), Path.cwd(), InputFiles(None)
    if not _has_name_of(out, row.codec, row_id):
        wanted = repr(SUFFIXES[row.codec]) if SUFFIXES[row.codec] else "no suffix"
        raise UsageError(
            f"--out: expected a name with {wanted}, as the row's codec {row.codec} has, "
            f"found {str(out)!r}"
        )
    catalogue = Catalogue(trusted=trust_pickles, inputs=inputs)
    job = catalogue.job(row, own, base, 0, declared)
    _check_writable(out, row.codec)
    check_encoders([row.codec])
    if engine == "compiled":
        check_compiler()
    return _render(job, out, threads)


def _values_from_words(
    prompts: Sequence[str],
    out: Path,
    seed: int | None,
    model: str | None,
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    if not prompts:
        raise UsageError('expected a prompt, as in zs2 sample "a red star", or --from and --id')
    for name, value in (("seed", seed), ("model", model)):
        if value is not None and defaults.get(name, value) != value:
            raise UsageError(
                f"--{name}: expected one {name}, found {value} and --set {name}={defaults[name]}; "
                "leave one of them out"
            )
    codec = defaults.get("codec") or _codec_of(out)
    values: dict[str, Any] = {"id": _id_of(out, codec), "prompt": list(prompts)}
    given = (("seed", seed), ("model", model), ("codec", None if "codec" in defaults else codec))
    return values | {name: value for name, value in given if value is not None}


def _row_from_words(own: Mapping[str, Any]) -> ManifestRow:
    try:
        return parse_row(own)
    except RowError as error:
        many = f"{len(own['prompt'])} prompts"  # the words of one, most often
        remedy = "or put one prompt in quotes"
        raise RowError(
            [f._replace(hint=f"{f.hint}; {remedy}") if f.found == many else f for f in error.faults]
        ) from error


def _row_of(source: str, row_id: str | None, prompts: Sequence[str]) -> RawRow:
    if row_id is None or prompts:
        raise UsageError("--from takes a manifest and --id, and no prompt")
    for raw in open_manifest(source).rows():
        if raw.values.get("id") == row_id:
            return raw
    raise UsageError(f"--id: expected a row of {source}, found none with the id {row_id!r}")


def _has_name_of(out: Path, codec: str, row_id: str | None) -> bool:
    """A folder of frames may have dots in its name, as an id may; what is no file of another codec."""
    suffix = out.suffix.lower()
    others = {*SUFFIXES.values(), ".png"} - {""}
    if codec == "png":
        return suffix not in others or out.name == row_id
    return suffix == SUFFIXES[codec]


def _id_of(out: Path, codec: str) -> str:
    name = out.name if codec == "png" else out.stem
    kept = "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in name)
    return kept.lstrip(".")[:128] or "clip"


def _codec_of(out: Path) -> str:
    codecs = {suffix: codec for codec, suffix in reversed(SUFFIXES.items())}
    if out.suffix.lower() not in codecs:
        *known, last = sorted(suffix for suffix in codecs if suffix)
        raise UsageError(
            f"--out: expected a name that ends in {', '.join(known)} or {last}, or one without a suffix "
            f"for a folder of png, found {str(out)!r}"
        )
    return codecs[out.suffix.lower()]


def _check_writable(out: Path, codec: str) -> None:
    """Find out before sampling, and replace no folder but one of frames.

    Raises:
        UsageError: with the remedy.
    """
    if out.is_dir() and (codec != "png" or any(not FRAME.fullmatch(p.name) for p in out.iterdir())):
        raise UsageError(f"--out: {out} is a folder; give a name that is not taken")
    try:
        make_folder(out.parent)
        probe = aside_path(out)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"--out: {out} cannot be written ({error.strerror or error}); choose another folder"
        ) from error


def _render(job: Job, out: Path, threads: int) -> dict[str, Any]:
    prepare_torch(threads)
    with told_plainly(str(out)):
        report = stages.render_alone(WarmModels(), job, out)
    return {
        "id": job.row.id,
        "digest": job.digest,
        "seed": job.row.seed,
        "file": str(out),
        **report,
    }


def prepare_torch(threads: int) -> None:
    """Import torch and diffusers for rendering in this process, with only zs2 speaking."""
    keep_freed_memory()
    os.environ.update(stages.QUIET)
    # The libraries tell of their own deprecations and loading bars.
    warnings.simplefilter("ignore", FutureWarning)
    import torch
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(threads)


@contextmanager
def told_plainly(what: str) -> Generator[None]:
    """Of any kind that a library raises, as in a run, where it is the row's failure.

    Raises:
        RenderError: what a library found wrong while `what` was rendered.
    """
    try:
        yield
    except Exception as error:
        if exit_code_of(error) is not None:
            raise
        reason = next(iter(str(error).splitlines()), "no reason given")
        raise RenderError(
            f"{what}: cannot be rendered ({type(error).__name__}: {reason}); "
            "change the row or the model, or run `zs2 doctor`"
        ) from error
