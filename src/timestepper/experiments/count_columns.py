"""Counts of networks beside the paper's (Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from timestepper.report.result_table import Cell, Column
from timestepper.speed.counting import WHAT_IS_COUNTED, Counts, SteppedCounts

COLUMNS = (
    Column("phase", "phase", text=True),
    Column("parameters_millions", "params\n(M)"),
    Column("paper_parameters_millions", "paper\n(M)", decimals=2),
    Column("parameters_difference", "ours −\npaper", signed=True),
    Column("gmac", "GMAC"),
    Column("paper_gmac", "paper\nGMAC", decimals=2),
    Column("gmac_difference", "ours −\npaper", signed=True),
)

NOTES = (
    WHAT_IS_COUNTED,
    "train: as `timestepper.attach` runs it, the controllers and their step sizes times vectors "
    "of weights; infer: after `timestepper.fold`. (Eq. 13): as the paper writes it, the same "
    "controllers, the step sizes times every feature map, and kept for inference.",
    "The paper has two decimals: a difference of up to 0.005 is its rounding. "
    "Where training adds 0.03 or 0.06 G in the paper, controllers and products over all feature "
    "maps come to less; it does not say what else it counts.",
)


@dataclass(frozen=True, slots=True)
class Paper:
    """A row of the paper: parameters in millions, multiply-accumulates in 10⁹."""

    parameters: float
    gmac: float


def compare(label: str, phase: str, counts: Counts, paper: Paper) -> tuple[Cell, ...]:
    """Make a row, its first cell the label, the others those of :data:`COLUMNS`."""
    millions, gmac = counts.parameters / 1e6, counts.operations / 1e9
    return (
        label,
        phase,
        *(millions, paper.parameters, millions - paper.parameters),
        *(gmac, paper.gmac, gmac - paper.gmac),
    )


def compare_stepped(
    label: str, counts: SteppedCounts, training: Paper, inference: Paper
) -> Iterator[tuple[Cell, ...]]:
    """Make the rows of a network with step sizes."""
    yield compare(label, "train", counts.training, training)
    yield compare(label, "train (Eq. 13)", counts.literal_training, training)
    yield compare(label, "infer", counts.inference, inference)
    yield compare(label, "infer (Eq. 13)", counts.literal_inference, inference)
