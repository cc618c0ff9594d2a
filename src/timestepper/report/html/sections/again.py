"""How to make the run again."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Any

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.parts import Code, Part, Section, Text
from timestepper.training.configuration import Configuration


def again(evidence: Evidence) -> Section:
    """Give the command, and what the run has written down of itself."""
    parts: list[Part] = [
        Text(
            "The same training, in a new folder. What the run has written down of its settings, "
            "code and hardware is below."
        ),
        Code(command(evidence.configuration, f"{evidence.folder}-again")),
        Code(
            evidence.run.configuration.read_text(encoding="utf-8"),
            folded_under=evidence.run.configuration.name,
        ),
    ]
    if evidence.provenance:
        shown = "\n".join(evidence.provenance)
        parts.append(Code(shown, folded_under=evidence.run.provenance.name))
    return Section("again", "Make it again", parts)


def command(configuration: Configuration, folder: str) -> str:
    """Write the command that trains with a configuration.

    Args:
        configuration: what is trained.
        folder: where to.
    """
    defaults = flattened(Configuration())
    words = ["timestepper", "train", "--folder", folder]
    for name, value in flattened(configuration).items():
        if value != defaults.get(name, {}):
            words += [f"--{name}", _word(value)]
    return shlex.join(words)


def flattened(configuration: Configuration) -> dict[str, Any]:
    """List a configuration's settings by their dotted names."""
    return {
        f"{name}.{key}" if key else name: setting
        for name, value in asdict(configuration).items()
        for key, setting in (value if isinstance(value, dict) else {"": value}).items()
    }


def _word(value: Any) -> str:
    """Write a value as the command line takes it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
