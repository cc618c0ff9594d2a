"""What a step size changes in a dense network: on a layer's features, or behind the readers' norms.

Every reader of a DenseNet's features begins with a batch norm, which in training divides a scale
per channel out again. For a step size on the features themselves ("features", the literal reading
of the paper) and one on the normalised features that the readers see ("norms", what attaching
does), this prints for a network in training mode:

* how far the logits move when all step sizes go from 1 to 0.5 and to 0.05, relative to their norm;
* the norm of the loss's gradient with respect to the step sizes, at 0.5;
* how much a layer's last convolution turns in one SGD step, over the plain network's (its
  effective learning rate: only the direction of a weight before a batch norm matters);

and after a short training on digits, over seeds: how far the LSTM controller's step sizes moved,
and test accuracy.

    python benchmarks/dense_placement.py --output results/dense_placement.csv
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

import timestepper
from timestepper.networks import CifarDenseNet, CliqueNet
from timestepper.provenance import provenance
from timestepper.stepping.attach import stepping_of
from timestepper.stepping.branches import weight_of

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "DenseNet k=12 T=36": lambda: CifarDenseNet(40, 12, in_channels=1),
    "DenseNet-BC k=12 T=18": lambda: CifarDenseNet(40, 12, bottleneck=True, in_channels=1),
    "CliqueNet k=36 T=12": lambda: CliqueNet(36, 12, in_channels=1),
}
COLUMNS = ["network", "placement", "quantity", "value"]


def on_features(branch: timestepper.Branch) -> timestepper.Branch:
    """Put a layer's step sizes on its own features: the rows of what computes them."""
    if branch.weights[-1].endswith("from_layers"):  # CliqueNet: both stages' convolutions
        places = (branch.stage, branch.stage)
        return dataclasses.replace(branch, scaled=branch.weights, inside=places, channels=())
    return dataclasses.replace(branch, scaled=branch.weights[-1:], inside=(), channels=())


def branches_for(network: nn.Module, placement: str) -> list[timestepper.Branch]:
    """Find the branches and put their step sizes in one of the two places."""
    found = timestepper.find_branches(network, torch.zeros(1, 1, 16, 16))
    return [on_features(branch) for branch in found] if placement == "features" else found


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Load scikit-learn's digits, 16x16, standardised; every fifth is a test image."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    images = nn.functional.interpolate((images - images.mean()) / images.std(), scale_factor=2)
    labels = torch.tensor(data.target)
    test = torch.arange(len(labels)) % 5 == 0
    return images[~test], labels[~test], images[test], labels[test]


class Steps(nn.Module):
    """Step sizes that are one tensor of a given value, with a gradient."""

    def __init__(
        self, depth: int, features: int, channels: int, hidden: int, *, value: float
    ) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.full((depth, channels), value))

    def forward(self, averaged: Tensor) -> Tensor:
        """Return them."""
        return self.steps


def at_start(make: Callable[[], nn.Module], placement: str) -> dict[str, float]:
    """Measure a network with constant step sizes in training mode at its initialisation."""
    images, labels, _, _ = digits()
    images, labels = images[:128], labels[:128]
    torch.manual_seed(0)
    plain = make().train()
    outputs, turns, result = {}, {}, {}
    for value in (1.0, 0.5, 0.05):
        network = copy.deepcopy(plain)
        branches = branches_for(network, placement)
        timestepper.attach(network, partial(Steps, value=value), branches=branches)
        convolutions = [weight_of(network.get_submodule(branch.weights[-1])) for branch in branches]
        before = [weight.detach().clone() for weight in convolutions]
        logits = network(images)
        cross_entropy(logits, labels).backward()
        outputs[value] = logits.detach()
        if value == 0.5:
            grads = [p.grad for p in stepping_of(network).parameters()]
            flat = torch.cat([grad.flatten() for grad in grads if grad is not None])
            result["gradient of the step sizes"] = flat.norm()
        torch.optim.SGD(convolutions, 1e-2).step()
        cosines = [
            cosine_similarity(new.double().flatten(), old.double().flatten(), 0)
            for new, old in zip(convolutions, before, strict=True)
        ]
        turns[value] = torch.stack(cosines).clamp(-1, 1).arccos().mean()
    for value in (0.5, 0.05):
        moved = (outputs[value] - outputs[1.0]).norm() / outputs[1.0].norm()
        result[f"logits moved by step sizes {value:g} instead of 1"] = moved
        result[f"turn of a convolution at {value:g}, over that at 1"] = turns[value] / turns[1.0]
    return {name: quantity.item() for name, quantity in result.items()}


def after_training(
    make: Callable[[], nn.Module], placement: str | None, epochs: int, seed: int
) -> dict[str, float]:
    """Train on digits; ``placement`` None is the plain network."""
    train_images, train_labels, test_images, test_labels = digits()
    torch.manual_seed(seed)
    network = make()
    if placement is not None:
        timestepper.attach(network, branches=branches_for(network, placement))
        start = torch.cat([s.flatten() for s in timestepper.step_sizes(network).values()])
    optimizer = torch.optim.SGD(
        network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    batches = len(train_images) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * batches)
    network.train()
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(train_images), generator=order).split(64)[:batches]:
            optimizer.zero_grad()
            cross_entropy(network(train_images[chosen]), train_labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        logits = network(test_images)
    result = {
        "test accuracy": (logits.argmax(1) == test_labels).double().mean().item(),
        "test loss": cross_entropy(logits, test_labels).item(),
    }
    if placement is not None:
        end = torch.cat([s.flatten() for s in timestepper.step_sizes(network).values()])
        result["step sizes moved by, on average"] = (end - start).abs().mean().item()
        result["spread of step sizes"] = end.std().item()
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="CSV file to write")
    arguments = parser.parse_args()
    made_by = provenance()
    rows = []

    def note(network: str, placement: str, quantity: str, value: float) -> None:
        rows.append(dict(zip(COLUMNS, (network, placement, quantity, f"{value:.4g}"), strict=True)))
        print(f"{network:22s} {placement:9s} {quantity:48s} {value:.4g}", flush=True)

    placement: str | None
    for name, make in NETWORKS.items():
        for placement in ("features", "norms"):
            for quantity, value in at_start(make, placement).items():
                note(name, placement, quantity, value)
        for placement in (None, "features", "norms"):
            runs = [
                after_training(make, placement, arguments.epochs, seed)
                for seed in range(arguments.seeds)
            ]
            for quantity in runs[0]:
                values = [run[quantity] for run in runs]
                note(name, placement or "plain", f"{quantity}, mean", statistics.mean(values))
                if len(values) > 1:
                    spread = statistics.stdev(values)
                    note(name, placement or "plain", f"{quantity}, std over seeds", spread)
    if arguments.output:
        with arguments.output.open("w", newline="") as file:
            file.writelines(f"# {line}\n" for line in made_by)
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
