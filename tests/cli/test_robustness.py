"""``timestepper robustness`` as its user sees it."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timestepper.cli import main
from timestepper.training.run import Run
from timestepper.training.trained import load_trained

TINY = ["--network.name", "cifar_resnet8", "--epochs", "1", "--accelerator", "cpu"]
QUICK = ["--deviations", "0", "0.5", "--draws", "2", "--limit", "50"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The runs ``stepped`` and ``plain``."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *TINY, "--folder", str(folder / "stepped")]) == 0
    plain = ["--folder", str(folder / "plain"), "--stepping.controller", "none"]
    assert main(["train", *TINY, *plain]) == 0
    return folder


@pytest.fixture
def runs(trained, capsys):
    for name in ("stepped", "plain"):
        shutil.copytree(trained / name, name)
    capsys.readouterr()


@pytest.fixture
def photos(make_folder, capsys):
    """A run on images of 32x32 pixels, in the folder ``photos``."""
    folder = make_folder("images", sizes=((32, 32),))
    data = ["--data.name", "imagefolder", "--data.data_dir", str(folder), "--batch_size", "4"]
    assert main(["train", *TINY, *data, "--folder", "photos"]) == 0
    capsys.readouterr()


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def read(path):
    lines = Path(path).read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_noise_on_two_runs(runs, capsys):
    assert main(["robustness", "stepped", "plain", *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "Accuracy and loss under Gaussian noise" in shown
    assert "mean of 2 draws (seed 0), the same" in " ".join(shown.split())
    assert names("stepped/robustness") == ["noise.csv", "noise.md", "noise.png"]
    rows = read("stepped/robustness/noise.csv")
    assert [row["network"] for row in rows] == 4 * ["stepped"] + 4 * ["plain"]
    assert [(row["case"], row["deviation"]) for row in rows[:4]] == [
        (f"draw {draw}", deviation) for draw in (0, 1) for deviation in ("0.0", "0.5")
    ]
    assert rows[0]["loss"] == rows[2]["loss"] != rows[1]["loss"] != rows[3]["loss"]
    text = Path("stepped/robustness/noise.csv").read_text()
    assert text.startswith(
        "# command: timestepper robustness stepped plain --threat noise --deviations 0 0.5 "
        "--draws 2 --limit 50\n# commit: "
    )
    assert "# plain: cifar_resnet8, step sizes none, last checkpoint, 1 epochs\n" in text
    assert "# Gaussian noise on 50 evenly spaced ones of the 355 test images of digits: " in text
    mean = sum(100 * float(row["accuracy"]) for row in rows[5::2]) / 2
    assert f"| plain | 0.5 | {mean:.2f} |" in Path("stepped/robustness/noise.md").read_text()
    with Image.open("stepped/robustness/noise.png") as picture:
        assert picture.text["Description"].startswith("command: timestepper robustness stepped")


def test_levels_are_in_order_and_once(runs):
    levels = ["--deviations", "1", "0", "0.5", "0.5", "--draws", "1", "--limit", "20"]
    assert main(["robustness", "plain", *levels]) == 0
    rows = read("plain/robustness/noise.csv")
    assert [float(row["deviation"]) for row in rows] == [0, 0.5, 1]


def test_several_threats_beside_what_is_there(runs, capsys):
    pytest.importorskip("art.attacks.evasion", exc_type=ImportError)
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("years of work")
    some = ["--limit", "20", "--output", "out"]
    attacks = ["--threat", "fgsm", "pgd", "--eps", "0", "8/255", "--steps", "2"]
    assert main(["robustness", "plain", *attacks, *some]) == 0
    capsys.readouterr()
    files = [f"{name}{suffix}" for name in ("fgsm", "pgd") for suffix in (".csv", ".md", ".png")]
    assert names("out") == [*files, "thesis.txt"]
    rows = read("out/pgd.csv")
    assert [row["eps"] for row in rows] == ["0.0", "0.031372549"]
    assert float(rows[1]["loss"]) > float(rows[0]["loss"])
    assert "PGD on the cross-entropy, 2 steps of 0.25 ε" in Path("out/pgd.md").read_text()
    assert "| plain | 8 |" in Path("out/pgd.md").read_text()
    # A single level is no curve; that of the run before would belie the table.
    single = ["--threat", "fgsm", "--limit", "all", "--output", "out", "--force"]
    assert main(["robustness", "plain", *single]) == 0
    assert "all 355 test images" in Path("out/fgsm.md").read_text()
    assert names("out") == [name for name in [*files, "thesis.txt"] if name != "fgsm.png"]
    assert main(["robustness", "plain", *QUICK, "--output", "out"]) == 0  # nothing in its way
    assert "noise.png" in names("out")


def test_corruptions(photos, capsys):
    pytest.importorskip("imagecorruptions", exc_type=ImportError)
    which = ["--corruptions", "contrast", "fog", "--severities", "1", "5"]
    assert main(["robustness", "photos", "--threat", "corruptions", *which]) == 0
    shown = capsys.readouterr().out
    assert "mean" in shown
    rows = read("photos/robustness/corruptions.csv")
    assert [(row["case"], row["severity"]) for row in rows] == [
        *(("contrast", "1.0"), ("contrast", "5.0"), ("fog", "1.0"), ("fog", "5.0"))
    ]
    mean = np.mean([float(row["loss"]) for row in rows])
    assert f"| {mean:.4f} |" in Path("photos/robustness/corruptions.md").read_text()
    assert names("photos/robustness") == ["corruptions.csv", "corruptions.md", "corruptions.png"]


def test_a_checkpoint_of_choice(runs, monkeypatch):
    asked = []

    def load(run, which="last"):
        asked.append(which)
        return load_trained(run, which)

    monkeypatch.setattr("timestepper.cli.arguments.load_trained", load)
    assert main(["robustness", "plain", "--checkpoint", "best", *QUICK]) == 0
    assert asked == ["best"]
    text = Path("plain/robustness/noise.csv").read_text()
    assert "--limit 50 --checkpoint best\n" in text
    assert "best checkpoint" in text


@pytest.fixture
def refuse(capsys):
    """Run the command, which must fail and write nothing; return what it says."""

    def run(*arguments):
        before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
        capsys.readouterr()
        assert main(["robustness", *arguments]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.count("\n") == 1
        assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
        return shown.err.removeprefix("timestepper: error: ").rstrip("\n")

    return run


BAD = {
    ("--threat", "nois"): "there is no threat 'nois'; did you mean 'noise'?",
    ("--threat", "xyzzy"): "there is no threat 'xyzzy'; there are noise, corruptions, fgsm, pgd,",
    ("--threat", "pgd", "pgd"): "threat 'pgd' is given twice",
    ("--threat", "fgsm", "--eps", "-0.5"): "eps is -0.5; it must be from 0 to 1",
    ("--threat", "fgsm", "--eps", "8"): "eps is 8; it must be from 0 to 1, where white is 1",
    ("--threat", "fgsm", "--eps", "8/0"): "'8/0' is not possible in eps; give numbers such as",
    ("--threat", "corruptions", "--severities", "6"): "severity is 6; it must be from 1 to 5",
    ("--threat", "corruptions", "--severities", "1.5"): "'1.5' is not possible in severities",
    ("--threat", "corruptions", "--corruptions", "frog"): "did you mean 'fog' or 'frost'?",
    ("--deviations", "-1"): "deviation -1 is no standard deviation; give 0 or more",
    ("--deviations", "much"): "'much' is not possible in deviations; give numbers such as 0.03",
    ("--deviations", "1e400"): "'1e400' is not possible in deviations; give numbers such as",
    ("--draws", "0"): "draws is 0; it must be at least 1",
    ("--limit", "0"): "limit is 0; it must be at least 1",
    ("--limit", "most"): "limit is 'most'; it must be a whole number or one of 'all'",
    ("--seed", "-1"): "seed is -1; it must be from 0 to 2^63 - 1",
    ("--eps", "0.1"): "--eps belongs to the threats fgsm, pgd, autoattack, not to noise; choose",
    ("--output", "no/folder"): "no/folder can't be written: there is no folder no",
    ("--output", "file"): "file is a file; name a folder with --output",
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_settings(arguments, refuse):
    """They are refused before any run is opened."""
    Path("file").write_text("a file")
    assert BAD[arguments] in refuse("nowhere", *arguments)


def test_bad_runs(runs, photos, refuse, monkeypatch):
    assert refuse("nowhere") == "there is no run folder nowhere"
    assert refuse("plain", "./plain") == "run 'plain' is given twice; compare different runs"
    assert refuse("plain", "photos") == (
        "plain and photos are of different data (digits with 355 test images of 8x8 pixels, "
        "imagefolder with 6 test images of 32x32 pixels); compare runs on the same images"
    )
    assert refuse("plain", "--threat", "noise", "corruptions") == (
        "the images of digits are 8x8, and common corruptions take 32x32 pixels or more; choose "
        "another threat"
    )
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    said = refuse("plain", "--threat", "noise", "autoattack")
    assert said.startswith("threat 'autoattack' can't run: ")
    assert said.endswith("; install the extra with: pip install 'timestepper[robustness]'")
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    assert refuse("photos", "--threat", "corruptions").startswith("threat 'corruptions' can't run")


def test_files_are_kept_unless_forced(runs, refuse):
    Path("plain/robustness").mkdir()
    Path("plain/robustness/noise.md").write_text("precious")
    assert refuse("plain", *QUICK) == (
        "plain/robustness/noise.md exists already; name another folder with --output, or add "
        "--force"
    )
    assert main(["robustness", "plain", *QUICK, "--force"]) == 0
    assert "precious" not in Path("plain/robustness/noise.md").read_text()


def test_runs_of_one_name_are_told_apart(runs):
    Path("other").mkdir()
    Path("plain").rename("other/stepped")
    assert main(["robustness", "stepped", "other/stepped", *QUICK]) == 0
    labels = {row["network"] for row in read("stepped/robustness/noise.csv")}
    assert labels == {"stepped", "other/stepped"}
    assert Run(Path("other/stepped")).configuration.exists()
