"""``timestepper reproduce`` as its user sees it."""

from pathlib import Path

import pytest
from PIL import Image

from timestepper.cli import main
from timestepper.experiments import table2, table3
from timestepper.experiments.result_table import Column, ResultTable


@pytest.fixture
def quick(monkeypatch):
    """Tables 2 and 3 without counting anything."""
    made = ResultTable("made", (Column("network", "network", text=True),), [("it",)], ["A note."])
    for module in (table2, table3):
        monkeypatch.setattr(module, "count", lambda: made)


def test_prints_and_writes_into_results(capsys):
    assert main(["reproduce", "table1"]) == 0
    shown = capsys.readouterr().out
    assert "Table 1: parameters that the controllers add" in shown
    assert "table: results/table1.csv\ntable: results/table1.md\n" in shown
    text = Path("results/table1.csv").read_text()
    assert text.startswith("# command: timestepper reproduce table1\n# commit: ")
    assert "\nResNet-18,TSC_LSTM,1827840,1830000,2160,1920,0\n" in text
    page = Path("results/table1.md").read_text()
    assert "| ResNet-18 | TSC_LSTM | 1,827,840 | 1,830,000 | +2,160 | 1,920 | 0 |" in page
    assert "command: timestepper reproduce table1" in page
    assert sorted(path.name for path in Path("results").iterdir()) == ["table1.csv", "table1.md"]


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_counts_have_files_of_their_own(name, quick, capsys):
    Path("elsewhere").mkdir()
    assert main(["reproduce", name, "--counts", "--output", "elsewhere"]) == 0
    assert "- A note." in capsys.readouterr().out
    text = Path(f"elsewhere/{name}-counts.csv").read_text()
    # The folder may name a machine's user; the command is what anyone would type.
    assert text.startswith(f"# command: timestepper reproduce {name} --counts\n")
    assert Path(f"elsewhere/{name}-counts.md").exists()
    assert not Path("results").exists()


def test_files_are_kept_unless_forced(quick, capsys):
    Path("results").mkdir()
    Path("results/table2-counts.md").write_text("precious")
    assert main(["reproduce", "table2", "--counts"]) == 2
    assert "results/table2-counts.md exists already; name another folder with --output, or add" in (
        capsys.readouterr().err
    )
    assert Path("results/table2-counts.md").read_text() == "precious"
    assert not Path("results/table2-counts.csv").exists()
    assert main(["reproduce", "table2", "--counts", "--force"]) == 0
    assert "precious" not in Path("results/table2-counts.md").read_text()


def test_a_figure_has_a_picture_beside_its_table(capsys):
    assert main(["reproduce", "figure1"]) == 0
    shown = capsys.readouterr().out
    assert "Figure 1: Euler's method and Runge-Kutta-Fehlberg" in shown
    assert "figure: results/figure1.png\n" in shown
    files = ["figure1.csv", "figure1.md", "figure1.png"]
    assert sorted(path.name for path in Path("results").iterdir()) == files
    with Image.open("results/figure1.png") as picture:
        assert picture.text["Description"].startswith(
            "command: timestepper reproduce figure1\ncommit: "
        )
    assert "](figure1.png)\n" in Path("results/figure1.md").read_text()
    assert '\n"Euler, h = 0.6",0.6,0.6,5,5,5.378246144\n' in (
        Path("results/figure1.csv").read_text()
    )


def test_a_picture_is_kept_unless_forced(capsys):
    Path("results").mkdir()
    Path("results/figure1.png").write_text("precious")
    assert main(["reproduce", "figure1"]) == 2
    assert "results/figure1.png exists already; name another" in capsys.readouterr().err
    assert [path.name for path in Path("results").iterdir()] == ["figure1.png"]
    assert main(["reproduce", "figure1", "--force"]) == 0
    assert Path("results/figure1.png").read_bytes().startswith(b"\x89PNG")


def test_a_failing_write_loses_nothing(quick, monkeypatch, capsys):
    """The table is shown before it is written."""

    def fail(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("timestepper.cli.reproduce.write_atomically", fail)
    assert main(["reproduce", "table2", "--counts"]) == 2
    shown = capsys.readouterr()
    assert "- A note." in shown.out
    assert shown.err == ("timestepper: error: results/table2-counts.csv: Permission denied\n")
