"""The methods that `zs2 compare` sets side by side: each is some columns laid over a prompt's row.

So every compared clip is a manifest row that `zs2 render` renders again, bytes and all; but for
Text2Video-Zero, which no column names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manifests.row import ManifestRow

PAPER_ALPHA = 0.5  # of mixed and progressive noise, by the names of the paper's figures 7 and 8
BASELINE = "zs2"  # what every method's difference is taken to

Columns = Callable[[ManifestRow], Mapping[str, Any]]


class CompareError(ValueError):
    """A comparison that cannot be made as asked; the message says what to change."""


@dataclass(frozen=True)
class Method:
    """One way to sample a row.

    Attributes:
        name: in file names and on the command line.
        about: how it differs from ZS², in words.
        columns: from a row as ZS² renders it, the columns that differ.
        is_text2video_zero: sampled by `zs2.baselines.text2video_zero`; `columns` then hold what its
            last part, cross-frame attention to frame 1, amounts to.
    """

    name: str
    about: str
    columns: Columns
    is_text2video_zero: bool = False


def fixed(**columns: Any) -> Columns:
    """Columns that are the same for every row."""
    return lambda _: columns


def _mixed_matched(row: ManifestRow) -> Mapping[str, Any]:
    from zs2.baselines import matched_mixed_alpha

    return {"noise": "mixed", "alpha": matched_mixed_alpha(_one_kl_target(row))}


def _progressive_matched(row: ManifestRow) -> Mapping[str, Any]:
    from zs2.baselines import matched_progressive_alpha

    return {"noise": "progressive", "alpha": matched_progressive_alpha(_one_kl_target(row))}


def _one_kl_target(row: ManifestRow) -> float:
    if isinstance(row.kl_target, tuple):
        raise CompareError(
            f"{row.id}: kl_target: expected one λ, as α is matched to it, found "
            f"{len(row.kl_target)}; leave mixed-matched and progressive-matched out of --methods"
        )
    return row.kl_target


METHODS = {
    method.name: method
    for method in (
        Method(
            "ddim",
            "frame by frame: i.i.d. noise, plain self-attention (the paper's DDIM, where the "
            "scheduler is ddim, as it is unless set)",
            fixed(noise="iid", momentum=0.0),
        ),
        Method(
            "text2video-zero",
            "Text2Video-Zero (arXiv 2303.13439) at its own defaults, without background smoothing",
            fixed(noise="iid", momentum=1.0),
            is_text2video_zero=True,
        ),
        Method("zs2", "ZS²", fixed(noise="dependency")),
        Method(
            "mixed",
            f"mixed noise at the paper's α={PAPER_ALPHA}, momentum attention as ZS²",
            fixed(noise="mixed", alpha=PAPER_ALPHA),
        ),
        Method(
            "mixed-matched",
            "mixed noise whose neighbours differ by ZS²'s λ, momentum attention as ZS²",
            _mixed_matched,
        ),
        Method(
            "progressive",
            f"progressive noise at the paper's α={PAPER_ALPHA}, momentum attention as ZS²",
            fixed(noise="progressive", alpha=PAPER_ALPHA),
        ),
        Method(
            "progressive-matched",
            "progressive noise whose neighbours differ by ZS²'s λ, momentum attention as ZS²: with "
            "the solver `expected` this is ZS² itself",
            _progressive_matched,
        ),
    )
}


def methods_named(names: Sequence[str]) -> list[Method]:
    """The methods of these names, ZS² among them, in the order of METHODS.

    Raises:
        CompareError: an unknown name.
    """
    for name in names:
        if name not in METHODS:
            raise CompareError(f"--methods: expected some of {', '.join(METHODS)}, found {name!r}")
    return [method for method in METHODS.values() if method.name in {*names, BASELINE}]
