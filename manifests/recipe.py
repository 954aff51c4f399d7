"""A recipe: what a dataset of every night is to hold.

Prompt templates with slots, how many rows of which slot value, columns that are fixed, drawn or taken
through a grid, and the scores that a clip needs to be kept. It is a TOML file, such as
`manifests/examples/nightly.toml`, that `manifests.recipe_file` reads; `manifests.recipe_rows` makes the
rows of a date of it.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from hashlib import sha256
from math import ceil, prod
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from manifests.kinds import describe, quoted

MOST_ROWS = 1_000_000
SLOT = re.compile(r"\{(\w+)\}")
OWN_META = "template"  # meta_template says which template a row is of


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Template(_Part):
    """A prompt, or one for each segment, with `{slots}`."""

    prompt: str | list[str] = Field(description="A prompt, or a list: one for each segment.")
    weight: float = Field(1.0, gt=0, le=1e9, description="How often, beside the others.")

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that it names, in order."""
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return tuple(dict.fromkeys(name for text in texts for name in SLOT.findall(text)))


class Range(_Part):
    """Numbers from low to high, both included; evenly, or evenly in their logarithm."""

    low: float = Field(description="The least.")
    high: float = Field(description="The greatest.")
    log: bool = Field(False, description="Draw evenly in the logarithm.")


class Threshold(_Part):
    """What a score has to be for a clip to be kept."""

    at_least: float | None = Field(None, description="The least that is kept.")
    at_most: float | None = Field(None, description="The greatest that is kept.")


class Recipe(_Part):
    """What a dataset of a date holds; read by `manifests.recipe_file`."""

    name: str = Field(description="The dataset's folder.")
    license: str = Field(min_length=1, description="Of the dataset, for its card: cc0-1.0, other …")
    description: str = Field("", description="Markdown, for its card.")
    rows: int = Field(ge=1, le=MOST_ROWS, description="Rows of a night, grid included.")
    seed: int = Field(0, ge=0, lt=2**63, description="Another one draws other rows.")
    prompts: list[Template] = Field(min_length=1, description="Prompt templates.")
    slots: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="Values of each slot, with weights."
    )
    quotas: dict[str, dict[str, int | float]] = Field(
        default_factory=dict,
        description="Rows of a slot's values: whole numbers count, fractions are shares.",
    )
    columns: dict[str, Any] = Field(default_factory=dict, description="Columns of every row.")
    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="Columns whose every combination each draw is made with."
    )
    sampled: dict[str, list[Any] | Range] = Field(
        default_factory=dict, description="Columns drawn for each: of a list, or of a range."
    )
    scorer: str | None = Field(None, description="The CLIP that scores; default the bundled one.")
    keep: dict[str, Threshold] = Field(
        default_factory=dict, description="Scores that a clip needs to be kept."
    )
    fail_below: int | float = Field(
        1,
        ge=0,
        description="With fewer clips nothing is published: a whole number, or a share of the rows.",
    )

    @field_validator("prompts", mode="before")
    @classmethod
    def _plain_prompts(cls, value: Any) -> Any:
        """A text or a list of texts alone is a template, too."""
        if not isinstance(value, list):
            return value
        return [v if isinstance(v, dict) else {"prompt": v} for v in value]

    @field_validator("slots", mode="before")
    @classmethod
    def _plain_slots(cls, value: Any) -> Any:
        """A list of values has them equally often."""
        if not isinstance(value, dict):
            return value
        return {name: _weighted(name, found) for name, found in value.items()}

    @property
    def points(self) -> int:
        """Rows of one draw: the combinations of the grid."""
        return prod(len(values) for values in self.grid.values())

    @property
    def draws(self) -> int:
        """Rows that differ in more than the grid."""
        return self.rows // self.points

    @property
    def identity(self) -> str:
        """32 hex characters that are another's when the recipe says anything else; comments and
        layout do not count."""
        form = json.dumps(self.model_dump(mode="json"), ensure_ascii=True)
        return sha256(form.encode()).hexdigest()[:32]

    def least_kept(self) -> int:
        """Clips that must be kept for the dataset to be published; at least one."""
        if isinstance(self.fail_below, int):
            return max(1, self.fail_below)
        return max(1, ceil(Fraction(str(self.fail_below)) * self.rows))


def _weighted(name: str, found: Any) -> Any:
    if not isinstance(found, list):
        return found
    twice = {str(value) for value in found if found.count(value) > 1}
    if twice:
        raise ValueError(f"{name}: {quoted(sorted(twice))} stands there twice")
    if not all(isinstance(value, str) for value in found):
        raise ValueError(f"{name}: expected texts, found {describe(found)}")
    return dict.fromkeys(found, 1.0)


def quota_draws(recipe: Recipe, slot: str) -> dict[str, int]:
    """Draws of each value that has a quota, of a sound recipe; a row a grid point comes of each.

    Shares are of all rows, rounded by largest remainders: together they are their sum, rounded.
    """
    quotas = recipe.quotas[slot]
    shares = {v: Fraction(str(n)) for v, n in quotas.items() if isinstance(n, float)}
    exact = {value: share * recipe.draws for value, share in shares.items()}
    got = {value: int(wanted) for value, wanted in exact.items()}
    left = round(sum(exact.values(), Fraction())) - sum(got.values())
    by_remainder = sorted(exact, key=lambda value: got[value] - exact[value])  # stable
    for value in by_remainder[:left]:
        got[value] += 1
    counts = {v: n // recipe.points for v, n in quotas.items() if isinstance(n, int)}
    return {value: {**got, **counts}[value] for value in quotas}
