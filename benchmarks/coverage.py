"""Which of timm's networks take step sizes: found, attached, trained a step, folded.

One representative, the smallest, of each architecture class that timm registers. It prints a line
for each and a summary; ``--output`` writes a CSV table with the reason of each failure.

    python benchmarks/coverage.py --output results/coverage.csv
"""

from __future__ import annotations

import argparse
import csv
import gc
import time
import warnings
from collections import Counter
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import timestepper
from timestepper.errors import TimestepperError
from timestepper.experiments.provenance import provenance

COLUMNS = ["class", "model", "parameters", "result", "branches", "stages", "error", "reason"]


def representatives(pattern: str) -> dict[str, str]:
    """Find the smallest model of each class, by counting parameters without making them."""
    smallest: dict[str, tuple[int, str]] = {}
    for name in timm.list_models(pattern):
        with torch.device("meta"):
            network = timm.create_model(name)
        kind = type(network).__qualname__
        size = sum(parameter.numel() for parameter in network.parameters())
        smallest[kind] = min(smallest.get(kind, (size, name)), (size, name))
    return {kind: name for kind, (_, name) in sorted(smallest.items())}


def adds_activations(network: nn.Module, images: Tensor) -> bool:
    """Tell whether any sum joins two tensors that depend on the input.

    A network without one has no residual connection. This looks at autograd's graph, not at the
    operations that :func:`timestepper.find_branches` watches.
    """
    images = images.clone().requires_grad_()
    outputs = [out for out in tree_leaves(network(images)) if isinstance(out, Tensor)]
    start = images.view_as(images).grad_fn.next_functions[0][0]
    depends = {start: True, None: False}
    order, stack = [], [out.grad_fn for out in outputs if out.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        order.append(node)
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                stack.append(before)
    while True:  # Until nothing more is known to depend on the input.
        found = [
            node
            for node in order
            if not depends.get(node) and any(depends.get(n) for n, _ in node.next_functions)
        ]
        if not found:
            break
        depends.update(dict.fromkeys(found, True))
    return any(
        node.name().startswith("AddBackward")
        and sum(bool(depends.get(before)) for before, _ in node.next_functions) == 2
        for node in order
    )


def leaves(value: object) -> list[Tensor]:
    """List the floating-point tensors of an output."""
    found = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return [leaf for leaf in found if leaf.is_floating_point()]


def check(name: str) -> dict[str, str]:
    """Attach to one model, train a step, fold, and compare."""
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    row = {"model": name, "parameters": str(sum(p.numel() for p in network.parameters()))}
    with torch.no_grad():  # Many start norms, scales or heads at zero, which hides every branch.
        for parameter in network.parameters():
            if parameter.numel() == max(parameter.shape, default=1):
                parameter.uniform_(0.5, 1.5)
            elif not parameter.any():
                nn.init.trunc_normal_(parameter, std=0.02)
    images = torch.randn(2, *network.pretrained_cfg.get("input_size", (3, 224, 224)))
    keys = list(network.state_dict())
    try:
        timestepper.attach(network)
    except TimestepperError as error:
        residual = adds_activations(network, images[:1])
        row["result"] = "refused" if residual else "no residual connection"
        return row | {"reason": str(error).split("; branches=")[0] if residual else ""}
    branches = network.time_stepping.branches
    row |= {"branches": str(len(branches)), "stages": str(len({b.stage for b in branches}))}
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    before = {n: p.clone() for n, p in network.time_stepping.named_parameters()}
    sum(out.square().mean() for out in leaves(network.train()(images))).backward()
    optimizer.step()
    trained = any(
        not torch.equal(p, before[n]) for n, p in network.time_stepping.named_parameters()
    )
    finite = all(p.isfinite().all() for p in network.parameters())
    network.eval()
    with torch.no_grad():
        attached = leaves(network(images[:1]))
        folded = leaves(timestepper.fold(network)(images[:1]))
    error = max(
        ((one - two).abs().max() / two.abs().max().clamp_min(1e-30)).item()
        for one, two in zip(attached, folded, strict=True)
    )
    row["error"] = f"{error:.1e}" if error else "0"
    if not trained or not finite or list(network.state_dict()) != keys or error > 1e-6:
        return row | {"result": "failed", "reason": f"{trained=}, {finite=}"}
    return row | {"result": "bit-equal" if error == 0 else "exact to 1e-6"}


def main() -> None:
    """Check every class and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", default="", help="pattern of names, such as 'resnet*'")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    made_by = provenance()
    rows = []
    for kind, name in representatives(arguments.models).items():
        start = time.perf_counter()
        try:
            row = check(name)
        except Exception as error:  # One network's failure is a row of the table.
            row = {"model": name, "result": "failed", "reason": f"{type(error).__name__}: {error}"}
        rows.append({"class": kind} | row)
        gc.collect()
        seconds = time.perf_counter() - start
        print(f"{kind:28s} {name:34s} {row['result']:22s} {seconds:5.1f} s", flush=True)
    counts = Counter(row["result"] for row in rows)
    residual = len(rows) - counts["no residual connection"]
    good = counts["bit-equal"] + counts["exact to 1e-6"]
    print(f"{good} of {residual} residual classes ({good / max(residual, 1):.1%}); {dict(counts)}")
    if arguments.output:
        with arguments.output.open("w", newline="") as file:
            file.writelines(f"# {line}\n" for line in made_by)
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
