"""The exceptions of the package.

Every one of them says what was found and what to do about it, in one line, so that the command
line can print the message as it is and leave with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def one_line(message: str) -> str:
    """Show line breaks and the like in what a user typed, where they would be obeyed."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in message)


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class TimestepperError(ValueError):
    """Base of all errors that a user of the package can cause and mend."""


class NoBranchError(TimestepperError):
    """No residual branch was found in a network, or one that was named does not exist."""


class AttachedError(TimestepperError):
    """The network already has step sizes, or has none where some are needed."""


class FoldError(TimestepperError):
    """A residual branch does not end in an operation that step sizes fold into exactly."""


class StateError(TimestepperError):
    """A state dict or checkpoint does not belong to the network."""


class StabilityError(TimestepperError):
    """The stability of a network can't be measured."""


class ExplanationError(TimestepperError):
    """What step sizes depend on can't be told: they are fixed, or no stage has two of them."""


class ShippingError(TimestepperError):
    """A network doesn't fit a format, or what was written doesn't do what the network does."""


class ConfigurationError(TimestepperError):
    """A configuration has an unknown key, a value of the wrong type or an impossible value."""


class DataError(TimestepperError):
    """A data set is unknown, missing, empty or broken."""


class RunError(TimestepperError):
    """A run folder exists already, is missing, or is not a run; or a training had to stop."""


class SolverError(TimestepperError):
    """A differential equation isn't one, or its solution can't be followed up to the end."""


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """Name the nearest of the known names, as the end of an error message.

    Args:
        name: what was asked for.
        known: what there is.
        count: the most names to suggest.

    Returns:
        ``"; did you mean 'a' or 'b'?"``, or an empty string where nothing is near.
    """
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
