"""What other commands have measured on a run and left in its folder."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.parts import MISSING, Missing

STABILITY_FILE = "stability/stability.json"
NOISE_FILE = "robustness/noise.csv"


@dataclass(frozen=True)
class Noise:
    """Scores of a network under Gaussian noise.

    Attributes:
        deviations: standard deviations of the noise, in those of the data's pixels.
        accuracy: share of right answers, 0 to 1, ``(draws, deviations)``.
        loss: mean cross-entropy in nats, likewise.
        description: what was measured, and how.
    """

    deviations: tuple[float, ...]
    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    description: str


def read_stability(evidence: Evidence) -> dict[str, dict[str, Any]] | Missing:
    """Read what ``timestepper stability RUN`` has measured.

    Returns:
        By the networks' names, the run's own first, what
        :meth:`~timestepper.stability.Stability.to_dict` gives, with ``gradient_flow``.
    """
    path = evidence.run.folder / STABILITY_FILE
    command = f"timestepper stability {evidence.run.folder}"
    if not path.exists():
        return Missing(MISSING, command)
    try:
        content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for measured in content.values():
            _require_stability(measured)
        if not content:
            raise ValueError("it is empty")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Missing(f"{path} is broken ({error})", f"{command} --force")
    return content


def _require_stability(measured: dict[str, Any]) -> None:
    """Raise if what the page shows isn't all there."""
    for step in measured["steps"]:
        _numbers([step["random"], step["worst"]])
        str(step["name"]), step["bound"]
    for stage in measured["stages"]:
        _numbers([stage["evolution_time"], stage["random"], stage["worst"]])
        str(stage["name"]), stage["bound"]
    for flow in measured["gradient_flow"].values():
        _numbers([*flow["norms"], *flow["times"]])
    list(measured["no_bound"]), int(measured["images"])


def _numbers(values: Iterable[Any]) -> None:
    for value in values:
        float(0 if value is None else value)  # None stands for an infinite one


def read_noise(evidence: Evidence, folders: Iterable[Path]) -> Noise | Missing:
    """Read what ``timestepper robustness`` has measured on a run.

    Args:
        evidence: the run.
        folders: of other runs that may have it; the command leaves what it measured on several
            networks in the folder of the first, by their folders' names. Those beside this run
            are looked through.
    """
    command = f"timestepper robustness {evidence.run.folder}"
    broken: Missing | None = None
    own = evidence.run.folder.resolve()
    beside = [folder for folder in folders if folder.resolve().parent == own.parent]
    for folder in (evidence.run.folder, *beside):
        path = folder / NOISE_FILE
        if not path.exists():
            continue
        try:
            found = _parse_noise(path, None if folder.resolve() == own else own.name)
        except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
            broken = broken or Missing(f"{path} is broken ({error})", f"{command} --force")
        else:
            if found is not None:
                return found
    return broken or Missing(MISSING, command)


def _parse_noise(path: Path, name: str | None) -> Noise | None:
    """Read the scores of the first network, or of that of a name; None where it is not there."""
    lines = path.read_text(encoding="utf-8").splitlines()
    remarks = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    if not rows:
        raise ValueError("it has no rows")
    name = rows[0]["network"] if name is None else name
    own = [row for row in rows if row["network"] == name]
    if not own:
        return None
    draws: dict[str, dict[float, tuple[float, float]]] = {}
    for row in own:
        scores = float(row["accuracy"]), float(row["loss"] or math.nan)
        draws.setdefault(row["case"], {})[float(row["deviation"])] = scores
    deviations = list(next(iter(draws.values())))
    table = np.array([[draw[deviation] for deviation in deviations] for draw in draws.values()])
    return Noise(tuple(deviations), table[..., 0], table[..., 1], remarks[-1] if remarks else "")


def is_older(evidence: Evidence, file: str) -> bool:
    """Tell whether a measurement was made before the training's last step."""
    path, last = evidence.run.folder / file, evidence.run.checkpoints.last
    return path.exists() and last.exists() and path.stat().st_mtime < last.stat().st_mtime
