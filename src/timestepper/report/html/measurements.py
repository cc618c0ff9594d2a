"""What other commands have measured on a run and left in its folder."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.parts import MISSING, Missing
from timestepper.report.robustness import FOLDERS
from timestepper.robustness import (
    FGSM,
    PGD,
    AutoAttack,
    CommonCorruptions,
    GaussianNoise,
)
from timestepper.training.commands import command
from timestepper.training.run import Run

STABILITY_FILE = "stability/stability.json"
ATTACKS = (FGSM.name, PGD.name, AutoAttack.name)
THREATS = (GaussianNoise.name, CommonCorruptions.name, *ATTACKS)
BROKEN = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, RecursionError, csv.Error),
)
"""What reading a damaged file may raise."""


@dataclass(frozen=True)
class Scores:
    """Scores of a network under a threat.

    Attributes:
        path: the file that they were read from.
        levels: of the threat: standard deviations in those of the data's pixels, severities, or ε.
        cases: what each level was tried with: draws, corruptions, or the attack.
        accuracy: share of right answers, 0 to 1, ``(cases, levels)``.
        loss: mean cross-entropy in nats, likewise.
        description: what was measured, and how.
        is_best: it was measured on the best checkpoint, not on the last.
    """

    path: Path
    levels: tuple[float, ...]
    cases: tuple[str, ...]
    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    description: str
    is_best: bool = False


def read_stability(evidence: Evidence) -> dict[str, dict[str, Any]] | Missing:
    """Read what ``timestepper stability RUN`` has measured.

    Returns:
        By the networks' names, the run's own first, what
        :meth:`~timestepper.stability.Stability.to_dict` gives, with ``gradient_flow``, and as
        ``run`` where their runs' folders lie, seen from the file's.
    """
    path = evidence.run.folder / STABILITY_FILE
    command = stability_command([evidence])
    if not path.exists():
        return Missing(MISSING, command)
    try:
        content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for measured in content.values():
            _require_stability(measured)
        if not content:
            raise ValueError("it is empty")
    except BROKEN as error:
        return Missing(f"{path} is broken ({error})", f"{command} --force")
    return content


def name_in_stability(
    evidence: Evidence, path: Path, content: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Find what a file of stability calls a run; None where it is not known to have it.

    Args:
        evidence: the run.
        path: the file.
        content: what :func:`read_stability` has read of it.
    """
    own = evidence.run.folder.resolve()
    places = {name: one["run"] for name, one in content.items() if "run" in one}
    if places:
        return _name_at(path, places, own)
    # Older files have names alone: the first is that which the file lies in.
    return next(iter(content)) if path.parent.parent.resolve() == own else None


def _name_at(path: Path, places: Mapping[str, str | None], run: Path) -> str | None:
    """Find what a file calls a run, by where it says that runs lie; None where it is none of them.

    Args:
        path: the file.
        places: folders of runs, seen from the file's, by their names there.
        run: the run's resolved folder.
    """
    for name, place in places.items():
        if place is not None and os.path.realpath(path.parent / place) == str(run):
            return name
    return None


def _require_stability(measured: dict[str, Any]) -> None:
    """Raise if what the page shows isn't all there, or leaves nothing to draw."""
    for step in measured["steps"]:
        _numbers([step["random"], step["worst"], step["bound"]])
        str(step["name"])
    if not any(
        step["bound"] is not None or any((step[kind] or 0) > 0 for kind in ("random", "worst"))
        for step in measured["steps"]
    ):
        raise ValueError("it has no step whose growth can be drawn")
    for stage in measured["stages"]:
        _numbers([stage["evolution_time"], stage["random"], stage["worst"], stage["bound"]])
        if stage["evolution_time"] is None:
            raise TypeError("a stage has no evolution time")
        str(stage["name"])
    for flow in measured["gradient_flow"].values():
        _numbers([*flow["norms"], *flow["times"]])
    if not isinstance(measured.get("run"), str | None):
        raise TypeError(f"{measured['run']!r} is no folder")
    list(measured["no_bound"]), int(measured["images"]), float(measured.get("epsilon", 0))


def _numbers(values: Iterable[Any]) -> None:
    for value in values:
        if not isinstance(value, int | float | None):  # None stands for an infinite one
            raise TypeError(f"{value!r} is no number")
        float(value or 0)  # A whole number may be too large for one.


def read_bound(evidence: Evidence) -> float | Missing | None:
    """Read the bound of Proposition 1 that ``timestepper reproduce`` has computed.

    Returns:
        log10 of it, NaN where there is none; None where it was not computed.
    """
    path = evidence.run.bound
    if not path.exists():
        return None
    try:
        bound = json.loads(path.read_text(encoding="utf-8"))["log10_bound"]
        return math.nan if bound is None else float(bound)
    except BROKEN as error:
        return Missing(f"{path} is broken ({error})", stability_command([evidence]))


def read_scores(evidence: Evidence, threat: str, folders: Iterable[Path]) -> Scores | Missing:
    """Read what ``timestepper robustness`` or ``timestepper reproduce`` has measured on a run.

    Args:
        evidence: the run.
        threat: one of :data:`THREATS`.
        folders: of all runs that the page is about; ``timestepper robustness`` leaves what it
            measured on several networks in the folder of the first. All are looked through.
    """
    command = robustness_command([threat], [evidence])
    broken: Missing | None = None
    own = evidence.run.folder.resolve()
    compared = {folder.resolve() for folder in folders}
    for folder in dict.fromkeys((evidence.run.folder, *folders)):
        path = folder / "robustness" / f"{threat}.csv"
        if not path.exists():
            continue
        is_own = folder.resolve() == own
        try:
            found = _parse_scores(path, own, compared)
        except BROKEN as error:
            if is_own:  # Of another run its own section tells.
                broken = Missing(f"{path} is broken ({error})", f"{command} --force")
        else:
            if found is not None:
                return found
    for path in _noise_files(evidence.run) if threat == GaussianNoise.name else ():
        try:
            return _parse_noise(path)
        except BROKEN as error:
            broken = broken or Missing(f"{path} is broken ({error})", command)
    return broken or Missing(MISSING, command)


def stability_command(runs: Iterable[Evidence]) -> str:
    """Write the command that measures runs' stability."""
    first, *rest = (run.folder for run in runs)
    return command("stability", first, *(["--compare", *rest] if rest else []))


def robustness_command(threats: Sequence[str], runs: Iterable[Evidence]) -> str:
    """Write the command that measures runs under threats."""
    words = ["robustness", *(run.folder for run in runs)]
    if threats != [GaussianNoise.name]:  # Which is what it measures by itself.
        words += ["--threat", *threats]
    return command(*words)


def missing_runs(missing: Sequence[Evidence], of: int, command: str) -> Missing:
    """Say of which runs something was not measured.

    Args:
        missing: the runs.
        of: how many runs the page is about.
        command: what measures it on all of them.
    """
    names = ", ".join(run.name for run in missing)
    return Missing(MISSING if len(missing) == of else f"{MISSING}: {names}", command)


def _parse_scores(path: Path, run: Path, compared: Iterable[Path]) -> Scores | None:
    """Read the scores of a run, None where they are not there.

    Args:
        path: the file, in a folder of a run's.
        run: the run's resolved folder.
        compared: resolved folders of all runs that the page is about.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    remarks = [line.removeprefix("# ") for line in takewhile(lambda one: one[:1] == "#", lines)]
    # Below the header a name may begin with "#".
    header, *rows = [*csv.reader(lines[len(remarks) :])] or [[]]
    if [*header[:2], *header[3:]] != ["network", "case", "accuracy", "loss"]:
        raise ValueError("it has no header")
    if not rows:
        raise ValueError("it has no rows")
    name = _name_in(path, remarks, rows[0][0], run, compared)
    cases: dict[str, dict[float, tuple[float, float]]] = {}
    for network, case, level, accuracy, loss in rows:
        if network == name:
            cases.setdefault(case, {})[float(level)] = float(accuracy), float(loss or math.nan)
    if not cases:
        return None
    levels = tuple(next(iter(cases.values())))
    table = np.array([[case[level] for level in levels] for case in cases.values()])
    return Scores(
        path=path,
        levels=levels,
        cases=tuple(cases),
        accuracy=table[..., 0],
        loss=table[..., 1],
        description=remarks[-1] if remarks else "",
        is_best=any(
            remark.startswith(f"{name}: ") and ", best checkpoint, " in remark for remark in remarks
        ),
    )


def _name_in(
    path: Path, remarks: Sequence[str], first: str, run: Path, compared: Iterable[Path]
) -> str | None:
    """Find what a file of scores calls a run; None where it is not known to have it."""
    for remark in remarks:
        if remark.startswith(FOLDERS + "{"):
            return _name_at(path, json.loads(remark.removeprefix(FOLDERS)), run)
    # Older files name folders alone: the first is that which the file lies in.
    home = path.parent.parent.resolve()
    if run == home:
        return first
    is_only = sum(other.name == run.name for other in compared) == 1
    return run.name if is_only and run.parent == home.parent else None


def _noise_files(run: Run) -> list[Path]:
    """Find what experiments have measured under noise, the newest first."""
    found = run.folder.glob(run.noise("*").name)
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _parse_noise(path: Path) -> Scores:
    content = json.loads(path.read_text(encoding="utf-8"))
    draws, levels = int(content["draws"]), tuple(map(float, content["deviations"]))
    accuracy, loss = (np.array(content[key], np.float64) for key in ("accuracy", "loss"))
    if not draws or not accuracy.shape == loss.shape == (draws, len(levels)):
        raise ValueError("its scores don't fit its draws and deviations")
    description = (
        f"Gaussian noise on all test images, measured by timestepper reproduce (draws: {draws}, "
        "the same for every network); its unit is the standard deviation of the data's pixels "
        "per channel."
    )
    cases = tuple(f"draw {draw}" for draw in range(draws))
    return Scores(path, levels, cases, accuracy, loss, description)


def measurement_files(run: Run) -> list[Path]:
    """List the files of measurements that a run has."""
    possible = [run.folder / STABILITY_FILE, run.bound]
    possible += [run.folder / "robustness" / f"{threat}.csv" for threat in THREATS]
    return [path for path in possible if path.exists()] + _noise_files(run)


def is_another_file(evidence: Evidence, name: str) -> bool:
    """Tell whether what ``timestepper stability`` was given is another file than a last checkpoint.

    Args:
        evidence: the run.
        name: as the command was given it: the run's folder, a checkpoint, or its folded network.
    """
    path = Path(name)
    itself = (evidence.run.checkpoints.last.name, evidence.run.folder.resolve().name)
    return path.suffix in (".pt", ".safetensors") and path.name not in itself


def is_older(evidence: Evidence, path: Path) -> bool:
    """Tell whether a measurement was made before the training's last step."""
    last = evidence.run.checkpoints.last
    return path.exists() and last.exists() and path.stat().st_mtime < last.stat().st_mtime
