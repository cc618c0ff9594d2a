"""Training step of networks with step sizes beside the plain network's: time and memory.

Networks take turns in one process: plain (twice, to see what chance does), attached with each of
the controllers, and a literal version of the paper: one LSTM cell call for each block and a product
over the feature map. It prints medians over rounds of the ratios within a round, and the ratios of
the most memory that tensors take in a step, medians over builds; ``--output`` writes them as CSV
with what made them. The process keeps the memory it was given, see :func:`keep_memory`.

    python benchmarks/overhead.py --output results/overhead.csv
    python benchmarks/overhead.py --compile --builds 1 --cases cifar_resnet20 cifar_resnet56
    python benchmarks/overhead.py --device cuda --capture
"""

from __future__ import annotations

import argparse
import copy
import gc
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import timestepper
from timestepper import networks
from timestepper.files import write_atomically
from timestepper.provenance import provenance
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.speed.alternating import Timings, alternate
from timestepper.stepping.branches import weight_of
from timestepper.training.captured import CapturedStep
from timestepper.training.memory import keep_memory

CIFAR = (64, 3, 32, 32)
CASES = {
    **{f"cifar_resnet{depth}": (f"cifar_resnet{depth}", CIFAR) for depth in (20, 56, 110, 290)},
    "resnet18": ("torchvision/resnet18", CIFAR),
    "resnet50": ("torchvision/resnet50", (8, 3, 224, 224)),
}
PRECISIONS = ("float32", "bfloat16")
CLASSES = 10

AGAIN = "again"
"""A second plain network: how far its ratio is from 1 says how good the others are."""
LITERAL = "literal"


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
    network.literal = literal = nn.ModuleDict()
    states: dict[str, tuple[Tensor, Tensor] | None] = {}
    for branch in branches:
        modules = [network.get_submodule(name) for name in branch.weights]
        reads = [module for module in modules if isinstance(module, nn.Conv2d)]
        assert len(reads) == len(modules)
        end = network.get_submodule(branch.scaled[0])
        if branch.stage not in literal:
            features = sum(read.weight[:, 0].numel() for read in reads)
            channels = weight_of(end).shape[0]
            reduction = 8 if reads[0].kernel_size == (1, 1) else 4
            literal[branch.stage] = LiteralController(features, channels, channels // reduction)
        first = branch.stage not in states
        states[branch.stage] = None

        def scale(
            module: nn.Module,
            inputs: object,
            output: Tensor,
            *,
            stage: str = branch.stage,
            reads: list[nn.Conv2d] = reads,
            first: bool = first,
        ) -> Tensor:
            state = None if first else states[stage]
            steps: Tensor
            steps, states[stage] = literal[stage]([read.weight for read in reads], state)
            return output * steps[0, :, None, None]

        end.register_forward_hook(scale)
    return network


def make_step(
    network: nn.Module, images: Tensor, *, bfloat16: bool, captured: bool
) -> Callable[[], None]:
    """Return one training step: forward, backward, SGD with momentum.

    The network hardly changes: one that has learned the batch by heart has gradients of zero, and
    numbers on their way there take tens of times as long.
    """
    optimizer = torch.optim.SGD(network.parameters(), 1e-6, momentum=0.9, nesterov=True, fused=True)
    labels = torch.randint(CLASSES, (len(images),), device=images.device)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    run = CapturedStep(step, step, len(images)) if captured else step

    def run_and_wait() -> None:
        run(images, labels)
        if images.is_cuda:
            torch.cuda.synchronize()

    # Compiled, and captured.
    for _ in range(4 if captured else 0):
        run_and_wait()
    return run_and_wait


def make_side(side: str, plain: nn.Module) -> nn.Module:
    """Give a network the step sizes of one side."""
    if side in ("plain", AGAIN):
        return plain
    return make_literal(plain) if side == LITERAL else timestepper.attach(plain, side)


def peak_memory(step: Callable[[], None], device: torch.device) -> int:
    """Return the most bytes that tensors take during a step.

    Counted from here on, so that what was there before is left out: parameters, momentum.
    """
    step()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    results = profiler.profiler.kineto_results
    taken = peak = 0
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            taken += event.nbytes()
            peak = max(peak, taken)
    return peak


def measure(
    case: str,
    controllers: list[str],
    rounds: int,
    builds: int,
    device: torch.device,
    *,
    bfloat16: bool,
    compiled: bool,
    captured: bool,
) -> tuple[Cell, ...]:
    """Compare the networks; return the cells behind name and precision."""
    name, shape = CASES[case]
    images = torch.randn(shape, device=device)
    memory_format = torch.channels_last if bfloat16 else torch.contiguous_format
    images = images.to(memory_format=memory_format)
    sides = ["plain", AGAIN, *controllers]
    if not compiled:  # Cells called one by one do not compile well.
        sides.append(LITERAL)
    orders = random.Random(0)
    timings: Timings | None = None
    peaks: dict[str, list[int]] = {side: [] for side in sides}
    for _ in range(builds):
        plain = networks.create(name)
        steps = {}
        # What was built first may lie better in memory.
        for side in orders.sample(sides, len(sides)):
            network = make_side(side, copy.deepcopy(plain))
            network = network.to(device).to(memory_format=memory_format).train()
            module = cast(nn.Module, torch.compile(network)) if compiled else network
            steps[side] = make_step(module, images, bfloat16=bfloat16, captured=captured)
            if not compiled and not captured:
                peaks[side].append(peak_memory(steps[side], device) + parameter_bytes(network))
        found = alternate(steps, -(-rounds // builds))
        timings = found if timings is None else timings.and_then(found)
    assert timings is not None
    times = {side: timings.ratio(side, "plain") for side in steps}
    # Of two like steps the profiler's peaks differ by up to two percent.
    memory = {side: statistics.median(found or [math.nan]) for side, found in peaks.items()}
    return (
        1e3 * timings.median("plain"),
        *(times.get(side, math.nan) for side in (AGAIN, *controllers, LITERAL)),
        *(memory[side] / memory["plain"] for side in controllers),
    )


def parameter_bytes(network: nn.Module) -> int:
    """Count the bytes of parameters, their momentum and buffers."""
    parameters = sum(parameter.nbytes for parameter in network.parameters())
    return 2 * parameters + sum(buffer.nbytes for buffer in network.buffers())


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--controllers", nargs="+", default=["lstm", "lstm+"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=48, help="timed steps of each network")
    # Two copies of one network differ by a percent or so in speed.
    parser.add_argument("--builds", type=int, default=8, help="how often each network is built")
    parser.add_argument("--compile", action="store_true", help="all through torch.compile")
    parser.add_argument("--capture", action="store_true", help="steps as CUDA graphs")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--output", type=Path, help="CSV file to write")
    options = parser.parse_args()
    keep_memory()
    made_by = provenance(options.device)
    rows = []
    for case in options.cases:
        for precision in options.precisions:
            cells = measure(
                case,
                options.controllers,
                options.rounds,
                options.builds,
                options.device,
                bfloat16=precision == "bfloat16",
                compiled=options.compile,
                captured=options.capture,
            )
            rows.append((case, precision, *cells))
            print(*rows[-1], flush=True)
    title = "training step over the plain network's"
    title += (", compiled" if options.compile else "") + (", captured" if options.capture else "")
    timed = (AGAIN, *options.controllers, LITERAL)
    columns = (
        Column("network", "network", text=True),
        Column("precision", "precision", text=True),
        Column("plain_ms", "plain\n(ms)", decimals=1),
        *(Column(f"time_{side}", f"{side}\ntime") for side in timed),
        *(Column(f"memory_{side}", f"{side}\nmemory") for side in options.controllers),
    )
    table = ResultTable(title, columns, rows, ())
    Console().print(table.to_rich())
    if options.output:
        write_atomically(options.output, table.to_csv(made_by).encode())


if __name__ == "__main__":
    main()
