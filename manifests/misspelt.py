"""What a column that nobody knows was meant to be."""

from __future__ import annotations

from difflib import get_close_matches

from manifests.columns import COLUMNS

# what people call columns elsewhere
_ALIASES = {
    "caption": "prompt",
    "text": "prompt",
    "lambda": "kl_target",
    "λ": "kl_target",
    "mu": "momentum",
    "μ": "momentum",
    "steps": "num_inference_steps",
    "frames": "num_frames",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "sampler": "scheduler",
    "frame_rate": "fps",
    "name": "id",
}
# what a run is told and no row: the fields of `flows.settings.RenderSettings` that people set here
OF_THE_RUN = frozenset(
    {
        *("engine", "clips_per_call", "dtype", "safety_checker", "samplers", "threads"),
        *("gpus_per_sampler", "split_clips", "keep_latents", "shard_rows", "row_deadline"),
        *("on_invalid", "fail_if", "only_failed", "price_per_hour"),
    }
)


def nearest(name: str) -> str | None:
    """The known column that a misspelt one probably means, or None."""
    low = name[:200].strip().lower().replace("-", "_").replace(" ", "_")
    if low in COLUMNS:
        return low
    if low in _ALIASES:
        return _ALIASES[low]
    if low.startswith("meta"):
        return "meta_" + low.removeprefix("meta").lstrip("_")
    close = get_close_matches(low, COLUMNS, n=1, cutoff=0.6)
    return close[0] if close else None


def meant(name: str) -> str:
    """The sentence that follows an unknown column's name."""
    if name in OF_THE_RUN:
        return f"it is a setting of the run, no column: --{name.replace('_', '-')}"
    near = nearest(name)
    if near:
        return f"did you mean `{near}`?"
    return "`zs2 manifest columns` lists the columns; your own begin with `meta_`"
