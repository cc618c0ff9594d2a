"""Configurations as YAML: recipes by name, and what a run writes down of itself."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]

from timestepper.errors import ConfigurationError, did_you_mean
from timestepper.files import expanded, write_atomically
from timestepper.training.configuration import Configuration

PACKAGE = Path(__file__).parents[1]
# A wheel carries the recipes inside of the package; a checkout has them beside src/.
FOLDERS = (PACKAGE / "recipes", PACKAGE.parents[1] / "recipes")
MALFORMED = (argparse.ArgumentError, TypeError, ValueError, OSError)
"""What the parser raises for a file that it can't read or accept."""
SYNONYMS = {"learning_rate": "lr"}
"""What others call settings that are not near in letters."""


def list_recipes() -> list[str]:
    """Name the recipes that come with the package."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


def find_recipe(name: str) -> Path:
    """Find a recipe by its file or its bare name.

    Raises:
        ConfigurationError: there is no such file, and no recipe of that name.
    """
    path = expanded(name)
    return path if path.is_file() else packaged_recipe(name)


def packaged_recipe(name: str) -> Path:
    """Find a recipe that comes with the package by its bare name.

    Raises:
        ConfigurationError: there is none.
    """
    for folder in FOLDERS:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = list_recipes()
    hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
    raise ConfigurationError(f"recipe '{name}' is neither a file nor a recipe's name{hint}")


class RecipeAction(ActionConfigFile):
    """Argument that takes a recipe's file or bare name."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Read the recipe into the namespace."""
        path = find_recipe(values)
        try:
            super().__call__(parser, namespace, str(path), option_string)
        except MALFORMED as error:
            raise ConfigurationError(f"{path}: {explain(error, parser)}") from error


def add_configuration(parser: ArgumentParser) -> None:
    """Give a parser an argument for each setting of :class:`Configuration`, and ``--recipe``."""
    parser.add_argument(
        "--recipe",
        action=RecipeAction,
        help="recipe to start from: a YAML file, or one of " + ", ".join(list_recipes()),
    )
    parser.add_class_arguments(Configuration)


def to_configuration(parser: ArgumentParser, parsed: Namespace) -> Configuration:
    """Build the records from what a parser of :func:`add_configuration` has read.

    Raises:
        ConfigurationError: a value is impossible.
    """
    defaults = parser.get_defaults()
    for entry in fields(Configuration):
        for key, value in Namespace({entry.name: parsed[entry.name]}).items():
            if value is None and defaults[key] is not None:
                raise ConfigurationError(f"{key} is empty; give it a value or leave it out")
    built = parser.instantiate(parsed)
    return Configuration(**{entry.name: built[entry.name] for entry in fields(Configuration)})


def read_configuration(path: Path) -> Configuration:
    """Read a complete configuration, as :func:`write_configuration` writes it.

    Raises:
        ConfigurationError: the file is missing or not a valid configuration.
    """
    parser = _file_parser()
    try:
        return to_configuration(parser, parser.parse_string(path.read_text(encoding="utf-8")))
    except ConfigurationError:
        raise
    except MALFORMED as error:
        raise ConfigurationError(f"{path}: {explain(error, parser)}") from error


def overlaid(configuration: Configuration, settings: dict[str, Any], where: str) -> Configuration:
    """Change some settings of a configuration.

    Args:
        configuration: what to start from.
        settings: what differs, nested as in YAML.
        where: where the settings come from, for messages.

    Raises:
        ConfigurationError: a setting is unknown or impossible.
    """
    parser = _file_parser()
    try:
        merged = _merged(asdict(configuration), settings)
        return to_configuration(parser, parser.parse_object(merged))
    except ConfigurationError:
        raise
    except MALFORMED as error:
        raise ConfigurationError(f"{where}: {explain(error, parser)}") from error


def _merged(base: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in settings.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def write_configuration(configuration: Configuration, path: Path) -> None:
    """Write a complete configuration as YAML."""
    parser = _file_parser()
    parsed = parser.parse_object(asdict(configuration))
    write_atomically(path, parser.dump(parsed, skip_unset=False).encode())


@cache
def _file_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Configuration)
    return parser


def explain(error: Exception, parser: ArgumentParser) -> str:
    """Say in one line what a parser did not accept, with the nearest names of settings.

    Args:
        error: what the parser raised.
        parser: the parser, which knows its settings' names.
    """
    message = re.sub(r"\s+", " ", str(error)).strip()
    settings = [action.dest for action in parser._actions if action.option_strings]
    if message.startswith("Unexpected config:"):
        return "not a list of settings such as 'epochs: 30'"
    if found := re.fullmatch(r'Problems parsing config: (.*) in "<unicode string>"(.*)', message):
        return f"not valid YAML: {found[1]}{found[2]}"
    if isinstance(error, UnicodeDecodeError):
        return "not a text file"
    if found := re.search(r"arguments are required: (?:\w+\.)?(\w+)", message):
        return f"{found[1].upper()} is missing; see --help"
    if found := re.search(r"Group '([\w.]+)' does not accept option '([^']+)'", message):
        return _unknown(f"{found[1]}.{found[2]}", settings)
    if found := re.search(r"[Oo]ption '([^']+)'(?: is not accepted|$)", message):
        return _unknown(found[1], settings)
    if found := re.search(r"unrecognized arguments: ([^\s=]+)", message):
        if not found[1].startswith("-"):
            return f"there is no argument {found[1]!r} here; settings are written as --name value"
        return _unknown(found[1].lstrip("-"), settings)
    if found := re.search(r'Parser key "([\w.]+)": Unable to load config \'?(.+?)\'? - ', message):
        return (
            f"{found[1]} is {found[2]!r}; it must be a group of settings such as {{name: ...}}"
            f"{did_you_mean(f'{found[1]}.name', settings, count=1)}"
        )
    if found := re.search(r'Parser key "([\w.]+)": (.*) value: (.*)', message):
        kinds = re.findall(r"Expected an? (<class '\w+'>|typing\.Literal\[[^]]*\])", found[2])
        demand = " or ".join(_describe(kind) for kind in kinds)
        return f"{found[1]} is {found[3]!r}; it must be {demand}"
    return message


def _unknown(key: str, settings: list[str]) -> str:
    last = key.rpartition(".")[2]
    last = SYNONYMS.get(last, last)
    same = [setting for setting in settings if setting.rpartition(".")[2] == last]
    hint = did_you_mean(same[0], same) if same else did_you_mean(key, settings)
    return f"there is no setting '{key}'{hint}"


def _describe(kind: str) -> str:
    """Say what a type means to somebody who writes YAML."""
    options = re.fullmatch(r"typing\.Literal\[(.*)\]", kind)
    if options:
        return f"one of {options[1]}"
    return {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "a text",
        "tuple": "a list such as [0.5, 0.75]",
        "dict": "settings such as {key: value}",
        "NoneType": "null",
    }[kind.split("'")[1]]
