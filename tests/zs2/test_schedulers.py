"""Schedulers by their short names: how many steps they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from zs2 import ZS2Sampler
from zs2.models import BUNDLED
from zs2.schedulers import SCHEDULER_CLASSES, check_steps, make_scheduler


@pytest.fixture(scope="module")
def own() -> Any:
    """The bundled model's: leading spacing, an offset of one step, as Stable Diffusion's."""
    return DDIMScheduler.from_pretrained(BUNDLED / "zs2-mini", subfolder="scheduler")


@pytest.mark.parametrize(
    ("name", "most"),
    [("ddim", 999), ("pndm", 999), ("dpm++", 999), ("unipc", 999), ("lcm", 50), ("euler", None)],
)
def test_more_steps_than_a_schedule_has(own: Any, name: str, most: int | None):
    """Past the end of the schedule there is no noise level to look up (ddim, pndm), only one to stand
    still at (dpm++, unipc), or a refusal (lcm): told with the true limit, up to which it goes."""
    if most is None:
        check_steps(name, own, 1000)
        return
    with pytest.raises(ValueError, match=f"at most {most}, as the scheduler is .* found 1000"):
        check_steps(name, own, 1000)
    check_steps(name, own, most)
    made = make_scheduler(name, own)
    made.set_timesteps(most)
    x = torch.randn(1, 4, 8, 8)
    assert made.step(x, made.timesteps[0], x)[0].isfinite().all()


@pytest.mark.parametrize("name", ["ddim", "pndm", "lcm"])
def test_far_too_many_steps_are_told_at_once(own: Any, name: str, monkeypatch: pytest.MonkeyPatch):
    """The limit of 300,000 steps is looked for among those that the schedule was trained with: with
    no more schedules made than it has steps."""
    kind, made = type(make_scheduler(name, own)), []
    whole = kind.set_timesteps

    def counted(self: Any, steps: int, *args: Any, **kwargs: Any) -> None:
        made.append(steps)
        whole(self, steps, *args, **kwargs)

    monkeypatch.setattr(kind, "set_timesteps", counted)
    most = 50 if name == "lcm" else 999
    with pytest.raises(ValueError, match=f"at most {most}, as the scheduler is .* found 300000"):
        check_steps(name, own, 300_000)
    assert len(made) <= 1 + own.config.num_train_timesteps


@pytest.mark.parametrize("name", SCHEDULER_CLASSES)
def test_usual_numbers_of_steps(own: Any, name: str):
    """None of them is refused."""
    for steps in (1, 2, 8, 20, 50):
        check_steps(name, own, steps)


def test_the_sampler_refuses_them(tiny_pipe: Any):
    """Before the UNet is called once; with the checkpoint's own scheduler too."""
    with pytest.raises(ValueError, match="num_inference_steps: expected at most 999, as"):
        ZS2Sampler(tiny_pipe)("a star", num_frames=1, num_inference_steps=1000)
