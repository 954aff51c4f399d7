"""Small models of the signature (frame0, frame1, t): TorchScript and ONNX files that blend, or go wrong."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


class Blend(nn.Module):
    """The weighted mean of two pictures (batch, 3, h, w); the moment is (batch, 1), as FILM's."""

    def forward(self, x0: Tensor, x1: Tensor, batch_dt: Tensor) -> Tensor:
        t = batch_dt.view(-1, 1, 1, 1)
        return x0 * (1 - t) + x1 * t


class Small(nn.Module):
    def forward(self, x0: Tensor, x1: Tensor, batch_dt: Tensor) -> Tensor:
        return (x0 + x1 + batch_dt.view(-1, 1, 1, 1))[:, :, 1:]


class NotANumber(nn.Module):
    def forward(self, x0: Tensor, x1: Tensor, batch_dt: Tensor) -> Tensor:
        return (x0 - x1 + batch_dt.view(-1, 1, 1, 1)) / torch.zeros(1) * 0


class Bytes(nn.Module):
    """On the scale 0..255."""

    def forward(self, x0: Tensor, x1: Tensor, batch_dt: Tensor) -> Tensor:
        return (x0 + x1 + batch_dt.view(-1, 1, 1, 1)) * 100.0


class Signed(nn.Module):
    """On the scale −1..1."""

    def forward(self, x0: Tensor, x1: Tensor, batch_dt: Tensor) -> Tensor:
        return x0 + x1 - 1.0 - batch_dt.view(-1, 1, 1, 1)


class Over(nn.Module):
    """A little more than 1 and less than 0, as sharp edges get."""

    def forward(self, x0: Tensor, x1: Tensor, batch_dt: Tensor) -> Tensor:
        return x0 * 1.4 - 0.2 + 0.0 * (x1 + batch_dt.view(-1, 1, 1, 1))


class Crash(nn.Module):
    def forward(self, x0: Tensor, x1: Tensor, batch_dt: Tensor) -> Tensor:
        if bool((batch_dt > 0).any()):
            raise RuntimeError("out of ideas")
        return x0 + x1


class Several(nn.Module):
    def forward(self, x0: Tensor, x1: Tensor, batch_dt: Tensor) -> tuple[Tensor, Tensor]:
        return x0 + batch_dt.view(-1, 1, 1, 1), x1


def script(path: Path, model: type[nn.Module] = Blend) -> Path:
    """Write a model as a TorchScript file."""
    torch.jit.script(model()).save(str(path))
    return path


def onnx_blend(path: Path, inputs: int = 3) -> Path:
    """Write `Blend` as an ONNX file, or one that lacks the last of its inputs."""
    from onnx import TensorProto, helper, numpy_helper, save

    pictures = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"])
        for name in ("x0", "x1", "out")
    ]
    moment = helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 1])
    shape = numpy_helper.from_array(torch.tensor([1, 1, 1, 1]).numpy(), "shape")
    nodes = [
        helper.make_node("Sub", ["x1", "x0"], ["change"]),
        *([helper.make_node("Reshape", ["t", "shape"], ["share"])] if inputs == 3 else []),
        helper.make_node("Mul", ["change", "share" if inputs == 3 else "x0"], ["part"]),
        helper.make_node("Add", ["x0", "part"], ["out"]),
    ]
    given = [*pictures[:2], moment][:inputs]
    graph = helper.make_graph(nodes, "blend", given, [pictures[2]], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, str(path))
    return path
