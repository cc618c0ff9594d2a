"""Folded networks beside plain ones: operators, bytes of parameters, time of a pass.

Plain and folded take turns in one process: as they are, through torch.compile, and as programs of
torch.export. It prints medians over rounds of the ratios within a round; ``--output`` writes them
as CSV with what made them.

    python benchmarks/inference.py --output results/inference.csv
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import timestepper
from timestepper import networks
from timestepper.files import write_atomically
from timestepper.provenance import provenance
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.speed.alternating import Timings, alternate
from timestepper.training.memory import keep_memory

CASES = {
    "cifar_resnet20": ("cifar_resnet20", (64, 3, 32, 32)),
    "cifar_resnet56": ("cifar_resnet56", (64, 3, 32, 32)),
    "resnet50": ("torchvision/resnet50", (8, 3, 224, 224)),
}
COLUMNS = (
    Column("network", "network", text=True),
    Column("operators", "operators"),
    Column("bytes", "bytes"),
    Column("plain_ms", "plain (ms)", decimals=1),
    *(Column(form, form) for form in ("eager", "compiled", "exported")),
)
# Two copies of one network differ by a percent or so in speed: each is built that often.
BUILDS = 4


class Operators(TorchDispatchMode):
    """Notes each operator that is called, with the shapes of its results."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, str]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the operator."""
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else (result,)
        shapes = [tuple(one.shape) for one in results if isinstance(one, Tensor)]
        self.called.append((str(func), str(shapes)))
        return result


def operators(network: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """List what a pass calls, in order."""
    mode = Operators()
    with torch.no_grad(), mode:
        network(images)
    return mode.called


def parameter_bytes(network: nn.Module) -> int:
    """Count the bytes of parameters and buffers."""
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def pair(name: str, images: Tensor) -> dict[str, nn.Module]:
    """Build a plain network, and a copy with step sizes folded into it."""
    plain = networks.create(name).eval()
    folded = timestepper.attach(copy.deepcopy(plain), example_input=images[:1])
    return {"plain": plain, "folded": timestepper.fold(folded).eval()}


@torch.no_grad()
def measure(name: str, shape: tuple[int, ...], rounds: int) -> tuple[Cell, ...]:
    """Compare and time; return the cells behind the network's name."""
    images = torch.randn(shape)
    found: dict[str, Timings] = {}
    for build in range(BUILDS):
        both = pair(name, images)
        forms: dict[str, dict[str, Any]] = {"eager": both}
        if build == 0:
            traces = {side: operators(network, images) for side, network in both.items()}
            if traces["plain"] != traces["folded"]:
                raise SystemExit(f"{name}: the folded network calls other operators")
            sizes = {parameter_bytes(network) for network in both.values()}
            if len(sizes) > 1:
                raise SystemExit(f"{name}: the folded network has another size")
            forms["compiled"] = {side: torch.compile(one) for side, one in both.items()}
            forms["exported"] = {
                side: torch.export.export(one, (images,)).module() for side, one in both.items()
            }
        for form, sides in forms.items():
            calls = {side: (lambda one=one: one(images)) for side, one in sides.items()}
            timed = alternate(calls, rounds)
            found[form] = found[form].and_then(timed) if form in found else timed
    ratios = [timed.ratio("folded", "plain") for timed in found.values()]
    return len(traces["plain"]), sizes.pop(), 1e3 * found["eager"].median("plain"), *ratios


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=20, help="for each build of the networks")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    options = parser.parse_args()
    keep_memory()
    made_by = provenance()
    rows = [(case, *measure(*CASES[case], options.rounds)) for case in options.networks]
    title = "folded over plain, medians; the same operators in the same order"
    table = ResultTable(title, COLUMNS, rows, ())
    Console().print(table.to_rich())
    if options.output:
        write_atomically(options.output, table.to_csv(made_by).encode())


if __name__ == "__main__":
    main()
