"""What a training leaves in its run's folder."""

import copy
import csv
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from trainings import TINY, checkpoint, interrupt, start

from timestepper import data, networks
from timestepper.errors import FoldError, RunError, StateError
from timestepper.training.build import build_network
from timestepper.training.configuration import (
    Configuration,
    DataConfiguration,
    NetworkConfiguration,
    SteppingConfiguration,
)
from timestepper.training.folded import folded_copy, load_plain, write_weights
from timestepper.training.run import Run
from timestepper.training.trained import load_trained
from timestepper.training.trainer import Trainer


def metrics(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def events(folder):
    accumulator = EventAccumulator(str(Path(folder) / "tensorboard"))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_a_run_holds_everything():
    shown = start("run")
    files = {str(path.relative_to("run")) for path in Path("run").rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("tensorboard")} == {
        "configuration.yaml",
        ".lock",
        "metrics.csv",
        "metrics.csv.sha256",
        "curves.png",
        "step_sizes.png",
        "step_sizes.safetensors",
        "provenance.txt",
        "data.json",
        "folded.safetensors",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "checkpoints/best.pt",
    }
    assert Run(Path("run")).read_configuration() == TINY
    rows = metrics("run")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {
        "epoch",
        "lr",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "images_per_second",
        "evolution_time/layer1",
        "evolution_time/layer2",
        "evolution_time/layer3",
    }
    assert rows[1]["test_accuracy"] > 0.5
    for name in ("curves.png", "step_sizes.png"):
        with Image.open(Path("run") / name) as image:
            image.verify()
    lines = shown.splitlines()
    assert len(lines) == 3
    figures = (
        r"train loss \d\.\d{4} accuracy +\d+\.\d\d%  test loss .* accuracy .*%  [\d,]+ images/s"
    )
    assert re.fullmatch(r"epoch 1/2  " + figures, lines[0])
    last = f"test accuracy {rows[1]['test_accuracy']:.2%} after 2 epochs; the folded network is in"
    assert lines[2].startswith(last)


def test_tensorboard_shows_every_epoch_once_also_after_an_interruption(monkeypatch):
    interrupt("run", monkeypatch, 30)
    start("run", resume=True)
    rows, shown = metrics("run"), events("run")
    for tag, column in {"loss/train": "train_loss", "accuracy/test": "test_accuracy"}.items():
        assert shown[tag] == [(row["epoch"], pytest.approx(row[column])) for row in rows]


def test_folded_weights_are_those_of_a_plain_network_and_predict_the_same():
    start("run")
    trained = load_trained(Run(Path("run")))
    plain = networks.create("cifar_resnet8", in_channels=1, num_classes=10).eval()
    plain.load_state_dict(load_file("run/folded.safetensors"))
    images = trained.some_images(100)
    with torch.no_grad():
        assert torch.equal(plain(images), trained.network(images))


def test_folded_weights_are_the_averaged_ones_where_there_is_an_average():
    start("run", ema_decay=0.9)
    state = checkpoint("run")
    network = build_network(TINY, data.load("digits")).eval()
    images = load_trained(Run(Path("run"))).some_images(50)
    plain = networks.create("cifar_resnet8", in_channels=1, num_classes=10).eval()
    plain.load_state_dict(load_file("run/folded.safetensors"))
    with torch.no_grad():
        network.load_state_dict(state["ema"])
        assert torch.equal(network(images), plain(images))
        network.load_state_dict(state["network"])
        assert not torch.equal(network(images), plain(images))


def test_weights_that_layers_share_are_written_for_each(tmp_path):
    layer = nn.Conv2d(2, 3, 3)
    layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    write_weights(nn.Sequential(layer, layer), tmp_path / "weights.safetensors")
    written = load_file(tmp_path / "weights.safetensors")
    assert written.keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}
    for name, tensor in written.items():
        assert torch.equal(tensor, getattr(layer, name[2:]))


def test_average_is_the_formula(monkeypatch):
    seen = []
    step = Trainer.step

    def recording(trainer, *batch):
        if not seen:
            seen.append(trainer.network.fc.weight.detach().clone())
        loss = step(trainer, *batch)
        seen.append(trainer.network.fc.weight.detach().clone())
        return loss

    monkeypatch.setattr(Trainer, "step", recording)
    start("run", epochs=1, ema_decay=0.75)
    average = seen[0].double()
    for weight in seen[1:]:
        average = 0.75 * average + 0.25 * weight.double()
    measured = checkpoint("run")["ema"]["fc.weight"].double()
    torch.testing.assert_close(measured, average, rtol=1e-5, atol=1e-7)


def test_plain_training_has_no_step_sizes():
    start("run", stepping=SteppingConfiguration("none"), epochs=1)
    assert "evolution_time/layer1" not in metrics("run")[0]
    assert not Path("run/step_sizes.png").exists()
    assert set(load_file("run/folded.safetensors")) == set(checkpoint("run")["network"])


def test_same_seed_gives_same_first_weights_with_and_without_step_sizes():
    digits = data.load("digits")
    plain = build_network(Configuration(stepping=SteppingConfiguration("none")), digits)
    stepped = build_network(Configuration(), digits)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, stepped.state_dict()[name])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"compile": True}, marks=pytest.mark.slow),
        {"channels_last": True},
        {"precision": "bf16-mixed"},
        {"stepping": SteppingConfiguration("2fc", reduction=2)},
        {"stepping": SteppingConfiguration(0.5)},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_options_train_to_nearly_the_same(settings):
    start("run", epochs=1)
    start("other", epochs=1, **settings)
    assert metrics("other")[0]["train_loss"] == pytest.approx(
        metrics("run")[0]["train_loss"], rel=0.15
    )
    assert Path("other/folded.safetensors").exists()


def test_images_of_three_channels_from_a_folder(make_folder):
    folder = make_folder(sizes=((32, 32),), train=40)
    configuration = DataConfiguration(name="imagefolder", data_dir=str(folder), workers=0)
    start("run", data=configuration, batch_size=16)
    assert load_file("run/folded.safetensors")["conv1.weight"].shape[1] == 3
    assert load_file("run/folded.safetensors")["fc.weight"].shape[0] == 2


def test_run_folder_that_exists_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"mine exists already and is not a run; .* with --folder"):
        start("mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    start("empty", epochs=1)
    before = checkpoint("empty")["history"]
    with pytest.raises(
        RunError, match="run folder empty exists already; continue it with --resume"
    ):
        start("empty")
    assert checkpoint("empty")["history"] == before


def test_checkpoint_of_another_network(monkeypatch):
    start("run", epochs=1)
    path = Path("run/configuration.yaml")
    path.write_text(path.read_text().replace("cifar_resnet8", "cifar_resnet14"))
    with pytest.raises(StateError, match=r"run/checkpoints: the weights belong to another network"):
        load_trained(Run(Path("run")))
    with pytest.raises(StateError, match=r"the weights belong to another network: layer1\.1"):
        start("run", resume=True)


def test_weights_of_another_network(tmp_path):
    digits = data.load("digits")
    other = networks.create("cifar_resnet14", in_channels=1, num_classes=10)
    write_weights(other, tmp_path / "other.safetensors")
    with pytest.raises(StateError, match=r"other\.safetensors: the weights belong to another"):
        load_plain(TINY, digits, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(StateError, match="is not a file of safetensors, or it is broken"):
        load_plain(TINY, digits, tmp_path / "broken.safetensors")
    with pytest.raises(StateError, match="No such file"):
        load_plain(TINY, digits, tmp_path / "absent.safetensors")


def test_fold_that_would_change_outputs_is_refused(monkeypatch):
    digits = data.load("digits")
    network = build_network(TINY, digits)
    images, _ = next(iter(digits.batches("test", 8, device=torch.device("cpu"))))

    def wrong_fold(network):
        network.fc.bias += 1

    monkeypatch.setattr("timestepper.training.folded.fold", wrong_fold)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(FoldError, match="differs from the stepped one by up to 1 on 8 images"):
        folded_copy(network, images)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_classes_must_fit_the_data():
    network = NetworkConfiguration("cifar_resnet8", {"num_classes": 100})
    message = "network.options.num_classes is 100, but 'digits' has 10; leave it out"
    with pytest.raises(ValueError, match=message):
        start("run", network=network)
    assert not Path("run").exists()
