"""Each format, written by the command and read as its receiver reads it."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models
from trainings import TINY, start

from timestepper import networks
from timestepper.cli import main
from timestepper.errors import ShippingError
from timestepper.shipping.elsewhere import outputs_elsewhere
from timestepper.shipping.onnx_model import OnnxModel
from timestepper.shipping.safetensors_weights import SafetensorsWeights
from timestepper.shipping.timm_folder import TimmFolder
from timestepper.training.configuration import NetworkConfiguration
from timestepper.training.run import Run
from timestepper.training.trained import load_trained

TIMM = NetworkConfiguration("test_resnet", {"global_pool": "max"})

LOADED_BY_TIMM = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "timestepper":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import timm, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(int(sys.argv[1]))
network = timm.create_model("local-dir:shipped", pretrained=True).eval()
with torch.no_grad():
    outputs = network(load_file("images.safetensors")["images"])
save_file({"outputs": outputs}, "outputs.safetensors")
"""


@pytest.fixture(scope="module")
def cifar_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cifar"
    start(folder, epochs=1)
    return str(folder)


@pytest.fixture(scope="module")
def timm_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "timm"
    start(folder, epochs=1, network=TIMM)
    return str(folder)


@pytest.fixture
def refuse(capsys):
    """Run a command that must fail and leave every file as it is; return what it says."""

    def run(*arguments):
        before = contents()
        assert main(arguments) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.count("\n") == 1
        assert contents() == before
        return shown.err

    return run


def contents():
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))
    }


def outputs(run, count):
    """Images of a run, and what the network with step sizes makes of them."""
    trained = load_trained(Run(Path(run)))
    images = trained.some_images(count)
    with torch.no_grad():
        return images, trained.network(images)


def shipped(run, form, path, capfd):
    """Ship; return the one line that the user sees."""
    assert main(["fold", run, "--to", form, "--output", path]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert shown.out.count("\n") == 1
    assert shown.out.startswith(f"{path}: ")
    assert [entry.name for entry in Path().iterdir()] == [path]
    return shown.out


def test_timm_loads_the_folder_without_this_package(timm_run, capfd):
    shown = shipped(timm_run, "timm", "shipped", capfd)
    assert "test_resnet, " in shown
    assert 'timm.create_model("local-dir:...", pretrained=True) without timestepper' in shown
    trained = load_trained(Run(Path(timm_run)))
    config = json.loads(Path("shipped/config.json").read_text())
    assert config["architecture"] == "test_resnet"
    assert config["label_names"] == list("0123456789")
    assert config["model_args"]["global_pool"] == "max"
    preprocessing = config["pretrained_cfg"]
    assert preprocessing["input_size"] == [1, 8, 8]
    assert preprocessing["mean"] == list(trained.images.mean)
    assert preprocessing["std"] == list(trained.images.std)
    assert "license" not in preprocessing or preprocessing["license"] is None
    images, expected = outputs(timm_run, 100)
    save_file({"images": images}, "images.safetensors")
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", LOADED_BY_TIMM, threads], check=True)
    assert torch.equal(load_file("outputs.safetensors")["outputs"], expected)


def test_torchvision_takes_the_weights(make_folder, tmp_path_factory, capfd):
    data = make_folder("images", sizes=((32, 32),))
    run = str(tmp_path_factory.mktemp("runs") / "torchvision")
    start(
        run,
        epochs=1,
        batch_size=4,
        channels_last=True,
        network=NetworkConfiguration("torchvision/resnet18"),
        data=replace(TINY.data, name="imagefolder", data_dir=str(data)),
    )
    assert main(["fold", run, "--to", "torchvision"]) == 0
    assert "get_model('resnet18', num_classes=2) without timestepper" in capfd.readouterr().out
    plain = models.get_model("resnet18", num_classes=2).eval()
    plain.load_state_dict(torch.load(Path(run, "folded.pth"), weights_only=True))
    images, expected = outputs(run, 6)
    with torch.no_grad():
        # The run's kernels are those of channels_last, whose sums round otherwise.
        torch.testing.assert_close(plain(images), expected, rtol=1e-5, atol=1e-5)


def test_onnxruntime_runs_the_model(cifar_run, capfd):
    shown = shipped(cifar_run, "onnx", "resnet.onnx", capfd)
    assert "onnxruntime, in batches of 250 and 1: within " in shown
    session = onnxruntime.InferenceSession("resnet.onnx", providers=["CPUExecutionProvider"])
    images, expected = outputs(cifar_run, 7)
    [found] = session.run(["outputs"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)


def test_exported_program_runs(cifar_run, capfd):
    level = logging.root.manager.disable
    shown = shipped(cifar_run, "export", "resnet.pt2", capfd)
    assert "torch.export.load without timestepper, in batches of 250 and 1: bit-equal" in shown
    images, expected = outputs(cifar_run, 7)
    assert torch.equal(torch.export.load("resnet.pt2").module()(images), expected)
    assert logging.root.manager.disable == level


def test_safetensors_load_into_the_plain_network(cifar_run, capfd):
    shipped(cifar_run, "safetensors", "resnet.safetensors", capfd)
    plain = networks.create("cifar_resnet8", in_channels=1, num_classes=10).eval()
    plain.load_state_dict(load_file("resnet.safetensors"))
    images, expected = outputs(cifar_run, 7)
    assert torch.equal(plain(images), expected)


def test_elsewhere_this_package_can_not_be_imported():
    with pytest.raises(ShippingError, match="import of timestepper halted"):
        outputs_elsewhere("import timestepper", Path("x"), [torch.zeros(1)])


def test_formats_that_do_not_fit(cifar_run, timm_run, refuse):
    assert "cifar_resnet8 is not a network of timm's; ship it with --to safetensors, onnx or" in (
        refuse("fold", cifar_run, "--to", "timm", "--output", "x")
    )
    assert "test_resnet is not a network of torchvision's; ship it with --to timm, safete" in (
        refuse("fold", timm_run, "--to", "torchvision", "--output", "x")
    )
    assert "to is 'onxx'; it must be one of 'timm', 'torchvision', 'safetensors', 'onnx'" in (
        refuse("fold", cifar_run, "--to", "onxx")
    )


def test_missing_extra_is_named(cifar_run, refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert refuse("fold", cifar_run, "--to", "onnx", "--output", "x.onnx").endswith(
        'needs onnxruntime; install the extra with: pip install "timestepper[export]"\n'
    )


def test_what_is_in_the_way(cifar_run, timm_run, refuse):
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("years of work")
    to_timm = ("fold", timm_run, "--to", "timm", "--output")
    assert "full exists already; name another with --output" in refuse(*to_timm, "full")
    assert "full/thesis.txt is a file; name a folder" in refuse(
        *to_timm, "full/thesis.txt", "--force"
    )
    assert "there is no folder nowhere" in refuse(*to_timm, "nowhere/x")
    for form in ("onnx", "safetensors"):
        said = refuse("fold", cifar_run, "--to", form, "--output", "full", "--force")
        assert "full is a folder; name a file with --output" in said


def test_a_folder_above_gets_the_files_and_nothing_else(timm_run, monkeypatch):
    Path("place/inner").mkdir(parents=True)
    Path("place/notes.txt").write_text("above")
    Path("place/inner/notes.txt").write_text("below")
    monkeypatch.chdir("place/inner")
    run = os.path.relpath(timm_run)
    assert main(["fold", run, "--to", "timm", "--output", "..", "--force"]) == 0
    assert [path.name for path in Path().iterdir()] == ["notes.txt"]
    assert Path("../notes.txt").read_text() == "above"
    names = sorted(path.name for path in Path("..").iterdir())
    assert names == ["config.json", "inner", "model.safetensors", "notes.txt"]


def test_network_that_timm_rebuilds_otherwise_is_refused(timm_run, refuse, monkeypatch):
    """With another activation it has the same weights by the same names."""
    create = networks.create

    def changed(name, **options):
        network = create(name, **options)
        network.layer2[0].act1 = nn.GELU()
        return network

    monkeypatch.setattr(networks, "create", changed)
    Path("old").mkdir()
    Path("old/model.safetensors").write_bytes(b"precious")
    said = refuse("fold", timm_run, "--to", "timm", "--output", "old", "--force")
    assert "timm can't rebuild test_resnet: what it builds by name gives other outputs" in said


def test_failed_verification_leaves_the_old_file(cifar_run, refuse, monkeypatch):
    write = OnnxModel.write

    def wrong(form, parcel, path):
        write(form, parcel, path)
        model = onnx.load(path)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
        values = onnx.numpy_helper.to_array(bias) + 1e-2
        bias.CopyFrom(onnx.numpy_helper.from_array(values, "fc.bias"))
        onnx.save(model, path)

    monkeypatch.setattr(OnnxModel, "write", wrong)
    Path("old.onnx").write_bytes(b"precious")
    said = refuse("fold", cifar_run, "--to", "onnx", "--output", "old.onnx", "--force")
    assert "onnxruntime gives other outputs (they differ by up to 0.01, the largest is" in said


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_one_line_and_leaves_nothing_behind(cifar_run, which, monkeypatch, capsys):
    def told(form, parcel, path):
        path.write_bytes(b"half of it")
        signal.raise_signal(which)

    before = signal.signal(which, signal.default_int_handler)
    monkeypatch.setattr(SafetensorsWeights, "write", told)
    try:
        assert main(["fold", cifar_run, "--output", "x"]) == 128 + which
    finally:
        signal.signal(which, before)
    assert capsys.readouterr().err == "timestepper: stopped; nothing was written\n"
    assert list(Path().iterdir()) == []


def test_network_that_torch_can_not_export(cifar_run, refuse, monkeypatch):
    class OneBatchSize(nn.Module):
        def forward(self, images):
            return torch.stack(list(images))

    create = networks.create

    def changed(name, **options):
        network = create(name, **options)
        network.avgpool = nn.Sequential(network.avgpool, OneBatchSize())
        return network

    monkeypatch.setattr(networks, "create", changed)
    said = refuse("fold", cifar_run, "--to", "onnx", "--output", "x")
    assert "torch can't export cifar_resnet8: Found the following conflicts" in said
    assert "inferred a static shape of 2 for dimension" in said


@pytest.mark.parametrize("form", ["timm", "export"])
def test_no_space_is_one_line(timm_run, refuse, form):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        said = refuse("fold", timm_run, "--to", form, "--output", "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in said


def test_original_bottlenecks_are_refused_by_name(timm_run):
    """On images of a pixel or two their outputs may be those of today's form."""
    trained = load_trained(Run(Path(timm_run)))
    named = replace(trained.configuration, network=NetworkConfiguration("resnet50_v1"))
    with pytest.raises(ShippingError, match=r"timm builds no resnet50_v1.*--to safetensors"):
        TimmFolder().require(replace(trained, configuration=named))


def test_timm_is_given_no_weights_that_layers_share(timm_run):
    trained = load_trained(Run(Path(timm_run)))
    trained.network.add_module("again", trained.network.conv1)
    said = r"share weights \(conv1\.0\.weight and again\.0\.weight are one\); ship it"
    with pytest.raises(ShippingError, match=said):
        TimmFolder().require(trained)
