"""Sampling one share of a clip (`zs2.relay`): the sampler's side of a row that is split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.job import Job
from tasks.out_of_memory import OutOfMemory, is_out_of_memory
from tasks.sampling import Sampled, read_latents, sample, truncation_note, write_latents
from tasks.split import share_unit
from tasks.warm import WarmModels

if TYPE_CHECKING:
    from tasks.handover import Line
    from zs2.relay import Averages, Share

# Messages beside those of the UNet calls, which count from 0.
FOUND, DONE = -1, -2


def sample_share(
    models: WarmModels, job: Job, line: Line, latents_file: Path
) -> tuple[Sampled, str | None]:
    """As `sample_in_memory`, of the share's own frames.

    The first share looks for the clip's latents of an earlier attempt, and hands on what it found, for
    two samplers may see a file at different times. The last one has all shares' latents in the end, and
    leaves them.

    Raises:
        OutOfMemory: there is no second try here, while others wait. HandoverError: another share's
            sampler is gone. Else as `sample`.
    """
    import torch

    from zs2.relay import cut

    row, k = job.row, job.row.in_between
    start, stop = cut(row.num_frames, share_unit(job), line.count)[line.index]
    found = read_latents(latents_file, job) if line.is_first else line.receive(FOUND)
    if not line.is_last:
        line.send(FOUND, found)
    if found is not None:
        line.settle()
        return replace(found, latents=found.latents[start * k : stop * k]), None
    sampler = models.sampler(job)
    share = share_of(line, start, stop, sampler.pipe._execution_device)
    try:
        sampled = sample(models, job, share=share)
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"out of memory in a share of the clip ({error})") from error
        raise
    before: list[Any] = [] if line.is_first else line.receive(DONE)
    whole = [*before, sampled.latents.numpy()]
    if line.is_last:
        latents = torch.cat([torch.from_numpy(part.copy()) for part in whole])
        write_latents(latents_file, replace(sampled, latents=latents))
    else:
        line.send(DONE, whole)
    line.settle()
    return sampled, truncation_note(sampler, job)


def share_of(line: Line, start: int, stop: int, device: Any) -> Share:
    """The share of these frames, whose averages go through `line` as arrays and are needed on `device`."""
    import torch

    from zs2.relay import Share

    def receive(call: int) -> Averages:
        told = line.receive(call)
        return {layer: torch.from_numpy(array.copy()).to(device) for layer, array in told.items()}

    def send(call: int, averages: Averages) -> None:
        arrays = {layer: average.cpu().numpy() for layer, average in averages.items()}
        line.send(call, arrays, arrays.values())

    return Share(start, stop, receive, send)
