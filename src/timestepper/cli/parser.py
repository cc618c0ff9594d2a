"""The parser of each command."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

RECIPE = "--recipe"


class CommandParser(ArgumentParser):
    """A command's parser.

    Attributes:
        given: the arguments of this call.
    """

    given: list[str]

    def settings(self) -> set[str]:
        """Name the settings that were given, some perhaps with their default's value."""
        return set(self.parse_args(self.given, defaults=False).keys())


def recipes_first(words: Sequence[str]) -> list[str]:
    """Put recipes in front of settings, which are to change them wherever they stand.

    Args:
        words: a command's arguments.
    """
    recipes: list[str] = []
    others: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        is_recipe = RECIPE in (before, word) or word.startswith(f"{RECIPE}=")
        (recipes if is_recipe else others).append(word)
    return recipes + others
