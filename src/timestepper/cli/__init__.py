"""The command line: one small module for each command."""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from timestepper import __version__
from timestepper.cli.parser import CommandParser, recipes_first
from timestepper.errors import TimestepperError, did_you_mean, one_line
from timestepper.files import is_text
from timestepper.training.interruption import Interrupted
from timestepper.training.recipes import explain

COMMANDS = {
    "train": "Train a network with adaptive time stepping, and leave a folded plain one.",
    "evaluate": "Measure a run's network on its test images.",
    "fold": "Fold a run's step sizes into its weights and write an ordinary network.",
    "steps": "Show step sizes and evolution time, by stage and block, as a table and a plot.",
    "stability": "Measure how perturbations grow in a network, and the paper's bound on it.",
    "robustness": "Measure networks under noise, common corruptions and adversarial attacks.",
    "report": "Write one interactive page about a run, or compare several.",
    "reproduce": "Make a table or figure of the paper, beside the paper's own numbers.",
    "bench": "Time a training on this machine, and what step sizes add to it.",
    "demo": "Train a plain and a time-stepped network on digits, side by side, and fold.",
}
"""What each command does. Its module of the same name has ``EXAMPLES``, ``add_arguments``, ``run``;
only the module of the command that was asked for is imported."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the examples' lines as they are; all commands take it over."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; by default the process's own.

    Returns:
        The exit status: 0; 2 for a user's mistake; 128 and the signal's number after a signal.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without γ or … shows the rest
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = ArgumentParser(
        prog="timestepper",
        description="Adaptive time stepping for residual networks.",
        version=__version__,
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    named = next((word for word in given if not word.startswith("-")), "")
    chosen = parser
    for name, summary in COMMANDS.items():
        own = CommandParser(
            description=summary,
            exit_on_error=False,
            allow_abbrev=False,
        )
        if name == named:
            command, chosen = import_module(f"timestepper.cli.{name}"), own
            own.given = recipes_first(given[given.index(named) + 1 :])
            given[given.index(named) + 1 :] = own.given
            own.epilog = "examples:\n" + "\n".join(f"  {line}" for line in command.EXAMPLES)
            command.add_arguments(own)
        commands.add_subcommand(name, own, help=summary)
    try:
        if not given:
            parser.print_help()
            return 2
        for word in given:
            if not is_text(word):
                return _fail(
                    f"'{word}' is not text in this terminal's encoding; rename it, or set "
                    "PYTHONUTF8=1"
                )
        if named and named not in COMMANDS:
            hint = did_you_mean(named, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
            return _fail(f"there is no command '{named}'{hint}")
        try:
            parsed = parser.parse_args(given)
        except (argparse.ArgumentError, TypeError) as error:
            return _fail(explain(error, chosen))
        # Only here, because it takes half a second to import what is around it.
        from timestepper.data.workers import living_workers

        with _warnings_shown(), living_workers():
            status: int = command.run(chosen, parsed[named])
        return status
    except TimestepperError as error:
        return _fail(str(error))
    except Interrupted as stop:
        print(f"timestepper: {stop}", file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}")


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Show what the package warns of."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("timestepper: warning: %(message)s"))
    log = logging.getLogger("timestepper")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _fail(message: str) -> int:
    print(f"timestepper: error: {one_line(message)}", file=sys.stderr)
    return 2
