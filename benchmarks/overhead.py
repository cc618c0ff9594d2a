"""Training-step time of a network with step sizes over the plain network.

Three networks take turns in one process: plain, attached (by default with the LSTM controller),
and a literal version of the paper: one LSTM cell call for each block and a product over the feature
map. It prints medians over rounds of the ratios within a round; ``--output`` writes them as CSV
with what made them. The process keeps the memory it was given, see :func:`keep_memory`.

    python benchmarks/overhead.py --output results/overhead.csv
"""

from __future__ import annotations

import argparse
import copy
import csv
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import timestepper
from timestepper import networks
from timestepper.provenance import provenance
from timestepper.speed.alternating import Timings, alternate, keep_memory

CASES = {
    "cifar_resnet20": ("cifar_resnet20", (64, 3, 32, 32)),
    "cifar_resnet56": ("cifar_resnet56", (64, 3, 32, 32)),
    "cifar_resnet110": ("cifar_resnet110", (64, 3, 32, 32)),
    "resnet50": ("torchvision/resnet50", (8, 3, 224, 224)),
}

# Two copies of one network differ by a percent or so in speed: each is built that often.
BUILDS = 8


class LiteralController(nn.Module):
    """Eq. 10 to 12 as a reader would first write them: one block at a time."""

    def __init__(self, features: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(features, hidden)
        self.cell = nn.LSTMCell(hidden, hidden)
        self.project_out = nn.Linear(hidden, channels)

    def forward(
        self, weights: list[Tensor], state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Compute one block's step sizes from its weights and the state of the block before."""
        averaged = torch.cat([weight.mean(1).flatten() for weight in weights])
        state = self.cell(self.project_in(averaged[None]).relu(), state)
        return self.project_out(state[0]).sigmoid(), state


def make_literal(network: nn.Module) -> nn.Module:
    """Multiply each branch's feature map by its step sizes, computed when the branch ends."""
    branches = timestepper.find_branches(network)
    network.literal = nn.ModuleDict()
    states: dict[str, tuple[Tensor, Tensor] | None] = {}
    for branch in branches:
        reads = [network.get_submodule(name) for name in branch.weights]
        end = network.get_submodule(branch.scaled[0])
        if branch.stage not in network.literal:
            features = sum(read.weight[:, 0].numel() for read in reads)
            channels = end.weight.shape[0]
            reduction = 8 if reads[0].kernel_size == (1, 1) else 4
            network.literal[branch.stage] = LiteralController(
                features, channels, channels // reduction
            )
        first = branch.stage not in states
        states[branch.stage] = None

        def scale(
            module: nn.Module,
            inputs: object,
            output: Tensor,
            *,
            stage: str = branch.stage,
            reads: list[nn.Module] = reads,
            first: bool = first,
        ) -> Tensor:
            state = None if first else states[stage]
            steps, states[stage] = network.literal[stage]([read.weight for read in reads], state)
            return output * steps[0, :, None, None]

        end.register_forward_hook(scale)
    return network


def make_step(network: nn.Module, images: Tensor, bfloat16: bool) -> Callable[[], None]:
    """Return one training step: forward, backward, SGD with momentum."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        if images.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def measure(
    case: str, controller: str, rounds: int, device: torch.device, bfloat16: bool
) -> dict[str, float]:
    """Time the three networks in turn.

    Returns:
        Median seconds of a plain step, and the medians over rounds of the ratios to it.
    """
    name, shape = CASES[case]
    images = torch.randn(shape, device=device)
    timings: Timings | None = None
    for _ in range(BUILDS):
        plain = networks.create(name)
        sides = {
            "plain": plain,
            "attached": timestepper.attach(copy.deepcopy(plain), controller),
            "literal": make_literal(copy.deepcopy(plain)),
        }
        steps = {
            side: make_step(network.to(device).train(), images, bfloat16)
            for side, network in sides.items()
        }
        found = alternate(steps, -(-rounds // BUILDS))
        timings = found if timings is None else timings.and_then(found)
    assert timings is not None
    return {
        "plain_ms": 1e3 * timings.median("plain"),
        "attached_ratio": timings.ratio("attached", "plain"),
        "literal_ratio": timings.ratio("literal", "plain"),
    }


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--controller", default="lstm", help="of the attached network")
    parser.add_argument("--rounds", type=int, default=48, help="timed steps of each network")
    parser.add_argument("--bfloat16", action="store_true", help="under bfloat16 autocast")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--output", type=Path, help="CSV file to write")
    arguments = parser.parse_args()
    keep_memory()
    rows = []
    for case in arguments.cases:
        figures = measure(
            case,
            arguments.controller,
            arguments.rounds,
            arguments.device,
            arguments.bfloat16,
        )
        rows.append(
            {
                "network": case,
                "controller": arguments.controller,
                **{key: f"{x:.4g}" for key, x in figures.items()},
            }
        )
        print(*rows[-1].values(), flush=True)
    table = Table(title="training step: time over the plain network's")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
    if arguments.output:
        made_by = provenance(arguments.device)  # Before the output file changes the tree.
        with arguments.output.open("w", newline="") as file:
            file.writelines(f"# {line}\n" for line in made_by)
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
