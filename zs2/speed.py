"""What `speed` means: which work of the sampler is left out, and how much there is then. Loads no torch.

`exact` leaves nothing out. `fast` does three things, each of which costs something:

- half the checkpoint's own steps, by a multistep solver (dpm++), where the caller names neither;
- no guidance in the last 3 tenths of the UNet's calls: they see the prompt's own copy alone, for what a
  guidance scale decides is decided by then (Kynkäänniemi et al., "Applying Guidance in a Limited
  Interval", NeurIPS 2024). Clips move a little less;
- in every second call the deep part of the UNet is not computed; see `zs2.reuse`.

What they cost on zs2-mini is measured by `infra/fast.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

SOLVER = "dpm++"  # second order: half of DDIM's steps show the prompt as well


class Pictures(NamedTuple):
    """Pictures through the UNet: how many it takes in, and of how many only the outermost blocks run."""

    all: int
    shallow: int


@dataclass(frozen=True)
class Speed:
    """Which shortcuts are taken.

    Attributes:
        halves_steps: half the steps by dpm++, where steps and scheduler are not named.
        unguided_tenths: tenths of the UNet's calls, the last ones, that have no guidance.
        reuses: deep features are computed in every second call only.
    """

    halves_steps: bool = False
    unguided_tenths: int = 0
    reuses: bool = False

    def guided_calls(self, calls: int) -> int:
        """Of so many calls, how many of the first ones are guided."""
        return calls - calls * self.unguided_tenths // 10

    def pictures(self, calls: int, copies: int) -> Pictures:
        """What one frame's calls of the UNet take.

        Args:
            calls: of one denoising; a step is one call, but for a few schedulers.
            copies: 2 where the clip is guided, else 1.
        """
        guided = self.guided_calls(calls) if copies > 1 else calls
        parts = [(guided, copies), (calls - guided, 1)]  # each begins with a whole call
        shallow = sum(n // 2 * rows for n, rows in parts) if self.reuses else 0
        return Pictures(sum(n * rows for n, rows in parts), shallow)


SPEEDS = {"exact": Speed(), "fast": Speed(halves_steps=True, unguided_tenths=3, reuses=True)}


def steps_of(
    speed: str, scheduler: str | None, steps: int | None, own: int
) -> tuple[str | None, int]:
    """The scheduler and the steps of a clip.

    Half the steps, rounded up, are dpm++'s; another scheduler that is named, and steps that are, stay.

    Args:
        scheduler: a short name; None where the caller names none, and so it stays but for half steps.
        steps: None where the caller names none.
        own: the checkpoint's.
    """
    if SPEEDS[speed].halves_steps and steps is None and scheduler in (None, SOLVER):
        return SOLVER, -(-own // 2)
    return scheduler, own if steps is None else steps
