"""Scores of real videos of every codec, made by a tiny CLIP in processes of their own."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.files import LockedError
from manifests.journal import Journal
from manifests.known import Known
from manifests.ledger import iter_results
from manifests.result import ResultRow
from manifests.run_file import write_json
from manifests.scores import SCORE_NAMES, read_scores, scores_file
from manifests.storage import RunFolder, StorageError
from tasks.assemble import assemble, decode
from tasks.evaluate import SCORES, Todo, evaluate, prompts_of, score_clip, todo_of
from tasks.publish import Tally, publish
from tasks.score_pool import ScorePool, embed
from tests import tiny_models
from zs2.clip_score import ClipScorer, describe_scorer
from zs2.models import ModelError

CODECS = ("h264", "gif", "webp", "ffv1", "png")
DIGEST = "ab" + "0" * 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.clip(tmp_path_factory.mktemp("scorer") / "tiny-clip"))


def pan(seed: int = 0, count: int = 4) -> np.ndarray:
    """A smooth texture that moves a pixel a frame, uint8 (count, 32, 32, 3)."""
    noise = np.random.default_rng(seed).normal(size=(32, 40, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    drawn = np.uint8(255 * (smooth - smooth.min()) / (smooth.max() - smooth.min()))
    return np.stack([drawn[:, i : i + 32] for i in range(count)])


def add(folder: RunFolder, codecs: Sequence[str], run_id: str = "r1", **more: Any) -> None:
    """Note rows with real videos, named by their codecs."""
    now = datetime.now(UTC)
    with Journal(folder.results, run_id) as journal:
        for codec in codecs:
            path = folder.video_path(more.get("digest", DIGEST), codec, codec)
            made = assemble(pan(len(codec)), path, 8.0, codec)
            values: dict[str, Any] = {
                "digest": DIGEST,
                "status": "ok",
                "file_name": folder.file_name(path),
                "sha256": made.sha256,
                "bytes": made.bytes,
                "num_frames": 4,
                "prompt": "a b",
                "model": "tiny",
                "params": json.dumps({"codec": codec, "num_frames": 4, "segment_frames": 4}),
                "started_at": now,
                "finished_at": now,
                "meta": {"meta_codec": codec},
            }
            journal.append(ResultRow(codec, **{**values, **more}))


def run_folder(path: Path, codecs: Sequence[str] = CODECS) -> RunFolder:
    folder = RunFolder(path).create()
    write_json(
        folder.run_file, {"run_id": "r1", "state": "finished", "manifest": "/m/tiny.parquet"}
    )
    add(folder, codecs)
    return folder


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, clip: str) -> tuple[RunFolder, dict[str, Any]]:
    """A run of one clip a codec, evaluated once by two processes; what on_clip heard."""
    folder = run_folder(tmp_path_factory.mktemp("run") / "out")
    heard: list[int] = []
    done = evaluate(folder, clip, workers=2, on_clip=lambda d: heard.append(d.scored))
    return folder, {"done": done, "heard": heard}


def test_every_codec_is_scored_as_its_decoded_frames_are(
    scored: tuple[RunFolder, dict[str, Any]], clip: str
):
    """What stands in scores.parquet is what `score_clip` says of the decoded video, to the last bit:
    a process of the pool is no other judge."""
    folder, _ = scored
    scores, scorer = read_scores(folder.root), ClipScorer.from_pretrained(clip)
    assert sorted(scores) == sorted(CODECS)
    for row in iter_results(folder.root):
        frames, _ = decode(folder.root / str(row.file_name))
        wanted = score_clip(frames, "a b", scorer)
        assert scores[row.id] == pytest.approx(wanted, rel=1e-5)
    assert not (folder.root / "scores.jsonl").exists()


def test_scores_stand_in_metadata_and_gallery(scored: tuple[RunFolder, dict[str, Any]]):
    """metadata.parquet has a column for each score, before the meta_ columns; the page has the
    scores of each clip."""
    folder, told = scored
    assert told["heard"] == [1, 2, 3, 4, 5]
    table = pq.read_table(folder.metadata_file)
    scores = read_scores(folder.root)
    assert table.column_names[-7:] == [*SCORE_NAMES, "meta_codec"]
    for record in table.to_pylist():
        assert {name: record[name] for name in SCORE_NAMES} == scores[record["id"]]
    page = folder.gallery_file.read_text("utf-8")
    assert f"{scores['gif']['clip_score']:.3f}"[:4] in page


def test_evaluating_again_scores_nothing(scored: tuple[RunFolder, dict[str, Any]], clip: str):
    """What this scorer has scored stays; the file is not even written again."""
    folder, told = scored
    before = scores_file(folder.root).stat().st_mtime_ns
    again = evaluate(folder, clip)
    assert (again.ok, again.had, again.scored, again.failed) == (5, 5, 0, {})
    assert scores_file(folder.root).stat().st_mtime_ns == before
    assert told["done"].scored == 5 and again.scorer == told["done"].scorer


def test_a_changed_clip_loses_its_scores_and_the_others_keep_theirs(tmp_path: Path, clip: str):
    """Publishing after a clip was rendered anew drops that clip's scores alone."""
    folder = run_folder(tmp_path / "out", ["gif", "png"])
    evaluate(folder, clip, workers=1)
    kept = read_scores(folder.root)["gif"]
    add(folder, ["png"], run_id="r2", digest="cd" + "0" * 30, prompt="x y z")
    ids = Known()
    for name in ("gif", "png"):
        ids.put(name, DIGEST, "ok")
    publish(folder, ids, Tally(), run_id="r2", title="t")
    assert list(read_scores(folder.root)) == ["gif"]
    records = {row["id"]: row for row in pq.read_table(folder.metadata_file).to_pylist()}
    assert records["gif"]["clip_score"] == kept["clip_score"]
    assert records["png"]["clip_score"] is None


def test_files_that_cannot_be_scored_are_named(tmp_path: Path, clip: str):
    """A missing video, a damaged one and one that lacks its last frame cost themselves, not the
    others."""
    folder = run_folder(tmp_path / "out", ["gif", "h264", "ffv1", "webp"])
    for row in iter_results(folder.root):
        path = folder.root / str(row.file_name)
        if row.id == "gif":
            path.unlink()
        elif row.id == "webp":
            assemble(pan()[:3], path, 8.0, "webp")
        elif row.id == "h264":
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 3])
    done = evaluate(folder, clip, workers=1)
    assert (done.ok, done.scored, done.left) == (4, 1, 3)
    assert set(done.failed) == {"gif", "h264", "webp"}
    assert "expected 4 frames, found 3" in done.failed["webp"]
    assert all("cannot be decoded" in why for why in done.failed.values())
    assert list(read_scores(folder.root)) == ["ffv1"]


def test_what_is_no_run_or_no_scorer_is_refused(tmp_path: Path, clip: str):
    """No run folder: said so, and none is made; a running run's folder is its own; an unknown scorer
    is named before anything is decoded."""
    with pytest.raises(StorageError, match=r"no run\.json"):
        evaluate(RunFolder(tmp_path / "nothing"), clip)
    assert not (tmp_path / "nothing").exists()
    folder = run_folder(tmp_path / "out", ["gif"])
    with folder.lock("render-1"), pytest.raises(LockedError, match="render-1"):
        evaluate(folder, clip)
    with pytest.raises(ModelError, match="no-such-clip"):
        evaluate(folder, "no-such-clip")
    assert not scores_file(folder.root).exists()


def die_on_gif(todo: Todo) -> str:
    """A decoder that a broken file kills."""
    if todo.id == "gif":
        os._exit(9)
    return f"lived {todo.id}"


def test_a_clip_that_kills_its_process_costs_itself_alone(tmp_path: Path, clip: str):
    """The others that were in flight with it have their outcomes, those after it, too."""
    folder = run_folder(tmp_path / "out", [])
    names = [*CODECS, "more", "others"]
    todo = [Todo(name, DIGEST, f"videos/ab/{name}", ("p",), 4, 1) for name in names]
    with ScorePool(folder, describe_scorer(clip), workers=2, device="cpu") as pool:
        outcomes = {each.id: told for each, told in pool.run(die_on_gif, todo)}
    assert "killed the process" in outcomes.pop("gif")
    assert outcomes == {name: f"lived {name}" for name in names if name != "gif"}


@pytest.mark.slow
def test_embeddings_of_clips(scored: tuple[RunFolder, dict[str, Any]], clip: str):
    """The mean of the frames' embeddings, of unit length."""
    folder, _ = scored
    row = next(row for row in iter_results(folder.root) if row.id == "ffv1")
    todo = Todo(row.id, row.digest, str(row.file_name), ("a b",), 4, 1)
    with ScorePool(folder, describe_scorer(clip), workers=1, device="cpu") as pool:
        ((_, found),) = pool.run(embed, [todo])
    frames, _ = decode(folder.root / str(row.file_name))
    mean = ClipScorer.from_pretrained(clip).image_embeddings(frames).mean(0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)


def test_storyboards_have_a_prompt_each_segment():
    """Five frames in segments of two, then twice as many by interpolation: each frame is compared with
    the prompt of the sampled frame at or before it. A prompt of several lines is one prompt."""
    params = {"num_frames": 5, "segment_frames": 2, "temporal_scale": 2}
    record = {"id": "a", "digest": DIGEST, "file_name": "f", "params": json.dumps(params)}
    todo = todo_of({**record, "prompt": "x\ny\nz"})
    assert prompts_of(todo, 9) == [*"xxxx", *"yyyy", "z"]
    single = todo_of({**record, "prompt": "one\nprompt"})
    assert prompts_of(single, 9) == ["one\nprompt"] * 9
    bare = todo_of({**record, "prompt": None, "params": None})
    assert prompts_of(bare, 2) == ["", ""]


def test_score_clip_ranks_and_knows_its_limits(clip: str):
    """A still clip has the best consistency and no motion, a clip of cuts the worst; one frame has
    neither; a wrong number of prompts is refused."""
    scorer = ClipScorer.from_pretrained(clip)
    still = np.repeat(pan()[:1], 4, 0)
    cuts = np.stack([pan(seed)[0] for seed in range(4)])
    found = {
        name: score_clip(frames, "a", scorer)
        for name, frames in {"still": still, "pan": pan(), "cuts": cuts}.items()
    }
    consistency = [found[name]["frame_consistency"] for name in ("cuts", "pan", "still")]
    assert consistency == sorted(consistency) and consistency[-1] == pytest.approx(100)
    assert found["still"]["dynamic_degree"] == 0 < found["pan"]["dynamic_degree"]
    single = score_clip(still[:1], "a", scorer)
    assert math.isfinite(single["clip_score"]) and math.isnan(single["frame_consistency"])
    assert set(single) == set(SCORE_NAMES) == {score.name for score in SCORES}
    with pytest.raises(ValueError, match="one for each of 4 frames"):
        score_clip(still, ["a"] * 3, scorer)
