"""What a clip of many frames takes: a step of `zs2 bench chain`, in a process of its own.

python -m flows.bench.chain_memory FRAMES STEPS CONTROLLED: one line of JSON. Memory is the process's peak
while it samples, over what it held with the model loaded: what the machine gives, allocator and all.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

THREADS = 1
SEED = 7
PROMPT = "a red star over the sea at night"


def measure(num_frames: int, steps: int, controlled: bool) -> dict[str, Any]:
    """Sample a clip with zs2-mini, with a ControlNet of the UNet's own shape if `controlled`.

    Returns:
        `frames`, `seconds`, `mb` (peak over what was there before), `mb_process` (peak of the whole
        process), `mb_latents`, `mb_control` (the clip that guides it, there before).
    """
    import numpy as np
    import torch

    from tasks.allocator import keep_freed_memory
    from zs2.sampler import ZS2Sampler

    keep_freed_memory()  # as in a run
    torch.set_num_threads(THREADS)
    sampler = ZS2Sampler.from_pretrained("zs2-mini", device="cpu")
    sampler.pipe.set_progress_bar_config(disable=True)
    guide: dict[str, Any] = {}
    if controlled:
        sampler.controlnet = _controlnet(sampler.pipe)
        side = sampler.pipe.unet.config.sample_size * sampler.pipe.vae_scale_factor
        rng = np.random.default_rng(0)
        guide["conditioning_frames"] = rng.integers(0, 256, (num_frames, side, side, 3), np.uint8)

    def sample(frames: int, **more: Any) -> Any:
        return sampler(
            PROMPT,
            num_frames=frames,
            seed=SEED,
            num_inference_steps=steps,
            output_type="latent",
            **more,
        )

    before = _start_peak()
    began = time.monotonic()
    clip = sample(num_frames, **guide)
    seconds = time.monotonic() - began
    peak = _status("VmHWM")
    control = guide["conditioning_frames"].nbytes if controlled else 0
    return {
        "frames": num_frames,
        "seconds": seconds,
        "mb": (peak - before) / 2**20,
        "mb_process": peak / 2**20,
        "mb_latents": clip.latents.nbytes / 2**20,
        "mb_control": control / 2**20,
    }


def _controlnet(pipe: Any) -> Any:
    from diffusers import ControlNetModel

    return ControlNetModel.from_unet(pipe.unet).eval()


def _start_peak() -> int:
    """Forget the peak so far; bytes held now."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024


if __name__ == "__main__":
    frames, steps, controlled = (int(word) for word in sys.argv[1:])
    print(json.dumps(measure(frames, steps, bool(controlled))))
