"""Trainings that hold validation images out, and make their choices by them."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_resume import assert_same_end
from trainings import TINY, UPDATES, checkpoint, interrupt, start

from timestepper import data
from timestepper.cli import main
from timestepper.data.splits import MemorySplit
from timestepper.errors import ConfigurationError, RunError
from timestepper.training import build, trainer
from timestepper.training.configuration import DataConfiguration
from timestepper.training.evaluation import Scores
from timestepper.training.run import Run

HELD = 200
VALIDATION = {"data": DataConfiguration(validation=HELD)}
FEWER_UPDATES = 20
"""Optimizer steps of an epoch: 1,242 training images in batches of 64, the last one smaller."""


def metrics(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture
def no_test_images(monkeypatch):
    """Make the test images unreadable."""

    class Unreadable(MemorySplit):
        def fetch(self, *_, **__):
            raise AssertionError("test images were read")

    load = data.load

    def loaded(*arguments, **options):
        images = load(*arguments, **options)
        test = Unreadable(images.test.images, images.test.labels, images.test.augmentation)
        return replace(images, test=test)

    with monkeypatch.context() as patches:
        patches.setattr(build.data, "load", loaded)
        yield


def test_test_images_are_not_read_and_everything_is_called_validation(no_test_images, monkeypatch):
    labels = []
    save = Figure.savefig

    def recording(figure, *arguments, **options):
        labels.extend(text.get_text() for legend in _legends(figure) for text in legend.texts)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", recording)
    shown = start("run", **VALIDATION).splitlines()
    rows = metrics("run")
    assert not [column for column in rows[0] if "test" in column]
    assert rows[1]["validation_accuracy"] > 0.5
    loss, accuracy = rows[1]["validation_loss"], rows[1]["validation_accuracy"]
    assert f"  validation loss {loss:.4f} accuracy {accuracy:.2%}  " in shown[1]
    assert shown[2] == (
        f"validation accuracy {accuracy:.2%} after 2 epochs; the folded network is in "
        "run/folded.safetensors; timestepper evaluate run measures the test images"
    )
    assert set(labels) >= {"train", "validation"}
    assert "test" not in labels
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/validation", "accuracy/validation", "loss/train"} <= tags
    assert not {"loss/test", "accuracy/test"} & tags
    written = json.loads(Path("run/data.json").read_text())
    assert (written["training_images"], written["validation_images"]) == (1442 - HELD, HELD)


def _legends(figure):
    return [axes.get_legend() for axes in figure.axes if axes.get_legend()]


def test_evaluate_measures_either(capsys):
    start("run", **VALIDATION)
    row = metrics("run")[-1]
    assert main(["evaluate", "run", "--split", "validation"]) == 0
    assert capsys.readouterr().out == (
        f"last checkpoint, 2 epochs: accuracy {row['validation_accuracy']:.2%}, "
        f"loss {row['validation_loss']:.4f} on {HELD} validation images of digits\n"
    )
    assert main(["evaluate", "run"]) == 0
    assert capsys.readouterr().out.endswith(" on 355 test images of digits\n")


def test_evaluate_without_validation_images(capsys):
    start("run", epochs=1)
    assert main(["evaluate", "run", "--split", "validation"]) == 2
    assert "no validation images of 'digits' are held out" in capsys.readouterr().err


def test_best_checkpoint_is_that_of_the_best_validation_accuracy(monkeypatch):
    scripted = iter([0.5, 0.9, 0.9, 0.7])
    measured = []

    def evaluate(network, images, fabric, batch_size, split, after_batch):
        measured.append(split)
        return Scores(loss=1.0, accuracy=next(scripted))

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    start("run", epochs=4, **VALIDATION)
    assert measured == ["validation"] * 4
    assert checkpoint("run", "best")["epoch"] == 2
    assert checkpoint("run")["epoch"] == 4


@pytest.mark.parametrize("number", [7, FEWER_UPDATES + 9])
def test_stopped_and_continued(number, monkeypatch, no_test_images):
    start("unbroken", **VALIDATION)
    interrupt("stopped", monkeypatch, number, **VALIDATION)
    assert checkpoint("stopped")["batch"] == number % FEWER_UPDATES
    start("stopped", resume=True)
    assert_same_end("stopped", "unbroken")


@pytest.mark.parametrize(("before", "after"), [(0, HELD), (HELD, 0), (HELD, HELD + 1)])
def test_another_number_is_refused(before, after, monkeypatch):
    interrupt("run", monkeypatch, 3, data=DataConfiguration(validation=before))
    path = Path("run/configuration.yaml")
    text = path.read_text()
    assert f"validation: {before}\n" in text
    path.write_text(text.replace(f"validation: {before}\n", f"validation: {after}\n"))
    with pytest.raises(RunError, match=r"another data\.validation; put back"):
        start("run", resume=True)


def test_runs_of_before_there_were_validation_images_go_on(monkeypatch):
    start("unbroken")
    interrupt("run", monkeypatch, UPDATES + 3)
    path = Path("run/checkpoints/last.pt")
    state = checkpoint("run")
    assert state.pop("validation") == 0
    torch.save(state, path)
    configuration = Path("run/configuration.yaml")
    configuration.write_text(configuration.read_text().replace("  validation: 0\n", ""))
    start("run", resume=True)
    assert_same_end("run", "unbroken")
    assert "validation_images" not in json.loads(Path("run/data.json").read_text())


def test_more_than_there_are_is_refused_before_anything_is_written():
    with pytest.raises(ConfigurationError, match="1442 validation images can't be held out of"):
        start("run", data=DataConfiguration(validation=1442))
    assert not Path("run").exists()


def test_images_and_accuracy_are_those_of_the_split():
    """The scores are the network's on just the images that are left out of its training."""
    start("run", epochs=1, **VALIDATION)
    run = Run(Path("run"))
    images = build.build_data(run.read_configuration())
    network = build.build_network(TINY, images)
    network.load_state_dict(checkpoint("run")["network"])
    network.eval()
    pixels = images.validation.split.images[images.validation.numbers].float() / 255
    inputs = (pixels - images.mean[0]) / images.std[0]
    with torch.no_grad():
        right = network(inputs).argmax(1) == images.validation.labels
    assert metrics("run")[0]["validation_accuracy"] == pytest.approx(right.double().mean().item())
