"""A run's network is used on images such as it was trained on, or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from timestepper.cli import main
from timestepper.data import load
from timestepper.errors import DataError, RunError
from timestepper.training.build import build_data, build_network
from timestepper.training.compatibility import require_same_images
from timestepper.training.configuration import (
    Configuration,
    DataConfiguration,
    NetworkConfiguration,
)
from timestepper.training.recipes import write_configuration
from timestepper.training.run import Run
from timestepper.training.trained import load_trained


@pytest.fixture
def folder(make_folder):
    return make_folder("images")


def begun(folder, image_size=None):
    """Make the record of a run on a folder's images."""
    run = Run(Path("run"))
    run.folder.mkdir()
    images = load("imagefolder", data_dir=folder, image_size=image_size)
    run.data.write_text(json.dumps(images.fingerprint()))
    return run


def require(folder, run, image_size=None):
    require_same_images(load("imagefolder", data_dir=folder, image_size=image_size), run)


def change_record(run, **values):
    run.data.write_text(json.dumps(json.loads(run.data.read_text()) | values))


def test_the_same_images(folder, caplog):
    run = begun(folder)
    shutil.copytree(folder, "elsewhere")  # at other times
    require("elsewhere", run)
    assert not caplog.messages


def test_images_that_have_moved_are_named_where_they_were_named_before(folder, monkeypatch):
    """As docs/interruptions.md says."""
    elsewhere = folder.rename("elsewhere")
    monkeypatch.setenv("TIMESTEPPER_DATA", str(elsewhere))
    named = Configuration(data=DataConfiguration("imagefolder", data_dir=str(folder)))
    with pytest.raises(DataError, match=r"was not found in .*images; name the folder"):
        build_data(named)
    for place in (str(elsewhere), None):
        build_data(replace(named, data=DataConfiguration("imagefolder", data_dir=place)))


def test_a_class_of_another_name(folder):
    run = begun(folder)
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "tiger")
    with pytest.raises(RunError) as error:
        require(folder, run)
    assert str(error.value).startswith(
        "the images are not those that run was begun with, which run/data.json describes (not the "
        "same: classes"
    )
    assert str(error.value).endswith("put them back, or name their place in run/configuration.yaml")


def test_a_training_image_less(folder):
    run = begun(folder)
    (folder / "train" / "dog" / "1.png").unlink()
    with pytest.raises(RunError, match=r"\(not the same: training images, .*mean, std"):
        require(folder, run)


@pytest.mark.parametrize("image_size", [None, 72])
def test_training_images_of_swapped_classes(folder, image_size):
    """As many of each, of the same names: in memory and in files."""
    for path in (folder / "train" / "cat").iterdir():
        Image.new("RGB", (8, 8)).save(path)  # takes fewer bytes than noise
    run = begun(folder, image_size)
    (folder / "train" / "cat").rename(folder / "train" / "t")
    (folder / "train" / "dog").rename(folder / "train" / "cat")
    (folder / "train" / "t").rename(folder / "train" / "dog")
    with pytest.raises(RunError, match=r"\(not the same: training digest\)"):
        require(folder, run, image_size)


def test_other_test_images_are_worth_a_warning(folder, caplog):
    run = begun(folder)
    (folder / "test" / "dog" / "1.png").unlink()
    require(folder, run)
    (warning,) = caplog.messages
    assert warning.startswith("of the test images: the images are not those that run was begun")


@pytest.mark.parametrize("key", ["classes", "mean", "training_digest"])
def test_records_of_earlier_versions(folder, key):
    run = begun(folder)
    record = json.loads(run.data.read_text())
    del record[key]
    run.data.write_text(json.dumps(record))
    require(folder, run)


@pytest.mark.parametrize("record", [None, b"", b"[]", b"\xff"])
def test_runs_without_a_record(folder, record):
    run = begun(folder)
    run.data.unlink()
    if record is not None:
        run.data.write_bytes(record)
    require(folder, run)


def test_another_decoder_changes_little(folder):
    run = begun(folder)
    mean = json.loads(run.data.read_text())["mean"]
    change_record(run, mean=[value * (1 + 1e-5) for value in mean])
    require(folder, run)
    for other in ([value * 1.001 for value in mean], mean[:1], None, ["0.5"] * 3):
        change_record(run, mean=other)
        with pytest.raises(RunError, match=r"\(not the same: mean\)"):
            require(folder, run)


def test_networks_are_not_loaded_for_other_images(folder, capsys):
    run = begun(folder)
    configuration = Configuration(
        network=NetworkConfiguration("cifar_resnet8"),
        data=DataConfiguration("imagefolder", str(folder)),
        accelerator="cpu",
    )
    write_configuration(configuration, run.configuration)
    network = build_network(configuration, load("imagefolder", data_dir=folder))
    run.checkpoints.save({"network": network.state_dict(), "ema": None, "history": []}, best=False)
    assert load_trained(run).epochs == 0
    change_record(run, classes=["dog", "cat"])
    with pytest.raises(RunError, match=r"not the same: classes"):
        load_trained(run)
    run.folded.write_bytes(b"")
    assert main(["stability", str(run.folded)]) == 2
    assert "(not the same: classes)" in capsys.readouterr().err
