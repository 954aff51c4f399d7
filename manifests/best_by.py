"""`best_by`: what a row's candidates are ranked by, in words.

    clip_score
    clip_score + 0.5*frame_consistency - 100*warp_error
    clip_score with openai/clip-vit-large-patch14 in 8 steps

A weighted sum of scores, each in its own unit (`tasks.evaluate`); after `with` the CLIP that scores,
default the bundled one; after `in` the steps that candidates are sampled with to be ranked, default all.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from manifests.kinds import Kind, KindError

SCORE_NAMES = (
    "clip_score",
    "frame_consistency",
    "warp_error",
    "flicker",
    "dynamic_degree",
    "sharpness",
)
OF_PAIRS = frozenset({"frame_consistency", "warp_error", "flicker", "dynamic_degree"})
BUNDLED_SCORER = "zs2-mini-clip"
DEFAULT = "clip_score"
MOST_CANDIDATES = 64

EXPECTED = (
    "a score or a weighted sum of scores such as `clip_score + 0.5*dynamic_degree`, optionally followed "
    "by `with MODEL` (a CLIP) and `in N steps`"
)

_PHRASE = re.compile(
    r"(?P<sum>.+?)(\s+with\s+(?P<scorer>\S.*?))?(\s+in\s+(?P<steps>\d{1,4})\s+steps)?", re.DOTALL
)
_TERM = re.compile(r"\s*([+-])\s*(?:(\d+(?:\.\d+)?|\.\d+)\s*\*\s*)?([a-z_]+)\s*")


@dataclass(frozen=True)
class BestBy:
    """A ranking.

    Attributes:
        terms: score and weight, each score once.
        scorer: the CLIP's name.
        steps: of the clips that are ranked; None for the row's own.
    """

    terms: tuple[tuple[str, float], ...]
    scorer: str = BUNDLED_SCORER
    steps: int | None = None

    def __str__(self) -> str:
        """The ranking in words, always the same for the same ranking."""
        words = "".join(
            f" {'-' if weight < 0 else '+'} "
            + (name if abs(weight) == 1 else f"{abs(weight):g}*{name}")
            for name, weight in self.terms
        )
        words = words.removeprefix(" + ").strip()
        scorer = "" if self.scorer == BUNDLED_SCORER else f" with {self.scorer}"
        return words + scorer + ("" if self.steps is None else f" in {self.steps} steps")


def parse_best_by(text: str) -> BestBy:
    """The ranking that a text means.

    Raises:
        KindError: it means none; with what is wrong as its hint.
    """
    phrase = _PHRASE.fullmatch(text.strip())
    if phrase is None:
        raise KindError(EXPECTED, "it is empty")
    terms = _terms(phrase["sum"].strip())
    steps = None if phrase["steps"] is None else int(phrase["steps"])
    if steps is not None and not 1 <= steps <= 1000:
        raise KindError(EXPECTED, f"`in {steps} steps`: 1 to 1000 steps")
    return BestBy(tuple(terms.items()), phrase["scorer"] or BUNDLED_SCORER, steps)


def _terms(text: str) -> dict[str, float]:
    terms: dict[str, float] = {}
    rest = text if text.startswith(("+", "-")) else f"+{text}"
    while rest:
        found = _TERM.match(rest)
        if found is None:
            raise KindError(EXPECTED, f"found `{rest[:40].strip()}` where a score should be")
        sign, weight, name = found.groups()
        if name not in SCORE_NAMES:
            raise KindError(
                EXPECTED, f"no score is called `{name[:40]}`; there are {', '.join(SCORE_NAMES)}"
            )
        if name in terms:
            raise KindError(EXPECTED, f"`{name}` stands there twice")
        value = float(weight or 1) * (-1 if sign == "-" else 1)
        if not math.isfinite(value) or value == 0:
            raise KindError(EXPECTED, f"the weight of `{name}` is {value:g}")
        terms[name] = value
        rest = rest[found.end() :]
    return terms


def best_by_kind() -> Kind:
    """The kind of the column: the ranking's words, brought into one form."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise KindError(EXPECTED)
        return str(parse_best_by(value))

    return Kind(EXPECTED, "text", parse)
