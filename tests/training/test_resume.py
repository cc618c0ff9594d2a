"""A training that was stopped and continued ends bit for bit where an unbroken one ends."""

import re
from pathlib import Path

import pytest
from trainings import (
    UPDATES,
    assert_identical,
    assert_same_end,
    at_step,
    checkpoint,
    interrupt,
    start,
)

from timestepper.errors import RunError
from timestepper.training.configuration import (
    DataConfiguration,
    NetworkConfiguration,
    ScheduleConfiguration,
    StabilityConfiguration,
    SteppingConfiguration,
)

SETTINGS = {
    "lstm": {},
    "plain": {"stepping": SteppingConfiguration("none")},
    "average": {"ema_decay": 0.9},
    "step-schedule": {"schedule": ScheduleConfiguration("step"), "seed": 3},
    # Drop path draws from torch's generator in every step.
    "drop-path": {"network": NetworkConfiguration("timm/test_resnet", {"drop_path_rate": 0.5})},
    # Each power iteration goes on from the one before.
    "bound": {"stability": StabilityConfiguration("bound", 0.01)},
    "spectral": {"stability": StabilityConfiguration("spectral", 0.01), "ema_decay": 0.9},
    "bfloat16": {"precision": "bf16-mixed", "channels_last": True},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_stopped_in_mid_epoch(settings, monkeypatch):
    start("unbroken", **settings)
    interrupt("stopped", monkeypatch, UPDATES + 9, **settings)
    assert checkpoint("stopped")["batch"] == 9
    start("stopped", resume=True)
    assert_same_end("stopped", "unbroken")


@pytest.mark.parametrize("number", [1, UPDATES - 1, UPDATES, UPDATES + 1, 2 * UPDATES])
def test_stopped_around_the_ends_of_epochs(number, monkeypatch):
    start("unbroken")
    interrupt("stopped", monkeypatch, number)
    start("stopped", resume=True)
    assert_same_end("stopped", "unbroken")


def test_stopped_twice(monkeypatch):
    start("unbroken")
    interrupt("stopped", monkeypatch, 5)
    interrupt("stopped", monkeypatch, UPDATES, resume=True)
    start("stopped", resume=True)
    assert_same_end("stopped", "unbroken")


class PowerCut(BaseException):
    pass


def cut(*_):
    raise PowerCut


@pytest.mark.parametrize("number", [7, UPDATES + 7])
def test_killed_without_a_chance_to_save(number, monkeypatch):
    start("unbroken")
    with monkeypatch.context() as patches:
        at_step(patches, number, cut)
        with pytest.raises(PowerCut):
            start("killed")
    shown = start("killed", resume=True)
    assert ("starting at the beginning" in shown) == (number < UPDATES)
    assert_same_end("killed", "unbroken")


def test_a_finished_training_is_left_as_it_is():
    start("run")
    before = checkpoint("run")
    shown = start("run", resume=True)
    assert "epoch " not in shown
    assert "test accuracy" in shown
    assert_identical(checkpoint("run"), before)


def test_another_ema_setting_is_refused(monkeypatch):
    interrupt("run", monkeypatch, 3)
    path = Path("run/configuration.yaml")
    path.write_text(path.read_text().replace("ema_decay: null", "ema_decay: 0.5"))
    with pytest.raises(RunError, match="another ema_decay"):
        start("run", resume=True)


@pytest.mark.parametrize("explain", ["true", "false"])
def test_another_explain_setting_is_refused(explain, monkeypatch):
    stepping = SteppingConfiguration(explain=explain == "false")
    network = NetworkConfiguration("cifar_resnet14")
    interrupt("run", monkeypatch, 3, stepping=stepping, network=network)
    path = Path("run/configuration.yaml")
    text = path.read_text()
    path.write_text(re.sub("explain: (true|false)", f"explain: {explain}", text))
    with pytest.raises(RunError, match=r"another stepping\.explain; put back"):
        start("run", resume=True)


@pytest.mark.parametrize("strength", ["strength: 0.0", "strength: 0.01"])
def test_another_stability_penalty_is_refused(strength, monkeypatch):
    penalised = {"stability": StabilityConfiguration("bound", 0.01)}
    interrupt("run", monkeypatch, 3, **({} if strength == "strength: 0.01" else penalised))
    path = Path("run/configuration.yaml")
    penalty = "none" if strength == "strength: 0.0" else "bound"
    other = f"stability:\n  penalty: {penalty}\n  {strength}\n"
    head, _, rest = path.read_text().partition("stability:\n")
    path.write_text(head + other + rest.split("\n", 2)[2])
    with pytest.raises(RunError, match=r"another stability\.penalty"):
        start("run", resume=True)


def test_settings_of_the_optimizer_that_were_changed_hold(monkeypatch):
    changed = {"momentum": 0.5, "nesterov": False, "weight_decay": 0.25}
    interrupt("run", monkeypatch, 4)
    path = Path("run/configuration.yaml")
    text = path.read_text()
    for name, value in changed.items():
        text, found = re.subn(rf"(?m)^(  {name}): .*$", rf"\1: {str(value).lower()}", text)
        assert found == 1
    path.write_text(text)
    seen = {}

    def look(trainer):
        group = trainer.optimizer.param_groups[0]
        seen.update({name: group[name] for name in changed})

    at_step(monkeypatch, 1, look)
    start("run", resume=True)
    assert seen == changed


def change(setting, value):
    path = Path("run/configuration.yaml")
    text, found = re.subn(rf"(?m)^{setting}: .*$", f"{setting}: {value}", path.read_text())
    assert found == 1
    path.write_text(text)


@pytest.mark.parametrize("updates", [4, UPDATES])
def test_another_batch_size_is_refused_within_an_epoch(updates, monkeypatch):
    interrupt("run", monkeypatch, updates)
    change("batch_size", 20)
    with pytest.raises(RunError, match="another batch_size; put back"):
        start("run", resume=True)


def test_another_batch_size_from_the_next_epoch_on():
    start("run", epochs=1)
    change("batch_size", 20)
    change("epochs", 2)
    assert "epoch 2/2" in start("run", resume=True)


def test_other_images_are_refused(make_folder, monkeypatch):
    folder = make_folder("images", train=8)
    data = DataConfiguration("imagefolder", str(folder))
    interrupt("run", monkeypatch, 2, data=data, batch_size=4)
    (folder / "train" / "cat" / "0.png").unlink()
    before = Path("run/checkpoints/last.pt").read_bytes()
    with pytest.raises(RunError, match=r"the images are not those that run was begun with"):
        start("run", resume=True)
    assert Path("run/checkpoints/last.pt").read_bytes() == before


@pytest.mark.parametrize("folder", ["a[lr=0.1]", "b[/c]"])
def test_folders_that_look_like_markup(folder):
    assert f"the folded network is in {folder}/folded.safetensors" in start(folder, epochs=1)
