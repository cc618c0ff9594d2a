"""``timestepper stability`` as its user sees it."""

import json
from pathlib import Path

import pytest
import torch
from endings import contents
from PIL import Image

from timestepper.cli import main, stability
from timestepper.training.run import Run
from timestepper.training.trained import load_trained

TINY = ["--network.name", "cifar_resnet8", "--epochs", "1", "--accelerator", "cpu"]


@pytest.fixture
def runs(capsys):
    """Train into the folders ``run`` and ``plain``."""
    assert main(["train", *TINY, "--folder", "run"]) == 0
    assert main(["train", *TINY, "--folder", "plain", "--stepping.controller", "none"]) == 0
    capsys.readouterr()


def is_picture(path):
    with Image.open(path) as picture:
        picture.verify()
    return True


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_two_runs_side_by_side(runs, capsys):
    assert main(["stability", "run", "--compare", "plain"]) == 0
    shown = capsys.readouterr().out
    assert "layer3.0" in shown
    assert "growth of a perturbation from y_0 to y_D" in shown
    pictures = ["eigenvalues.png", "gradients-1.png", "gradients-2.png", "growth.png"]
    assert names("run/stability") == [*pictures, "stability.json", "trajectories.png"]
    assert all(is_picture(path) for path in Path("run/stability").glob("*.png"))
    read = json.loads(Path("run/stability/stability.json").read_text())
    assert list(read) == ["run", "plain"]
    assert list(read["run"]["gradient_flow"]) == ["controller", "h = 1", "h = 0.01"]
    assert list(read["plain"]["gradient_flow"]) == ["h = 1", "h = 0.01"]
    assert all(0 < step["step_size"] < 1 for step in read["run"]["steps"])
    assert read["run"]["images"] == 2
    assert (read["run"]["run"], read["plain"]["run"]) == ("..", "../../plain")
    assert f"{read['run']['worst']:.4g}" in shown

    assert main(["stability", "run"]) == 2
    assert "run/stability exists already" in capsys.readouterr().err
    assert main(["stability", "run", "--image_size", "64", "--force"]) == 2
    assert "image_size is for networks that are given by name" in capsys.readouterr().err
    Path("run/stability/mine.png").write_bytes(b"")
    name = r"_$\b$[red]"  # It means something to what shows it.
    Path("run").rename(name)
    assert main(["stability", name, "--force"]) == 0
    assert f"{name}: 2 images" in capsys.readouterr().out
    assert "gradients-1.png" not in names(f"{name}/stability")
    assert "mine.png" in names(f"{name}/stability")
    Path(name).rename("run")
    assert main(["stability", "run/folded.safetensors", "--output", "folded"]) == 0
    folded = json.loads(Path("folded/stability.json").read_text())["run/folded.safetensors"]
    assert folded["worst"] == read["run"]["worst"]
    assert main(["stability", "run/checkpoints/last.pt", "--force"]) == 0
    read = json.loads(Path("run/stability/stability.json").read_text())
    assert read["run/checkpoints/last.pt"]["worst"] == folded["worst"]


def test_results_of_before_are_kept_until_there_are_new_ones(monkeypatch):
    arguments = ["stability", "cifar_resnet8", "--image_size", "8", "--directions", "1"]
    assert main(arguments) == 0
    before = contents()

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(stability, "gradient_flow", stop)
    assert main([*arguments, "--force"]) == 130
    assert contents() == before


def test_checkpoints_from_their_own_folder(runs, monkeypatch):
    monkeypatch.chdir("run/checkpoints")
    assert main(["stability", "last.pt", "--images", "1", "--output", "here"]) == 0


def test_images_of_folders_are_of_all_classes(make_folder, monkeypatch, capsys):
    folder = make_folder("images", sizes=((16, 16),))
    data = ["--data.name", "imagefolder", "--data.data_dir", str(folder), "--batch_size", "4"]
    assert main(["train", *TINY, *data, "--folder", "photos"]) == 0
    seen = []
    measure = stability.measure_stability

    def watched(network, images, **options):
        seen.append(images)
        return measure(network, images, **options)

    monkeypatch.setattr(stability, "measure_stability", watched)
    monkeypatch.setattr(stability, "FOLLOWED", 4)
    assert main(["stability", "photos", "--images", "2"]) == 0
    trained = load_trained(Run(Path("photos")))
    images, labels = next(iter(trained.images.batches("test", 6, device=torch.device("cpu"))))
    places = [next(n for n, one in enumerate(images) if torch.equal(one, s)) for s in seen[0]]
    assert len(labels.unique()) == len(labels[places].unique()) == 2


def test_what_can_not_be_measured_is_said_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr(stability, "measure_stability", None)
    assert main(["stability", "cifar_resnet8", "--compare", "cifar_densenet10_k4"]) == 2
    assert "Proposition 1 is about residual networks" in capsys.readouterr().err


def test_a_network_by_name(capsys):
    arguments = ["stability", "torchvision/resnet18", "--image_size", "32", "--images", "1"]
    assert main([*arguments, "--directions", "1"]) == 0
    shown = capsys.readouterr().out
    assert "torchvision/resnet18: 1 image" in shown
    expected = ["eigenvalues.png", "gradients.png", "growth.png", "stability.json"]
    assert names("stability-torchvision-resnet18") == expected


def test_labels_of_random_images_are_random(monkeypatch):
    """A fresh network's own predictions may be so sure that their loss has no gradient."""
    seen = []
    measure, follow = stability.measure_stability, stability.gradient_flow

    def watched(network, images, labels, **options):
        seen.append((network(images).argmax(1), labels))
        return follow(network, images, labels, **options)

    def once(network, images, **options):
        return measure(network, images[:1], **options)

    monkeypatch.setattr(stability, "measure_stability", once)
    monkeypatch.setattr(stability, "gradient_flow", watched)
    arguments = ["stability", "cifar_resnet8", "--image_size", "8", "--images", "100"]
    assert main([*arguments, "--directions", "1", "--output", "here"]) == 0
    predicted, labels = seen[0]
    assert labels.unique().tolist() == list(range(10))
    assert (predicted == labels).sum() < 30


def test_no_bound_says_why(capsys):
    arguments = ["stability", "timm/seresnet18", "--image_size", "32", "--images", "1"]
    assert main([*arguments, "--output", "here"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "no bound: mul in layer1.0.se has no Lipschitz constant" in shown
    assert json.loads(Path("here/stability.json").read_text())["timm/seresnet18"]["bound"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run or file nowhere, and no network is called 'nowhere'"),
        (["cifar_resnet8", "--images", "0"], "images is 0; it must be at least 1"),
        (["cifar_resnet8", "--epsilon", "-1"], "epsilon must be from"),
        (["cifar_resnet8", "--compare", "cifar_resnet8"], "'cifar_resnet8' is given twice"),
        (["timm/vgg11", "--image_size", "32"], "no residual branch was found"),
        (["cifar_resnet8", "--output", "no/folder"], "there is no folder no"),
        (["cifar_densenet10_k4"], "Proposition 1 is about residual networks"),
        (["cifar_resnet8", "--image_size", "0"], "image_size is 0; it must be at least 1"),
        (["cifar_resnet8", "--seed", "99999999999999999999"], "must be from 0 to 2^63 - 1"),
        (["timm/test_vit", "--image_size", "30"], "timm/test_vit does not classify images of"),
        (["cifar_resnet8", "--compare", "./cifar_resnet8"], "'cifar_resnet8' is given twice"),
        (["cifar_resnet8", "--image_size", "100000000"], "does not classify images of shape"),
        (["other.pt"], "other.pt is not a run's last or best checkpoint"),
    ],
)
def test_bad_input(arguments, message, capsys):
    Path("other.pt").write_bytes(b"")
    assert main(["stability", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["other.pt"]
