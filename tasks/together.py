"""Which rows may share their UNet calls, where the engine has several clips in one. Pure: no torch.

How many clips a call has is declared for a run (`Engine.clips_per_call`) and enters the digest, because a
clip's last bits depend on it. Which rows share a call changes no byte, so that is left to chance: rows
that follow each other and agree; a call that they do not fill is filled up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.row import ManifestRow
    from tasks.job import Conditions

# Columns in which rows of one call may differ.
OWN = ("kl_target", "negative_prompt", "prompt", "seed")


def why_alone(row: ManifestRow, conditions: Conditions) -> str | None:
    """Why a row has its UNet calls to itself, whatever the engine; None where it can share them."""
    reasons = {
        "its candidates are ranked one by one": row.best_of > 1,
        "it has frames sampled in between": row.in_between > 1,
        "it follows a clip": conditions.controlnet is not None,
        "it edits a clip": conditions.source_video is not None,
        "it follows a picture": conditions.ip_adapter is not None,
        "its prompt may be of any length": row.long_prompt == "chunk",
        "its inputs are gone": bool(conditions.lost),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def shared_fields(sample_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of all that decides a row's latents, what the rows of one call agree in."""
    return {name: value for name, value in sample_fields.items() if name not in OWN}
