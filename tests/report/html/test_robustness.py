"""What the page says of disturbed images: noise, corruptions, attacks; of one run and several."""

import hashlib
import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run
from reading import Page

from timestepper.cli import main
from timestepper.report.html import read_runs, write_report

SCORES = [(0.5, 1.5), (0.9, 0.3), (0.8, 0.4)]
LARGE = {"shape": [3, 32, 32]}
CORRUPTIONS = (
    "# commit: abc\n# what was measured\nnetwork,case,severity,accuracy,loss\n"
    "a,fog,1.0,0.9,0.1\na,fog,3.0,0.5,1.1\na,jpeg_compression,1.0,0.8,0.4\n"
    "a,jpeg_compression,3.0,0.6,0.8\n"
)
PGD = (
    "# what was attacked\nnetwork,case,eps,accuracy,loss\n"
    "a,pgd,0.00392156862745098,0.75,0.5\na,pgd,0.01568627450980392,0.25,2.5\n"
)


def page(*folders):
    write_report(read_runs([Path(folder) for folder in folders]), Path("page.html"))
    return Page(Path("page.html"))


def leave(run, threat, text):
    path = Path(run) / "robustness" / f"{threat}.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def lines(plots, title):
    """Return the lines' points by their names, without the edges of bands."""
    traces = [one for one in plots[title]["data"] if one.get("hoverinfo") != "skip"]
    return {line["name"]: (line["x"], line["y"]) for line in traces}


def test_corruptions_of_one_run():
    make_run("a", SCORES, data=LARGE)
    leave("a", "corruptions", CORRUPTIONS)
    shown = page("a")
    assert shown.tables["corruptions"] == [
        [
            ["corruption", "severity 1", "severity 3", "mean"],
            ["fog", "90.00", "50.00", "70.00"],
            ["jpeg compression", "80.00", "60.00", "70.00"],
            ["mean", "85.00", "55.00", "70.00"],
        ]
    ]
    plots = shown.plots["corruptions"]
    assert lines(plots, "accuracy (%)")["a"] == ([1, 3], pytest.approx([85, 55]))
    assert lines(plots, "cross-entropy")["a"] == ([1, 3], pytest.approx([0.25, 0.95]))
    assert "what was measured" in shown.text["corruptions"]
    assert "not measured" not in shown.text["corruptions"]


def test_corruptions_of_several_runs():
    for name in ("a", "b", "c"):
        make_run(name, SCORES, seed=ord(name), data=LARGE)
    leave("a", "corruptions", CORRUPTIONS + CORRUPTIONS.partition("loss\n")[2].replace("a,", "b,"))
    shown = page("a", "b", "c")
    (table,) = shown.tables["corruptions"]
    assert table == [
        ["corruption", "a", "b"],
        ["fog", "70.00", "70.00"],
        ["jpeg compression", "70.00", "70.00"],
        ["mean", "70.00", "70.00"],
    ]
    assert list(lines(shown.plots["corruptions"], "accuracy (%)")) == ["a", "b"]
    assert "not measured: c; to measure it:" in shown.text["corruptions"]
    assert "timestepper robustness c --threat corruptions " in shown.text["corruptions"]


def test_runs_that_were_measured_differently_are_told_apart_and_have_no_mean():
    make_run("a", SCORES, data=LARGE)
    make_run("b", SCORES, seed=1, data=LARGE)
    leave("a", "corruptions", CORRUPTIONS)
    leave("b", "corruptions", "# otherwise\nnetwork,case,severity,accuracy,loss\nb,snow,2,0.5,1\n")
    shown = page("a", "b")
    assert shown.tables["corruptions"][0][1:] == [
        ["fog", "70.00", "—"],
        ["jpeg compression", "70.00", "—"],
        ["snow", "—", "50.00"],
    ]
    assert "a: what was measured" in shown.text["corruptions"]
    assert "b: otherwise" in shown.text["corruptions"]


def test_small_images_get_no_command_that_would_be_refused():
    make_run("a", SCORES)
    make_run("b", SCORES, seed=1)
    for shown in (page("a"), page("a", "b")):
        text = shown.text["corruptions"]
        assert "not measured: common corruptions take images of 32×32 pixels or more" in text
        assert "timestepper robustness" not in text


def test_attacks_of_one_run():
    make_run("a", SCORES)
    leave("a", "pgd", PGD)
    leave("a", "fgsm", "network,case,eps,accuracy,loss\na,fgsm,0.03137254901960784,0.5,\n")
    shown = page("a")
    headings = ["ε (255ths of white)", "accuracy (%)", "cross-entropy"]
    assert shown.tables["attacks"] == [
        [headings, ["8", "50.00", "—"]],
        [headings, ["1", "75.00", "0.5000"], ["4", "25.00", "2.5000"]],
    ]
    assert list(shown.plots["attacks"]) == ["PGD: accuracy (%)", "PGD: cross-entropy"]
    x, y = lines(shown.plots["attacks"], "PGD: accuracy (%)")["a"]
    assert x == pytest.approx([1, 4])
    assert y == pytest.approx([75, 25])
    assert "what was attacked" in shown.text["attacks"]
    assert "not measured" not in shown.text["attacks"]


def test_attacks_of_several_runs():
    for name in ("a", "b", "c"):
        make_run(name, SCORES, seed=ord(name))
    leave("a", "pgd", PGD + PGD.partition("loss\n")[2].replace("a,", "b,"))
    shown = page("a", "b", "c")
    (table,) = shown.tables["attacks"]
    assert [row[:3] for row in table[1:]] == [
        *(["a", "1", "75.00"], ["a", "4", "25.00"]),
        *(["b", "1", "75.00"], ["b", "4", "25.00"]),
    ]
    assert list(lines(shown.plots["attacks"], "PGD: cross-entropy")) == ["a", "b"]
    assert "timestepper robustness c --threat pgd " in shown.text["attacks"]


def test_rows_of_a_run_whose_name_begins_as_a_comment_does():
    make_run("#2", SCORES)
    leave("#2", "noise", "# what\nnetwork,case,deviation,accuracy,loss\n#2,draw 0,0,0.25,1\n")
    shown = page("#2")
    assert lines(shown.plots["noise"], "accuracy (%)")["#2"] == ([0], [25])
    assert "what" in shown.text["noise"]


def test_the_best_checkpoint_is_named():
    make_run("a", SCORES)
    made_by = "# a: cifar_resnet8, step sizes lstm, {} checkpoint, 3 epochs\n"
    for which in ("best", "last"):
        leave("a", "pgd", made_by.format(which) + PGD)
        said = "Of a the best checkpoint was measured, not the last." in page("a").text["attacks"]
        assert said == (which == "best")


def test_the_command_writes_where_the_runs_lie():
    training = ["train", "--network.name", "cifar_resnet8", "--epochs", "1", "--batch_size", "512"]
    for folder in ("runs/a", "elsewhere/a"):
        assert main([*training, "--accelerator", "cpu", "--folder", folder]) == 0
    quick = ["--deviations", "0", "--draws", "1", "--limit", "10"]
    assert main(["robustness", "runs/a", "elsewhere/a", *quick]) == 0
    text = Path("runs/a/robustness/noise.csv").read_text()
    assert '# folders: {"runs/a": "..", "elsewhere/a": "../../../elsewhere/a"}\n' in text
    drawn = lines(page("elsewhere/a", "runs/a").plots["noise"], "accuracy (%)")
    assert list(drawn) == ["elsewhere/a", "runs/a"]


def test_what_was_not_measured_is_said_with_the_command():
    make_run("a", SCORES, data=LARGE)
    make_run("b", SCORES, seed=1, data=LARGE)
    for folders in (["a"], ["a", "b"]):
        shown = page(*folders)
        for section, threats in (
            ("noise", ""),
            ("corruptions", " --threat corruptions"),
            ("attacks", " --threat fgsm pgd"),
        ):
            said = f"timestepper robustness {shlex.join(folders)}{threats}"
            assert "not measured; to measure it:" in shown.text[section]
            assert said in shown.text[section]
            assert shown.plots[section] == {}


@pytest.mark.parametrize(
    "content",
    [
        *("", "network,case\n", "a\nb\n", "\0", "n\na,a,1,1,1,1\n", "a,fog,1,1,1\na,fog,2,1,1\n"),
        *("network,case,level,accuracy,loss\n" + rows for rows in ("", "a,fog,x,1,1\n")),
        "# folders: {broken\nnetwork,case,level,accuracy,loss\na,fog,1,1,1\n",
    ],
)
def test_broken_files_are_said_with_the_command_that_replaces_them(content):
    make_run("a", SCORES, data=LARGE)
    make_run("b", SCORES, seed=1, data=LARGE)
    for threat in ("noise", "corruptions", "autoattack"):
        leave("a", threat, content)
    for folders in (["a"], ["a", "b"], ["b", "a"]):
        shown = page(*folders)
        for threat in ("noise", "corruptions", "autoattack"):
            text = shown.text["attacks" if threat == "autoattack" else threat]
            assert f"a/robustness/{threat}.csv is broken" in text
            option = "" if threat == "noise" else f" --threat {threat}"
            assert f"timestepper robustness a{option} --force" in text
            assert f"timestepper robustness b{option} --force" not in text


def noise_of_experiment(run, **changes):
    settings = {"deviations": [0.0, 0.5], "draws": 2}
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    content = settings | {"accuracy": [[0.9, 0.7], [0.9, 0.5]], "loss": [[0.1, 0.4], [0.1, 0.8]]}
    path = Path(run) / f"noise-{digest}.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_noise_and_bound_that_an_experiment_measured():
    make_run("a", SCORES)
    make_run("b", SCORES, seed=1)
    for name in ("a", "b"):
        noise_of_experiment(name)
    Path("a/bound.json").write_text('{"log10_bound": 14.25}')
    Path("b/bound.json").write_text('{"log10_bound": null}')
    one, several = page("a"), page("a", "b")
    for shown in (one, several):
        assert lines(shown.plots["noise"], "accuracy (%)")["a"] == (
            [0, 0.5],
            pytest.approx([90, 60]),
        )
        assert "measured by timestepper reproduce (draws: 2, the same" in shown.text["noise"]
        assert "not measured" not in shown.text["noise"]
        assert "not measured; to measure it:" in shown.text["stability"]
    assert one.tables["stability"] == [[["run", "bound"], ["a", "1.78·10^14"]]]
    assert several.tables["stability"][0][1:] == [["a", "1.78·10^14"], ["b", "—"]]


def test_what_the_command_measured_goes_before_what_an_experiment_did():
    make_run("a", SCORES)
    noise_of_experiment("a")
    leave("a", "noise", "network,case,deviation,accuracy,loss\na,draw 0,0,0.25,1\n")
    assert lines(page("a").plots["noise"], "accuracy (%)")["a"] == ([0], [25])


def test_of_an_experiments_measurements_the_newest_is_shown():
    make_run("a", SCORES)
    newer = noise_of_experiment("a")
    older = newer.with_name("noise-00000000.json")
    older.write_text(newer.read_text().replace("0.7", "0.1"))
    os.utime(older, (1, 1))
    assert lines(page("a").plots["noise"], "accuracy (%)")["a"][1] == pytest.approx([90, 60])


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"draws": 3}, '"high"'),
        ({"loss": [[0.1]]}, "[1]"),
        ({"accuracy": "high"}, "1" + 400 * "0"),
        ({"deviations": None}, ""),
    ],
)
def test_broken_measurements_of_an_experiment(changes, bound):
    make_run("a", SCORES)
    path = noise_of_experiment("a", **changes)
    Path("a/bound.json").write_text(f'{{"log10_bound": {bound}}}')
    shown = page("a")
    assert f"{path} is broken" in shown.text["noise"]
    assert "timestepper robustness a " in shown.text["noise"]
    assert "a/bound.json is broken" in shown.text["stability"]
    assert "timestepper stability a " in shown.text["stability"]


@pytest.mark.parametrize("threat", ["noise", "corruptions", "pgd"])
def test_old_measurement_is_said_to_be_old(threat):
    run = make_run("a", SCORES, data=LARGE)
    leave("a", threat, "network,case,level,accuracy,loss\na,case,1,1,0\n")
    run.checkpoints.last.parent.mkdir()
    run.checkpoints.last.write_bytes(b"newer")
    text = page("a").text["attacks" if threat == "pgd" else threat]
    option = "" if threat == "noise" else f" --threat {threat}"
    assert f"run timestepper robustness a{option} --force" in text


def test_runs_on_image_folders(make_folder, capsys):
    """Trained, measured and reported by the commands, as a person does it."""
    pytest.importorskip("imagecorruptions")
    pytest.importorskip("art")
    folder = make_folder("photos", sizes=((32, 32), (40, 32)), train=6, test=3)
    data = ["--data.name", "imagefolder", "--data.data_dir", str(folder), "--data.image_size", "32"]
    training = ["--network.name", "cifar_resnet8", "--epochs", "1", "--batch_size", "4"]
    for seed in ("0", "1"):
        arguments = [*training, *data, "--seed", seed, "--folder", f"run-{seed}"]
        assert main(["train", *arguments, "--accelerator", "cpu", "--data.workers", "0"]) == 0
    shown = Page(Path("run-0/report.html"))
    said = "imagefolder: 12 training and 6 test images of 32×32 pixels, coloured, 2 classes"
    assert said in shown.text["summary"]
    assert len(shown.pictures["predictions"]) == 6
    assert "timestepper robustness run-0 --threat corruptions" in shown.text["corruptions"]
    robustness = ["robustness", "run-0", "run-1"]
    corruptions = ["--corruptions", "brightness", "contrast", "--severities", "1", "5"]
    assert main([*robustness, "--threat", "corruptions", *corruptions]) == 0
    assert main([*robustness, "--threat", "fgsm", "--eps", "1/255", "8/255"]) == 0
    shown = page("run-0", "run-1")
    assert said in shown.text["overview"]
    for threat, section, title in (
        ("corruptions", "corruptions", "accuracy (%)"),
        ("fgsm", "attacks", "FGSM: accuracy (%)"),
    ):
        rows = Path(f"run-0/robustness/{threat}.csv").read_text().splitlines()
        for name in ("run-0", "run-1"):
            own = [float(row.split(",")[3]) for row in rows if row.startswith(f"{name},")]
            expected = 100 * np.array(own).reshape(-1, 2).mean(0)
            assert lines(shown.plots[section], title)[name][1] == pytest.approx(expected)
        assert "not measured" not in shown.text[section]
    assert [row[0] for row in shown.tables["corruptions"][0][1:]] == [
        "brightness",
        "contrast",
        "mean",
    ]
