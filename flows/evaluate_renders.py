"""The flow `evaluate-renders`: scores of a run's finished clips, with intervals."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from zs2.clip_score import BUNDLED_SCORER


@flow(  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
    name="evaluate-renders", flow_run_name="evaluate {out}", persist_result=False
)
def evaluate_renders(
    out: str,
    scorer: str = BUNDLED_SCORER,
    by: str | None = None,
    report: bool = False,
    trust_pickles: list[str] | None = None,
    workers: Annotated[int, Field(ge=1)] | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Score the finished clips of a run that have no scores yet.

    Args:
        out: the run folder, or its URL.
        scorer: a CLIP: `zs2-mini-clip`, a local folder, or a hub id with optional `@revision`.
        by: a column of the manifest by whose values the table is grouped.
        report: also write report.html, the quality of the data set.
        trust_pickles: scorers whose pickled weights, which can run code, may be loaded.
        workers: processes; default one a CPU core.
        device: of the scorer.

    Returns:
        What `zs2 eval --json` prints: counts, clips that could not be scored, and means with 95 %
        bootstrap intervals.

    Raises:
        UsageError: no run there. LockedError: a run goes on. ModelError: no such scorer.
        ColumnError: no such column.
    """
    from flows.commands.eval import evaluate_run

    answer = evaluate_run(
        out,
        scorer=scorer,
        by=by,
        report=report,
        trust_pickles=trust_pickles or [],
        workers=workers,
        device=device,
    )
    failed = len(answer["failed"])
    lines = [
        f"# Scores of `{out}`",
        f"{answer['clips']:,} clips, {answer['scored']:,} scored now by `{answer['scorer']}`"
        f"{f', {failed:,} could not be scored' if failed else ''}.",
        answer["markdown"],
    ]
    create_markdown_artifact("\n\n".join(lines), key="scores", description="Scores of a run")
    return answer
