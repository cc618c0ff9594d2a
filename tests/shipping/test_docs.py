"""The commands and the code of docs/shipping.md run, one after the other."""

import re
import shlex
from pathlib import Path

import pytest

from timestepper.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "shipping.md"


@pytest.mark.slow
def test_every_block_runs(make_folder, capsys):
    make_folder("DIR", sizes=((32, 32),))
    blocks = re.findall(
        r"((?:^    [^\n]+\n)+)|^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S
    )
    assert len(blocks) == 10
    for commands, code in blocks:
        for command in commands.splitlines():
            program, *arguments = shlex.split(command)
            assert program == "timestepper"
            if arguments[0] == "train":
                arguments += ["--accelerator", "cpu", "--batch_size", "12", "--epochs", "1"]
            assert main(arguments) == 0, capsys.readouterr().err
        if code:
            exec(compile(code, PAGE.name, "exec"), {})
