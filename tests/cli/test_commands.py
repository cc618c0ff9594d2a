"""Each command as its user sees it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import timestepper
from timestepper.cli import COMMANDS, main
from timestepper.cli import demo as demo_command
from timestepper.training.configuration import Configuration

TINY = ["--network.name", "cifar_resnet8", "--epochs", "1", "--accelerator", "cpu"]


@pytest.fixture
def finished(capsys):
    """Train into the folder ``run``."""
    assert main(["train", *TINY, "--folder", "run"]) == 0
    return capsys.readouterr().out


def test_installed_command_has_a_version():
    command = Path(sys.executable).with_name("timestepper")
    shown = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == f"timestepper {timestepper.__version__}"


def test_without_a_command_it_shows_all_of_them(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert name in shown
        assert summary.split()[0] in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_a_summary_and_examples(name, capsys):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert COMMANDS[name] in shown
    assert re.search(rf"examples:\n  timestepper {name}", shown)


def test_help_of_train_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    for group in ("network", "stepping", "data", "optimizer", "schedule"):
        for setting in getattr(Configuration(), group).__dataclass_fields__:
            assert f"--{group}.{setting}" in shown
    for setting in Configuration.__dataclass_fields__:
        assert f"--{setting}" in shown


def test_train_overrides_a_recipe_and_names_its_run(capsys):
    arguments = ["train", "--recipe", "demo", *TINY, "--schedule.warmup_epochs", "0", "--seed=3"]
    assert main(arguments) == 0
    assert Path("runs/digits-cifar_resnet8-lstm-3/folded.safetensors").exists()
    assert "folded network is in runs/digits-cifar_resnet8-lstm-3" in capsys.readouterr().out


def test_train_resumes_a_finished_run(finished, capsys):
    assert main(["train", "--resume", "run"]) == 0
    assert capsys.readouterr().out.startswith("test accuracy")


def test_evaluate_finds_what_training_found(finished, capsys):
    expected = re.search(r"test accuracy ([\d.]+%)", finished)[1]
    for more in ([], ["--checkpoint", "best"], ["--weights", "run/folded.safetensors"]):
        assert main(["evaluate", "run", *more]) == 0
        shown = capsys.readouterr().out
        assert f": accuracy {expected}, loss " in shown
        assert "on 355 test images of digits" in shown


def test_fold_writes_a_plain_network(finished, capsys):
    assert main(["fold", "run", "--output", "plain.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert "outputs bit-equal on 250 test images" in shown
    plain = timestepper.networks.create("cifar_resnet8", in_channels=1, num_classes=10)
    weights = load_file("plain.safetensors")
    plain.load_state_dict(weights)
    count = sum(parameter.numel() for parameter in plain.parameters())
    assert f"cifar_resnet8, {count:,} parameters" in shown
    for name, tensor in load_file("run/folded.safetensors").items():
        assert torch.equal(tensor, weights[name])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_steps_prints_a_table_and_writes_a_plot(suffix, finished, capsys):
    assert main(["steps", "run", "--output", f"steps.{suffix}"]) == 0
    shown = capsys.readouterr().out
    assert "layer3.0" in shown
    assert f"plot: steps.{suffix}" in shown
    assert Path(f"steps.{suffix}").stat().st_size > 5000


def test_steps_of_a_plain_run(capsys):
    assert main(["train", *TINY, "--stepping.controller", "none", "--folder", "plain"]) == 0
    assert main(["steps", "plain"]) == 2
    assert "plain was trained without step sizes" in capsys.readouterr().err


def test_output_that_exists_is_kept_unless_forced(finished, capsys):
    before = Path("run/folded.safetensors").read_bytes()
    Path("run/folded.safetensors").write_bytes(b"precious")
    assert main(["fold", "run"]) == 2
    assert "exists already; name another with --output, or add --force" in capsys.readouterr().err
    assert Path("run/folded.safetensors").read_bytes() == b"precious"
    assert main(["fold", "run", "--force"]) == 0
    assert Path("run/folded.safetensors").read_bytes() == before


def test_truncated_checkpoint_falls_back_and_says_so(capsys):
    assert main(["train", *TINY[:2], "--epochs", "2", "--folder", "run"]) == 0
    last = Path("run/checkpoints/last.pt")
    last.write_bytes(last.read_bytes()[:1000])
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 0
    shown = capsys.readouterr()
    assert "last checkpoint, 1 epochs" in shown.out
    assert re.fullmatch(
        r"timestepper: warning: run/checkpoints/last\.pt can't be read \(.*\); going back to the "
        r"one before\n",
        shown.err,
    )
    assert main(["train", "--resume", "run"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("warning: run/checkpoints/last.pt can't be read")
    assert "epoch 2/2" in shown


def test_demo_compares_goes_on_and_reuses(monkeypatch, capsys):
    """The demo itself, on a smaller network."""
    recipe = Path("demo.yaml")
    recipe.write_text("network: {name: cifar_resnet8}\nepochs: 2\n")
    monkeypatch.setattr(demo_command, "find_recipe", lambda name: recipe)
    assert main(["demo"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("epoch 2/2") == 2
    assert "bit-equal outputs on 355 of 355 test images" in shown
    plain, stepped, folded = (
        re.search(rf"│ {name} +│ +([\d,]+) │ +([\d.]+) \[", shown)
        for name in ("plain", "time-stepped", "folded")
    )
    assert plain[1] == folded[1]
    assert int(stepped[1].replace(",", "")) > int(plain[1].replace(",", ""))
    assert stepped[2] == folded[2]
    with Image.open("runs/demo/time-stepped/step_sizes.png") as picture:
        picture.verify()
    assert main(["demo"]) == 0
    again = capsys.readouterr().out
    assert "epoch 2/2" not in again
    assert again.splitlines()[-4:] == shown.splitlines()[-4:]
    recipe.write_text("network: {name: cifar_resnet8}\nepochs: 3\n")
    assert main(["demo"]) == 2
    assert "was trained with other settings than the demo's" in capsys.readouterr().err
