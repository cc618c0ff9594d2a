"""How a command may end: well, or with one line about what was wrong, and no file changed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import warnings
from pathlib import Path

from timestepper.cli import main
from timestepper.data.cache import default_folder

ERROR = "timestepper: error: "
WARNING = "timestepper: warning: "


def contents(folder=Path()):
    """Every file and folder below, but the cache, and what is in it."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if default_folder() not in (path.absolute(), *path.absolute().parents)
        and path.absolute() not in default_folder().parents
    }


def end(*arguments):
    """Run a command; return its status and what it says on both streams."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with streams[0], streams[1], warnings.catch_warnings():
        # As outside of tests: what warns is shown, and is then one line too many.
        warnings.simplefilter("default")
        warnings.showwarning = _show
        try:
            status = main(arguments)
        except SystemExit as done:  # argparse, when it has shown the help
            assert "usage:" in out.getvalue()
            status = done.code
    return status, out.getvalue(), err.getvalue()


def _show(message, category, *where):
    if category is not DeprecationWarning:  # which Python shows to nobody
        print(f"{category.__name__}: {message}", file=sys.stderr)


def assert_ends_clearly(*arguments, may_write=()):
    """Run a command that may succeed or not.

    Args:
        arguments: the command's.
        may_write: files and folders that a successful command writes, or a started training.
    """
    before = contents()
    status, out, err = end(*arguments)
    said = [line for line in err.splitlines() if not line.startswith(WARNING)]
    if status == 0:
        assert said == []
    else:
        assert status == 2
        assert [line.startswith(ERROR) for line in said] == [True], err
        assert len(said[0]) > len(ERROR) + 10
        assert "Traceback" not in out
    after = contents()
    allowed = {Path(path) for path in may_write}
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert not {path for path in changed if not allowed & {path, *path.parents}}
    return status
