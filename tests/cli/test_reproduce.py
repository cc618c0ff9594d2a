"""``timestepper reproduce`` as its user sees it."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from timestepper.cli import main
from timestepper.experiments import TRAINED, figure1, figure3, table1, table2, table3
from timestepper.report.result_table import Column, ResultTable


@pytest.fixture
def quick(monkeypatch):
    """Tables 2 and 3 without counting anything."""
    made = ResultTable("made", (Column("network", "network", text=True),), [("it",)], ["A note."])
    for module in (table2, table3):
        monkeypatch.setattr(module, "count", lambda: made)


def test_prints_and_writes_into_results(capsys, monkeypatch):
    monkeypatch.setattr(table1, "NETWORKS", {"ResNet-18": table1.NETWORKS["ResNet-18"]})
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


def test_what_is_written_depends_on_what_was_made(quick, monkeypatch, capsys):
    """Not on the experiment's name: a figure has a picture, a table has none."""
    monkeypatch.setattr(table1, "calculate", figure1.calculate)
    assert main(["reproduce", "table1"]) == 0
    monkeypatch.setattr(figure3, "present", lambda *_: table2.count())
    monkeypatch.setattr("timestepper.experiments.runner.carry_out", lambda *_: [])
    monkeypatch.setattr("timestepper.experiments.outcomes.read_outcomes", lambda _: [None])
    monkeypatch.setattr(
        "timestepper.experiments.method_comparison.runs_table", lambda *_: table2.count()
    )
    assert reproduce("figure3", "--scale", "smoke") == 0
    assert {path.name for path in Path("results").iterdir()} == {
        *("table1.csv", "table1.md", "table1.png"),
        *("figure3-smoke.csv", "figure3-smoke.md", "figure3-smoke-runs.csv"),
    }


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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder for all smoke trainings, as experiments share them."""
    return tmp_path_factory.mktemp("runs")


def reproduce(*arguments, runs=None):
    shared = [] if runs is None else ["--runs", str(runs)]
    return main(["reproduce", *arguments, *shared])


# The others are tables of like trainings, or the same trainings drawn otherwise.
QUICK = ("figure4",)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRAINED],
)
def test_smoke_of_every_experiment(name, runs, capsys):
    assert reproduce(name, "--scale", "smoke", "--jobs", "2", runs=runs) == 0
    shown = capsys.readouterr().out
    assert "to do: about " in shown
    assert "digits, 1 epoch (recipe smoke)" in shown
    assert {path.name for path in Path("results").iterdir()} == {
        f"{name}-smoke{suffix}" for suffix in (".csv", ".md", ".png", "-runs.csv")
    }
    page = Path(f"results/{name}-smoke.md").read_text()
    assert f"]({name}-smoke.png)" in page
    assert f"- command: timestepper reproduce {name} --scale smoke\n" in page
    assert "Failed" not in page
    with Image.open(f"results/{name}-smoke.png") as picture:
        assert min(picture.size) > 300
    lines = Path(f"results/{name}-smoke-runs.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert all(0 <= float(row["error_percent"]) < 100 for row in rows)


def test_what_is_done_is_not_trained_again(runs, capsys):
    assert reproduce("figure3", "--scale", "smoke", "--jobs", "2", runs=runs) == 0
    capsys.readouterr()
    assert reproduce("figure3", "--scale", "smoke", "--force", runs=runs) == 0
    shown = capsys.readouterr().out
    assert "to do: about 0 seconds" in shown
    assert "smoke/cifar_resnet8" not in shown.partition("Figure 3")[0]


def test_dry_run_shows_the_plan_and_leaves_nothing(capsys):
    assert reproduce("table2", "--scale", "smoke", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "TSC_2fc" in shown
    assert "to do: about " in shown
    assert list(Path().iterdir()) == []


def test_too_long_for_the_budget(capsys):
    assert reproduce("figure5", "--scale", "smoke", "--budget", "1e-6") == 2
    error = capsys.readouterr().err
    assert error.startswith("timestepper: error: figure5 at scale smoke takes about ")
    assert "--budget allows 1e-06; take a smaller --scale" in error
    assert list(Path().iterdir()) == []


def test_a_failed_run_is_left_out_of_the_table_and_tells_by_its_status(tmp_path, capsys):
    assert reproduce("figure3", "--scale", "smoke", "--jobs", "2") == 0
    broken = Path("runs/smoke/cifar_resnet8-plain-1")
    (broken / "folded.safetensors").unlink()
    for checkpoint in (broken / "checkpoints").iterdir():
        checkpoint.write_bytes(b"rotten")
    capsys.readouterr()
    assert reproduce("figure3", "--scale", "smoke", "--force") == 1
    shown = capsys.readouterr().out
    assert (
        "1 of 1: smoke/cifar_resnet8-plain-1 failed: runs/smoke/cifar_resnet8-plain-1/check"
        in shown
    )
    page = Path("results/figure3-smoke.md").read_text()
    assert "Failed, and therefore left out: plain of ResNet-8 (digits, 1 epoch), seed 1." in page


def test_a_folder_that_is_no_run_is_refused_and_stays(capsys):
    mine = Path("runs/smoke/cifar_resnet8-plain-1/mine.txt")
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    assert reproduce("figure3", "--scale", "smoke") == 2
    assert "cifar_resnet8-plain-1 is not a run" in capsys.readouterr().err
    assert mine.read_text() == "precious"


def test_seeds_are_as_many_as_asked_for(capsys):
    assert reproduce("table4", "--scale", "smoke", "--seeds", "3", "--dry-run") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "smoke" in line]
    assert {"3"} <= set(rows[0])


@pytest.mark.slow
def test_more_seeds_than_the_scale_has(runs, capsys):
    assert reproduce("table4", "--scale", "smoke", "--seeds", "3", runs=runs) == 0
    page = Path("results/table4-smoke.md").read_text()
    assert "- command: timestepper reproduce table4 --scale smoke --seeds 3\n" in page
    lines = Path("results/table4-smoke-runs.csv").read_text().splitlines()
    assert [line.split(",")[3] for line in lines if line.startswith("smoke,")] == ["0", "1", "2"]


def test_other_images_are_refused_before_anything_is_trained(make_folder, capsys):
    folder = str(make_folder())
    assert reproduce("table4", "--scale", "quick", "--data.data_dir", folder) == 2
    assert capsys.readouterr().err == (
        "timestepper: error: protocol quick-cifar10 needs CIFAR-10 (JPEG) at 16×16, 5 epochs, but "
        "the images found have 2 classes, not 10; say with --data.data_dir where they are\n"
    )
    assert not Path("runs").exists()


def test_a_file_in_the_place_of_the_runs(capsys):
    Path("mine").write_text("precious")
    assert reproduce("table4", "--scale", "smoke", runs="mine") == 2
    assert "mine is a file; name a folder for the trainings with --runs" in capsys.readouterr().err
    assert Path("mine").read_text() == "precious"
    Path("runs").mkdir()
    Path("runs/smoke").write_text("precious")
    assert reproduce("table4", "--scale", "smoke", runs="runs") == 2
    assert capsys.readouterr().err == "timestepper: error: runs/smoke: File exists\n"


def test_a_missing_data_set_is_one_line_before_anything_is_made(capsys):
    assert reproduce("figure4", "--scale", "paper") == 2
    error = capsys.readouterr().err
    assert error.startswith("timestepper: error: ")
    assert "'cifar10'" in error
    assert error.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_results_of_another_protocol_are_refused(runs, capsys):
    assert reproduce("figure3", "--scale", "smoke", "--jobs", "2", runs=runs) == 0
    settings = runs / "smoke" / "cifar_resnet8-plain-0" / "configuration.yaml"
    before = settings.read_text()
    settings.write_text(before.replace("batch_size: 64", "batch_size: 32"))
    try:
        assert reproduce("figure3", "--scale", "smoke", "--force", runs=runs) == 2
        assert "made with batch_size 32, and the plan has 64" in capsys.readouterr().err
    finally:
        settings.write_text(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table4", "--counts"], "table4 has no counts of its own (table2 and table3 have)"),
        (
            ["table1", "--dry-run"],
            "table1 trains nothing; leave dry_run out",
        ),
        (["figure1", "--seeds", "7", "--runs", "x"], "figure1 trains nothing; leave runs, seeds"),
        (["table2", "--counts", "--budget", "1"], "table2 trains nothing with --counts; leave"),
        (["figure5", "--jobs", "0"], "--jobs is 0; it must be at least 1"),
        (["figure5", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["figure6"], "there is no experiment 'figure6'; did you mean"),
        (["figure5", "--scale", "huge"], "scale is 'huge'; it must be one of 'smoke', 'quick', "),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert reproduce(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"timestepper: error: {message}")
    assert list(Path().iterdir()) == []
