"""When the page is written: by the command, at the end of a training, while one goes on."""

import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from made_runs import make_run, row, steps
from reading import Page
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import TINY, UPDATES, interrupt

from timestepper.cli import main
from timestepper.report import html
from timestepper.report.html import watch
from timestepper.training.loop import train
from timestepper.training.run import Run
from timestepper.training.step_history import read_step_history, write_step_history

SCORES = [(0.5, 1.5), (0.9, 0.3), (0.8, 0.4)]


def refuse(capsys, *arguments):
    capsys.readouterr()
    assert main(["report", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err.removeprefix("timestepper: error: ").rstrip("\n")


def test_command(capsys):
    make_run("one", SCORES)
    make_run("two", SCORES, seed=1)
    assert main(["report", "one"]) == 0
    assert capsys.readouterr().out == "report: one/report.html\n"
    assert main(["report", "one", "two"]) == 0
    assert capsys.readouterr().out == "report: report.html\n"
    assert main(["report", "one", "two", "-o", "one/report.html"]) == 0  # replaces a report
    assert "2 runs" in Path("one/report.html").read_text()
    assert not list(Path().rglob("*.new"))


def test_other_files_are_kept(capsys):
    make_run("run", SCORES)
    Path("thesis.html").write_text("years of work")
    said = refuse(capsys, "run", "-o", "thesis.html")
    assert said.startswith("thesis.html exists already and is no report; ")
    assert Path("thesis.html").read_text() == "years of work"
    assert main(["report", "run", "-o", "thesis.html", "--force"]) == 0
    assert "timestepper report" in Path("thesis.html").read_text()


def test_bad_input(capsys):
    run = make_run("run", SCORES)
    make_run("new", [])
    Path("empty").mkdir()
    assert refuse(capsys, "nowhere") == "there is no run folder nowhere"
    assert refuse(capsys, "empty").startswith("empty is not a run: ")
    for folders in (["nowhere"], ["run", "nowhere"]):
        assert refuse(capsys, *folders, "--watch") == "there is no run folder nowhere"
    assert refuse(capsys, "new") == (
        "new has no epoch yet; report it when its first one is done, or wait for that with --watch"
    )
    assert refuse(capsys, "run", "./run") == "run 'run' is given twice; name different runs"
    assert refuse(capsys, "run", "-o", "empty") == "empty is a folder; name a file with --output"
    assert refuse(capsys, "run", "-o", "no/where.html") == (
        "no/where.html can't be written: there is no folder no"
    )
    assert refuse(capsys, "run", "-o", "/proc/page.html").startswith(
        "/proc/page.html can't be written: "
    )
    assert refuse(capsys) == "RUNS is missing; see --help"
    run.data.write_text("[]")
    assert refuse(capsys, "run").startswith("run/data.json, which says what the run was trained on")


@pytest.mark.parametrize(
    "changes",
    [{"shape": [8, 8]}, {"shape": None}, {"training_images": "many"}, {"classes": None}],
)
def test_data_that_are_no_images(capsys, changes):
    make_run("run", SCORES, data=changes)
    assert refuse(capsys, "run").startswith("run/data.json, which says what the run was trained on")


@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"a": torch.ones(3)},
        {"a": torch.ones(0, 3)},
        {"a": torch.ones(2, 3), "b": torch.ones(1, 3)},
    ],
)
def test_step_sizes_that_are_no_history(capsys, steps):
    run = make_run("run", SCORES)
    write_step_history(steps, run.step_history)
    assert refuse(capsys, "run").startswith("run/step_sizes.safetensors is missing or broken; ")


def test_folder_whose_path_is_no_text(capsys, monkeypatch):
    try:
        make_run(os.fsdecode(b"run-\xff"), SCORES)
    except OSError:
        pytest.skip("the file system takes no such names")
    make_run(os.fsdecode(b"run-\xff/text"), SCORES)
    for folder in (os.fsdecode(b"run-\xff"), "text"):
        monkeypatch.chdir(folder)
        assert refuse(capsys, ".").startswith("the path of run '.' is not text ")


def test_link_stays_a_link():
    make_run("run", SCORES)
    Path("page.html").symlink_to("elsewhere.html")
    assert main(["report", "run", "-o", "page.html"]) == 0
    assert Path("page.html").is_symlink()
    assert "timestepper report" in Path("elsewhere.html").read_text()


@pytest.mark.parametrize("folder", [".", ".."])
def test_commands_for_the_folder_in_which_it_runs_or_above(monkeypatch, folder):
    make_run("run", SCORES, channels={"layer1.0": 16, "layer1.1": 16})
    run = Path("run").resolve()
    Path("run/sub").mkdir()
    monkeypatch.chdir("run" if folder == "." else "run/sub")
    assert main(["report", folder, "-o", "page.html"]) == 0
    text = Page(Path("page.html")).text
    assert f"--folder {run}-again" in text["again"]
    assert f"--folder {run}-explained" in text["explanation"]
    assert f"timestepper stability {run} " in text["stability"]


def test_commands_for_a_folder_that_looks_like_a_setting():
    make_run("-a b", SCORES)
    assert main(["report", "./-a b"]) == 0
    text = Page(Path("-a b/report.html")).text
    assert "timestepper stability './-a b' " in text["stability"]
    assert "timestepper robustness './-a b' " in text["noise"]
    assert "--folder './-a b-again'" in text["again"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no row"),
        (b"epoch,lr\n", "it has no row"),
        (b"epoch,lr\n1,0.1\n", "it has no column images_per_second"),
        (b"epoch,lr\n1,high\n", "could not convert string to float: 'high'"),
        (b"\xff\x00", "'utf-8' codec can't decode"),
    ],
)
def test_broken_metrics(capsys, content, reason):
    run = make_run("run", SCORES)
    Path("run/metrics.csv.sha256").unlink()
    run.metrics.write_bytes(content)
    said = refuse(capsys, "run")
    assert said.startswith(f"run/metrics.csv is broken ({reason}")
    assert said.endswith("timestepper train --resume run writes it anew")


def test_metrics_that_rot(capsys):
    run = make_run("run", SCORES)
    run.metrics.write_text(run.metrics.read_text().replace("0.9", "0.8"))
    assert refuse(capsys, "run").startswith("run/metrics.csv is broken (its checksum is wrong); ")


def test_epochs_that_are_missing(capsys):
    run = make_run("run", SCORES)
    Path("run/metrics.csv.sha256").unlink()
    lines = run.metrics.read_text().splitlines()
    run.metrics.write_text("\n".join([lines[0], lines[1], lines[3]]))
    assert "its epochs are not 1, 2, 3 and so on" in refuse(capsys, "run")


def test_report_that_fails_does_not_fail_the_training(trained, monkeypatch):
    shutil.copytree(trained.folder, "run")

    def fail(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(html, "write_report", fail)
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    train(Run(Path("run")), TINY, resume=True, console=console, report=True)
    last = shown.getvalue().splitlines()[-1]
    assert last == (
        "no report: [Errno 28] No space left on device; timestepper report run writes it anew"
    )


def test_training_that_was_stopped_within_an_epoch(monkeypatch, capsys):
    interrupt("run", monkeypatch, UPDATES + 22)
    assert main(["report", "run"]) == 0
    text = Page(Path("run/report.html")).text
    when = "after epoch 1 and 22 steps of the next"
    assert f"the last one, but for predictions, which are those {when}." in text["summary"]
    assert f"test images the network {when} classifies " in text["predictions"]
    capsys.readouterr()
    for which, seen in (("last", "1 epochs and 22 steps of the next"), ("best", "1 epochs")):
        assert main(["evaluate", "run", "--checkpoint", which]) == 0
        assert capsys.readouterr().out.startswith(f"{which} checkpoint, {seen}: accuracy ")


def test_watching_a_training_until_its_end():
    run = make_run("run", [])
    path = Path("page.html")
    looks = watch([Path("run")], path, pause=0)
    assert next(looks) is False
    assert not path.exists()
    history = [row(1, 0.5, 1.5)]
    write_step_history(steps(1), run.step_history)
    run.write_metrics(history)
    assert next(looks) is True
    assert 'data-refresh="5"' in path.read_text()
    written = path.stat().st_mtime_ns
    assert next(looks) is False
    assert path.stat().st_mtime_ns == written
    history += [row(2, 0.6, 1.2), row(3, 0.7, 1.1)]
    write_step_history(steps(3), run.step_history)
    run.write_metrics(history)
    assert next(looks) is True
    assert next(looks, "done") == "done"
    assert "data-refresh=" not in path.read_text()
    assert "70.00 %" in path.read_text()


def test_watching_that_is_stopped_leaves_a_page_that_stays():
    make_run("run", SCORES[:2])
    path = Path("page.html")
    looks = watch([Path("run")], path, pause=0)
    assert next(looks) is True
    looks.close()  # as Ctrl-C does
    assert "data-refresh=" not in path.read_text()


def test_tensorboard_shows_the_step_sizes(trained):
    events = EventAccumulator(str(trained.events), {"histograms": 0}).Reload()
    for name, rows in read_step_history(trained.step_history).items():
        means = events.Scalars(f"mean_step_size/{name}")
        assert [point.step for point in means] == [0, 1, 2]
        assert [point.value for point in means] == pytest.approx(rows.mean(1).tolist())
        histograms = events.Histograms(f"step_sizes/{name}")
        assert [point.step for point in histograms] == [0, 1, 2]
        last = histograms[-1].histogram_value
        assert (last.min, last.max) == pytest.approx((rows[-1].min().item(), rows[-1].max().item()))
        assert last.num == rows.shape[1]
