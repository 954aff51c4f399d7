"""Noise models over the frames of a clip: the paper's dependency noise (section 3.1) and its comparisons.

Every model draws ε^1..ε^n, frame after frame, from one generator, and keeps each ε^i marginally
N(0, I) (the solver `exact` with many candidates drifts, see `dependency_noise`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from zs2.arguments import per_frame, real, whole
from zs2.checks import in_range, one_of, spread

SQRT_E = math.sqrt(math.e)  # E[exp(p)·p] for p ~ N(0, 1)
LINE_SEARCH_ITERATIONS = 15  # the paper's


@dataclass(frozen=True, eq=False)
class NoiseTrace:
    """How a clip's noise was made: the recursion that the scheduler's own noise has to follow.

    Attributes:
        kl: measured KL(ε^i, ε^{i−1}), one value per frame pair.
        alpha: the mixing weight of each frame pair.
        shared: the weights mix with one noise common to all frames (the mixed model), not with the
            previous frame's.
    """

    kl: Float[Tensor, " pair"]
    alpha: Float[Tensor, " pair"]
    shared: bool = False


def kl_divergence(
    noise: Float[Tensor, "*pair channel h w"], previous: Float[Tensor, "*pair channel h w"]
) -> Float[Tensor, "*pair"]:
    """KL(ε^i, ε^{i−1}) = mean( exp(ε^{i−1}) · (ε^{i−1} − ε^i) ) over c, h, w (section 3.1).

    This is PyTorch's pointwise `kl_div(input=ε^i, target=ε^{i−1}, log_target=True)`, the only reading
    that gives the paper's analytic solution. It is a distance between two drawn noises, not the
    divergence of two N(0, I), which would be zero. It may be negative.
    """
    previous64 = previous.double()
    return (previous64.exp() * (previous64 - noise.double())).mean((-3, -2, -1)).to(noise.dtype)


class Pair(NamedTuple):
    """All that KL depends on for a drawn pair (p, ε̃): KL(α) = A − √α·A − √(1−α)·B exactly."""

    A: float  # mean(e^p · p)
    B: float  # mean(e^p · ε̃)

    @classmethod
    def of(cls, previous: Tensor, candidate: Tensor) -> Pair:
        """The pair of a drawn frame p and a candidate ε̃, (channel, h, w) each; means in float64."""
        p = previous.double()
        weight = p.exp()
        return cls((weight * p).mean().item(), (weight * candidate.double()).mean().item())

    def kl(self, alpha: float) -> float:
        """KL of √α·p + √(1−α)·ε̃ to p."""
        return self.A - math.sqrt(alpha) * self.A - math.sqrt(1 - alpha) * self.B


def nearest(pairs: Sequence[Pair], kl_target: float) -> int:
    """Stage 1: which candidate's own KL (α = 0) is nearest λ."""
    return min(range(len(pairs)), key=lambda k: abs(pairs[k].kl(0.0) - kl_target))


def solve_expected(pair: Pair, kl_target: float) -> float:
    """α* of the expectation E[KL] = √e·(1 − √α); 0 (i.i.d. noise) for λ ≥ √e."""
    return max(0.0, 1 - kl_target / SQRT_E) ** 2


def solve_exact(pair: Pair, kl_target: float) -> float:
    """The α that meets Eq. 1 for the drawn pair, in closed form.

    With √α = cos θ, √(1−α) = sin θ: A·cos θ + B·sin θ = A − λ. λ = 0 is the still clip; λ beyond the
    reach A − B gives α = 0.
    """
    if kl_target == 0:
        return 1.0
    if kl_target >= pair.A - pair.B:
        return 0.0
    A, B = pair
    theta = math.atan2(B, A) + math.acos((A - kl_target) / math.hypot(A, B))
    return math.cos(theta) ** 2


def solve_search(pair: Pair, kl_target: float) -> float:
    """A bracketed line search on θ in [0, π/2]: 15 bisections (the search the paper describes)."""
    if kl_target == 0:
        return 1.0
    if kl_target >= pair.A - pair.B:
        return 0.0
    *_, alpha = search_steps(pair, kl_target)
    return alpha


def search_steps(pair: Pair, kl_target: float) -> Iterator[float]:
    """The α of `solve_search` after each iteration, for 0 < λ < A − B."""
    low, high = 0.0, math.pi / 2
    for _ in range(LINE_SEARCH_ITERATIONS):
        middle = (low + high) / 2
        if pair.kl(math.cos(middle) ** 2) < kl_target:
            low = middle
        else:
            high = middle
        yield math.cos((low + high) / 2) ** 2


def solve_algorithm1(pair: Pair, kl_target: float) -> float:
    """Algorithm 1's line search to the letter: α = 0, δ = 0.1, step while the loss falls, else δ/2.

    For study only. It cannot step back: at λ = 0.01 it ends at α = 1, a still picture, and at λ = 0.1
    it stops up to a third off its target.
    """
    *_, alpha = algorithm1_steps(pair, kl_target)
    return alpha


def algorithm1_steps(pair: Pair, kl_target: float) -> Iterator[float]:
    """The α of `solve_algorithm1` after each iteration."""
    alpha, step = 0.0, 0.1
    loss = (pair.kl(alpha) - kl_target) ** 2
    for _ in range(LINE_SEARCH_ITERATIONS):
        trial = alpha + step
        trial_loss = (pair.kl(trial) - kl_target) ** 2 if trial <= 1 else math.inf
        if trial_loss < loss:
            alpha, loss = trial, trial_loss
        else:
            step /= 2
        yield alpha


SOLVERS = {
    "expected": solve_expected,
    "exact": solve_exact,
    "search": solve_search,
    "algorithm1": solve_algorithm1,
}


def mix(
    alpha: float | Tensor, previous: Float[Tensor, ...], fresh: Float[Tensor, ...]
) -> Float[Tensor, ...]:
    """√α·previous + √(1−α)·fresh: N(0, I) when both are, and `previous` itself, bit by bit, at α = 1."""
    alpha = float(alpha)
    return math.sqrt(alpha) * previous + math.sqrt(1 - alpha) * fresh


def dependency_noise(
    shape: tuple[int, int, int],
    num_frames: int,
    kl_target: float | Sequence[float] = 0.01,
    generator: torch.Generator | None = None,
    solver: str = "expected",
    candidates: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "frame channel h w"], NoiseTrace]:
    """Dependency noise (Eq. 1, Algorithm 1): ε^i = √α·ε^{i−1} + √(1−α)·ε̃ with KL(ε^i, ε^{i−1}) ≈ λ_i.

    Stage 1 draws `candidates` noises ε̃ and keeps the one whose KL to ε^{i−1} is nearest λ_i; stage 2
    finds α by the `solver`:

    - `expected`: from the expectation over noises. N(0, I) stays exact and motion is the same at every
      latent size. With one candidate this is the progressive model at α = (1 − λ/√e)².
    - `exact`: for the drawn noises, in closed form. With 10 candidates it is the paper's search done
      right, whose moments drift over long clips: stage 1 favours the largest mean(e^p·ε̃).
    - `search`, `algorithm1`: the paper's iterative searches, for study.

    Args:
        shape: (channel, h, w) of the latents.
        num_frames: n ≥ 1.
        kl_target: λ ≥ 0, one value or n−1 of them; 0 repeats the frame, ≥ √e ≈ 1.649 is i.i.d. noise.
        generator: the clip's own source of randomness; its device is the noise's.
        solver: `expected`, `exact`, `search` or `algorithm1`.
        candidates: ≥ 1.
        dtype: of the noise; α is found in float64 whatever it is.

    Returns:
        The noise and its trace (`trace.kl`, `trace.alpha`: one value per frame pair).

    Raises:
        ValueError: an unknown solver, fewer than one frame or candidate, a λ that is no finite number
            ≥ 0, or a wrong number of them.
    """
    one_of("solver", solver, tuple(SOLVERS))
    candidates = whole("candidates", candidates)
    targets = _per_pair(kl_target, whole("num_frames", num_frames))
    frames = [_draw(shape, generator, dtype)]
    alphas: list[float] = []
    for target in targets:
        previous = frames[-1]
        drawn = [_draw(shape, generator, dtype) for _ in range(candidates)]
        pairs = [Pair.of(previous, candidate) for candidate in drawn]
        best = nearest(pairs, target)
        alphas.append(SOLVERS[solver](pairs[best], target))
        frames.append(mix(alphas[-1], previous, drawn[best]))
    return _traced(frames, alphas)


def progressive_noise(
    shape: tuple[int, int, int],
    num_frames: int,
    alpha: float,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "frame channel h w"], NoiseTrace]:
    """Progressive (linear) noise of PYoCo: ε^i = √α·ε^{i−1} + √(1−α)·ε_ind^i, α in [0, 1] given."""
    alphas = [_weight(alpha)] * (whole("num_frames", num_frames) - 1)
    return _traced(_progressive_frames(shape, alphas, generator, dtype), alphas)


def mixed_noise(
    shape: tuple[int, int, int],
    num_frames: int,
    alpha: float,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "frame channel h w"], NoiseTrace]:
    """Mixed (residual) noise of PYoCo: ε^i = √α·ε_shared + √(1−α)·ε_ind^i, α in [0, 1]."""
    num_frames, alpha = whole("num_frames", num_frames), _weight(alpha)
    frames = _mixed_frames(shape, num_frames, alpha, generator, dtype)
    return _traced(frames, [alpha] * (num_frames - 1), shared=True)


def iid_noise(
    shape: tuple[int, int, int],
    num_frames: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "frame channel h w"], NoiseTrace]:
    """Independent noise for every frame: DDIM frame by frame."""
    return progressive_noise(shape, num_frames, 0.0, generator, dtype)


def step_noise(
    shape: tuple[int, int, int],
    trace: NoiseTrace,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "frame channel h w"]:
    """Fresh noise for a stochastic scheduler's step, correlated over frames as the clip's own noise is.

    With independent step noises a clip of λ = 0 would not stand still.
    """
    alphas: list[float] = trace.alpha.tolist()
    if trace.shared and alphas:
        return torch.stack(_mixed_frames(shape, len(alphas) + 1, alphas[0], generator, dtype))
    return torch.stack(_progressive_frames(shape, alphas, generator, dtype))


def _progressive_frames(
    shape: tuple[int, int, int],
    alphas: Sequence[float],
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> list[Tensor]:
    frames = [_draw(shape, generator, dtype)]
    for alpha in alphas:
        frames.append(mix(alpha, frames[-1], _draw(shape, generator, dtype)))
    return frames


def _mixed_frames(
    shape: tuple[int, int, int],
    num_frames: int,
    alpha: float,
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> list[Tensor]:
    first = _draw(shape, generator, dtype)
    if num_frames == 1:  # nothing to share with: one frame is plain noise
        return [first]
    return [mix(alpha, first, _draw(shape, generator, dtype)) for _ in range(num_frames)]


def _draw(
    shape: tuple[int, int, int], generator: torch.Generator | None, dtype: torch.dtype
) -> Tensor:
    device = generator.device if generator is not None else None
    # The leading 1 is the shape a one-picture pipeline draws: one frame is bit by bit its noise.
    return torch.randn((1, *shape), generator=generator, dtype=dtype, device=device)[0]


def _traced(
    frames: list[Tensor], alphas: Sequence[float], shared: bool = False
) -> tuple[Tensor, NoiseTrace]:
    eps = torch.stack(frames)
    alpha = torch.tensor(list(alphas), dtype=torch.float64)
    return eps, NoiseTrace(kl_divergence(eps[1:], eps[:-1]), alpha, shared)


def _per_pair(kl_target: float | Sequence[float], num_frames: int) -> tuple[float, ...]:
    values = per_frame("kl_target", kl_target)
    targets = spread("kl_target", values, num_frames - 1, "num_frames − 1")
    in_range("kl_target", targets, 0.0, math.inf)
    return targets


def _weight(alpha: float) -> float:
    value = real("alpha", alpha)
    in_range("alpha", (value,), 0.0, 1.0)
    return value
