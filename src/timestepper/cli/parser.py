"""The parser of each command."""

from __future__ import annotations

from jsonargparse import ArgumentParser


class CommandParser(ArgumentParser):
    """A command's parser.

    Attributes:
        given: the arguments of this call.
    """

    given: list[str]

    def settings(self) -> set[str]:
        """Name the settings that were given, some perhaps with their default's value."""
        return set(self.parse_args(self.given, defaults=False).keys())
