"""What could make a better controller: candidates beside each other, by validation accuracy.

Trains a CIFAR ResNet with each, with training images held out, and prints the accuracy on those
and the difference from a plain network whose last γ starts at 0.5. That network computes at its
start what a fresh TSC_LSTM does, so that only what is beyond it can be control; candidates that
start from 1/√L have their like in a γ that starts there. Finished trainings in ``--runs`` are not
made again (there is a folder for each network, recipe and number of images held out); each records
what its step sizes depend on.

    python benchmarks/controller_candidates.py --data-dir DIR --jobs 2 --output FILE.csv
    python benchmarks/controller_candidates.py --recipe quick-digits --network cifar_resnet290
        --held-out 290 --seeds 5 --methods plain half-gamma root-gamma lstm lstm-plus --jobs 2
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from torch import Tensor, nn

from timestepper.controllers import (
    CONTROLLERS,
    Controller,
    ControllerFactory,
    LinearRecurrenceController,
)
from timestepper.experiments.method_comparison import difference_cells, half_width
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.runner import carry_out
from timestepper.files import write_atomically
from timestepper.provenance import provenance
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.report.statistics import difference, estimate
from timestepper.stepping import attach, find_branches
from timestepper.stepping.attach import stepping_of
from timestepper.stepping.branches import weight_of
from timestepper.training import build
from timestepper.training.interruption import Interrupted
from timestepper.training.recipes import overlaid, packaged_recipe, read_configuration
from timestepper.training.run import Run

MARK = "half-gamma"


class LSTM(nn.Module):
    """The paper's recurrence."""

    def __init__(self, depth: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(depth, hidden)`` to the same shape; so do all units."""
        h: Tensor = self.lstm(x)[0]
        return h


class LinearRecurrence(nn.Module):
    """A gated recurrence that is linear in its state, as that of ``lstm+`` is."""

    lags: Tensor

    def __init__(self, depth: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Linear(hidden, 2 * hidden)
        memories = torch.logspace(0, 1, hidden, base=max(depth, 2))
        self.decay = nn.Parameter(-torch.expm1(1 / memories).log())
        blocks = torch.arange(depth).float()
        self.register_buffer("lags", (blocks[:, None] - blocks).clamp(min=0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the states of all blocks at once."""
        gate, value = self.gates(x).chunk(2, 1)
        log_decay = nn.functional.logsigmoid(self.decay)
        kept = (log_decay[:, None, None] * self.lags).exp().tril()
        added = gate.sigmoid() * value.tanh() * -torch.expm1(log_decay)
        states: Tensor = torch.bmm(kept, added.t()[..., None])[..., 0].t()
        return states


class Attention(nn.Module):
    """Each block attends to itself and those before it."""

    later: Tensor

    def __init__(self, depth: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, 3 * hidden)
        blocks = torch.arange(depth)
        self.register_buffer("later", blocks[:, None] < blocks, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        query, key, value = self.project(x).chunk(3, 1)
        scores = (query @ key.t() / math.sqrt(x.shape[1])).masked_fill(self.later, -math.inf)
        attended: Tensor = (scores.softmax(1) @ value + x).tanh()
        return attended


class SpectralNorms(nn.Module):
    """How much larger the spectral norms of a stage's weights are than they were at first.

    Of each weight, ``(out, in * k1 * k2)``, the norm over its root mean square row, which is all
    that a batch normalisation behind it lets through. One warm-started step of the power iteration
    in each training pass.

    Attributes:
        read: the modules whose weights are read, two a block, set by :func:`attach_and_tell`.
        exponent: to what power step sizes shrink as the norms grow.
    """

    first: Tensor

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.read: list[nn.Module] = []
        self.exponent = nn.Parameter(torch.ones(()))
        self.register_buffer("first", torch.full((depth, 2), math.nan))
        self.left: list[Tensor] = []

    def forward(self) -> Tensor:
        """Return logarithms, ``(depth, 2)``, zero in the first pass."""
        now = torch.stack([self._norms(which) for which in range(2)], 1)
        if self.first.isnan().any():
            self.first.copy_(now.detach())
        return now - self.first

    def _norms(self, which: int) -> Tensor:
        matrices = [weight_of(module).flatten(1) for module in self.read[which::2]]
        width = max(matrix.shape[1] for matrix in matrices)
        stacked = torch.stack([nn.functional.pad(m, (0, width - m.shape[1])) for m in matrices])
        rows = stacked.shape[1]
        with torch.no_grad():
            known = len(self.left) > which
            left = self.left[which] if known else stacked.new_full(stacked.shape[:2], rows**-0.5)
            for _ in range((1 if self.training else 0) if known else 30):
                left = _unit(torch.einsum("doi,di->do", stacked, self._right(stacked, left)))
            self.left[which : which + 1] = [left]
            right = self._right(stacked, left)
        norms = torch.einsum("do,doi,di->d", left, stacked, right)
        relative: Tensor = norms * math.sqrt(rows) / stacked.flatten(1).norm(dim=1)
        return relative.log()

    @staticmethod
    def _right(stacked: Tensor, left: Tensor) -> Tensor:
        return _unit(torch.einsum("doi,do->di", stacked, left))


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=1, keepdim=True)
    return unit


class Candidate(Controller):
    """Standardised weights and the block's position through a unit to step sizes.

    Args:
        depth: number of blocks.
        features: length of w̄.
        channels: number of step sizes of a block.
        hidden: width.
        unit: what relates the blocks.
        start: the first step sizes; None for ``1 / sqrt(depth)``.
        top: step sizes are in (0, top).
        rate: the controller's learning rate over the network's.
        norms: also read how far the spectral norms of the weights have grown, and start with step
            sizes that shrink as they grow.
    """

    position: Tensor

    def __init__(
        self,
        depth: int,
        features: int,
        channels: int,
        hidden: int,
        *,
        unit: Callable[[int, int], nn.Module] = LSTM,
        start: float | None = 0.5,
        top: float = 1.0,
        rate: float = 1.0,
        norms: bool = False,
    ) -> None:
        super().__init__(depth, features, channels, hidden)
        self.top = top
        self.project_in = nn.Linear(features + (4 if norms else 2), hidden)
        self.unit = unit(depth, hidden)
        self.project_out = nn.Linear(hidden, channels)
        nn.init.kaiming_normal_(self.project_in.weight, nonlinearity="relu")
        nn.init.zeros_(self.project_in.bias)
        share = (depth**-0.5 if start is None else start) / top
        nn.init.constant_(self.project_out.bias, math.log(share / (1 - share)))
        blocks = torch.arange(depth).float()
        position = torch.stack([blocks, depth - 1 - blocks], 1) / depth
        self.register_buffer("position", position, persistent=False)
        self.norms = SpectralNorms(depth) if norms else None
        for parameter in self.parameters():
            parameter.register_hook(lambda gradient: rate * gradient)

    def forward(self, averaged: Tensor) -> Tensor:
        """Compute step sizes; see :class:`Controller`."""
        seen = [nn.functional.layer_norm(averaged, averaged.shape[1:]), self.position]
        if self.norms is not None:
            growth = self.norms()
            seen.append(3 * growth)
        z: Tensor = self.project_out(self.unit(self.project_in(torch.cat(seen, 1)).relu()))
        if self.norms is not None:
            z = z - self.norms.exponent * growth.sum(1, keepdim=True)
        return self.top * z.sigmoid()


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        label: how the table calls it.
        controller: settings of a :class:`Candidate`, the name of a controller of the package, or a
            factory.
        variant: of the CIFAR ResNet.
    """

    label: str
    controller: dict[str, Any] | str | ControllerFactory
    variant: str = "plain"


def lstm_plus_from_half(*sizes: int) -> nn.Module:
    """Build ``lstm+`` with step sizes that start around 0.5."""
    controller = LinearRecurrenceController(*sizes)
    nn.init.zeros_(controller.project_out.bias)
    return controller


def fast_lstm_plus(*sizes: int) -> nn.Module:
    """Build ``lstm+`` with ten times the network's learning rate."""
    controller = LinearRecurrenceController(*sizes)
    for parameter in controller.parameters():
        parameter.register_hook(lambda gradient: 10 * gradient)
    return controller


FROM_ROOT = {"start": None}
FAST = {"rate": 10.0}
LINEAR = {"unit": LinearRecurrence}
METHODS = {
    "plain": Method("plain", "none"),
    MARK: Method("last γ from 0.5", "none", "half_gamma"),
    "root-gamma": Method("last γ from 1/√L", "none", "root_gamma"),
    "lstm": Method("TSC_LSTM (the paper's)", "lstm"),
    "lstm-plus": Method("lstm+", "lstm+"),
    "lstm-plus-half": Method("lstm+, from 0.5", lstm_plus_from_half),
    "lstm-plus-rate": Method("lstm+, rate × 10", fast_lstm_plus),
    "standardised": Method("LSTM, standardised", {}),
    "range": Method("LSTM, standardised, in (0, 2)", {"top": 2.0}),
    "rate": Method("LSTM, standardised, rate × 10", FAST),
    "root": Method("LSTM, standardised, from 1/√L", FROM_ROOT),
    "root-rate": Method("LSTM, standardised, from 1/√L, rate × 10", FROM_ROOT | FAST),
    "linear": Method("gated linear, from 1/√L", FROM_ROOT | LINEAR),
    "linear-rate": Method("gated linear, from 1/√L, rate × 10", FROM_ROOT | LINEAR | FAST),
    "norms": Method(
        "gated linear, from 1/√L, rate × 10, norms", FROM_ROOT | LINEAR | FAST | {"norms": True}
    ),
    "attention": Method("attention, from 1/√L, rate × 10", FROM_ROOT | FAST | {"unit": Attention}),
    "half-gamma-rate": Method(
        "γ from 0.5, LSTM in (0, 2) from 1, rate × 10",
        FAST | {"start": 1.0, "top": 2.0},
        "half_gamma",
    ),
}


def attach_and_tell(
    network: nn.Module, controller: str, *, example_input: Tensor, reduction: int | None
) -> nn.Module:
    """Attach, and give spectral norms the modules that they read."""
    # Found here, as attaching would run a pass with the branches that it finds: norms can't yet.
    branches = find_branches(network, example_input)
    attach(network, controller, branches=branches, reduction=reduction)
    for stage in stepping_of(network).stages:
        if isinstance(stage.controller, Candidate) and stage.controller.norms is not None:
            stage.controller.norms.read = stage.read
    return network


# Here and not in main(): each training runs in a process of its own, which imports this file.
# All that builds a run's network attaches by this name: training, loading, counting for reports.
mock.patch.object(build, "attach", attach_and_tell).start()
for name, method in METHODS.items():
    if isinstance(method.controller, dict):
        CONTROLLERS[f"candidate-{name}"] = partial(Candidate, **method.controller)
    elif callable(method.controller):
        CONTROLLERS[f"candidate-{name}"] = method.controller


def planned_run(name: str, seed: int, options: argparse.Namespace) -> PlannedRun:
    """Plan a training."""
    method = METHODS[name]
    controller = method.controller
    settings = {
        "seed": seed,
        "network": {"name": options.network, "options": {"variant": method.variant}},
        "stepping": {
            "controller": controller if isinstance(controller, str) else f"candidate-{name}",
            "explain": controller != "none",
        },
        "data": {"data_dir": options.data_dir, "validation": options.held_out},
    }
    recipe = read_configuration(packaged_recipe(options.recipe))
    configuration = overlaid(recipe, settings, name)
    trained_on = f"{options.network}-{options.recipe}-{options.held_out}"
    run = Run(options.runs / trained_on / f"{name}-{seed}")
    return PlannedRun(options.recipe, options.network, name, seed, configuration, run, None)


def validation_accuracy(run: Run) -> float:
    """Return what a run came to after its last epoch, in percent."""
    with run.metrics.open(encoding="utf-8", newline="") as file:
        return 100 * float(list(csv.DictReader(file))[-1]["validation_accuracy"])


COLUMNS = (
    Column("method", "method", text=True),
    Column("seeds", "n"),
    Column("accuracies_percent", "each seed (%)", text=True),
    Column("accuracy_percent", "accuracy (%)", decimals=2),
    Column("accuracy_interval", "±", decimals=2, plus_minus=True),
    Column("difference", "− γ from 0.5", decimals=2, signed=True),
    Column("difference_interval", "±", decimals=2, plus_minus=True),
    Column("p", "p"),
)


def tabulate(found: dict[str, dict[int, float]]) -> ResultTable:
    """Compare methods with the mark, over the seeds that both have.

    Args:
        found: accuracies in percent by method and seed.
    """
    rows: list[tuple[Cell, ...]] = []
    for name, accuracies in found.items():
        mean = estimate(list(accuracies.values()))
        common = [seed for seed in accuracies if seed in found.get(MARK, ())]
        cells: tuple[Cell, ...] = (math.nan,) * 3
        if name != MARK and common:
            gain = difference([accuracies[s] for s in common], [found[MARK][s] for s in common])
            cells = difference_cells(gain)
        each = " ".join(f"{accuracy:.2f}" for accuracy in accuracies.values())
        rows.append(
            (METHODS[name].label, len(accuracies), each, mean.mean, half_width(mean), *cells)
        )
    return ResultTable("validation accuracy", COLUMNS, rows, ())


def main() -> None:
    """Train what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="quick-cifar10")
    parser.add_argument("--network", default="cifar_resnet56", help="one of the CIFAR ResNets")
    parser.add_argument("--held-out", type=int, default=5000, metavar="IMAGES")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs/controller-candidates"))
    parser.add_argument("--data-dir", help="CIFAR-10 as class folders of images")
    parser.add_argument("--no-training", action="store_true", help="tabulate what is done")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    options = parser.parse_args()
    made_by = provenance()
    planned = [
        planned_run(name, seed, options)
        for seed in range(options.seeds)
        for name in options.methods
    ]
    try:
        for each, failure in carry_out([] if options.no_training else planned, options.jobs):
            print(each.run.folder.name, failure or "done", flush=True)
    except Interrupted as stop:
        sys.exit(str(stop))
    found: dict[str, dict[int, float]] = {name: {} for name in options.methods}
    for each in planned:
        if each.state == "done":
            found[each.method][each.seed] = validation_accuracy(each.run)
    table = tabulate({name: accuracies for name, accuracies in found.items() if accuracies})
    Console().print(table.to_rich())
    if options.output:
        write_atomically(options.output, table.to_csv(made_by).encode())


if __name__ == "__main__":
    main()
