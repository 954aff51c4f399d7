"""Best of N: a row's candidates, each from a noise of its own; the one that scores best is rendered.

The first candidate is the clip that the row would have been without `best_of`. Which scores count, with
what weights, and who scores stands in the row's `best_by` (`manifests.best_by`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from manifests.best_by import BestBy, parse_best_by
from tasks.evaluate import score_clip
from tasks.job import Job
from tasks.out_of_memory import Fallbacks
from tasks.sampling import (
    Sampled,
    decode_in_memory,
    joined,
    read_latents,
    sample,
    sample_in_memory,
    write_latents,
)
from tasks.warm import WarmModels


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The seeds of a row's candidates: its own, then for k = 1, 2, … the first 8 bytes of
    sha256("<seed>:<k>"), mod 2^63. More candidates keep those of fewer."""
    more = (sha256(f"{seed}:{k}".encode()).digest()[:8] for k in range(1, count))
    return [seed, *(int.from_bytes(digest, "big") % 2**63 for digest in more)]


def weighted_sum(by: BestBy, scores: Mapping[str, float]) -> float:
    """What candidates are ranked by: the sum of weight times score, each in its own unit."""
    return sum(weight * scores[name] for name, weight in by.terms)


def sample_best(
    models: WarmModels, fallbacks: Fallbacks, job: Job, latents_file: Path | None = None
) -> tuple[Sampled, str | None]:
    """As `sample_in_memory`, of the best of the row's candidates; with `best_of` 1 the same.

    In memory: the best candidate so far and the one that is at hand. Candidates are decoded to be
    scored; where `best_by` names fewer steps they are ranked by clips of so many steps, and only the
    best is sampled with all.

    Returns:
        Its latents; `candidates` has for each one its `seed`, the six scores, `score`, by which it
        was ranked, and `chosen`. Also what the ledger should know.

    Raises:
        ModelError: the scorer cannot be loaded. Else as `sample_in_memory`.
    """
    row = job.row
    if row.best_of == 1 or row.best_by is None:
        return sample_in_memory(models, fallbacks, job, lambda: sample(models, job, latents_file))
    found = read_latents(latents_file, job) if latents_file else None
    if found is not None:
        return found, None
    by = parse_best_by(row.best_by)
    steps = row.num_inference_steps if by.steps is None else by.steps
    step = row.segment_frames * row.in_between
    each = [row.prompt[min(i // step, len(row.prompt) - 1)] for i in range(row.sampled_frames)]
    candidates: list[dict[str, Any]] = []
    best: tuple[Sampled, str | None] | None = None
    highest = 0
    for index, seed in enumerate(candidate_seeds(row.seed, row.best_of)):
        trial = replace(job, row=replace(row, seed=seed, num_inference_steps=steps))
        sampled, note = sample_in_memory(models, fallbacks, trial)
        frames, more = decode_in_memory(models, fallbacks, trial, sampled.latents)
        scores = score_clip(frames, each, models.scorer(job))
        candidates.append({"seed": seed, "score": weighted_sum(by, scores), **scores})
        # Of equals the first: more candidates never change what is chosen from among fewer but equal.
        if best is None or candidates[index]["score"] > candidates[highest]["score"]:
            best, highest = (sampled, joined(note, more)), index
    assert best is not None, "best_of is at least 1"
    sampled, note = best
    if by.steps is not None:
        chosen = replace(job, row=replace(row, seed=candidates[highest]["seed"]))
        sampled, note = sample_in_memory(models, fallbacks, chosen)
    told = tuple({**found, "chosen": n == highest} for n, found in enumerate(candidates))
    sampled = replace(sampled, candidates=told)
    if latents_file:
        write_latents(latents_file, sampled)
    return sampled, note
