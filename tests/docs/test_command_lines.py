"""Every command line of the pages is accepted by the command's own parser; nothing is run."""

import itertools
import re
import shlex
from importlib import import_module

import pytest
from pages import PAGES, fenced_blocks, name, read, without_fenced_blocks

from timestepper.cli import COMMANDS, main
from timestepper.experiments import EXPERIMENTS
from timestepper.training.recipes import to_configuration

STAND_FOR = {
    "--recipe NAME": "--recipe smoke",
    "EXPERIMENT": "figure1",
    "reproduce NAME": "reproduce figure1",
}
"""Placeholders whose values are checked, and a value."""


def command_lines(text):
    """Find what follows ``timestepper`` in blocks of code and, where it has arguments, in lines."""
    outside = without_fenced_blocks(text)
    blocks = [block.code for block in fenced_blocks(text) if block.language in ("", "sh")]
    blocks += re.findall(r"(?:^ {4}.*\n)+", outside, re.MULTILINE)
    for block in blocks:
        for variable, value in re.findall(r"for (\w+) in (\S+)", block):
            block = block.replace(f"${variable}", value)
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if found := re.search(r"(?:^|\s)timestepper\s+(\S.*)", line):
                yield found[1].partition(" #")[0]
    prose = re.sub(r"^ {4}.*$", "", outside, flags=re.MULTILINE)
    for inline in re.findall(r"`([^`]+)`", prose):
        if found := re.search(r"(?:^|\s)timestepper\s+(\w+\s+\S.*)", inline, re.DOTALL):
            yield found[1]


def alternatives(line):
    """Write ``a|b`` out as one command for each, and leave ellipses out."""
    for placeholder, value in STAND_FOR.items():
        line = line.replace(placeholder, value)
    words = [word.rstrip(".…;") for word in shlex.split(line)]
    return itertools.product(*(word.split("|") for word in words if word))


LINES = [
    pytest.param(list(words), id=f"{name(page)}: {' '.join(words)}")
    for page in PAGES
    if name(page) != "CHANGELOG.md"
    for line in dict.fromkeys(command_lines(read(page)))
    for words in alternatives(line)
]


@pytest.mark.parametrize("arguments", LINES)
def test_command_line(arguments, monkeypatch, capsys):
    command = arguments[0]
    if command == "--help":
        return
    assert command in COMMANDS
    if arguments[1:] == ["--help"]:
        return

    def check(parser, parsed):
        if "stepping" in parsed:  # the settings of a training
            to_configuration(parser, parsed)
        if command == "reproduce":
            assert parsed.experiment in EXPERIMENTS
        return 0

    monkeypatch.setattr(import_module(f"timestepper.cli.{command}"), "run", check)
    assert main(arguments) == 0, capsys.readouterr().err


def test_that_there_are_command_lines():
    assert len(LINES) > 60
