from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from timestepper.experiments.table1 import COLUMNS as TABLE1
from timestepper.experiments.table3 import COLUMNS as COMPARED
from timestepper.report.result_table import Column, ResultTable

TABLE = ResultTable(
    "A table",
    (
        Column("network", "network", text=True),
        Column("count", "a\ncount"),
        Column("quantity_m", "quantity"),
        Column("difference", "difference", signed=True, decimals=2),
    ),
    [("one", 1234567, 0.1 + 0.2, -0.001), ("one", 0, 2.0, 0.5), ("two", 5, 3.25, -1.0)],
    ["Counts are counted.", "A second note."],
)
MADE_BY = ["command: make it", "commit: 123"]


def test_csv_has_full_numbers_below_what_made_it():
    text = TABLE.to_csv(MADE_BY)
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert comments == ["# command: make it", "# commit: 123"] + [f"# {n}" for n in TABLE.notes]
    rest = "\n".join(text.splitlines()[len(comments) :])
    rows = list(csv.DictReader(io.StringIO(rest)))
    assert rows[0] == {
        "network": "one",
        "count": "1234567",
        "quantity_m": "0.3",
        "difference": "-0.001",
    }
    assert [row["network"] for row in rows] == ["one", "one", "two"]


def test_small_numbers_keep_their_digits_and_noise_is_none():
    columns = (
        *(Column("loss", "loss"), Column("interval", "±", plus_minus=True)),
        *(Column("difference", "difference", signed=True), Column("p", "p", is_p=True)),
    )
    rows = [
        (3.123456789e-10, 4e-10, 0.1 + 0.2 - 0.3, 2.812345678912e-12),
        (123456.123456789, 1e-16, 25.557 - 25.557032, 0.0123456789123),
        (0.5, 0.25, 2e-10, 0.0),
    ]
    table = ResultTable("", columns, rows, [])
    assert table.to_csv([]).splitlines()[1:] == [
        "3.12345679e-10,4e-10,0.0,2.81234568e-12",
        "123456.123456789,0.0,-3.2e-05,0.0123456789",
        "0.5,0.25,2e-10,0.0",
    ]


def test_small_p_values():
    column = Column("p", "p", is_p=True)
    table = ResultTable("", [column], [(p,) for p in (0.001, 0.000999, 2.8e-12)], [])
    assert table.to_markdown([]).splitlines()[4:7] == ["| 0.001 |", "| <0.001 |", "| <0.001 |"]


def test_markdown():
    lines = TABLE.to_markdown(MADE_BY).splitlines()
    assert lines[0] == "# A table"
    assert lines[2:7] == [
        "| network | a count | quantity | difference |",
        "| --- | ---: | ---: | ---: |",
        "| one | 1,234,567 | 0.300 | +0.00 |",
        "| one | 0 | 2.000 | +0.50 |",
        "| two | 5 | 3.250 | -1.00 |",
    ]
    assert "- A second note." in lines
    assert lines[-2:] == ["- command: make it", "- commit: 123"]


def test_markdown_shows_names_as_they_are():
    column = Column("network", "network", text=True)
    names = ["a|b", "<b>&x", r"c\d", "_plain_", "`code`", "*", "[x](y)", "TSC_LSTM"]
    lines = ResultTable("", [column], [(name,) for name in names], []).to_markdown([]).splitlines()
    assert lines[4:12] == [
        *(r"| a\|b |", r"| \<b>\&x |", r"| c\\d |", r"| \_plain\_ |"),
        *(r"| \`code\` |", r"| \* |", r"| \[x](y) |", "| TSC_LSTM |"),
    ]


def test_markdown_shows_what_made_it_as_it_is():
    text = TABLE.to_markdown(["command: it _plain_ <b>", "commit: a|b"])
    assert text.splitlines()[-2:] == [r"- command: it \_plain\_ \<b>", r"- commit: a\|b"]


def test_markdown_with_a_picture():
    lines = TABLE.to_markdown(MADE_BY, "table.png").splitlines()
    assert lines[:4] == ["# A table", "", "![A table](table.png)", ""]
    assert lines[4:] == TABLE.to_markdown(MADE_BY).splitlines()[2:]


@pytest.mark.parametrize("width", [80, 160])
def test_terminal(width):
    """The widest rows of the real tables fit in 80 columns, whole."""
    widest = {
        "table1": (TABLE1, ("ResNet-101", "TSC_LSTM", *[10708704] * 2, 36576, 32512, 0)),
        "table3": (
            (Column("network", "network", text=True), *COMPARED),
            ("ResNeXt-101", "train (Eq. 13)", *(46.621064, 46.45, -0.171064) * 2),
        ),
    }
    for columns, row in widest.values():
        console = Console(width=width, file=io.StringIO(), record=True)
        console.print(ResultTable("A table", columns, [row, row], []).to_rich())
        shown = console.export_text()
        assert "…" not in shown
        for column, cell in zip(columns, row, strict=True):
            assert column.show(cell) in shown
        # The group's name is not repeated.
        assert shown.count(str(row[0])) == 1
        assert max(map(len, shown.splitlines())) <= 80


def test_names_that_look_like_markup_are_shown():
    column = Column("network", "network", text=True)
    table = ResultTable("of [red]", [column], [("runs/a[seed=0]",), ("runs/a[seed=1]",)], [])
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table.to_rich())
    shown = console.export_text()
    assert all(name in shown for name in ("of [red]", "runs/a[seed=0]", "runs/a[seed=1]"))
