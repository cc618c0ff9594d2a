"""Which of timm's networks take step sizes: found, attached, trained a step, folded.

One representative of each architecture class that timm registers: the smallest that has a residual
connection, at the smallest image size it takes. It prints a line for each and a summary;
``--output`` writes a CSV table with the reason of each refusal, row by row. Started again with the
same output it goes on where it stopped; ``--largest`` leaves the largest for another time.

    python benchmarks/timm_coverage.py --output results/coverage.csv

Results: ``bit-equal`` and ``exact to 1e-6`` (largest relative difference between the attached and
the folded network's outputs) count as covered. ``partly``: attaching is refused for the reason
given, but works so with the branches that fold (``skip_unfoldable=True``). ``refused``: no branch
folds. ``failed``: anything else. Classes without residual connections are counted apart, and so are
those of them whose dense concatenations take step sizes (``dense, bit-equal``).
"""

from __future__ import annotations

import argparse
import csv
import gc
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import timestepper
from timestepper.errors import TimestepperError
from timestepper.provenance import provenance
from timestepper.stepping.attach import stepping_of

COLUMNS = [
    *("class", "model", "parameters", "image_size"),
    *("result", "branches", "stages", "error", "reason"),
]
SIZES = (128, 160, 192, 224, 256, 288, 299, 320, 331, 384, 448, 512, 768, 1024)
COVERED = ("bit-equal", "exact to 1e-6")


def classes(pattern: str) -> dict[str, list[tuple[int, str]]]:
    """List each class's models with their sizes, smallest first, without making them."""
    found = defaultdict(list)
    for name in timm.list_models(pattern):
        with torch.device("meta"):
            network = timm.create_model(name)
        size = sum(parameter.numel() for parameter in network.parameters())
        found[type(network).__qualname__].append((size, name))
    return {kind: sorted(models) for kind, models in sorted(found.items())}


def smallest_images(name: str) -> tuple[dict[str, Any], int]:
    """Find the smallest images that a model takes, trying them without computing.

    Returns:
        Options to create the model with, and the images' height and width.
    """
    for size in SIZES:
        choices: list[dict[str, Any]] = [{}, {"img_size": size}]
        for options in choices:
            try:
                with torch.device("meta"), torch.no_grad():
                    timm.create_model(name, **options).train()(torch.zeros(2, 3, size, size))
            except Exception:  # Networks say in many ways that an image is too small.
                continue
            return options, size
    configuration = timm.get_pretrained_cfg(name)
    assert configuration is not None
    return {}, configuration.input_size[-1]


def is_residual(name: str) -> bool:
    """Tell by :func:`adds_activations` whether a model has a residual connection."""
    options, size = smallest_images(name)
    with torch.device("meta"):
        network = timm.create_model(name, **options).eval()
        return adds_activations(network, torch.zeros(1, 3, size, size))


def adds_activations(network: nn.Module, images: Tensor) -> bool:
    """Tell whether any sum joins two tensors that depend on the input.

    A network without one has no residual connection; one with such a sum may have none either, but
    counts as residual here. This looks at autograd's graph, not at the
    operations that :func:`timestepper.find_branches` watches.
    """
    images = images.clone().requires_grad_()
    outputs = [out for out in tree_leaves(network(images)) if isinstance(out, Tensor)]
    viewed = images.view_as(images).grad_fn
    assert viewed is not None
    start = viewed.next_functions[0][0]
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
        # Slices: an addition in place to a part of a tensor.
        any(kind in node.name() for kind in ("AddBackward", "CopySlices"))
        and sum(bool(depends.get(before)) for before, _ in node.next_functions) == 2
        for node in order
    )


def leaves(value: object) -> list[Tensor]:
    """List the floating-point tensors of an output."""
    found = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return [leaf for leaf in found if leaf.is_floating_point()]


def make(name: str, options: dict[str, Any]) -> nn.Module:
    """Create a model whose branches all do something."""
    torch.manual_seed(0)
    network = timm.create_model(name, **options).eval()
    with torch.no_grad():  # Many start norms, scales or heads at zero, which hides every branch.
        for parameter in network.parameters():
            if parameter.numel() == max(parameter.shape, default=1):
                parameter.uniform_(0.5, 1.5)
            elif not parameter.any():
                nn.init.trunc_normal_(parameter, std=0.02)
    return network


def check(name: str) -> dict[str, str]:
    """Attach to one model, train a step, fold, and compare."""
    options, size = smallest_images(name)
    network = make(name, options)
    parameters = sum(p.numel() for p in network.parameters())
    row = {"model": name, "parameters": str(parameters), "image_size": str(size)}
    images = torch.randn(2, 3, size, size)
    try:
        timestepper.attach(network, example_input=images[:1])
    except TimestepperError as error:
        row["reason"] = str(error).split("; branches=")[0]
        try:
            branches = timestepper.find_branches(network, images[:1], skip_unfoldable=True)
        except TimestepperError:
            return row | {"result": "refused"}
        timestepper.attach(network, branches=branches)
    row |= train_and_fold(network, images)
    if row.get("reason") and row["result"] in COVERED:
        row["result"] = "partly"
    return row


def train_and_fold(network: nn.Module, images: Tensor) -> dict[str, str]:
    """Train an attached network for a step and compare its outputs with the folded one's."""
    keys = [key for key in network.state_dict() if not key.startswith("time_stepping.")]
    stepping = stepping_of(network)
    branches = stepping.branches
    row = {"branches": str(len(branches)), "stages": str(len({b.stage for b in branches}))}
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    before = {n: p.clone() for n, p in stepping.named_parameters()}
    means = [out.square().mean() for out in leaves(network.train()(images))]
    sum(means, torch.zeros(())).backward()
    optimizer.step()
    optimizer.zero_grad()
    trained = any(not torch.equal(p, before[n]) for n, p in stepping.named_parameters())
    network.eval()
    with torch.no_grad():
        attached = leaves(network(images[:1]))
        folded = leaves(timestepper.fold(network)(images[:1]))
    finite = all(t.isfinite().all() for t in (*network.parameters(), *folded))
    error = max(
        ((one - two).abs().max() / two.abs().max().clamp_min(1e-30)).item()
        for one, two in zip(attached, folded, strict=True)
    )
    row["error"] = f"{error:.1e}" if error else "0"
    if not trained or not finite or list(network.state_dict()) != keys or error > 1e-6:
        return row | {"result": "failed", "reason": f"{trained=}, {finite=}"}
    return row | {"result": "bit-equal" if error == 0 else "exact to 1e-6"}


def check_class(models: list[tuple[int, str]]) -> dict[str, str]:
    """Check the smallest residual model of a class; any failure is a row of the table."""
    size, name = models[0]
    try:
        residual = next((one for one in models if is_residual(one[1])), None)
        if residual is None:
            row = check(name)
            if row["result"] in COVERED:
                return row | {"result": f"dense, {row['result']}"}
            return {"model": name, "parameters": str(size), "result": "no residual connection"}
        size, name = residual
        return check(name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"model": name, "parameters": str(size), "result": "failed", "reason": reason}


def done_before(output: Path | None, made_by: list[str]) -> list[dict[str, str]]:
    """Read the rows of an unfinished table, or begin a new one."""
    header = [f"# {line}\n" for line in made_by]
    if output is None:
        return []
    if output.exists():
        with output.open(newline="") as file:
            lines = file.readlines()
        same = [line for line in header if not line.startswith(("# command", "# date"))]
        if not set(same) <= set(lines):
            raise SystemExit(f"{output} was made by other versions: move it away to begin anew")
        return list(csv.DictReader(line for line in lines if not line.startswith("# ")))
    with output.open("w", newline="") as file:
        file.writelines(header)
        csv.DictWriter(file, COLUMNS).writeheader()
    return []


def main() -> None:
    """Check every class and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", default="", help="pattern of names, such as 'resnet*'")
    parser.add_argument("--output", type=Path, help="CSV file to write, or to go on with")
    parser.add_argument(
        "--largest", type=float, help="leave out classes whose smallest model has more M parameters"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = done_before(arguments.output, provenance())
    done = {row["class"] for row in rows}
    for kind, models in classes(arguments.models).items():
        if kind in done or (arguments.largest and models[0][0] > arguments.largest * 1e6):
            continue
        start = time.perf_counter()
        row = {"class": kind} | check_class(models)
        rows.append(row)
        gc.collect()
        seconds = time.perf_counter() - start
        print(f"{kind:28s} {row['model']:34s} {row['result']:22s} {seconds:5.1f} s", flush=True)
        if arguments.output:
            with arguments.output.open("a", newline="") as file:
                csv.DictWriter(file, COLUMNS).writerow(row)
    counts = Counter(row["result"] for row in rows)
    others = sum(counts[f"dense, {result}"] for result in COVERED)
    residual = len(rows) - others - counts["no residual connection"]
    good = sum(counts[result] for result in COVERED)
    partly = good + counts["partly"]
    print(
        f"{good} of {residual} residual classes ({good / max(residual, 1):.1%}); with those that "
        f"take step sizes in a part of their branches {partly} ({partly / max(residual, 1):.1%}); "
        f"{dict(counts)}"
    )


if __name__ == "__main__":
    main()
