"""Folders with odd names, links to them, homes that can't be written, terminals without Unicode."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from endings import end
from PIL import Image

import timestepper
from timestepper.training.run import Run

NAMES = ["my own  runs", "réseaux 网络 \N{DROMEDARY CAMEL}", "[bold]100%[bold] {x} 'y' $z"]


def training(data, folder):
    return [
        *("train", "--folder", str(folder), "--network.name", "cifar_resnet14"),
        *("--data.name", "imagefolder", "--data.data_dir", str(data)),
        *("--epochs", "1", "--accelerator", "cpu"),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_everything_in_a_folder_of_that_name(name, make_folder):
    place = Path(name)
    place.mkdir()
    data, run = shutil.move(make_folder(), place / "data"), place / "run"
    Path("link").symlink_to(run, target_is_directory=True)
    for words in (
        training(data, run),
        ["evaluate", str(run)],
        ["evaluate", "link"],
        ["steps", "link"],
        ["fold", str(run), "--output", str(place / "folded.safetensors")],
        ["report", "link", "-o", str(place / "page.html")],
        ["train", "--resume", "link"],
    ):
        status, _, problem = end(*words)
        assert (status, problem) == (0, ""), words
    assert Run(run).read_configuration().data.data_dir == str(data)
    assert (place / "page.html").stat().st_size > 10_000
    assert (place / "folded.safetensors").read_bytes() == (run / "folded.safetensors").read_bytes()
    status, _, problem = end("evaluate", str(place / "nowhere"))
    assert (status, problem) == (2, f"timestepper: error: there is no run folder {name}/nowhere\n")


def command(*arguments, **variables):
    """Run a command in a process of its own; return its status and what it says."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(timestepper.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    program = "import sys; from timestepper.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True
    )
    # matplotlib has its own lines about a home where it can't keep its fonts.
    problem = [line for line in done.stderr.decode().splitlines() if "atplotlib" not in line]
    return done.returncode, done.stdout.decode(errors="replace"), problem


@pytest.mark.slow
def test_locale_c_and_a_home_that_can_not_be_written(make_folder):
    data = shutil.move(make_folder(), NAMES[1])
    # Nothing can be made in this home, not even by root.
    nowhere = {"LC_ALL": "C", "HOME": "/dev/null/home"}
    status, said, problem = command(*training(data, f"{data}/run"), **nowhere)
    assert (status, len(problem)) == (0, 1), problem
    assert problem[0].startswith("timestepper: warning: decoded images are not kept: ")
    assert f"{data}/run/folded.safetensors" in said
    assert Image.open(f"{data}/run/curves.png").size[0] > 100
    # Without Python's own way out of such a locale, the name is no text.
    status, said, problem = command(
        "evaluate", f"{data}/run", **nowhere, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert (status, said, len(problem)) == (2, "", 1), problem
    assert problem[0].endswith("terminal's encoding; rename it, or set PYTHONUTF8=1")


def test_configurations_and_tables_in_other_encodings(make_folder):
    data = make_folder()
    assert end(*training(data, "run"))[0] == 0
    with Path("run/configuration.yaml").open("a", encoding="utf-8") as file:
        file.write("# für später\n")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, said, problem = command("steps", "run", HOME=os.curdir, **ascii_only)
    assert (status, problem) == (0, [])
    assert "stage" in said
    assert said.isascii()


def test_a_name_that_is_no_text():
    status, said, problem = end("evaluate", os.fsdecode(b"caf\xe9"))
    assert (status, said) == (2, "")
    assert problem.startswith(r"timestepper: error: 'caf\udce9' is not text in this terminal's")


def test_linked_images_and_links_that_lead_nowhere(make_folder):
    folder, elsewhere = make_folder(), Path("elsewhere")
    elsewhere.mkdir()
    for path in sorted((folder / "train" / "cat").iterdir()):
        shutil.move(path, elsewhere)
        path.symlink_to((elsewhere / path.name).absolute())
    assert end(*training(folder, "run"))[0] == 0
    (elsewhere / "0.png").unlink()
    status, _, problem = end(*training(folder, "other"))
    assert status == 2
    assert problem.startswith("timestepper: error: ")
    assert "train/cat/0.png" in problem
    assert problem.count("\n") == 1
    assert not Path("other").exists()
