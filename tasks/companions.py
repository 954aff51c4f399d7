"""The sampler's side of rows that share their UNet calls (`tasks.together`): clips are sampled with the
first of their rows, and wait in the actor until their own row comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.job import Job
from tasks.out_of_memory import Fallbacks, is_out_of_memory
from tasks.sampling import (
    Sampled,
    SamplingError,
    read_latents,
    sample_clips,
    sample_in_memory,
    sampled_of,
    write_latents,
)
from tasks.warm import WarmModels

log = logging.getLogger("zs2.companions")


class Companions:
    """Clips that were sampled beside others' and whose rows have not come yet."""

    def __init__(self) -> None:
        self._waiting: dict[str, Sampled] = {}  # by the row's sample digest

    def sample(
        self,
        models: WarmModels,
        fallbacks: Fallbacks,
        job: Job,
        others: Sequence[Job],
        latents_file: Path | None = None,
    ) -> tuple[Sampled, str | None]:
        """As `sample_in_memory`; the clips of the `others`, whose rows come next, are sampled beside the
        job's own and wait here.

        What is wrong with another row is not this one's: then it is sampled without them, and they
        tell themselves when they come.

        Raises:
            OutOfMemory: so many clips do not fit, whatever was tried. Else as `sample`.
        """

        def sample() -> Sampled:
            waited = self._waiting.pop(job.sample_digest, None)
            found = read_latents(latents_file, job) if latents_file else None
            if found is not None:
                return found
            if waited is None:
                coming = {other.sample_digest for other in others}  # the rest have gone elsewhere
                self._waiting = {d: s for d, s in self._waiting.items() if d in coming}
                new = [other for other in others if other.sample_digest not in self._waiting]
                waited = self._sample(models, [job, *_readable(models, new)])
            if latents_file:
                write_latents(latents_file, waited)
            return waited

        return sample_in_memory(models, fallbacks, job, sample)

    def _sample(self, models: WarmModels, jobs: Sequence[Job]) -> Sampled:
        """The first job's clip; the others' wait."""
        job, *others = jobs
        began = time.monotonic()
        try:
            clips = sample_clips(models, jobs)
        except Exception as error:
            if not others or is_out_of_memory(error):
                raise
            log.warning("sampled by itself: %s: %s", type(error).__name__, error)
            return self._sample(models, [job])
        each = (time.monotonic() - began) / len(jobs)
        for other, clip in zip(others, clips[1:], strict=True):
            try:
                found = sampled_of(models, other, clip)
            except SamplingError:  # its own row will come to the same end
                continue
            self._waiting[other.sample_digest] = replace(found, reused=True, seconds_elsewhere=each)
        return replace(sampled_of(models, job, clips[0]), seconds_elsewhere=-each * len(others))


def _readable(models: WarmModels, jobs: Sequence[Job]) -> list[Job]:
    """Those whose words the model takes; the others would end the sampling of all."""
    from zs2.conditions import TextEncoding

    if not jobs or jobs[0].row.long_prompt != "fail":
        return list(jobs)
    encoding = TextEncoding(models.sampler(jobs[0]).pipe)
    return [
        job
        for job in jobs
        if all(
            encoding.length(text) <= encoding.limit
            for text in (*job.row.prompt, job.row.negative_prompt)
        )
    ]
