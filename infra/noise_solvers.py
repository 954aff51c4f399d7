"""What each solver of the dependency noise does over 64 frames: `python -m infra.noise_solvers`.

Prints, for every solver, latent size and λ: the α it reaches, and how far the 64th frame is from
N(0, I). The result stands in infra/sampler.md.
"""

from __future__ import annotations

import math

import torch

from zs2.noise import SQRT_E, dependency_noise

NUM_FRAMES = 64
CASES = [("expected", 1), ("exact", 1), ("exact", 10), ("search", 10), ("algorithm1", 10)]
SEEDS = {(4, 16, 16): 32, (4, 64, 64): 8}


def main() -> None:
    """Print the table as Markdown."""
    torch.set_num_threads(1)
    print("| latents | λ | solver | candidates | mean 1−α (expected) | mean, σ of a clip | std |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for shape, seeds in SEEDS.items():
        for kl_target in (1e-4, 0.01, 0.1):
            expected = 1 - (1 - kl_target / SQRT_E) ** 2
            for solver, candidates in CASES:
                drawn = [
                    dependency_noise(
                        shape,
                        NUM_FRAMES,
                        kl_target,
                        torch.Generator().manual_seed(seed),
                        solver,
                        candidates,
                    )
                    for seed in range(seeds)
                ]
                last = torch.stack([eps[-1] for eps, _ in drawn]).double()
                reached = 1 - torch.stack([trace.alpha for _, trace in drawn]).mean()
                drift = last.mean().item() * math.sqrt(math.prod(shape))
                print(
                    f"| {'×'.join(map(str, shape))} | {kl_target:g} | {solver} | {candidates} "
                    f"| {reached:.4f} ({expected:.4f}) | {drift:+.2f} | {last.std():.3f} |"
                )


if __name__ == "__main__":
    main()
