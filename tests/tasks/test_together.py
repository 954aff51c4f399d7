"""Rows that share their UNet calls: which ones may, what is declared, and the same bytes in any company."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from manifests.read import open_manifest
from manifests.row import parse_row
from manifests.storage import RunFolder
from tasks import stages
from tasks.catalogue import Catalogue
from tasks.cluster import Resources
from tasks.companions import Companions
from tasks.ending import Ending, parameters
from tasks.job import Engine, Job
from tasks.out_of_memory import Fallbacks
from tasks.pipeline import Pipeline, Stage
from tasks.placement import place
from tasks.plan import jobs_of, make_plan
from tasks.pool import ActorPool
from tasks.split import why_whole
from tasks.warm import WarmModels
from tests.flows.running import write_rows

TinyJob = Callable[..., Job]


@pytest.fixture
def tiny_job(tiny_model: Path) -> TinyJob:
    catalogue = Catalogue()

    def make(row_id: str, clips: int = 3, **columns: Any) -> Job:
        values = {"prompt": "a b", "num_frames": 4, "num_inference_steps": 2, "codec": "ffv1"}
        own = {"id": row_id, "model": str(tiny_model), **values, **columns}
        engine = Engine(clips_per_call=clips)
        return catalogue.job(parse_row(own), own, ".", 0, engine)

    return make


def test_it_is_declared_and_enters_the_digest(tiny_job: TinyJob):
    """So many clips a call are another clip; one is what it was before there was the setting, in the
    digest as in the ledger's words. A row that has its calls to itself is the same whatever is asked."""
    one, two, three = (tiny_job("a", clips) for clips in (1, 2, 3))
    assert len({one.digest, two.digest, three.digest}) == 3
    assert one.digest == tiny_job("a", 1).digest
    assert "clips_per_call" not in parameters(one) and '"clips_per_call": 2' in parameters(two)
    fine = {"temporal_sr": "latent", "temporal_scale": 2}
    for columns in ({"best_of": 2, "best_by": "dynamic_degree"}, {"long_prompt": "chunk"}, fine):
        alone, asked = tiny_job("a", 1, **columns), tiny_job("a", 3, **columns)
        assert asked.clips_per_call == 1
        assert asked.digest == alone.digest
        assert parameters(asked) == parameters(alone)


OWN = {"prompt": "c", "seed": 7, "negative_prompt": "dark", "kl_target": 0.3}
SHARED = {
    **{"num_frames": 5, "height": 64, "num_inference_steps": 3, "guidance_scale": 1.0},
    **{"scheduler": "euler", "momentum": 0.5, "noise": "iid", "speed": "fast"},
}


def test_which_rows_share_calls(tiny_job: TinyJob):
    """Those that differ in their words, seed, λ and in what is made of the frames; no others."""
    one = tiny_job("a")
    after = {"fps": 12, "codec": "gif", "spatial_scale": 2}
    assert all(one.shares_calls_with(tiny_job("b", **{k: v})) for k, v in (OWN | after).items())
    assert not any(one.shares_calls_with(tiny_job("b", **{k: v})) for k, v in SHARED.items())
    assert not tiny_job("a", 1).shares_calls_with(tiny_job("b", 1))
    assert why_whole(tiny_job("a", num_frames=24)) == "it is sampled side by side with others"
    assert why_whole(tiny_job("a", 1, num_frames=24)) is None


def rendered(folder: RunFolder, nodes: list[Resources], jobs: list[Job]) -> dict[str, Ending]:
    """How rows ended that one sampler rendered."""
    spawners = place(nodes, len(jobs), samplers=1).spawners(str(folder.root))
    pools = {name: ActorPool(name, spawn, 1) for name, spawn in spawners.items()}
    pipeline = Pipeline([Stage(pools["sample"]), Stage(pools["post"])])
    ended: list[Ending] = []
    try:
        pipeline.render(iter(jobs), ended.append)
    finally:
        pipeline.close()
    assert len(ended) == len(jobs)
    return {ending.job.row.id: ending for ending in ended}


def test_rows_end_to_end(local_ray: list[Resources], tiny_job: TinyJob, tmp_path: Path):
    """Through real actors, three a call: the same files as each row by itself; rows of another kind,
    and one whose prompt is too long, end as they would alone; of six alike there are two batches."""
    alike = [
        tiny_job(f"r{i}", prompt=f"a {'b' * i}", seed=i, kl_target=0.1 * i, fps=8 + i)
        for i in range(6)
    ]
    others = [
        tiny_job("longer", num_frames=5),
        tiny_job("best", best_of=2, best_by="dynamic_degree"),
    ]
    strict: list[Job] = []
    for name, words in (("before", "a"), ("bad", "a " * 40), ("after", "b")):
        strict.append(tiny_job(name, prompt=words, long_prompt="fail"))
    jobs = [*alike, *others, *strict]
    folder = RunFolder(tmp_path / "out").create()
    ended = rendered(folder, local_ray, jobs)
    bad = ended.pop("bad")
    assert (bad.status, bad.stage, bad.error_type) == ("failed", "sample", "PromptError")
    models = WarmModels()
    for job in jobs:
        if job is bad.job:
            continue
        ending = ended[job.row.id]
        assert ending.status == "ok" and ending.report, ending.error_message
        alone = stages.render_alone(models, job, tmp_path / f"{job.row.id}.mkv")
        assert ending.report["sha256"] == alone["sha256"], job.row.id
        assert ending.report["kl_achieved"] == alone["kl_achieved"]
        assert ending.report["seconds_sample"] > 0
        assert ending.attempts == 1
    reports = [ended[job.row.id].report or {} for job in alike]
    assert [report["unet_calls"] for report in reports] == [2, 0, 0, 2, 0, 0]
    beside = [(ended[name].report or {})["unet_calls"] for name in ("before", "after")]
    assert beside == [2, 0]  # sampled together, without the one between them
    assert reports[0]["native_pictures"] == 3 * alike[0].native_pictures
    assert (ended["longer"].report or {})["unet_calls"] == 2


def test_what_is_wrong_with_one_is_not_the_others(
    tiny_job: TinyJob, monkeypatch: pytest.MonkeyPatch
):
    """A neighbour's clip of NaN, or an error that it brings up, leaves the row's own: with the same
    latents. Clips wait for their rows once only."""
    import tasks.companions as companions_module

    models, fallbacks, companions = WarmModels(), Fallbacks(), Companions()
    first, second, third = (tiny_job(name, seed=i) for i, name in enumerate("abc"))
    wanted, _ = Companions().sample(models, fallbacks, first, [])
    whole = companions_module.sample_clips

    def poisoned(models: WarmModels, jobs: list[Job]) -> Any:
        clips = whole(models, jobs)
        for job, clip in zip(jobs, clips, strict=True):
            if job is second:
                clip.latents[:] = np.nan
        return clips

    monkeypatch.setattr(companions_module, "sample_clips", poisoned)
    sampled, _ = companions.sample(models, fallbacks, first, [second, third])
    assert (sampled.latents == wanted.latents).all() and not sampled.reused
    assert sampled.seconds_elsewhere < 0
    with pytest.raises(companions_module.SamplingError, match="expected finite latents"):
        companions.sample(models, fallbacks, second, [third])
    waited, _ = companions.sample(models, fallbacks, third, [])
    alone, _ = Companions().sample(models, fallbacks, third, [])
    assert waited.reused and (waited.latents == alone.latents).all()
    assert not companions.sample(models, fallbacks, third, [])[0].reused

    def failing(models: WarmModels, jobs: list[Job]) -> Any:
        if len(jobs) > 1:
            raise ValueError("one of them")
        return whole(models, jobs)

    monkeypatch.setattr(companions_module, "sample_clips", failing)
    sampled, _ = companions.sample(models, fallbacks, first, [second, third])
    assert (sampled.latents == wanted.latents).all()
    monkeypatch.setattr(companions_module, "sample_clips", whole)
    companions.sample(models, fallbacks, first, [second, third])
    again, _ = companions.sample(models, fallbacks, second, [third])
    assert again.reused and again.seconds_elsewhere > 0


class Sampler:
    """Leaves a file for each call, with the rows that were given along; `die` ends the process when the
    row is among them, `die first` at its first time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @ray.method(num_returns="streaming")
    def run(
        self, job: Job, chunks: None, line: None = None, others: list[Job] | None = None
    ) -> Iterator[Any]:
        jobs = [job, *(others or [])]
        number = len(list(self.folder.glob("call-*")))
        names = "+".join(each.row.id for each in jobs)
        (self.folder / f"call-{number:03}-{names}").touch()
        for each in jobs:
            do = each.row.meta.get("meta_do", "")
            seen = self.folder / f"seen-{each.row.id}"
            if do == "die" or (do == "die first" and not seen.exists()):
                seen.touch()
                time.sleep(0.5)
                os._exit(1)
        time.sleep(float(job.row.meta.get("meta_seconds", 0)))
        yield {}


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def calls(folder: Path) -> list[str]:
    """Which rows each call had, in order."""
    return [path.name.split("-", 2)[2] for path in sorted(folder.glob("call-*"))]


@pytest.fixture
def pipelines(tmp_path: Path, local_ray: list[Resources]) -> Iterator[Callable[..., Pipeline]]:
    made: list[Pipeline] = []

    def make(size: int = 1, **more: Any) -> Pipeline:
        options = {"num_cpus": 0.05, "num_gpus": 0, "max_restarts": 0}
        spawn = lambda: ray.remote(Sampler).options(**options).remote(tmp_path)  # noqa: E731
        made.append(Pipeline([Stage(ActorPool("sample", spawn, size, **more))]))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.close()


def test_rows_that_follow_each_other_go_together(
    pipelines: Callable[..., Pipeline], tiny_job: TinyJob, tmp_path: Path
):
    """As many as the engine says, of one kind and one shard; each is a call that has those behind it."""
    jobs = [tiny_job(name, num_frames=4 + (name in "ef")) for name in "abcdefg"]
    ended: list[Ending] = []
    pipelines().render(iter(jobs), ended.append)
    assert [ending.job.row.id for ending in ended] == list("abcdefg")
    assert calls(tmp_path) == ["a+b+c", "b+c", "c", "d", "e+f", "f", "g"]


def test_a_poison_row_among_them(
    pipelines: Callable[..., Pipeline], tiny_job: TinyJob, tmp_path: Path
):
    """It is found by halves, as all eight and then half of them may have died of the machine, and fails by
    itself after its attempts; its neighbours are ok, sampled together, and carry no blame."""
    jobs = [tiny_job(name, 8, meta_do="die" if name == "f" else "") for name in "abcdefgh"]
    ended: dict[str, Ending] = {}
    pipelines().render(iter(jobs), lambda ending: ended.update({ending.job.row.id: ending}))
    statuses = {name: ending.status for name, ending in ended.items()}
    assert statuses == {**dict.fromkeys("abcdegh", "ok"), "f": "failed"}
    assert {name: ending.attempts for name, ending in ended.items()} == {
        **dict.fromkeys("abcdegh", 1),
        "f": 3,
    }
    assert calls(tmp_path) == [
        *["a+b+c+d+e+f+g+h"] * 2,
        *["a+b+c+d", "b+c+d", "c+d", "d"],
        *["e+f+g+h", "e+f", "e", "f", "f", "f"],
        *["g+h", "h"],
    ]


def test_a_dead_actor_loses_none_of_them(
    pipelines: Callable[..., Pipeline], tiny_job: TinyJob, tmp_path: Path
):
    """Each is done again, and ends once; those that only waited are no suspects, and those that were
    sampled go together once more: most deaths are the machine's."""
    jobs = [tiny_job(name, meta_do="die first" if name == "c" else "") for name in "abcdef"]
    ended: list[Ending] = []
    pipelines(2).render(iter(jobs), ended.append)
    assert sorted(ending.job.row.id for ending in ended) == list("abcdef")
    assert all(ending.status == "ok" and ending.attempts == 1 for ending in ended)
    assert calls(tmp_path).count("a+b+c") == 2 and calls(tmp_path).count("d+e+f") == 1


def test_what_is_sampled_waits_for_the_later_stages(tiny_job: TinyJob, tmp_path: Path):
    """As latents: with a slow stage behind, as many rows have frames as where each is sampled by itself."""

    class Slow:
        @ray.method(num_returns="streaming")
        def run(self, job: Job, chunks: list[Any]) -> Iterator[Any]:
            time.sleep(0.1)
            yield {"sampled": len(list(tmp_path.glob("call-*")))}

    options = {"num_cpus": 0.05, "num_gpus": 0, "max_restarts": 0}
    pools = [
        ActorPool("sample", lambda: ray.remote(Sampler).options(**options).remote(tmp_path), 1),
        ActorPool("post", lambda: ray.remote(Slow).options(**options).remote(), 1),
    ]
    pipeline = Pipeline([Stage(pool) for pool in pools])
    ended: list[Ending] = []
    try:
        pipeline.render(iter([tiny_job(f"r{i}", 8) for i in range(24)]), ended.append)
    finally:
        pipeline.close()
    ahead = [(ending.report or {})["sampled"] - number for number, ending in enumerate(ended)]
    assert len(ended) == 24 and 4 <= max(ahead) <= 8  # two slots an actor and two more


def test_so_many_clips_have_so_much_time(pipelines: Callable[..., Pipeline], tiny_job: TinyJob):
    """The deadline of a row holds for each clip in its call."""
    jobs = [tiny_job(name, meta_seconds="1.5" if name == "a" else "0") for name in "abc"]
    ended: list[Ending] = []
    pipelines(deadline=1.0).render(iter(jobs), ended.append)
    assert [ending.attempts for ending in ended] == [1, 1, 1]


def test_the_plan_keeps_them_together_and_counts_what_fills_up(tiny_model: Path, tmp_path: Path):
    """Of kinds in turns the run has one after the other, whatever λ each row has; calls and padding are
    those of the batches: of 6, 5 and 1 rows in calls of 4, two, two and one. Digests are the jobs' own."""
    rows = [
        {
            **{"id": f"r{i}", "prompt": f"a {i}", "model": str(tiny_model), "num_frames": 4},
            **{"num_inference_steps": 2, "guidance_scale": 1.0 if i % 2 and i < 10 else 7.5},
            **{"kl_target": [0.01 * i], "seed": i, "momentum": 0.5 if i == 11 else None},
        }
        for i in range(12)
    ]
    manifest = open_manifest(str(write_rows(tmp_path / "m.parquet", rows)))
    catalogue = Catalogue()

    def planned(clips: int) -> tuple[Any, list[Job]]:
        engine = Engine(clips_per_call=clips)
        made = make_plan(manifest, catalogue, defaults={}, engine=engine)
        jobs = [j for s in made.shards for j in jobs_of(s, manifest, catalogue, {}, engine)]
        return made, jobs

    single, _ = planned(1)
    made, jobs = planned(4)
    assert sum(not one.shares_calls_with(other) for one, other in pairwise(jobs)) == 2
    assert len({job.digest for job in jobs}) == 12
    assert all(made.digests.get(job.row.id)[0] == job.digest for job in jobs)
    assert not {job.digest for job in jobs} & {job.digest for job in planned(1)[1]}
    assert single.work.unet_calls == 12 * 2 and made.work.unet_calls == 5 * 2
    filled = 5 * 2 * 4 * 2 + 3 * 2 * 4  # five guided clips of 4 frames and 2 steps, three unguided
    assert made.work.filled_pictures == made.work.padded_pictures == filled
    assert made.work.unet_pictures == single.work.unet_pictures + filled
    assert made.work.padded_frames == 8 * 4
    assert made.work.native_pictures > single.work.native_pictures


def test_calls_of_several_clips_are_a_shape_of_their_own(tiny_model: Path, tmp_path: Path):
    """A compiled UNet has other code for them than for a row that keeps its calls to itself: of rows that
    differ in that alone there are two shapes, and a switch between them."""
    rows = [
        {
            **{"id": f"r{i}", "prompt": "p", "model": str(tiny_model), "num_frames": 4},
            "long_prompt": "chunk" if i % 2 else None,
        }
        for i in range(8)
    ]
    manifest = open_manifest(str(write_rows(tmp_path / "m.parquet", rows)))
    for clips, shapes in ((1, 1), (4, 2)):
        engine = Engine(engine="compiled", clips_per_call=clips)
        made = make_plan(manifest, Catalogue(), defaults={}, engine=engine)
        assert (made.shapes, made.switches.shapes) == (shapes, shapes - 1)
        assert made.switches_in_manifest_order.shapes == 7 * (shapes - 1)
