"""Runs as methods: which of them differ in their seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timestepper.report.html import names
from timestepper.report.html.evidence import Evidence
from timestepper.report.html.sections.again import flattened

NO_METHOD = {
    *("seed", "accelerator", "data.data_dir", "data.cache_dir", "data.download", "data.workers"),
    "stepping.explain",
}
"""What does not make another method: the seed, where things lie and run, what is recorded."""
OPTIONS = "network.options"
NOTHING = "default"
"""The label of what lacks all that others have."""
BY_VALUE = {"network.name", "data.name"}
"""Settings whose values say by themselves what they are of."""


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed alone.

    Attributes:
        label: what tells it from the others.
        runs: its runs, in the order in which they were named.
    """

    label: str
    runs: tuple[Evidence, ...]

    def by_seed(self) -> dict[int, Evidence]:
        """Return a run for each seed that is finished; of several the first."""
        found: dict[int, Evidence] = {}
        for run in self.runs:
            if run.is_finished:
                found.setdefault(run.configuration.seed, run)
        return found

    def left_out(self) -> dict[str, str]:
        """Say of each run that can't be compared why it can't."""
        compared = self.by_seed()
        reasons = {}
        for run in self.runs:
            seed = run.configuration.seed
            if not run.is_finished:
                reasons[run.name] = f"{run.epochs} of {run.configuration.epochs} epochs are done"
            elif compared[seed] is not run:
                reasons[run.name] = f"{compared[seed].name} has the same settings and seed"
        return reasons


def methods(runs: Sequence[Evidence]) -> list[Method]:
    """Sort runs by their settings without the seed.

    Args:
        runs: in the order in which the page names them.
    """
    settings = [_settings(run) for run in runs]
    distinct: list[dict[str, Any]] = []
    for one in settings:
        if one not in distinct:
            distinct.append(one)
    every = dict.fromkeys(key for one in distinct for key in one)
    absent = object()
    first = distinct[0]
    differing = [
        key
        for key in every
        if any(one.get(key, absent) != first.get(key, absent) for one in distinct)
    ]
    found = []
    for one in distinct:
        own = tuple(run for run, other in zip(runs, settings, strict=True) if other == one)
        found.append(Method(_label(one, differing, own[0]), own))
    return found


def _settings(run: Evidence) -> dict[str, Any]:
    every = flattened(run.configuration)
    options = every.pop(OPTIONS)
    every |= {f"{OPTIONS}.{name}": value for name, value in options.items()}
    return {name: value for name, value in every.items() if name not in NO_METHOD}


def _label(settings: dict[str, Any], differing: Sequence[str], run: Evidence) -> str:
    """Write what differs; the controller where nothing does."""
    words = []
    for name in differing or ["stepping.controller"]:
        if name not in settings:  # an option of other runs' networks
            continue
        value = settings[name]
        if name == "stepping.controller":
            words.append("plain" if value == "none" else names.controller(run.configuration))
        elif name in BY_VALUE:
            words.append(str(value))
        else:
            shown = name.removeprefix(f"{OPTIONS}.")
            words.append(f"{shown} {'–' if value is None else value}")
    return ", ".join(words) or NOTHING
