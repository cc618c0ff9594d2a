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
from timestepper.cli import bench as bench_command
from timestepper.cli import demo as demo_command
from timestepper.training.configuration import Configuration
from timestepper.training.interruption import Interrupted

TINY = ["--network.name", "cifar_resnet8", "--epochs", "1", "--accelerator", "cpu"]


@pytest.fixture
def finished(capsys):
    """Train into the folder ``run``."""
    assert main(["train", *TINY, "--folder", "run"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [[Path(sys.executable).with_name("timestepper")], [sys.executable, "-m", "timestepper"]],
    ids=["installed", "as a module"],
)
def test_command_has_a_version(command):
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
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
    two = ["--weights", "run/folded.safetensors", "--checkpoint", "last"]
    assert main(["evaluate", "run", *two]) == 2
    assert "--weights and --checkpoint are two networks; leave one" in capsys.readouterr().err


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


def test_steps_explains(capsys):
    deeper = ["--network.name", "cifar_resnet14", "--epochs", "3", "--accelerator", "cpu"]
    assert main(["train", *deeper, "--stepping.explain", "true", "--folder", "run"]) == 0
    capsys.readouterr()
    assert main(["steps", "run", "--explain"]) == 0
    recorded = capsys.readouterr().out
    rows = [line.split("│") for line in recorded.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows if row[1].strip()] == ["layer1", "layer2", "layer3"]
    assert [row[2].strip() for row in rows] == ["start", "1", "2", "end"] * 3
    for row in rows:
        assert sum(float(share.strip(" %")) for share in row[4:7]) == pytest.approx(100, abs=0.2)
    assert "plot: run/explanation.png" in recorded
    assert "--stepping.explain" not in recorded
    with Image.open("run/explanation.png") as picture:
        picture.verify()
    Path("run/explanation.png").write_bytes(b"an older plot of the run's own")
    assert main(["steps", "run", "--explain"]) == 0
    with Image.open("run/explanation.png") as picture:
        picture.verify()
    Path("mine.png").write_bytes(b"precious")
    capsys.readouterr()
    assert main(["steps", "run", "--explain", "--output", "mine.png"]) == 2
    assert "mine.png exists already; name another" in capsys.readouterr().err
    assert Path("mine.png").read_bytes() == b"precious"

    # A run that has not recorded what lies between.
    Path("run/explanation.safetensors").unlink()
    configuration = Path("run/configuration.yaml")
    configuration.write_text(configuration.read_text().replace("explain: true", "explain: false"))
    assert main(["steps", "run", "--explain", "--output", "explained.svg"]) == 0
    unrecorded = capsys.readouterr().out
    assert "was not recorded; to record it, train with --stepping.explain true" in unrecorded
    only = [line.split("│") for line in unrecorded.splitlines() if line.startswith("│")]
    assert [row[2].strip() for row in only] == ["start", "end"] * 3
    ends = [row for row in rows if not row[2].strip().isdigit()]
    for found, expected in zip(only, ends, strict=True):
        numbers, wanted = ([float(text.strip(" %")) for text in r[3:-1]] for r in (found, expected))
        assert numbers[1:4] == pytest.approx(wanted[1:4], abs=0.11)
        assert numbers[0] == pytest.approx(wanted[0], rel=0.1)
        assert numbers[4:] == pytest.approx(wanted[4:], rel=0.1)
    assert Path("explained.svg").stat().st_size > 5000


def test_steps_can_not_explain_stages_of_one_block(finished, capsys):
    assert main(["steps", "run", "--explain"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("timestepper: error: there is nothing to compare: every stage")
    assert said.err.count("\n") == 1
    assert not Path("run/explanation.png").exists()


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


def test_bench(capsys):
    """It prints every ratio and leaves nothing behind."""
    assert main(["bench", *TINY[:2], "--data.image_size", "8", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "lstm: batches of 64×1×8×8" in shown
    for line in ("with step sizes, over the plain network", "folded, over the plain network"):
        assert re.search(rf"{line} +│ +\d\.\d\d\d │", shown)
    assert re.search(r"training with step sizes +│ +[\d,]+ images/s │", shown)
    assert "hardware: " in shown
    assert not list(Path().iterdir())


def test_bench_times_the_kernels_that_train(monkeypatch):
    seen = []

    def measure(*_):
        seen.append(torch.are_deterministic_algorithms_enabled())
        raise Interrupted(2, "enough")

    monkeypatch.setattr(bench_command, "measure_speed", measure)
    for wanted in ("true", "false"):
        assert main(["bench", *TINY[:2], "--deterministic", wanted]) == 130
    assert seen == [True, False]


def test_bench_takes_the_images_of_a_recipe(capsys):
    assert main(["bench", "--recipe", "smoke", "--rounds", "1", "--accelerator", "cpu"]) == 0
    assert "batches of 64×1×8×8" in capsys.readouterr().out
