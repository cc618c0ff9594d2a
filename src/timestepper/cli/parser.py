"""The parser of each command."""

from __future__ import annotations

from jsonargparse import ArgumentParser


class CommandParser(ArgumentParser):
    """A command's parser.

    Attributes:
        given: the arguments of this call, which tell a setting from a default of the same value.
    """

    given: list[str]
