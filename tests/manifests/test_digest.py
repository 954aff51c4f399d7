"""manifests.digest: canonical JSON, digests, hashes of files and model folders."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from manifests import digest
from manifests.digest import canonical, digest_of, file_sha256, folder_weights_hash


def test_canonical_bytes_do_not_depend_on_order_or_on_tuples():
    """Equal values give equal bytes; floats keep every digit."""
    assert canonical({"b": (1, 2), "a": 0.1}) == canonical({"a": 0.1, "b": [1, 2]})
    assert canonical({"a": 0.1}) == b'{"a":0.1}'
    assert canonical(0.1 + 0.2) == b"0.30000000000000004"
    assert canonical("é☃") == b'"\\u00e9\\u2603"'


@pytest.mark.parametrize(
    "pair", [(1, 1.0), (1, True), ("1", 1), (None, "null"), ([1], 1), ({}, [])]
)
def test_values_that_differ_have_other_bytes(pair: tuple[Any, Any]):
    """A digest tells apart whatever JSON does."""
    assert canonical(pair[0]) != canonical(pair[1])


def test_what_json_does_not_have_is_refused():
    """NaN has no canonical form; an object none at all."""
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))
    with pytest.raises(TypeError):
        canonical(object())


def test_a_digest_is_32_hex_characters_and_never_changes():
    """Digests name files and decide what is rendered again: this one must stay for good."""
    assert digest_of({"prompt": ["a red star"], "seed": 7}) == "ee362725b3f7f8f7aeadb57f9b5d05a3"


def model(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_json", ".json").replace(
            "_st", ".safetensors"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_a_model_folders_hash_is_of_its_names_and_contents(tmp_path: Path):
    """Not of its place, its times, hidden files, READMEs or pictures."""
    one = model(tmp_path / "one", model_index_json="{}", unet__w_st="abc")
    two = model(tmp_path / "two", model_index_json="{}", unet__w_st="abc")
    (two / "README.md").write_text("words")
    (two / "preview.png").write_text("pixels")
    (two / ".cache").mkdir()
    (two / ".cache" / "x").write_text("junk")
    assert folder_weights_hash(one) == folder_weights_hash(two)
    assert len(folder_weights_hash(one)) == 32
    (two / "unet" / "w.safetensors").write_text("abd")
    assert folder_weights_hash(one) != folder_weights_hash(two)
    model(tmp_path / "two", unet__w_st="abc")
    (two / "unet").rename(two / "vae")
    assert folder_weights_hash(one) != folder_weights_hash(two)


def test_a_single_file_model_is_hashed_by_content_and_links_are_followed(tmp_path: Path):
    """Hub caches link every file."""
    one = model(tmp_path / "one", unet__w_st="abc")
    (tmp_path / "two" / "unet").mkdir(parents=True)
    (tmp_path / "two" / "unet" / "w.safetensors").symlink_to(one / "unet" / "w.safetensors")
    assert folder_weights_hash(one) == folder_weights_hash(tmp_path / "two")
    assert (
        folder_weights_hash(one / "unet" / "w.safetensors")
        == file_sha256(one / "unet/w.safetensors")[:32]
    )


def test_linked_folders_count(tmp_path: Path):
    """A part that is a link has the hash of its files, and another one when they change; links in a
    circle end."""
    one = model(tmp_path / "one", model_index_json="{}", unet__w_st="abc")
    two = model(tmp_path / "two", model_index_json="{}")
    (two / "unet").symlink_to(one / "unet")
    assert folder_weights_hash(two) == folder_weights_hash(one)
    before = folder_weights_hash(two)
    (one / "unet" / "w.safetensors").write_text("abd")
    assert folder_weights_hash(two) == folder_weights_hash(one) != before
    before = folder_weights_hash(two)
    (one / "unet" / "round").symlink_to(two)
    (one / "unet" / "up").symlink_to("..")
    assert folder_weights_hash(two) == before


def test_a_folder_without_model_files_is_an_error(tmp_path: Path):
    """An empty folder has no revision."""
    (tmp_path / "README.md").write_text("words")
    with pytest.raises(FileNotFoundError):
        folder_weights_hash(tmp_path)
    with pytest.raises(FileNotFoundError):
        folder_weights_hash(tmp_path / "missing")


def test_large_files_are_remembered_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By path, size and time; a file written this moment is not trusted to stay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest, "CACHED_FROM", 3)
    path = tmp_path / "w.safetensors"
    path.write_text("abc")
    first = file_sha256(path)
    assert not (tmp_path / "cache").exists()
    past = time.time() - 60
    os.utime(path, (past, past))
    assert file_sha256(path) == first
    (noted,) = (tmp_path / "cache").rglob("*/hashes/*")
    noted.write_text("f" * 64)
    assert file_sha256(path) == "f" * 64
    path.write_text("xyz")
    assert file_sha256(path) not in (first, "f" * 64)


def test_a_home_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The hash is right without its memory."""
    (tmp_path / "cache").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest, "CACHED_FROM", 3)
    path = tmp_path / "w"
    path.write_text("abc")
    os.utime(path, (1, 1))
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
