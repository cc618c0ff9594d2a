"""timm's training script, by a stand-in that calls timm's public pieces in the same order."""

import errno
import logging
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.models import load_checkpoint

import timestepper
from timestepper.integrations.timm import main

STAND_IN = Path(__file__).with_name("timm_stand_in.py")
SMALL = ["--num-classes", "2", "--input-size", "3", "32", "32", "--batch-size", "2"]


@pytest.fixture
def train(make_folder):
    """Run the stand-in with time stepping; return the status and the last checkpoint."""
    data = make_folder(sizes=((32, 32),), train=2)

    def run(*arguments, stepping=()):
        where = ["--data-dir", str(data), "--output", "out", "--experiment", "run"]
        status = main(["train", *stepping, str(STAND_IN), *where, *SMALL, *arguments])
        logging.disable(logging.NOTSET)  # The script had disabled it.
        assert timm.create_model is timm.models.create_model
        assert timm.create_model.__module__.startswith("timm.")
        assert sys.argv[0] != str(STAND_IN)
        return status, Path("out/run/last.pth.tar")

    return run


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("timestepper: error: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("script", "stepping"),
    [
        (["--model", "test_resnet"], []),
        (["--model", "test_resnet", "--model-ema", "--model-ema-decay", "0.5"], []),
        (["--model", "test_resnet", "--teacher"], ["--controller", "indp"]),
        (["--model", "test_resnet", "--in-chans", "1", "--input-size", "1", "32", "32"], []),
        (["--model", "test_vit", "--model-kwargs", "img_size=32"], ["--reduction", "2"]),
    ],
)
def test_trains_resumes_and_folds(train, script, stepping):
    status, checkpoint = train(*script, stepping=stepping)
    assert status == 0
    status, checkpoint = train(
        *script, "--resume", str(checkpoint), "--epochs", "2", stepping=stepping
    )
    assert status == 0
    assert main(["fold", *stepping, str(checkpoint), "--output", "folded.safetensors"]) == 0

    channels = 1 if "--in-chans" in script else 3
    size = {"img_size": 32} if "test_vit" in script else {}
    options = {"num_classes": 2, "in_chans": channels, **size}
    images = torch.randn(3, channels, 32, 32)
    attached = timestepper.attach(
        timm.create_model(script[1], **options),
        "indp" if "indp" in stepping else "lstm",
        example_input=images[:1],
        reduction=2 if "--reduction" in stepping else None,
    )
    before = [p.clone() for p in attached.time_stepping.parameters()]
    load_checkpoint(attached, checkpoint)  # averaged weights where there are some
    assert any(
        not torch.equal(p, q)
        for p, q in zip(before, attached.time_stepping.parameters(), strict=True)
    )
    plain = timm.create_model(script[1], checkpoint_path="folded.safetensors", **options)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), attached.eval()(images))


@pytest.mark.parametrize("controller", ["0.25", "lstm-standardised"])
def test_folds_with_the_step_sizes_of_the_training(train, capsys, controller):
    _, checkpoint = train("--model", "test_resnet", stepping=("--controller", controller))
    assert "give --controller" in refused(capsys, "fold", checkpoint, "--output", "x.safetensors")
    # Which step size was fixed, the checkpoint knows itself.
    also = "0.5" if controller == "0.25" else controller
    arguments = ["fold", "--controller", also, str(checkpoint), "--output", "folded.safetensors"]
    assert main(arguments) == 0
    options = {"num_classes": 2, "in_chans": 3}
    attached = timestepper.attach(timm.create_model("test_resnet", **options), controller)
    load_checkpoint(attached, checkpoint)
    plain = timm.create_model("test_resnet", checkpoint_path="folded.safetensors", **options)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), attached.eval()(images))


def test_folds_networks_from_folders(train):
    plain = timm.create_model("test_resnet", num_classes=2)
    timm.models.save_for_hf(plain, "folder", model_args={"in_chans": 3}, safe_serialization=True)
    _, checkpoint = train("--model", "local-dir:folder")
    assert main(["fold", str(checkpoint), "--output", "folded.safetensors"]) == 0
    load_checkpoint(plain, "folded.safetensors")


def test_controllers_are_trained(train):
    _, checkpoint = train("--model", "test_resnet", "--lr", "0.5")
    with torch.serialization.safe_globals([Namespace]):
        saved = torch.load(checkpoint, weights_only=True)
    names = [name for name in saved["state_dict"] if name.startswith("time_stepping.")]
    biases = [saved["state_dict"][name] for name in names if name.endswith("project_out.bias")]
    assert biases
    assert all(bias.abs().max() > 0 for bias in biases)  # they start at zero
    total = sum(len(group["params"]) for group in saved["optimizer"]["param_groups"])
    plain = len(list(timm.create_model("test_resnet").parameters()))
    assert total == plain + len(names)


def test_script_may_convert_batch_norms_before_it_builds_the_optimizer(train, capsys):
    status, checkpoint = train("--model", "test_resnet", "--split-bn", "--batch-size", "4")
    assert status == 0
    message = refused(capsys, "fold", checkpoint, "--output", "folded.safetensors")
    assert "aux_bn" in message  # plain timm does not load these either
    assert "--controller" not in message

    # --sync-bn needs several GPUs to train; converting first is what makes it possible.
    network = convert_sync_batchnorm(timm.create_model("test_resnet", num_classes=2)).eval()
    timestepper.attach(network)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = network(images)
        assert torch.equal(timestepper.fold(network)(images), before)


def test_refuses_scripts_it_cannot_help(train, capsys):
    assert "there is no script train.py" in refused(capsys, "train", "train.py")
    assert "there is no script xxx" in refused(capsys, "train", "x" * 300)
    Path("script.py").write_text("import timm\ntimm.create_model('test_resnet')\n")
    assert "nothing was attached" in refused(capsys, "train", "script.py")
    assert train("--model", "test_resnet", "--torchscript")[0] == 2
    assert "--torchscript?" in capsys.readouterr().err
    assert "unknown controller 'lstn'" in refused(
        capsys,
        *("train", "--controller", "lstn", STAND_IN, "--data-dir", ".", "--output", "out"),
        *("--model", "test_resnet", *SMALL),
    )


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


def disk_is_full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_refuses_checkpoints_it_cannot_fold(train, capsys, monkeypatch):
    def fold(checkpoint, *options, output="folded.safetensors"):
        return refused(capsys, "fold", checkpoint, "--output", output, *options)

    assert "No such file" in fold("missing.pth.tar")
    Path("text.pth.tar").write_text("not a checkpoint")
    assert "is not a checkpoint of timm's training script" in fold("text.pth.tar")
    torch.save({"state_dict": {}, "args": Harmful()}, "harmful.pth.tar")
    assert "is not a checkpoint of timm's training script" in fold("harmful.pth.tar")
    assert not Path("harmed").exists()

    assert "two\\nlines" in fold("two\nlines")
    torch.save({"state_dict": {}, "args": Namespace(model="none", num_classes=2)}, "odd.pth.tar")
    assert "no network is called 'timm/none'" in fold("odd.pth.tar")

    _, checkpoint = train("--model", "test_resnet")
    message = fold(checkpoint, "--controller", "2fc")
    assert "time_stepping." in message
    assert "give --controller and --reduction as for the training" in message
    assert "has no folder to be in" in fold(checkpoint, output="nowhere/folded.safetensors")
    assert "must end in .safetensors" in fold(checkpoint, output="folded.bin")
    assert "File name too long" in fold(checkpoint, output=f"{'x' * 300}.safetensors")
    with monkeypatch.context() as full:
        full.setattr("timestepper.integrations.timm.write_weights", disk_is_full)
        assert "No space left on device" in fold(checkpoint)
    assert not Path("folded.safetensors").exists()
    Path("folded.safetensors").write_text("precious")
    assert "exists already" in fold(checkpoint)
    assert Path("folded.safetensors").read_text() == "precious"

    with torch.serialization.safe_globals([Namespace]):
        saved = torch.load(checkpoint, weights_only=True)
    plain = {k: v for k, v in saved["state_dict"].items() if not k.startswith("time_stepping.")}
    torch.save({**saved, "state_dict": plain}, "plain.pth.tar")
    assert "trained without time stepping" in fold("plain.pth.tar", output="other.safetensors")


def test_refuses_damaged_checkpoints(train, capsys):
    _, checkpoint = train("--model", "test_resnet")
    content = bytearray(checkpoint.read_bytes())
    weight = torch.load(checkpoint, weights_only=False)["state_dict"]["conv1.0.weight"]
    place = content.index(weight.numpy().tobytes())
    content[place] ^= 1
    Path("damaged.pth.tar").write_bytes(content)
    message = refused(capsys, "fold", "damaged.pth.tar", "--output", "folded.safetensors")
    assert "it is broken" in message


@pytest.mark.parametrize(
    "given",
    [
        {"model_kwargs": [1]},
        {"input_size": 5},
        {"model": 5},
        {"model": "local-dir:nowhere"},
        {"model_kwargs": {"img_size": "big"}, "model": "test_vit"},
    ],
)
def test_refuses_arguments_no_script_has(capsys, given):
    args = Namespace(**{"model": "test_resnet", "num_classes": 2, **given})
    torch.save({"state_dict": {"time_stepping.h": torch.ones(())}, "args": args}, "odd.pth.tar")
    message = refused(capsys, "fold", "odd.pth.tar", "--output", "folded.safetensors")
    assert message.startswith("timestepper: error: odd.pth.tar") or "timm/" in message
