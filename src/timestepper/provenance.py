"""What made a result: command, commit, versions, hardware."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from timestepper import __version__

ROOT = Path(__file__).parents[2]
"""The repository, where the package runs from one."""


def provenance(device: torch.device | None = None, *, command: str | None = None) -> list[str]:
    """Describe what is being run, a line a fact, without machine names or paths.

    Args:
        device: where it runs; without one, the CPU.
        command: what a reader would type; by default the running script with its arguments.
    """
    instructions = torch.backends.cpu.get_cpu_capability()
    hardware = (
        f"{os.cpu_count()} CPU cores ({platform.machine()}, {instructions}), "
        f"{torch.get_num_threads()} threads"
    )
    if device is not None and device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)}, {hardware}"
    return [
        f"command: {command or _running_script()}",
        f"commit: {commit()}",
        f"versions: python {platform.python_version()}, torch {torch.__version__}, "
        f"timm {version('timm')}",
        f"hardware: {hardware}",
        f"date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
    ]


def _running_script() -> str:
    script = Path(sys.argv[0]).resolve()
    where = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return shlex.join(["python", str(where), *sys.argv[1:]])


@cache
def commit() -> str:
    """Name the commit of the code when this is first called, and whether the code differs."""
    here = Path(__file__)
    # An installed package may lie inside somebody else's repository.
    if not _git("ls-files", str(here)):
        return f"unknown (timestepper {__version__})"
    head = _git("rev-parse", "--short", "HEAD")
    # What was measured before is no part of the code.
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
    return f"{head} with changes" if changes else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # There is no git.
        return ""
