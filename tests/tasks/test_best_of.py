"""Best of N on the tiny model, scored by a tiny CLIP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from manifests.best_by import SCORE_NAMES, parse_best_by
from manifests.row import RowError, parse_row
from tasks import sampling
from tasks.best_of import candidate_seeds, sample_best, weighted_sum
from tasks.catalogue import Catalogue
from tasks.ending import parameters
from tasks.job import Engine, Job
from tasks.out_of_memory import Fallbacks
from tasks.warm import WarmModels
from tests import tiny_models

MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.clip(tmp_path_factory.mktemp("scorer") / "tiny-clip")


@pytest.fixture
def job(tiny_model: Path, scorer: Path) -> MakeJob:
    """A job of the tiny model: 4 frames in segments of 2, 3 steps; the tiny CLIP scores."""
    catalogue = Catalogue()

    def make(**columns: Any) -> Job:
        few = {"num_frames": 4, "segment_frames": 2, "num_inference_steps": 3, "seed": 5}
        if columns.get("best_of", 1) > 1:
            by, found, rest = columns.get("best_by", "clip_score").partition(" in ")
            columns["best_by"] = by if " with " in by else f"{by} with {scorer}{found}{rest}"
        own = {"id": "a", "prompt": "a b", "model": str(tiny_model), **few, **columns}
        return catalogue.job(parse_row(own), own, tiny_model, 0, Engine())

    return make


@pytest.fixture(scope="module")
def models() -> WarmModels:
    return WarmModels()


@contextmanager
def unet_calls(models: WarmModels, job: Job) -> Generator[list[int]]:
    calls: list[int] = []
    hook = models.sampler(job).pipe.unet.conv_in.register_forward_pre_hook(
        lambda module, args: calls.append(len(args[0]))
    )
    try:
        yield calls
    finally:
        hook.remove()


def test_the_seeds_of_candidates() -> None:
    """The row's own first; more candidates keep those of fewer; all differ and are seeds."""
    seeds = candidate_seeds(7, 64)
    assert seeds[0] == 7 and len(set(seeds)) == 64
    assert candidate_seeds(7, 5) == seeds[:5]
    assert not set(seeds) & set(candidate_seeds(8, 64))
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("best_by", ["sharpness", "clip_score - 2*dynamic_degree", "-sharpness"])
def test_the_best_is_kept_and_all_are_told(
    models: WarmModels, job: MakeJob, best_by: str, tmp_path: Path
) -> None:
    """The latents are those of the candidate with the highest sum, which a row of its seed has by
    itself; each candidate's seed and six scores are told; as many UNet calls are made as the plan
    says. Another attempt finds the latents on disk, tells the same and makes no call."""
    wanted = job(best_of=3, best_by=best_by)
    path = tmp_path / "latents" / "x.safetensors"
    with unet_calls(models, wanted) as calls:
        sampled, _ = sample_best(models, Fallbacks(), wanted, path)
        assert len(calls) == wanted.unet_calls == 3 * job().unet_calls
        again, _ = sample_best(models, Fallbacks(), wanted, path)
        assert len(calls) == wanted.unet_calls and again.reused
    assert again.candidates == sampled.candidates
    assert torch.equal(again.latents, sampled.latents)
    assert [each["seed"] for each in sampled.candidates] == candidate_seeds(5, 3)
    by = parse_best_by(best_by)
    for each in sampled.candidates:
        assert {*SCORE_NAMES, "seed", "score", "chosen"} == each.keys()
        assert each["score"] == weighted_sum(by, each)
    assert len({each["score"] for each in sampled.candidates}) == 3
    [chosen] = [each for each in sampled.candidates if each["chosen"]]
    assert chosen["score"] == max(each["score"] for each in sampled.candidates)
    alone = sampling.sample(models, job(seed=chosen["seed"]))
    assert torch.equal(sampled.latents, alone.latents) and sampled.kl == alone.kl
    told = json.loads(parameters(wanted, sampled.candidates))["candidates"]
    assert told == list(sampled.candidates)


def test_ranked_by_fewer_steps(models: WarmModels, job: MakeJob) -> None:
    """`in 2 steps`: the candidates are sampled with two, the chosen one then with all; its latents
    are those of a row of its seed, and the plan counts the calls of both."""
    wanted = job(best_of=3, best_by="sharpness in 2 steps")
    with unet_calls(models, wanted) as calls:
        sampled, _ = sample_best(models, Fallbacks(), wanted)
    assert len(calls) == wanted.unet_calls == (3 * 2 + 3) * 2
    [chosen] = [each for each in sampled.candidates if each["chosen"]]
    alone = sampling.sample(models, job(seed=chosen["seed"]))
    assert torch.equal(sampled.latents, alone.latents)
    short = job(best_of=3, best_by="sharpness", num_inference_steps=2)
    ranked, _ = sample_best(models, Fallbacks(), short)
    assert ranked.candidates == sampled.candidates


def test_one_candidate_is_the_row_as_it_was(models: WarmModels, job: MakeJob) -> None:
    """best_of 1 is neither scored nor told; its digest is what it was without the column."""
    plain, sampled = job(), sample_best(models, Fallbacks(), job(best_of=1))[0]
    assert sampled.candidates == () and job(best_of=1).digest == plain.digest
    assert torch.equal(sampled.latents, sampling.sample(models, plain).latents)


def test_what_decides_the_choice_is_in_the_digest(
    job: MakeJob, scorer: Path, tmp_path: Path
) -> None:
    """The number, the ranking however it is written, and the scorer by its content."""
    base = job(best_of=4)
    assert job(best_of=4, best_by=" 1*clip_score").sample_digest == base.sample_digest
    others = [
        job(),
        job(best_of=5),
        job(best_of=4, best_by="2*clip_score"),
        job(best_of=4, best_by="clip_score in 2 steps"),
    ]
    assert len({each.sample_digest for each in [base, *others]}) == 5
    copy = tmp_path / "another name"
    shutil.copytree(scorer, copy)
    named = f"clip_score with {copy}"
    assert job(best_of=4, best_by=named).sample_digest == base.sample_digest
    config = copy / "config.json"
    config.write_text(config.read_text() + "\n")
    row = replace(base.row, best_by=named)
    other = Catalogue().job(row, {}, tmp_path, 0, Engine())
    assert other.sample_digest != base.sample_digest


def test_a_scorer_that_is_none(job: MakeJob, tmp_path: Path) -> None:
    """A name that leads to no CLIP is the row's fault, told with the column."""
    with pytest.raises(RowError, match=r"best_by: expected a usable scorer \(a CLIP\)"):
        job(best_of=2, best_by=f"clip_score with {tmp_path}")
    with pytest.raises(RowError, match="best_by"):
        job(best_of=2, best_by="clip_score with no such thing")
