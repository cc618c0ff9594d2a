"""Disks that are full or can't be written, files that rot, two processes on one run."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
from trainings import TINY, UPDATES, assert_same_end, interrupt, start

from timestepper.cli import main
from timestepper.errors import RunError
from timestepper.training import run as run_module
from timestepper.training.configuration import DataConfiguration
from timestepper.training.run import Run


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a training that nothing happens to."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    start(folder)
    return folder


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, and a way to change it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", place], capture_output=True
        )

    if mount("size=2400k").returncode:
        pytest.skip("needs the right to mount a small disk (root)")
    yield place, lambda *options: mount("remount", *options).check_returncode()
    subprocess.run(["umount", place], check=True)


def test_disk_is_full(disk, unbroken):
    place, remount = disk
    folder = place / "run"
    with pytest.raises(RunError) as error:
        start(folder)
    assert str(error.value) == (
        f"{folder}/checkpoints/last.pt: No space left on device; what was saved before is kept; "
        f"mend this and continue with: timestepper train --resume {folder}"
    )
    state, warning = Run(folder).checkpoints.load()
    assert (state["epoch"], warning) == (1, None)
    assert not list(folder.rglob("*.new"))
    remount("size=20m")
    start(folder, resume=True)
    assert_same_end(folder, unbroken)


def test_disk_can_not_be_written(disk, unbroken, monkeypatch, capsys):
    place, remount = disk
    remount("size=20m")
    folder = place / "run"
    interrupt(folder, monkeypatch, 9)
    remount("ro")
    capsys.readouterr()
    for arguments in (["--resume", str(folder)], ["--folder", str(place / "other")]):
        assert main(["train", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"timestepper: error: can't write the run folder {arguments[1]}: ")
        assert said.endswith("Read-only file system\n")
        assert said.count("\n") == 1
    remount("rw")
    start(folder, resume=True)
    assert_same_end(folder, unbroken)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6, 9])
def test_a_file_can_not_be_written(number, unbroken, monkeypatch):
    """Those of the run's start, a checkpoint, the best one, metrics, and those of epoch 2."""
    made = []
    flush = os.fsync

    def fsync(file):
        made.append(1)
        if len(made) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    with monkeypatch.context() as patches:
        patches.setattr(os, "fsync", fsync)
        with pytest.raises(RunError, match="No space left on device"):
            start("run")
    assert not list(Path("run").rglob("*.new"))
    start("run", resume=Path("run/configuration.yaml").exists())
    assert_same_end("run", unbroken)


def test_two_processes_on_one_run(monkeypatch):
    interrupt("run", monkeypatch, UPDATES + 3)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    monkeypatch.setattr(run_module, "PATIENCE", 0.1)
    with (
        Run(Path("run")).writing(),
        pytest.raises(RunError, match=r"another process is training in run; wait for it, or stop"),
    ):
        start("run", resume=True)
    assert {path: path.read_bytes() for path in before} == before
    start("run", resume=True)


def test_two_processes_that_begin_one_run(monkeypatch):
    monkeypatch.setattr(run_module, "PATIENCE", 0.1)
    with (
        Run(Path("run")).writing(),
        pytest.raises(RunError, match="another process is training in run; "),
    ):
        start("run")
    start("run")  # a folder with nothing but the lock is new


def test_damaged_metrics_are_told_and_written_anew():
    start("run")
    run = Run(Path("run"))
    whole = run.metrics.read_bytes()
    assert run.read_metrics()[-1]["epoch"] == TINY.epochs
    changed = whole.replace(b"0.", b"1.", 1)
    for damaged in (changed, whole[:-20], b""):
        run.metrics.write_bytes(damaged)
        with pytest.raises(ValueError, match="its checksum is wrong"):
            run.read_metrics()
    start("run", resume=True)
    assert run.metrics.read_bytes() == whole
    run.read_metrics()


def test_images_have_gone(make_folder, monkeypatch, capsys):
    images = make_folder(sizes=((8, 8),), train=20)
    data = DataConfiguration("imagefolder", data_dir=str(images))
    start("unbroken", data=data, batch_size=8)
    interrupt("run", monkeypatch, 7, data=data, batch_size=8)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    images.rename("elsewhere")
    for command in (["train", "--resume", "run"], ["evaluate", "run"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.startswith("timestepper: error: data set 'imagefolder' was not found in ")
        assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    # They may as well be named anew.
    path = Path("run/configuration.yaml")
    path.write_text(path.read_text().replace(str(images), str(Path("elsewhere").absolute())))
    start("run", resume=True)
    assert_same_end("run", "unbroken")
