from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from timestepper import __version__
from timestepper import provenance as module
from timestepper.provenance import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with the module in it and a result."""
    root = tmp_path / "repository"
    code = root / "src" / "module.py"
    (root / "results").mkdir(parents=True)
    code.parent.mkdir()
    code.write_text("1\n")
    (root / "results" / "table.csv").write_text("1\n")
    monkeypatch.setattr(module, "ROOT", root)
    module.commit.cache_clear()
    monkeypatch.setattr(module, "__file__", str(code))
    git(root, "init", "--quiet")
    yield root
    module.commit.cache_clear()


def git(root, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
    command = ["git", "-C", root, *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit_now():
    module.commit.cache_clear()
    facts = provenance()
    return next(fact for fact in facts if fact.startswith("commit: ")).removeprefix("commit: ")


def test_commit_and_changes(repository):
    assert commit_now() == f"unknown (timestepper {__version__})"  # Somebody else's.
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "first")
    head = git(repository, "rev-parse", "--short", "HEAD")
    assert commit_now() == head
    (repository / "results" / "table.csv").write_text("2\n")
    assert commit_now() == head
    (repository / "src" / "module.py").write_text("2\n")
    # The code that was loaded is what it was.
    assert f"commit: {head}" in provenance()
    assert commit_now() == f"{head} with changes"


def test_without_git(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    assert commit_now() == f"unknown (timestepper {__version__})"


def test_command(repository, monkeypatch):
    assert provenance(command="timestepper reproduce table1")[0] == (
        "command: timestepper reproduce table1"
    )
    script = repository / "benchmarks" / "speed.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--rounds", "3"])
    assert provenance()[0] == "command: python benchmarks/speed.py --rounds 3"


def test_versions_and_no_path(repository):
    facts = provenance(command="x")
    assert any(f"torch {torch.__version__}" in fact for fact in facts)
    assert not any(str(repository) in fact for fact in facts)
