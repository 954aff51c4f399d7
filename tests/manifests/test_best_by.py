"""What a row's candidates are ranked by, in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.best_by import BUNDLED_SCORER, SCORE_NAMES, BestBy, best_by_kind, parse_best_by
from manifests.kinds import KindError
from zs2 import clip_score


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("clip_score", BestBy((("clip_score", 1.0),))),
        ("  clip_score ", BestBy((("clip_score", 1.0),))),
        ("-flicker", BestBy((("flicker", -1.0),))),
        (
            "clip_score+.5*frame_consistency - 100 * warp_error",
            BestBy((("clip_score", 1.0), ("frame_consistency", 0.5), ("warp_error", -100.0))),
        ),
        ("sharpness in 8 steps", BestBy((("sharpness", 1.0),), steps=8)),
        (
            "clip_score with openai/clip-vit-base-patch32@main in 12 steps",
            BestBy((("clip_score", 1.0),), "openai/clip-vit-base-patch32@main", 12),
        ),
        (
            "clip_score with /models/a clip in here",
            BestBy((("clip_score", 1.0),), "/models/a clip in here"),
        ),
    ],
)
def test_a_ranking_in_words(text: str, meant: BestBy) -> None:
    """Scores, weights, scorer and steps are read; the words that the ranking is then written in mean
    the same, and stay as they are when they are read again."""
    assert parse_best_by(text) == meant
    written = best_by_kind().parse(text)
    assert parse_best_by(written) == meant
    assert best_by_kind().parse(written) == written


@given(
    st.dictionaries(
        st.sampled_from(SCORE_NAMES),
        st.floats(0.001, 1000).map(lambda w: float(f"{w:g}")),
        min_size=1,
    ),
    st.none() | st.integers(1, 1000),
)
def test_every_ranking_survives_its_words(weights: dict[str, float], steps: int | None) -> None:
    """What is written is read as the same ranking, whatever the weights."""
    by = BestBy(tuple(weights.items()), steps=steps)
    assert parse_best_by(str(by)) == by


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("beauty", "no score is called `beauty`"),
        ("clip_score + clip_score", "stands there twice"),
        ("0*clip_score", "weight of `clip_score` is 0"),
        ("clip_score +", "found `+`"),
        ("clip_score in 0 steps", "1 to 1000 steps"),
        ("2clip_score", "found `+2clip_score`"),
        ("clip_score; rm", "found `; rm`"),
        ("clip_score with", "found `with`"),
    ],
)
def test_what_is_no_ranking(text: str, said: str) -> None:
    """It is refused with what is wrong with it."""
    with pytest.raises(KindError) as refusal:
        parse_best_by(text)
    assert said in refusal.value.hint
    with pytest.raises(KindError):
        best_by_kind().parse("clip_score with a\0b")


def test_the_default_scorer_is_the_bundled_one() -> None:
    """Manifests know its name, and nothing else of it."""
    assert BUNDLED_SCORER == clip_score.BUNDLED_SCORER
