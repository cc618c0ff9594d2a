"""Eq. 13 written out: the feature map of each branch times its step sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

BLOCK_WEIGHTS = {"bottleneck": ("conv1", "conv3"), "basic": ("conv1", "conv2")}


class ExplicitNetwork:
    """Runs a plain ResNet with an explicit LSTM, one cell call a block, and an explicit product."""

    def __init__(self, plain: nn.Module, controllers: dict[str, dict[str, Tensor]]) -> None:
        self.plain = plain
        self.controllers = controllers  # stage -> parameters of the LSTM controller

    def step_sizes(self) -> dict[str, Tensor]:
        steps = {}
        for stage, p in self.controllers.items():
            hidden = p["gates.bias"].shape[0] // 4
            h = torch.zeros(hidden, dtype=p["gates.bias"].dtype)
            c = torch.zeros_like(h)
            for name, block in self.plain.get_submodule(stage).named_children():
                reads = BLOCK_WEIGHTS["bottleneck" if hasattr(block, "conv3") else "basic"]
                w = torch.cat(
                    [getattr(block, read).weight.mean(dim=1).reshape(-1) for read in reads]
                )
                x = relu(p["project_in.weight"] @ w + p["project_in.bias"])
                z = p["gates.weight"] @ torch.cat([x, h]) + p["gates.bias"]
                i, f, o, g = z.reshape(4, hidden)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                out = p["project_out.weight"] @ h + p["project_out.bias"]
                steps[f"{stage}.{name}"] = torch.sigmoid(out)
        return steps

    def __call__(self, x: Tensor) -> Tensor:
        steps = self.step_sizes()
        handles = []
        for name, step in steps.items():
            block = self.plain.get_submodule(name)
            last = block.bn3 if hasattr(block, "conv3") else block.bn2
            handles.append(
                last.register_forward_hook(
                    lambda module, inputs, out, step=step: out * step[None, :, None, None]
                )
            )
        try:
            return self.plain(x)
        finally:
            for handle in handles:
                handle.remove()


class Random(nn.Module):
    """Step sizes of its own for every channel, so that no two may be mixed up."""

    def __init__(self, depth, features, channels, hidden):
        super().__init__()
        self.steps = nn.Parameter(0.2 + torch.rand(depth, channels))

    def forward(self, averaged):
        return self.steps
