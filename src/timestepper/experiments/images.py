"""The images of an experiment: those that tables name, and the same ones for all its trainings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from timestepper.data import DataSet
from timestepper.data.fingerprint import differences
from timestepper.errors import DataError, RunError
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.study import Protocol, read_protocols
from timestepper.training.configuration import Configuration

Fingerprint = dict[str, Any]


def require_same_images(
    planned: Sequence[PlannedRun], load: Callable[[Configuration], DataSet]
) -> None:
    """Refuse trainings on other images than the protocol's, or than others with the same settings.

    Args:
        planned: the trainings, some of them done.
        load: loads the images of a training; called only where something is left to do.

    Raises:
        DataError: the images at hand are not those of the protocol, or missing.
        RunError: a run was trained on others.
    """
    protocols = read_protocols()
    alike: dict[tuple[Any, ...], list[PlannedRun]] = {}
    for each in planned:
        # Methods may have images of their own; how they are read makes no others.
        data = each.configuration.data
        what = (each.protocol, data.name, data.data_dir, data.image_size)
        alike.setdefault(what, []).append(each)
    for (name, *_), runs in alike.items():
        here: Fingerprint | None = None
        if any(each.state != "done" for each in runs):
            here = load(runs[0].configuration).fingerprint()
            if wrong := _differs(here, protocols[name]):
                raise DataError(
                    f"protocol {name} needs {protocols[name].label}, but the images found have "
                    f"{wrong}; say with --data.data_dir where they are"
                )
        for each in runs:
            if each.state == "new":
                continue
            found = _read(each)
            wrong = _differs(found, protocols[name])
            if wrong or differences(found, here := here or found):
                raise RunError(
                    f"{each.run.folder} was trained on other images than "
                    f"{'the protocol names: ' + wrong if wrong else 'the rest of the experiment'}; "
                    "move that run away, or name another folder with --runs"
                )


def _read(planned: PlannedRun) -> Fingerprint:
    try:
        found: Fingerprint = json.loads(planned.run.data.read_text(encoding="utf-8"))
        len(found["classes"]), found["training_images"], found["test_images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{planned.run.data} is missing or broken, so that nobody knows what images that run "
            "was trained on; remove the run to train it anew"
        ) from error
    return found


def _differs(found: Fingerprint, protocol: Protocol) -> str:
    """Say in what images differ from a protocol's, or nothing."""
    for what, have, want in (
        ("classes", len(found["classes"]), protocol.classes),
        ("training images", found["training_images"], protocol.training_images),
        ("test images", found["test_images"], protocol.test_images),
    ):
        if have != want:
            return f"{have:,} {what}, not {want:,}"
    return ""
