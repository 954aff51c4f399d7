"""What is compared is what it is called."""

from __future__ import annotations

import pytest
import torch

from manifests.row import parse_row
from tasks.methods import BASELINE, METHODS, CompareError, methods_named
from zs2.noise import (
    dependency_noise,
    kl_divergence,
    mixed_noise,
    progressive_noise,
)

SHAPE = (4, 32, 32)


def columns(name: str, **values: object) -> dict[str, object]:
    row = parse_row({"id": "a", "prompt": "a", **values})
    return dict(METHODS[name].columns(row))


def test_zs2_is_always_there_and_methods_stand_in_one_order():
    """Whatever is asked for, ZS² is beside it; the order is the table's, not the command's."""
    assert [m.name for m in methods_named(["mixed", "ddim"])] == ["ddim", "zs2", "mixed"]
    assert [m.name for m in methods_named([])] == [BASELINE]
    with pytest.raises(CompareError, match=r"expected some of ddim, .*found 'dim'"):
        methods_named(["dim"])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_row_of_a_manifest(name: str):
    """Its columns, laid over a plain row, are valid together."""
    row = parse_row({"id": "a", "prompt": "a", **columns(name)})
    assert (row.noise in ("mixed", "progressive")) == (row.alpha is not None)


@pytest.mark.parametrize("kl_target", [0.01, 0.1])
def test_matched_noises_differ_by_the_rows_lambda(kl_target: float):
    """Neighbours of the matched mixed and progressive noises have the KL that the row asks for, by
    measure; at the paper's α=0.5 they are an order of magnitude apart from λ=0.01."""
    mixed, progressive = (
        columns(name, kl_target=kl_target) for name in ("mixed-matched", "progressive-matched")
    )
    for model, found in ((mixed_noise, mixed), (progressive_noise, progressive)):
        noise, _ = model(SHAPE, 64, float(str(found["alpha"])), torch.Generator().manual_seed(0))
        assert kl_divergence(noise[1:], noise[:-1]).mean() == pytest.approx(kl_target, rel=0.1)
    noise, _ = mixed_noise(SHAPE, 64, 0.5, torch.Generator().manual_seed(0))
    assert kl_divergence(noise[1:], noise[:-1]).mean() > 0.3


def test_matched_progressive_noise_is_the_dependency_model():
    """With the solver `expected` they are the same numbers, which the page says."""
    alpha = float(str(columns("progressive-matched")["alpha"]))
    ours, _ = dependency_noise(SHAPE, 8, 0.01, torch.Generator().manual_seed(5))
    theirs, _ = progressive_noise(SHAPE, 8, alpha, torch.Generator().manual_seed(5))
    assert torch.equal(ours, theirs)


def test_alpha_cannot_be_matched_to_several_lambdas():
    """A row with a λ for each pair has no one α; the message names the methods to leave out."""
    with pytest.raises(CompareError, match=r"expected one λ.*leave mixed-matched"):
        columns("mixed-matched", num_frames=3, kl_target=[0.1, 0.2])
