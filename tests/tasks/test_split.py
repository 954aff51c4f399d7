"""Which rows are split over several samplers, and when a run does so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.placement import place
from tasks.split import most_shares, share_unit, splits, why_whole
from tasks.work import Work
from tests.tasks.conftest import MakeJob
from zs2.post_models import PostModel


def test_rows_of_several_segments_are_split(make_job: MakeJob) -> None:
    """One share a segment at most; control, frames in between and anchors are no obstacle."""
    assert why_whole(make_job(num_frames=8)) == "it has one segment"
    assert most_shares(make_job(num_frames=8)) == 1
    assert most_shares(make_job(num_frames=20)) == 3
    assert most_shares(make_job(num_frames=20, chain="anchor", scheduler="euler_a")) == 3


def test_rows_whose_frames_are_needed_together_are_not(make_job: MakeJob) -> None:
    """Candidates, and frames that are enlarged by diffusion, stay with one sampler, which says why."""
    candidates = make_job(num_frames=20, best_of=2, best_by="frame_consistency")
    assert "candidates" in str(why_whole(candidates))
    plain = make_job(num_frames=20)
    upscaler = PostModel.__new__(PostModel)
    object.__setattr__(upscaler, "kind", "diffusers")
    larger = replace(plain, conditions=replace(plain.conditions, upscaler=upscaler))
    assert "enlarged by diffusion" in str(why_whole(larger))
    assert most_shares(candidates) == most_shares(larger) == 1


def test_shares_are_whole_calls_of_decoding(make_job: MakeJob) -> None:
    """Frames of 32 pixels are decoded eight at a time: shares begin at such a call, in the frames that are
    decoded, and at a segment; large frames are decoded one by one."""
    small = make_job(num_frames=24, segment_frames=3)
    assert (share_unit(small), most_shares(small)) == (24, 1)
    assert why_whole(small) == "it is decoded in one call"
    assert share_unit(make_job(num_frames=24, segment_frames=4)) == 8
    fine = make_job(num_frames=24, segment_frames=4, temporal_sr="latent", temporal_scale=2)
    assert (share_unit(fine), most_shares(fine)) == (4, 6)
    large = make_job(num_frames=24, segment_frames=3, height=256, width=256)
    assert (share_unit(large), most_shares(large)) == (3, 8)


@pytest.mark.parametrize(
    ("split_clips", "rows", "samplers", "expected"),
    [
        ("auto", 1, 2, True),
        ("auto", 2, 2, False),
        ("auto", 3, 2, False),
        ("always", 3, 2, True),
        ("never", 1, 2, False),
    ],
)
def test_when_a_run_splits(split_clips: str, rows: int, samplers: int, expected: bool) -> None:
    """auto: where some samplers would have no row."""
    assert splits(split_clips, rows, samplers) is expected  # pyright: ignore[reportArgumentType]


def test_samplers_for_the_longest_row(make_job: MakeJob) -> None:
    """Work knows over how many samplers its longest row can be spread, and a run of fewer rows gets so
    many, where there is room; without splitting never more than rows."""
    work = Work()
    for frames in (8, 40, 20):
        work.add(Work.of(make_job(num_frames=frames)))
    assert (work.rows, work.most_shares) == (3, 5)
    eight = [{"CPU": 8.0}]
    assert place(eight, 3, shares=work.most_shares).samplers == 5
    assert place([{"CPU": 4.0}], 3, shares=work.most_shares).samplers == 4
    assert place(eight, 3).samplers == 3
    assert place(eight, 7, shares=5).samplers == 7
