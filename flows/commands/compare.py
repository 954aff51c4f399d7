"""`zs2 compare`: ZS² beside its baselines on one model, in this process, without Prefect and Ray."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flows.commands.sample import prepare_torch, told_plainly
from flows.computing import computing
from flows.console import Counted, say
from flows.errors import UsageError, check_local
from manifests.build import build, build_from
from manifests.inputs import InputFiles
from manifests.kinds import count
from manifests.read import TEXTS, ManifestError, open_manifest
from manifests.row import parse_defaults
from manifests.storage import make_folder, write_aside
from manifests.validate import Problem, check_rows, folder_of, format_problems
from tasks.catalogue import Catalogue
from tasks.compare import PlannedClip, manifest_records, plan_clips, render_clips, score_clips
from tasks.methods import BASELINE, METHODS, Method, methods_named

if TYPE_CHECKING:
    from tasks.compare_table import Column

MINI_PROMPTS = Path(__file__).parents[2] / "manifests" / "examples" / "mini-prompts.txt"
SHARED = {  # what a table says of its clips: column → how it is written
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "scheduler": "scheduler",
    "kl_target": "λ",
    "momentum": "μ",
}


@dataclass(frozen=True)
class Options:
    """What `zs2 compare` and `zs2 study` have in common.

    Attributes:
        source, texts: prompts in a file, or as words; neither for zs2-mini's own.
        limit: take only so many of them.
        seeds: clips of each prompt.
        pairs: column=value of `--set`.
    """

    model: str
    source: str | None
    texts: tuple[str, ...]
    limit: int | None
    seeds: int
    num_frames: int | None
    pairs: tuple[str, ...]
    scorer: str
    out: Path
    input_roots: tuple[str, ...] = ()
    trust_pickles: tuple[str, ...] = ()
    dtype: str = "auto"
    safety_checker: str = "on"
    threads: int = 1
    quiet: bool = False


def compare(options: Options, names: Sequence[str]) -> dict[str, Any]:
    """Render and score what is missing in OUT and write its tables and page; returns table.json.

    Raises:
        UsageError, CompareError, RowError, ManifestError, ModelError: before anything is rendered.
        What rendering raises: what is finished stays, and the same command goes on from it.
    """
    methods = methods_named(names or [*METHODS])
    clips = plan(options, methods)
    make_folder(options.out)
    build_from("the comparison", manifest_records(clips), options.out / "manifest.parquet")
    scorer, columns = render_and_score(options, clips)
    return _write(options, methods, clips, scorer, columns)


def plan(
    options: Options, methods: Sequence[Method], *, num_frames: int | None = None
) -> list[PlannedClip]:
    """Every clip of the prompts by the methods.

    Args:
        num_frames: where the user names none.
    """
    _check(options)
    prepare_torch(options.threads)
    defaults = parse_defaults(options.pairs)
    frames = options.num_frames or defaults.get("num_frames") or num_frames
    if frames is not None:
        defaults["num_frames"] = frames
    with TemporaryDirectory(prefix="zs2-") as folder:
        records, base = _records(options, defaults, Path(folder))
    catalogue = Catalogue(trusted=options.trust_pickles, inputs=InputFiles(options.input_roots))
    engine = computing(options.dtype, options.safety_checker)
    return plan_clips(
        records,
        methods,
        seeds=options.seeds,
        defaults=defaults,
        catalogue=catalogue,
        engine=engine,
        base=base,
    )


def _check(options: Options) -> None:
    check_local("--out", options.out)
    if (options.out / "run.json").exists():
        raise UsageError(
            f"--out: {options.out} is the folder of a run, whose page and scores this would replace; "
            "give another"
        )
    computing(options.dtype, options.safety_checker)
    numbers = {"--threads": options.threads, "--seeds": options.seeds, "--limit": options.limit}
    for name, value in {**numbers, "--num-frames": options.num_frames}.items():
        if value is not None and value < 1:
            raise UsageError(f"{name}: expected at least 1, found {value}")
    if options.source is not None and options.texts:
        raise UsageError("expected --prompts or -p, found both; leave one out")


def _records(
    options: Options, defaults: Mapping[str, Any], folder: Path
) -> tuple[list[dict[str, Any]], Path | str]:
    """The prompts' rows, each with the model, and the folder that their inputs' names count from."""
    source, base = options.source, None
    if source is None and not options.texts:
        if options.model != "zs2-mini":
            raise UsageError(
                f"expected prompts for {options.model}, as --prompts FILE or -p TEXT; found none"
            )
        source = str(MINI_PROMPTS)
    if source is None:
        source = str(folder / "prompts.parquet")
        build_from("-p", [{"prompt": text} for text in options.texts], source)
        base = Path.cwd()
    elif Path(source).suffix.lower() in TEXTS:
        base = Path(source).parent
        build(source, folder / "prompts.parquet")
        source = str(folder / "prompts.parquet")
    records: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for raw, checked in check_rows(open_manifest(source), defaults):
        if len(records) == (options.limit or -1):
            break
        base = base or folder_of(raw.file)
        own = raw.values.get("model", options.model)
        if isinstance(checked, list):
            problems += checked
        elif own != options.model:
            raise UsageError(
                f"{checked.id}: model: expected {options.model}, as all methods of a comparison have "
                f"one, found {own}; give it as MODEL, or leave the column out"
            )
        records.append({**raw.values, "model": options.model})
    if problems or not records:
        said = (
            format_problems(problems) if problems else f"{source} has no prompts; give at least one"
        )
        raise ManifestError(said)
    return records, base or Path.cwd()


def render_and_score(
    options: Options, clips: Sequence[PlannedClip], *, measure: Any = None
) -> tuple[str, list[Column]]:
    """Render and score what is missing; returns the scorer's name@revision and the scores' columns.

    Args:
        measure: (scorer) → a `tasks.compare.Measure`; default the scores of `tasks.evaluate`.
    """
    from zs2.clip_score import ClipScorer, describe_scorer

    info = describe_scorer(options.scorer, trusted=options.trust_pickles)
    from tasks.evaluate import score_clip
    from tasks.warm import WarmModels

    with (
        Counted("rendering", len(clips), options.quiet) as progress,
        told_plainly("the comparison"),
    ):
        for is_new in render_clips(options.out, clips, WarmModels()):
            progress.step(is_new)
    # in full precision wherever it runs, as scores stand beside its name alone
    scorer = ClipScorer.from_pretrained(
        info, device=None, dtype="float32", trusted=options.trust_pickles
    )
    own = (
        measure(scorer) if measure else lambda frames, prompts: score_clip(frames, prompts, scorer)
    )
    with Counted("scoring", len(clips), options.quiet) as progress:
        for is_new in score_clips(options.out, clips, info.identity, own):
            progress.step(is_new)
    return info.identity, score_columns()


def score_columns() -> list[Column]:
    """The scores as a table has them, dynamic degree beside consistency."""
    from tasks.compare_table import Column
    from tasks.evaluate import SCORES

    return [Column(score.name, score.label, score.better, score.unit) for score in SCORES]


def settings_of(
    options: Options, clips: Sequence[PlannedClip], scorer: str, names: Iterable[str] = SHARED
) -> dict[str, Any]:
    """What the clips share, for tables: of columns, what ZS² rendered with."""
    first = clips[0].job
    shared: dict[str, Any] = {
        "model": f"{options.model}@{first.revision[:12]}",
        "prompts": len({clip.prompt_id for clip in clips}),
        "seeds each": options.seeds,
    }
    ours = [c.job.row for c in clips if c.method.name == BASELINE] or [c.job.row for c in clips]
    for name in names:
        values = {getattr(row, name) for row in ours}
        shared[SHARED[name]] = values.pop() if len(values) == 1 else "by row"
    return {**shared, "scorer": scorer}


def _write(
    options: Options,
    methods: Sequence[Method],
    clips: Sequence[PlannedClip],
    scorer: str,
    columns: Sequence[Column],
) -> dict[str, Any]:
    from tasks.compare import read_scores
    from tasks.compare_page import write_page
    from tasks.compare_table import as_json, as_markdown, table_of

    out, rows = options.out, read_scores(options.out)
    table = table_of(rows, methods, columns)
    settings = settings_of(options, clips, scorer)
    found = {"settings": settings, "tests": table.tests, "methods": as_json(table)}
    write_text(out / "table.json", json.dumps(found, ensure_ascii=False, indent=1))
    write_text(out / "table.md", as_markdown(table, settings))
    row = clips[0].job.row
    write_page(
        out / "index.html",
        table,
        rows,
        title=f"{options.model}: ZS² beside its baselines",
        settings=settings,
        fps=row.fps * row.temporal_scale,
    )
    if not options.quiet:
        say(f"{count(len(clips), 'clip')}: {out / 'index.html'}, table.md, table.json")
    return found


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with write_aside(path) as aside:
        aside.write_text(text, "utf-8")


def table_text(out: Path) -> str:
    """table.md, for the terminal."""
    return (out / "table.md").read_text("utf-8")


def shown(found: Mapping[str, Any]) -> str:
    """table.json as one line."""
    return json.dumps(found, ensure_ascii=False)
