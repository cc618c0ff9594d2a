"""What was trained, on what, how long, and what came of it."""

from __future__ import annotations

import math

from timestepper.report.html import names
from timestepper.report.html.evidence import Evidence
from timestepper.report.html.parts import Facts, Missing, Part, Section, Text
from timestepper.report.html.samples import Samples

NAMED = ("commit", "versions", "hardware", "date")


def summary(evidence: Evidence, samples: Samples | Missing) -> Section:
    """Sum a run up."""
    configuration, last = evidence.configuration, evidence.history[-1]
    parts: list[Part] = []
    if not evidence.is_finished:
        taken = "" if isinstance(samples, Missing) else samples.taken(evidence.epochs)
        parts.append(
            Text(
                f"This training is not finished: {evidence.epochs} of {configuration.epochs} "
                "epochs are done, and all numbers are those of the last one"
                + (f", but for predictions, which are those {taken}." if taken else ".")
            )
        )
    split = evidence.split
    best = max(evidence.history, key=lambda row: row[f"{split}_accuracy"])
    facts = [
        (f"{split} accuracy", names.percent(last[f"{split}_accuracy"])),
        (
            "best epoch",
            f"{best['epoch']:.0f}, with {names.percent(best[f'{split}_accuracy'])}",
        ),
        (f"{split} loss", f"{last[f'{split}_loss']:.4f}"),
        ("network", network(evidence)),
        ("step sizes", names.controller(configuration)),
        ("images", images(evidence)),
        ("epochs", f"{evidence.epochs} of {configuration.epochs}"),
        ("batch size", str(configuration.batch_size)),
        ("seed", str(configuration.seed)),
        ("trained for", f"{names.duration(training_seconds(evidence))}, without evaluation"),
        *provenance(evidence),
    ]
    return Section("summary", "What was trained", [*parts, Facts(facts)])


def network(evidence: Evidence) -> str:
    """Name the network with its options."""
    chosen = evidence.configuration.network
    options = ", ".join(f"{key} {value}" for key, value in chosen.options.items())
    return f"{chosen.name} ({options})" if options else chosen.name


def images(evidence: Evidence) -> str:
    """Say how many images of what size of what data set."""
    data = evidence.data
    channels, height, width = data["shape"]
    held = f", {data['validation_images']:,} validation" if "validation_images" in data else ""
    return (
        f"{evidence.configuration.data.name}: {data['training_images']:,} training{held} and "
        f"{data['test_images']:,} test images of {width}×{height} pixels, "
        f"{'grey' if channels == 1 else 'coloured'}, {len(data['classes'])} classes"
    )


def training_seconds(evidence: Evidence) -> float:
    """Sum the epochs' durations up, as the metrics' rates give them.

    An epoch that was stopped in its evaluation has no rate, and isn't counted.
    """
    images: float = evidence.data["training_images"]
    rates = [row["images_per_second"] for row in evidence.history]
    return sum(images / rate for rate in rates if math.isfinite(rate))


def provenance(evidence: Evidence) -> list[tuple[str, str]]:
    """Name code, machine and date; several where the training was interrupted in between."""
    pairs = [line.strip().partition(": ") for line in evidence.provenance]
    facts = []
    for kind in NAMED:
        values = dict.fromkeys(value for name, _, value in pairs if name == kind)
        if values:
            facts.append((kind, "; then ".join(values)))
    return facts
