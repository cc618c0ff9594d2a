"""Commands that messages and pages tell the user to type."""

from __future__ import annotations

import shlex
from pathlib import Path


def command(*words: str | Path) -> str:
    """Write a command of this package as a shell takes it, whatever is in the names of folders.

    Args:
        *words: what comes after ``timestepper``.
    """
    return shlex.join(["timestepper", *map(_word, words)])


def _word(word: str | Path) -> str:
    """Keep a path that begins with a dash from being read as an option."""
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def resuming(*folders: Path) -> str:
    """Write the command with which trainings go on.

    Args:
        *folders: of their runs.
    """
    return command("train", "--resume", *folders)
