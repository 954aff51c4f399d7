"""Clips are compared on the same prompts and seeds, rendered once, and scored from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.build import build_from
from manifests.read import open_manifest
from manifests.row import parse_row, seed_of
from tasks import stages
from tasks.assemble import assemble, decode
from tasks.catalogue import Catalogue
from tasks.compare import (
    PlannedClip,
    manifest_records,
    plan_clips,
    read_scores,
    render_clips,
    score_clips,
)
from tasks.job import Engine
from tasks.methods import METHODS, CompareError, Method, fixed
from tasks.warm import WarmModels
from zs2.metrics import dynamic_degree, warp_error

SMALL = {"num_frames": 3, "num_inference_steps": 4, "height": 16, "width": 16, "quality": 0}
RECORDS = [{"id": "a", "prompt": "a b"}, {"id": "b", "prompt": "c", "seed": 2**63 - 1}]


def planned(
    model: Path | str,
    methods: Sequence[Method] = tuple(METHODS.values()),
    records: Sequence[Mapping[str, Any]] = RECORDS,
    seeds: int = 1,
    **defaults: Any,
) -> list[PlannedClip]:
    return plan_clips(
        records,
        methods,
        seeds=seeds,
        defaults={"model": str(model), **SMALL, **defaults},
        catalogue=Catalogue(),
        engine=Engine(),
        base=Path.cwd(),
    )


def measure(frames: Any, prompts: Any) -> dict[str, float]:
    return {"dynamic_degree": dynamic_degree(frames), "warp_error": warp_error(frames)}


@pytest.fixture(scope="module")
def rendered(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both prompts by every method."""
    out = tmp_path_factory.mktemp("comparison")
    assert all(render_clips(out, planned(tiny_model), WarmModels()))
    return out


def test_all_methods_of_a_prompt_have_its_seeds():
    """A row's own seed, else that of its id, and those that follow it; so two prompts without seeds
    share no noise, and two methods always do."""
    clips = planned("zs2-mini", seeds=2)
    by_prompt = {
        (clip.prompt_id, clip.take): {
            c.job.row.seed for c in clips if (c.prompt_id, c.take) == (clip.prompt_id, clip.take)
        }
        for clip in clips
    }
    first = seed_of("a")
    assert by_prompt == {
        ("a", 0): {first},
        ("a", 1): {first + 1},
        ("b", 0): {2**63 - 1},
        ("b", 1): {0},
    }
    assert len({clip.job.row.id for clip in clips}) == len(clips) == 2 * 2 * len(METHODS)
    assert len({clip.job.digest for clip in clips}) == len(clips)


def test_methods_differ_in_what_they_are_about_alone():
    """Clips of one prompt and seed differ in noise, α and μ; everything else of a row is shared."""
    rows = [clip.job.row for clip in planned("zs2-mini") if clip.prompt_id == "a"]
    for name in parse_row(RECORDS[0]).__slots__:
        if name not in ("id", "noise", "alpha", "momentum", "meta"):
            assert len({getattr(row, name) for row in rows}) == 1, name
    assert {row.momentum for row in rows} == {0.0, 0.98, 1.0}


def test_an_id_that_is_as_long_as_may_be_stays_one_of_its_own():
    """Ids of 128 characters that differ at the end alone do not meet when a method's name is added."""
    records = [{"id": "x" * 127 + end, "prompt": "a"} for end in "ab"]
    ids = {clip.job.row.id for clip in planned("zs2-mini", records=records)}
    assert len(ids) == 2 * len(METHODS)
    assert max(map(len, ids)) <= 128


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ({"noise": "iid"}, "--set: noise"),
        ({"codec": "ffv1"}, "codec: expected h264, gif, webp"),
        ({"speed": "fast"}, "a: speed: expected exact"),
    ],
)
def test_what_cannot_be_compared_is_refused(defaults: dict[str, Any], said: str):
    """Columns that the methods settle, and codecs that the page cannot play, before any work."""
    with pytest.raises(CompareError, match=said):
        planned("zs2-mini", **defaults)


def test_every_clip_is_there_under_its_name(rendered: Path, tiny_model: Path):
    """Each clip has a whole video of the row's frames, in a folder of its method's name."""
    for clip in planned(tiny_model):
        frames, _ = decode(rendered / clip.file_name)
        assert frames.shape == (3, 16, 16, 3)
        assert clip.file_name.startswith(f"videos/{clip.method.name}/{clip.job.row.id}-")


def test_what_is_there_is_not_rendered_again(rendered: Path, tiny_model: Path):
    """The same comparison again renders nothing; after a file is lost, that one; with another
    setting, everything, beside the old files."""
    clips = planned(tiny_model)
    assert not any(render_clips(rendered, clips, WarmModels()))
    lost = rendered / clips[3].file_name
    before = lost.read_bytes()
    lost.unlink()
    assert list(render_clips(rendered, clips, WarmModels())) == [c is clips[3] for c in clips]
    assert lost.read_bytes() == before
    other = planned(tiny_model, num_inference_steps=5)
    assert not {clip.file_name for clip in other} & {clip.file_name for clip in clips}


def test_the_manifest_renders_the_clips_again(rendered: Path, tiny_model: Path, tmp_path: Path):
    """The rows of the comparison's manifest have the digests of its clips, and one rendered as a row
    is the comparison's file, byte for byte; Text2Video-Zero alone has no row."""
    clips = planned(tiny_model)
    build_from("the comparison", manifest_records(clips), tmp_path / "m.parquet")
    by_id = {clip.job.row.id: clip for clip in clips}
    jobs = {
        raw.values["id"]: Catalogue().job(
            parse_row(raw.values), raw.values, tmp_path, raw.position, Engine()
        )
        for raw in open_manifest(tmp_path / "m.parquet").rows()
    }
    assert {by_id[i].method.name for i in by_id.keys() - jobs.keys()} == {"text2video-zero"}
    assert all(job.sample_digest == by_id[i].job.sample_digest for i, job in jobs.items())
    assert all(job.digest == by_id[i].job.digest for i, job in jobs.items())
    stages.render_alone(WarmModels(), jobs["b.mixed"], tmp_path / "again.mp4")
    there = rendered / by_id["b.mixed"].file_name
    assert (tmp_path / "again.mp4").read_bytes() == there.read_bytes()


def test_text2video_zero_is_the_librarys(
    rendered: Path, tiny_pipe: Any, tiny_model: Path, tmp_path: Path
):
    """Its clip is what `zs2.baselines` samples for the row's prompt and seed."""
    from zs2 import ZS2Sampler
    from zs2.baselines import text2video_zero

    clip = next(c for c in planned(tiny_model) if c.job.row.id == "a.text2video-zero")
    wanted = text2video_zero(
        ZS2Sampler(tiny_pipe),
        "a b",
        seed=seed_of("a"),
        num_frames=3,
        num_inference_steps=4,
        height=16,
        width=16,
        scheduler="ddim",
    ).frames
    assert wanted is not None
    assemble(wanted, tmp_path / "wanted.mp4", fps=8, quality=0)
    found, _ = decode(rendered / clip.file_name)
    assert np.array_equal(found, decode(tmp_path / "wanted.mp4")[0])


def test_matched_progressive_clips_are_zs2s(rendered: Path, tiny_model: Path):
    """Frame by frame, to the bit."""
    found = {
        c.method.name: decode(rendered / c.file_name)[0]
        for c in planned(tiny_model)
        if c.prompt_id == "a"
    }
    assert np.array_equal(found["zs2"], found["progressive-matched"])
    assert not np.array_equal(found["zs2"], found["mixed-matched"])


def test_scores_are_kept_by_digest_and_scorer(rendered: Path, tiny_model: Path):
    """Scored once, clips are not scored again; another scorer scores all anew, and its scores stand
    alone in the file."""
    clips = planned(tiny_model)
    assert all(score_clips(rendered, clips, "one@1", measure))
    assert not any(score_clips(rendered, clips, "one@1", measure))
    assert all(score_clips(rendered, clips, "two@1", measure))
    rows = read_scores(rendered)
    assert {row["scorer"] for row in rows} == {"two@1"}
    assert [row["id"] for row in rows] == [clip.job.row.id for clip in clips]
    frames, _ = decode(rendered / clips[0].file_name)
    assert rows[0]["dynamic_degree"] == dynamic_degree(frames)


def test_an_interrupted_scoring_keeps_what_it_has(rendered: Path, tiny_model: Path):
    """Scores made before an interrupt are not made again."""
    clips = planned(tiny_model)

    def tire(frames: Any, prompts: Any) -> dict[str, float]:
        tire.left -= 1
        if tire.left < 0:
            raise KeyboardInterrupt
        return measure(frames, prompts)

    tire.left = 3
    with pytest.raises(KeyboardInterrupt):
        list(score_clips(rendered, clips, "tired@1", tire))
    assert list(score_clips(rendered, clips, "tired@1", measure)) == [
        i >= 3 for i in range(len(clips))
    ]


def test_fewer_methods_keep_the_scores_of_theirs(rendered: Path, tiny_model: Path):
    """A comparison of some of the clips has these in its file, and needs no scoring."""
    assert list(score_clips(rendered, planned(tiny_model), "few@1", measure))
    few = planned(tiny_model, [METHODS["zs2"]])
    assert not any(score_clips(rendered, few, "few@1", measure))
    assert {row["method"] for row in read_scores(rendered)} == {"zs2"}


def test_scores_of_something_else_are_not_replaced(tmp_path: Path):
    """A scores.parquet without a comparison's columns, such as a run's, is refused with the remedy."""
    import pyarrow as pa

    pq.write_table(pa.table({"id": ["a"], "clip_score": [1.0]}), tmp_path / "scores.parquet")
    with pytest.raises(CompareError, match="is of no comparison; give another folder"):
        read_scores(tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"no")
    with pytest.raises(CompareError, match="remove it"):
        read_scores(tmp_path)


def test_a_storyboards_frames_have_their_own_prompts():
    """Frame i of the finished clip, also between sampled ones, is scored with its segment's prompt."""
    record = {"id": "s", "prompt": ["a", "b"], "num_frames": 4, "segment_frames": 2}
    clip = planned("zs2-mini", [METHODS["zs2"]], [record], temporal_scale=2)[0]
    assert clip.prompts == ["a"] * 4 + ["b"] * 3
    assert planned("zs2-mini", [Method("x", "", fixed(momentum=0.5))])[0].prompts == "a b"


def test_clips_of_one_frame_are_one_picture(tiny_model: Path, tmp_path: Path):
    """Without a second frame there is nothing to compare but the picture: every method's is the
    pipeline's own, and Text2Video-Zero's too."""
    clips = planned(tiny_model, records=RECORDS[:1], num_frames=1)
    assert all(render_clips(tmp_path, clips, WarmModels()))
    pictures = [decode(tmp_path / clip.file_name)[0] for clip in clips]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
