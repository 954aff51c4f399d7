"""The dependency noise model against slow oracles and its limits (ALGORITHM.md section 1)."""

from __future__ import annotations

import math

import pytest
import torch

from zs2.noise import (
    SOLVERS,
    SQRT_E,
    Pair,
    dependency_noise,
    iid_noise,
    kl_divergence,
    mixed_noise,
    progressive_noise,
    step_noise,
)

SD_LATENTS = (4, 64, 64)
SMALL_LATENTS = (4, 16, 16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_kl_is_torchs_pointwise_kl_div_averaged():
    """kl_divergence equals F.kl_div(input, target, log_target=True) averaged over c, h, w."""
    eps = torch.randn(5, *SMALL_LATENTS, dtype=torch.float64, generator=generator())
    ours = kl_divergence(eps[1:], eps[:-1])
    for i in range(4):
        theirs = torch.nn.functional.kl_div(
            eps[i + 1], eps[i], log_target=True, reduction="none"
        ).mean()
        assert ours[i].item() == pytest.approx(theirs.item(), abs=1e-12)


def test_pair_gives_kl_of_the_mixed_noise():
    """Pair.kl(α) equals the KL of the mixed tensors, for every α on a grid."""
    p, e = torch.randn(2, *SMALL_LATENTS, dtype=torch.float64, generator=generator(1))
    pair = Pair.of(p, e)
    for alpha in torch.linspace(0, 1, 11).tolist():
        mixed = math.sqrt(alpha) * p + math.sqrt(1 - alpha) * e
        assert pair.kl(alpha) == pytest.approx(kl_divergence(mixed, p).item(), abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_exact_solver_meets_every_target_within_reach(seed: int):
    """|KL − λ| < 1e-6 in float64 for λ from 1e-6 to the reach A − B, at 4×64×64."""
    p, e = torch.randn(2, *SD_LATENTS, dtype=torch.float64, generator=generator(seed))
    reach = Pair.of(p, e).kl(0.0)
    for fraction in (1e-6, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.999, 1.0):
        target = fraction * reach
        eps, trace = dependency_noise(
            SD_LATENTS, 2, target, generator(seed), solver="exact", dtype=torch.float64
        )
        assert trace.kl.item() == pytest.approx(target, abs=1e-6)
        assert kl_divergence(eps[1], eps[0]).item() == pytest.approx(target, abs=1e-6)


def test_exact_solver_agrees_with_bisection():
    """The closed form is the root that 200 bisections on θ find, for drawn pairs and targets."""
    for seed in range(16):
        p, e = torch.randn(2, *SMALL_LATENTS, dtype=torch.float64, generator=generator(seed))
        pair = Pair.of(p, e)
        for target in (1e-3, 0.01, 0.1, 0.7):
            low, high = 0.0, math.pi / 2
            for _ in range(200):
                middle = (low + high) / 2
                if pair.kl(math.cos(middle) ** 2) < target:
                    low = middle
                else:
                    high = middle
            assert SOLVERS["exact"](pair, target) == pytest.approx(math.cos(low) ** 2, abs=1e-9)


def test_beyond_reach_is_iid():
    """A λ beyond reach takes the drawn noise itself (α = 0) with every solver that searches."""
    for solver in ("expected", "exact", "search", "algorithm1"):
        _, trace = dependency_noise(SMALL_LATENTS, 3, 50.0, generator(), solver=solver)
        assert trace.alpha.tolist() == [0.0, 0.0]
    _, trace = dependency_noise(SMALL_LATENTS, 3, SQRT_E, generator())
    assert trace.alpha.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("solver", ["expected", "exact", "search"])
def test_zero_target_is_still(solver: str):
    """λ = 0 repeats ε^1 bit by bit."""
    eps, trace = dependency_noise(SMALL_LATENTS, 5, 0.0, generator(), solver=solver, candidates=3)
    assert all(torch.equal(frame, eps[0]) for frame in eps)
    assert trace.kl.tolist() == [0.0] * 4


def test_search_converges_to_the_exact_solution():
    """15 bisections leave θ within π/2 · 2⁻¹⁶ of the closed form."""
    for seed in range(8):
        p, e = torch.randn(2, *SD_LATENTS, dtype=torch.float64, generator=generator(seed))
        pair = Pair.of(p, e)
        theta = [math.acos(math.sqrt(SOLVERS[s](pair, 0.1))) for s in ("search", "exact")]
        assert abs(theta[0] - theta[1]) <= math.pi / 2 * 2**-16


def test_algorithm1_to_the_letter_freezes_at_the_papers_default():
    """At λ = 0.01 the printed search accepts α ≈ 1 (a still clip) although a better α exists."""
    p, e = torch.randn(2, *SD_LATENTS, dtype=torch.float64, generator=generator())
    pair = Pair.of(p, e)
    printed, exact = SOLVERS["algorithm1"](pair, 0.01), SOLVERS["exact"](pair, 0.01)
    assert printed == pytest.approx(1.0, abs=1e-9)
    assert abs(pair.kl(exact) - 0.01) < 1e-9 < abs(pair.kl(printed) - 0.01)


def test_expected_alpha_meets_the_target_on_average():
    """Over 64 seeds the mean KL of `expected` is λ within 4 standard errors."""
    for target in (0.01, 0.1, 0.5):
        kls = torch.stack(
            [dependency_noise(SMALL_LATENTS, 2, target, generator(s))[1].kl[0] for s in range(64)]
        ).double()
        assert abs(kls.mean() - target) < 4 * kls.std() / 8


@pytest.mark.parametrize("shape", [SD_LATENTS, SMALL_LATENTS])
def test_moments_stay_normal_to_the_64th_frame(shape: tuple[int, int, int]):
    """At the defaults, over 32 seeds, every frame's mean and variance is N(0, 1)'s within 4 σ."""
    clips = torch.stack([dependency_noise(shape, 64, generator=generator(s))[0] for s in range(32)])
    count = 32 * math.prod(shape)
    frames = clips.double().transpose(0, 1).flatten(1)
    assert frames.mean(1).abs().max() < 4 / math.sqrt(count)
    assert (frames.var(1) - 1).abs().max() < 4 * math.sqrt(2 / count)


def test_exact_search_with_candidates_drifts():
    """The paper's two-stage search (10 candidates) is not a sound default: frame 64 leaves 4 σ.

    The whole table: `python -m infra.noise_solvers`.
    """
    last = [
        dependency_noise(SD_LATENTS, 64, 0.01, generator(s), "exact", 10)[0][-1] for s in (0, 1)
    ]
    frames = torch.stack(last).double()
    assert frames.mean() > 4 / math.sqrt(frames.numel())
    assert frames.var() - 1 > 4 * math.sqrt(2 / frames.numel())


def test_per_pair_targets_control_each_pair():
    """A λ list acts pair by pair: 0 holds the frame, the others are met in their order."""
    targets = [0.0, 0.05, 0.2]
    eps, trace = dependency_noise(
        SD_LATENTS, 4, targets, generator(), solver="exact", dtype=torch.float64
    )
    assert torch.equal(eps[0], eps[1])
    assert trace.kl.tolist() == pytest.approx(targets, abs=1e-9)


def test_a_longer_clip_begins_with_the_shorter_one():
    """Frames 1..4 of an 8-frame noise are the 4-frame noise of the same seed."""
    long, _ = dependency_noise(SMALL_LATENTS, 8, 0.1, generator(3))
    short, _ = dependency_noise(SMALL_LATENTS, 4, 0.1, generator(3))
    assert torch.equal(long[:4], short)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_comparison_models_have_their_correlations():
    """Neighbours correlate by √α (progressive), α (mixed), 0 (iid); frames 1 and 3 by α, α, 0."""
    alpha = 0.64
    shape = (4, 128, 128)
    wanted = {"progressive": (0.8, 0.64), "mixed": (0.64, 0.64), "iid": (0.0, 0.0)}
    made = {
        "progressive": progressive_noise(shape, 3, alpha, generator())[0],
        "mixed": mixed_noise(shape, 3, alpha, generator())[0],
        "iid": iid_noise(shape, 3, generator())[0],
    }
    for name, (near, far) in wanted.items():
        assert correlation(made[name][0], made[name][1]) == pytest.approx(near, abs=0.02)
        assert correlation(made[name][0], made[name][2]) == pytest.approx(far, abs=0.02)
        assert made[name].std().item() == pytest.approx(1, abs=0.02)


def test_expected_with_one_candidate_is_the_progressive_model():
    """At the matched α = (1 − λ/√e)² the two models are the same noise, bit by bit."""
    alpha = (1 - 0.1 / SQRT_E) ** 2
    ours, _ = dependency_noise(SMALL_LATENTS, 6, 0.1, generator(2))
    theirs, _ = progressive_noise(SMALL_LATENTS, 6, alpha, generator(2))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("model", ["dependency", "mixed", "progressive", "iid"])
def test_one_frame_is_plain_noise(model: str):
    """n = 1 draws exactly what a one-picture pipeline draws from the same generator."""
    made = {
        "dependency": lambda g: dependency_noise(SMALL_LATENTS, 1, generator=g),
        "mixed": lambda g: mixed_noise(SMALL_LATENTS, 1, 0.5, g),
        "progressive": lambda g: progressive_noise(SMALL_LATENTS, 1, 0.5, g),
        "iid": lambda g: iid_noise(SMALL_LATENTS, 1, g),
    }[model]
    eps, trace = made(generator(7))
    assert torch.equal(eps, torch.randn((1, *SMALL_LATENTS), generator=generator(7)))
    assert len(trace.alpha) == 0
    drawn = step_noise(SMALL_LATENTS, trace, generator(8))
    assert torch.equal(drawn, torch.randn((1, *SMALL_LATENTS), generator=generator(8)))


def test_step_noise_follows_the_clips_recursion():
    """Step noise repeats where α = 1 and correlates by √α elsewhere; the mixed model's by α."""
    _, trace = dependency_noise((4, 128, 128), 3, [0.0, 0.3], generator())
    z = step_noise((4, 128, 128), trace, generator(1))
    assert torch.equal(z[0], z[1])
    assert correlation(z[1], z[2]) == pytest.approx(math.sqrt(trace.alpha[1].item()), abs=0.02)
    _, trace = mixed_noise((4, 128, 128), 3, 0.64, generator())
    z = step_noise((4, 128, 128), trace, generator(1))
    assert correlation(z[0], z[2]) == pytest.approx(0.64, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kl_target": -0.1}, "≥ 0, found -0.1"),
        ({"kl_target": float("nan")}, "found nan"),
        ({"kl_target": [0.1, 0.2]}, "num_frames − 1 = 3 of them, found 2"),
        ({"solver": "newton"}, "expected one of expected, exact"),
        ({"candidates": 0}, "at least 1, found 0"),
        ({"num_frames": 0}, "num_frames: expected a whole number of at least 1, found 0"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments: dict, message: str):
    """Each wrong argument raises ValueError naming it, what was expected and what was found."""
    with pytest.raises(ValueError, match=message):
        dependency_noise(**{"shape": SMALL_LATENTS, "num_frames": 4, **arguments})


@pytest.mark.parametrize("model", [mixed_noise, progressive_noise])
@pytest.mark.parametrize(
    ("num_frames", "alpha", "message"),
    [
        (4, 1.5, r"alpha: expected a number in \[0, 1\], found 1.5"),
        (4, -0.1, r"alpha: expected a number in \[0, 1\], found -0.1"),
        (4, float("nan"), "alpha: expected a number, found nan"),
        (0, 0.5, "num_frames: expected a whole number of at least 1, found 0"),
    ],
)
def test_bad_arguments_of_the_comparisons(model, num_frames: int, alpha: float, message: str):
    """α past its range and no frames: a ValueError, not the root of a negative number or an empty clip."""
    with pytest.raises(ValueError, match=message):
        model(SMALL_LATENTS, num_frames, alpha, generator())
