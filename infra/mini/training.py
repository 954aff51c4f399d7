"""What every training stage needs: a schedule in minutes, mixed precision, resumable checkpoints, a log."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infra.mini.command import RecipeError


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed() -> torch.autocast:
    """Mixed precision on a GPU, bfloat16 beside float32.

    Not on a CPU: one with avx512_bf16 was slower by a third at these sizes, and compiled (torch 2.13)
    its convolutions had no gradients.
    """
    return torch.autocast(device().type, torch.bfloat16, enabled=device().type == "cuda")


class Clock:
    """Counts the seconds spent training, over interruptions, against a plan in minutes.

    Schedules follow the clock and not the step count, so that a run on a shared machine still
    ends with its learning rate at the bottom.
    """

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.plan = minutes * 60
        self.before = spent
        self.start = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of training so far, those of earlier processes included."""
        return self.before + time.monotonic() - self.start

    @property
    def progress(self) -> float:
        """Share of the plan that has passed, 0 to 1."""
        return min(1.0, self.spent / self.plan)


def learning_rate(peak: float, step: int, progress: float, warm_up: int, hold: float) -> float:
    """Warm up over `warm_up` steps, hold until `hold` of the plan, then fall by a half cosine."""
    fall = max(0.0, progress - hold) / (1 - hold)
    floor = 0.02
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall))
    return peak * min(1.0, (step + 1) / warm_up) * cosine


class Average:
    """Exponential moving average of a network's parameters, quick at first (EMA with warm-up)."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards the network after its `step`-th update."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = network.state_dict()
        floats = [name for name, kept in self.shadow.items() if kept.dtype.is_floating_point]
        kept = [self.shadow[name] for name in floats]
        wanted = [state[name] for name in floats]
        torch._foreach_lerp_(kept, wanted, 1 - decay)  # pyright: ignore[reportPrivateUsage]
        for name in self.shadow.keys() - set(floats):
            self.shadow[name].copy_(state[name])


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def training_state(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    step: int,
    clock: Clock,
    **made_of: Any,
) -> dict[str, Any]:
    """Return what a stage needs to go on: weights, their average, the optimizer, step, seconds, and what
    they were made of (`load`)."""
    return {
        "made_of": made_of,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.shadow,
        "step": step,
        "spent": clock.spent,
    }


def load(path: Path, **made_of: Any) -> dict[str, Any] | None:
    """Return a checkpoint, or None where there is none yet.

    Args:
        made_of: what it must have been made of: pictures' size, digests of the networks below it.

    Raises:
        RecipeError: it was made of something else.
    """
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    found = state.get("made_of", {})
    for name, wanted in made_of.items():
        if found.get(name) != wanted:
            raise RecipeError(
                f"{path}: expected a checkpoint of {name} {wanted}, found {found.get(name, 'none')}; "
                "move it away to train anew, or bring back what it was made of"
            )
    return state


def finished(path: Path, stage: str, **made_of: Any) -> dict[str, Any]:
    """Return the checkpoint of a stage that others build on.

    Raises:
        RecipeError: there is none, or it was made of something else than `made_of`.
    """
    state = load(path, **made_of)
    if state is None:
        raise RecipeError(
            f"{path}: expected a checkpoint, found none; run `python -m infra.mini.train {stage}`"
        )
    return state


def digest(weights: Mapping[str, Tensor]) -> str:
    """Tell weights from others: 16 hexadecimal digits."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def batches(count: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield index batches for ever, each pass over 0..count-1 in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def log(stage: str, path: Path, step: int, clock: Clock, **values: float) -> None:
    """Print one line and append it to the stage's log."""
    figures = " ".join(f"{name}={value:.5g}" for name, value in values.items())
    line = f"{stage} step={step} minutes={clock.spent / 60:.2f} {figures}"
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")
