"""The vocabulary and the tokenizer that zs2-mini ships."""

from __future__ import annotations

import numpy as np
import pytest

from infra.mini import train_text
from infra.mini.captions import caption, words
from infra.mini.scenes import scenes


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_text.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_every_word_of_the_grammar_is_one_token(tokenizer):
    """Begin, the word, end: three tokens for each word, and no two words share one."""
    found = [tokenizer(word).input_ids for word in words()]
    assert all(len(ids) == 3 for ids in found)
    assert len({ids[1] for ids in found}) == len(words())


def test_captions_fit_the_context(tokenizer):
    """No caption of the grammar is cut off."""
    rng = np.random.default_rng(0)
    longest = max(len(tokenizer(caption(s, rng)).input_ids) for s in scenes(9, 3000))
    assert longest <= train_text.CONTEXT


@pytest.mark.parametrize("odd", ["Ein schönes Räderwerk", "🚀 x1", "", "日本 <|bad|> \t\n !?"])
def test_any_text_is_encoded_by_bytes(tokenizer, odd: str):
    """Text outside the grammar falls back to byte letters, with no unknown token inside."""
    ids = tokenizer(odd, truncation=True).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[:-1]


def test_files_load_again(tokenizer, tmp_path):
    """The written folder loads as a CLIPTokenizer that gives the same ids."""
    from transformers import CLIPTokenizer

    train_text.write_tokenizer(tmp_path)
    assert {"vocab.json", "merges.txt"} <= {path.name for path in tmp_path.iterdir()}
    again = CLIPTokenizer.from_pretrained(str(tmp_path))
    sentence = "a red star over the sea at night, slowly"
    assert again(sentence).input_ids == tokenizer(sentence).input_ids
    assert again.model_max_length == train_text.CONTEXT


def test_disturbed_captions_keep_their_words():
    """Foreign words are put in; none of the caption's own is lost or moved."""
    rng = np.random.default_rng(3)
    own = ["a", "red", "star", "over", "the", "sea"]
    for _ in range(20):
        mixed = train_text.disturb(" ".join(own), rng).split()
        left = iter(mixed)
        assert len(mixed) > len(own)
        assert all(word in left for word in own)
