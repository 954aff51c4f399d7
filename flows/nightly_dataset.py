"""The flow `nightly-dataset`: a recipe and a date become a published dataset."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.evaluate_renders import evaluate_renders
from flows.render_manifest import render_manifest
from flows.settings import RenderSettings
from flows.verdict import RowsFailedError, has_failed, interrupted, result_of
from manifests.object_store import ObjectStore, is_url
from manifests.recipe_file import read_recipe
from manifests.recipe_rows import build_recipe
from tasks.dataset import publish_dataset, put_manifest
from tasks.dataset_place import Place, place_of, published, switch_latest
from zs2.clip_score import BUNDLED_SCORER

# Prefect's server knows patterns and no dates: with this it refuses `yesterday` before a run starts.
Day = Annotated[
    datetime.date,
    Field(json_schema_extra={"pattern": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"}),
]


@flow(  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
    name="nightly-dataset", flow_run_name="dataset {recipe}", persist_result=False
)
def nightly_dataset(
    recipe: str,
    out: str = "datasets",
    date: Day | None = None,
    settings: RenderSettings | None = None,
    scoring_workers: Annotated[int, Field(ge=1)] | None = None,
    scoring_device: str = "cpu",
) -> dict[str, Any]:
    """Make the dataset of a date: manifest, render, score, keep what passes, publish.

    A date that is published already is left as it is. One that was interrupted goes on.

    Args:
        recipe: a recipe (.toml), its URL, or the bundled `nightly`; a worker needs an absolute path.
        out: the folder of all datasets, or its URL; the recipe's name and the date follow.
        date: of the dataset; default the day, in UTC, for which this run was scheduled.
        settings: how to render; see RenderSettings. `fail_if` counts after publishing.
        scoring_workers: processes that score; default one a CPU core.
        scoring_device: of the scorer in each of them.

    Returns:
        What dataset.json says, with `state` (published, unchanged or interrupted), `at`, where the
        dataset is, and `latest`, whether the pointer was switched to it.

    Raises:
        RecipeError, ManifestError, InvalidManifestError: nothing was rendered.
        PublishedError: the date was published from another recipe. TooFewError: too few clips passed.
        RowsFailedError: all is published, and more rows failed than `fail_if` lets pass.
    """
    settings = settings or RenderSettings()  # pyright: ignore[reportCallIssue]
    said, text = read_recipe(recipe)
    day = date or flow_run.scheduled_start_time.astimezone(datetime.UTC).date()
    place, log = place_of(out, said, day), get_run_logger()
    content, state = published(place, said), "unchanged"
    if content is None:
        manifest, rows = put_manifest(place, lambda path: build_recipe(said, day, path))
        log.info("%s: %d rows for %s", said.name, rows, day)
        never = settings.model_copy(update={"fail_if": "never"})
        summary = result_of(render_manifest, manifest, place.run, never)
        if summary["state"] == "interrupted":
            answer = _answer(place, "interrupted", False, {"rows": summary["rows"]})
            return interrupted(answer, f"{summary['left']} rows are left")
        scores: dict[str, Any] = evaluate_renders(
            place.run,
            scorer=said.scorer or BUNDLED_SCORER,
            report=True,
            trust_pickles=settings.trust_pickles,
            workers=scoring_workers,
            device=scoring_device,
        )
        content = publish_dataset(place, said, text, scores["scorer"], settings.defaults)
        state = "published"
    is_latest = switch_latest(place)
    log.info("%s: %s, %d clips", place.version, state, content["kept"])
    answer = _answer(place, state, is_latest, content)
    if state == "published":
        create_markdown_artifact(_card(place), key="dataset", description=place.version)
    if has_failed(settings.fail_if, content["rows"]):
        raise _failure(settings, answer)
    return answer


def _answer(place: Place, state: str, is_latest: bool, content: dict[str, Any]) -> dict[str, Any]:
    told = {"at": place.version, "date": str(place.date), "state": state, "latest": is_latest}
    return {**content, **told}


def _card(place: Place) -> str:
    if is_url(place.base):
        found = ObjectStore(place.version).read("README.md")
        text = "" if found is None else found[0].decode()
    else:
        text = Path(place.version, "README.md").read_text("utf-8")
    return text.partition("\n---\n")[2]  # without the header for hubs


def _failure(settings: RenderSettings, answer: dict[str, Any]) -> RowsFailedError:
    rows = answer["rows"]
    told = (
        f"{rows['failed']} failed and {rows['invalid']} invalid of {sum(rows.values())} rows (fail_if "
        f"is {settings.fail_if}); {answer['at']} is published without them, and its README.md says why"
    )
    return RowsFailedError(told, answer)
