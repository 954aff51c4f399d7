"""How a run that has ended is told: whether failed rows make it failed, and what an interrupted one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from tasks.publish import Cause

MOST_CAUSES = 3  # in the message; the ledger has all


def _check(value: Any) -> Any:
    try:
        if value in ("any", "never") or 0 <= float(value) <= 1:
            return value
    except (TypeError, ValueError):
        pass
    raise PydanticCustomError("fail_if", "expected any, never, or a share of the rows from 0 to 1")


FailIf = Annotated[
    Literal["any", "never"] | Annotated[float, Field(ge=0, le=1)], BeforeValidator(_check)
]


class RowsFailedError(RuntimeError):
    """A run ended, with more rows without a video than its `fail_if` lets pass.

    Everything is published: `summary` is what the flow returns otherwise.
    """

    def __init__(self, told: str, summary: dict[str, Any]) -> None:
        super().__init__(told)
        self.summary = summary


def has_failed(fail_if: str | float, rows: Mapping[str, int], left: int = 0) -> bool:
    """Whether so many rows without a video fail the run.

    Args:
        fail_if: `any` of them, `never`, or a share of all rows: more than it.
        rows: of the manifest, by status.
        left: those without a status, which a run of failed rows alone leaves.
    """
    bad = rows["failed"] + rows["invalid"] + left
    if isinstance(fail_if, str):
        return bad > 0 and fail_if == "any"
    return bad > fail_if * (sum(rows.values()) + left)


def told_of_failures(
    address: str,
    fail_if: str | float,
    rows: Mapping[str, int],
    causes: Sequence[Cause],
    left: int = 0,
) -> str:
    """The counts, the first causes, and what to do, in a few lines."""
    total = sum(rows.values()) + left
    told = (
        f"{rows['failed']} failed and {rows['invalid']} invalid of {total} rows of {address} "
        f"(fail_if is {fail_if})"
    )
    if rows["failed"] or rows["invalid"]:
        told += f"; `zs2 retry {address}` or the same run renders them again"
    lines = [told]
    if left:
        lines.append(f"{left} were never rendered: a run without only_failed does that")
    for cause in causes[:MOST_CAUSES]:
        lines.append(f"{cause.rows} × {cause.stage}: {cause.error}: {cause.told} ({cause.example})")
    if len(causes) > MOST_CAUSES:
        lines.append(f"and {len(causes) - MOST_CAUSES} more causes: `zs2 status {address}`")
    return "\n".join(lines)


def interrupted(summary: dict[str, Any], left: str) -> Any:
    """What an interrupted flow returns: a Cancelled state with its summary, for `result_of`."""
    from prefect.states import Cancelled

    return Cancelled(message=f"interrupted, {left}; the same run goes on", data=summary)


def result_of(flow: Any, *arguments: Any, **named: Any) -> Any:
    """Call a flow: what it returns, also the summary of one that was interrupted; raises what it raises."""
    state = flow(*arguments, **named, return_state=True)
    return state.result(raise_on_failure=not state.is_cancelled())
