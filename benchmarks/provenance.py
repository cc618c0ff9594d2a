"""What made a result: command, commit, versions, hardware."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch


def provenance(device: torch.device | None = None) -> list[str]:
    """Describe the run of the current script, a line a fact, without machine names or paths."""
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    if git("status", "--porcelain", "--untracked-files=no"):
        commit += " with changes"
    script = Path(sys.argv[0]).resolve()
    where = script.relative_to(root) if script.is_relative_to(root) else script.name
    command = shlex.join(["python", str(where), *sys.argv[1:]])
    hardware = (
        f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads"
    )
    if device is not None and device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)}, {hardware}"
    return [
        f"command: {command}",
        f"commit: {commit}",
        f"versions: python {platform.python_version()}, torch {torch.__version__}",
        f"hardware: {hardware}",
        f"date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
    ]
