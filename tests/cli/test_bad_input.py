"""A user's mistakes: one line that names the thing and the remedy, status 2, nothing lost."""

import functools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from endings import contents
from lightning_fabric.accelerators import CUDAAccelerator
from PIL import Image

from timestepper.cli import main

TINY = ["--network.name", "cifar_resnet8", "--epochs", "1", "--accelerator", "cpu"]


@pytest.fixture
def refuse(capsys):
    """Run a command that must fail without changing a file; return what it says."""

    def run(*arguments):
        capsys.readouterr()
        before = contents()
        assert main(arguments) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("timestepper: error: ")
        assert shown.err.count("\n") == 1
        assert contents() == before
        return shown.err.removeprefix("timestepper: error: ").rstrip("\n")

    return run


SETTINGS = {
    ("--optimzer.lr", "0.1"): "there is no setting 'optimzer.lr'; did you mean 'optimizer.lr'",
    ("--epoch", "3"): "there is no setting 'epoch'; did you mean 'epochs'",
    ("--lr", "0.1"): "there is no setting 'lr'; did you mean 'optimizer.lr'?",
    ("--learning_rate", "0.1"): "there is no setting 'learning_rate'; did you mean 'optimizer.lr'",
    ("--epochs", "many"): "epochs is 'many'; it must be a whole number",
    ("--epochs", "1.5"): "epochs is '1.5'; it must be a whole number",
    ("--epochs", "0"): "epochs is 0; it must be at least 1",
    ("--optimizer.lr", "fast"): "optimizer.lr is 'fast'; it must be a number",
    ("--optimizer.lr", "-1"): "optimizer.lr is -1.0; it must be greater than 0 and finite",
    ("--schedule.name", "linear"): "schedule.name is 'linear'; it must be one of 'step', 'cosine'",
    ("--schedule.milestones", "[0.9, 0.1]"): "schedule.milestones is [0.9, 0.1]; it must be",
    ("--compile", "perhaps"): "compile is 'perhaps'; it must be true or false",
    ("--network.name", "torchvision/resnet5"): "did you mean 'torchvision/resnet50'",
    ("--network.name", "timm/resnet5O"): "did you mean 'timm/resnet50'",
    ("--network.name", "cifar_resnet21"): (
        "depth 21 is not 6n + 2 with n >= 1; the nearest is 20 or 26"
    ),
    ("--network.name", "timm/mobilenetv1_100"): "no residual branch was found in EfficientNet",
    ("--network.options.width", "3"): "network 'cifar_resnet20' has no option 'width'; leave it",
    ("--network.options.num_classes", "11"): (
        "network.options.num_classes is 11, but 'digits' has 10; leave it out"
    ),
    ("--data.name", "cifra10"): "no data set is called 'cifra10'; did you mean 'cifar10'",
    ("--data.name", "cifar10"): "data set 'cifar10' was not found in data, ",
    ("--data.name", "imagefolder"): "data set 'imagefolder' was not found: neither --data.data_dir",
    ("--data.workers", "-1"): "workers is -1; it must be 0 or more",
    ("--stepping.controller", "lsmt"): "unknown controller 'lsmt'; did you mean 'lstm'",
    ("--stepping.reduction", "0"): "stepping.reduction is 0; it must be at least 1",
    ("--data.image_size", "300000"): (
        "1797 images of 300000x300000 pixels take 161,730 GB, more than this machine has memory; "
        "take a smaller image_size"
    ),
    ("--stepping.explain", "maybe"): "stepping.explain is 'maybe'; it must be true or false",
    ("--network.name=cifar_resnet8", "--stepping.explain=true"): (
        "there is nothing to compare: every stage of the network has one block only"
    ),
    ("--stepping.controller=0.1", "--stepping.explain=true"): (
        "stepping.explain is true; it must be false with stepping.controller 0.1"
    ),
    ("--recipe", "cifar11"): "recipe 'cifar11' is neither a file nor a recipe's name; did you mean",
    ("--resume", "nowhere"): "there is no run folder nowhere",
    ("--resume=nowhere", "--epochs=30"): "leave the other settings out",  # also the defaults
    ("--network.name=timm/resnet18", "--network.options.in_chans=1"): (
        "in_chans is in_channels: give only one of them"
    ),
    ("--data.name=imagefolder", "--data.data_dir=~nobody.of.that.name/images"): (
        "~nobody.of.that.name/images: it is not known which folder that is; write the path out"
    ),
    ("mine",): "there is no argument 'mine' here; settings are written as --name value",
    ("--epochs",): "epochs: expected one argument",
}


@pytest.mark.parametrize("arguments", SETTINGS, ids=" ".join)
def test_settings(arguments, refuse):
    assert SETTINGS[arguments] in refuse("train", *arguments)


def test_accelerator_that_is_not_there(refuse, monkeypatch):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: False))
    said = refuse("train", "--accelerator", "cuda")
    assert said.startswith("accelerator 'cuda' can't be used: ")


RECIPES = {
    "epoch: 3": "there is no setting 'epoch'; did you mean 'epochs'",
    "network: {nam: x}": "there is no setting 'network.nam'; did you mean 'network.name'",
    "batch_size: [1]": "recipe.yaml: batch_size is '[1]'; it must be a whole number",
    "data: digits": "recipe.yaml: data is 'digits'; it must be a group of settings such as",
    "ema_decay: 2": "ema_decay is 2.0; it must be between 0 and 1",
    "just words": "recipe.yaml: not a list of settings such as 'epochs: 30'",
    "a: b: c": "recipe.yaml: not valid YAML: mapping values are not allowed",
}


@pytest.mark.parametrize("text", RECIPES)
def test_recipes(text, refuse):
    Path("recipe.yaml").write_text(text)
    assert RECIPES[text] in refuse("train", "--recipe", "recipe.yaml")


def test_commands(refuse):
    assert refuse("trian") == "there is no command 'trian'; did you mean 'train'?"
    commands = "train, evaluate, fold, steps, stability, robustness, report, reproduce, bench, demo"
    assert refuse("xyzzy") == f"there is no command 'xyzzy'; there are {commands}"
    assert refuse("evaluate") == "RUN is missing; see --help"


def test_experiments(refuse):
    assert refuse("reproduce") == "EXPERIMENT is missing; see --help"
    assert "no experiment 'tabel2'; did you mean 'table2'" in refuse("reproduce", "tabel2")
    assert refuse("reproduce", "xyzzy") == (
        "there is no experiment 'xyzzy'; there are table1, figure1, table2, table3, table4, "
        "figure3, figure4, figure5, alternatives, controllers"
    )
    for name in ("table1", "figure1", "table4"):
        assert refuse("reproduce", name, "--counts") == (
            f"{name} has no counts of its own (table2 and table3 have); leave --counts out"
        )
    assert "no experiment 'figure1a'; did you mean 'figure1'" in refuse("reproduce", "figure1a")
    assert refuse("reproduce", "figure1", "--output", "nowhere") == (
        "figure1 can't be written: there is no folder nowhere"
    )
    assert "there is no setting 'count'" in refuse("reproduce", "table2", "--count")
    assert refuse("reproduce", "table1", "--output", "nowhere") == (
        "table1 can't be written: there is no folder nowhere"
    )
    Path("results").write_text("a file")
    assert "there is no folder results" in refuse("reproduce", "table1")
    assert "there is no folder results" in refuse("reproduce", "table1", "--output", "results")


def test_clusters(refuse, monkeypatch, tmp_path):
    def reproduce(*settings):
        return refuse("reproduce", "figure3", "--scale", "smoke", *settings)

    slurm = ("--cluster.name", "slurm")
    assert reproduce("--cluster", "slurm") == (
        "cluster is 'slurm'; it must be a group of settings such as {name: ...}; did you mean "
        "'cluster.name'?"
    )
    assert "cluster.name is 'sge'; it must be one of 'slurm', 'local'" in reproduce(
        "--cluster.name", "sge"
    )
    assert reproduce("--cluster.partition", "gpu") == (
        "there are settings of a cluster, but none is named; add --cluster.name slurm"
    )
    assert "cluster.hours is 0.0; it must be at least 0.1" in reproduce("--cluster.hours", "0")
    assert "cluster.gpus is 2; it must be 0 or 1" in reproduce("--cluster.gpus", "2")
    assert "there is no setting 'cluster.partitoin'; did you mean" in reproduce(
        *slurm, "--cluster.partitoin", "gpu"
    )
    assert reproduce(*slurm) == (
        "Slurm's sbatch is not on the PATH; run this where jobs are submitted, or take "
        "--cluster.name local"
    )
    monkeypatch.setattr("timestepper.experiments.cluster.PROGRAMS", ())
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    for option, meant in (("acount", "options.account"), ("partition", "partition")):
        said = reproduce(*slurm, f"--cluster.options.{option}", "mine")
        assert said.startswith(f"there is no setting 'cluster.options.{option}'; did you mean ")
        assert f"'cluster.{meant}'" in said
    assert reproduce(*slurm, "--cluster.options.setup", "module load").startswith(
        "cluster.options is {'setup': 'module load'}: "
    )
    assert "--budget is about trainings on this machine" in reproduce(*slurm, "--budget", "1")
    assert refuse("reproduce", "table1", *slurm).startswith("table1 trains nothing; leave ")
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert reproduce("--cluster.name", "local") == (
        "jobs can't be submitted: submitit is not installed; install the extra with: "
        "pip install 'timestepper[cluster]'"
    )


@pytest.mark.parametrize("command", ["evaluate", "fold", "steps"])
def test_what_is_not_a_run(command, refuse):
    assert refuse(command, "nowhere") == "there is no run folder nowhere"
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    assert refuse(command, "mine") == (
        "mine is not a run: it has no configuration.yaml; name a folder that `timestepper train` "
        "has made"
    )
    Path("mine/configuration.yaml").write_text("epochs: 1\n")
    assert "there is no last checkpoint yet" in refuse(command, "mine")
    Path("mine/configuration.yaml").write_text("epoch: 1\n")
    assert "there is no setting 'epoch'" in refuse(command, "mine")


def test_existing_run_and_what_to_do_with_it(refuse):
    assert main(["train", *TINY, "--folder", "run"]) == 0
    assert refuse("train", *TINY, "--folder", "run") == (
        "run folder run exists already; continue it with --resume run, or give this training "
        "another one with --folder"
    )
    assert "leave the other settings out" in refuse("train", "--resume", "run", "--epochs", "3")
    assert "leave the other settings out" in refuse("train", "--resume", "run", "--folder", "other")
    assert "there is no folder nowhere" in refuse("fold", "run", "--output", "nowhere/x")
    assert ".png, .svg or .pdf" in refuse("steps", "run", "--output", "x.jpeg2")
    assert "batch_size is 0; it must be at least 1" in refuse("evaluate", "run", "--batch_size=0")
    assert "checkpoint is 'first'; it must be one of 'last', 'best'" in refuse(
        "evaluate", "run", "--checkpoint", "first"
    )
    assert "is not a file of safetensors" in refuse(
        "evaluate", "run", "--weights", "run/metrics.csv"
    )
    path = Path("run/configuration.yaml")
    path.write_text(path.read_text().replace("cifar_resnet8", "cifar_resnet14"))
    for command in (["evaluate", "run"], ["train", "--resume", "run"]):
        assert "the weights belong to another network" in refuse(*command)
    for checkpoint in Path("run/checkpoints").iterdir():
        checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    for command in (["evaluate", "run"], ["train", "--resume", "run"]):
        assert "there is no other one; start the training anew" in refuse(*command)


def test_run_folder_that_cannot_be_made(refuse):
    Path("file").write_text("a file")
    assert refuse("train", *TINY, "--folder", "file/run") == (
        "can't write the run folder file/run: Not a directory"
    )
    assert "file exists already and is not a run" in refuse("train", *TINY, "--folder", "file")


def test_folders_of_images(make_folder, refuse):
    def train(folder):
        return refuse("train", *TINY, "--data.name", "imagefolder", "--data.data_dir", str(folder))

    Path("empty").mkdir()
    assert train("empty").startswith("data set 'imagefolder' was not found in empty; name the ")
    broken = make_folder("broken", sizes=((32, 32),))
    (broken / "train" / "cat" / "0.png").write_bytes(b"no picture")
    assert "cat/0.png cannot be read" in train(broken)
    for image in (broken / "train" / "cat").iterdir():
        image.unlink()
    deep = make_folder("deep")
    Image.fromarray(np.full((8, 8), 300, np.uint16)).save(deep / "test" / "dog" / "1.png")
    assert "dog/1.png has 16 bits or more a pixel (PIL's mode I;16); convert it" in train(deep)
    odd = make_folder("odd")
    for split in ("train", "test"):
        (odd / split / "cat").rename(odd / split / os.fsdecode(b"caf\xe9"))
    assert "test/caf\\udce9 is not UTF-8; rename it" in train(odd).replace("train/", "test/")
    assert "has no images; add or remove it" in train(broken)


@pytest.mark.parametrize("controller", ["lstm", "none"])
def test_networks_that_do_not_fit(controller, make_folder, refuse):
    def train(*network):
        data = ("--data.name", "imagefolder", "--data.data_dir", str(make_folder("images")))
        return refuse("train", *data, "--stepping.controller", controller, *network)

    said = train("--network.name", "timm/vit_tiny_patch16_224")
    assert said.startswith(
        "network 'timm/vit_tiny_patch16_224' can't be trained on images of 3x8x8"
    )
    assert said.endswith("; change data.image_size, or the network or its options")


def test_networks_that_give_no_scores(refuse):
    network = ("--network.name", "timm/resnet10t", "--network.options.features_only", "true")
    assert refuse("train", *network) == (
        "network 'timm/resnet10t' gives list for 2 images in training; it must give one tensor of "
        "scores, (2, 10): change the network or its options"
    )


def test_compile_without_a_compiler(monkeypatch, refuse):
    def compiled(function, **_):
        return functools.partial(fail, function)

    def fail(*_):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nmore")

    monkeypatch.setattr("torch.compile", compiled)
    assert refuse("train", *TINY, "--compile", "true") == (
        "torch.compile does not work here (InvalidCxxCompiler: No working C++ compiler found); "
        "install a C++ compiler, or set compile to false"
    )


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no devices")
def test_a_process_that_reads_images_is_killed(monkeypatch, refuse):
    def run(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr("timestepper.cli.evaluate.run", run)
    assert refuse("evaluate", "run") == (
        "a process that reads images was killed, perhaps for lack of memory; set data.workers "
        "lower, or 0"
    )


def test_faults_of_the_program_are_no_mistakes_of_the_user(monkeypatch):
    def run(*arguments):
        raise TypeError("a fault")

    monkeypatch.setattr("timestepper.cli.evaluate.run", run)
    with pytest.raises(TypeError, match="a fault"):
        main(["evaluate", "run"])


def test_devices_and_links_as_output(refuse):
    assert main(["train", *TINY, "--folder", "run"]) == 0
    for command in (["fold", "run"], ["report", "run"]):
        said = refuse(*command, "--output", "/dev/null", "--force")
        assert said == "/dev/null is no ordinary file; name a file with --output"
    Path("circle").symlink_to("circle")
    said = refuse("fold", "run", "--output", "circle")
    assert said == "circle is a link to itself; name another path"
    assert refuse("report", "run", "--output", "circle") == said
    for command in (["report"], ["stability"], ["robustness"], ["train", "--resume"]):
        assert refuse(*command, "circle") == said
    Path("link").symlink_to("weights.safetensors")
    assert main(["fold", "run", "--output", "link"]) == 0
    assert Path("link").is_symlink()
    assert Path("weights.safetensors").stat().st_size > 10_000


def test_steps_that_can_not_be_explained(refuse):
    Path("mine").mkdir()
    Path("mine/configuration.yaml").write_text("stepping: {controller: none}\n")
    assert refuse("steps", "mine", "--explain") == (
        "mine was trained without step sizes (stepping.controller none)"
    )
    Path("mine/configuration.yaml").write_text("stepping: {controller: 0.1}\n")
    assert refuse("steps", "mine", "--explain") == (
        "mine was trained with a fixed step size (stepping.controller 0.1): there is nothing to "
        "explain"
    )
    Path("mine/folded.safetensors").write_bytes(b"weights")
    assert "mine/folded.safetensors is not a run" in refuse(
        "steps", "mine/folded.safetensors", "--explain"
    )
    Path("mine/configuration.yaml").write_text("stepping: {controller: lstm}\n")
    assert "a plot's name ends in .png, .svg or .pdf" in refuse(
        "steps", "mine", "--explain", "--output", "explained.txt"
    )


def test_what_can_not_be_timed(refuse):
    assert refuse("bench", "--rounds", "0") == "rounds is 0; it must be at least 1"
    assert refuse("bench", "--stepping.controller", "none") == (
        "stepping.controller is none: there is nothing to compare with the plain network; name a "
        "controller"
    )
    assert "depth 21 is not 6n + 2" in refuse("bench", "--network.name", "cifar_resnet21")
    assert "no residual branch was found in VGG" in refuse("bench", "--network.name", "timm/vgg11")
    assert "data set 'cifar10' was not found" in refuse("bench", "--data.name", "cifar10")


def test_no_average_of_weights_that_layers_share(refuse):
    said = refuse(
        *("train", "--network.name", "timm/coat_tiny", "--stepping.controller", "none"),
        *("--network.options.img_size", "32", "--data.image_size", "32"),
        *("--accelerator", "cpu", "--ema_decay", "0.9"),
    )
    assert "ema_decay is not for networks whose layers share weights (cpe1.proj.weight and" in said


def test_empty_folder(refuse):
    for seeds in ([], ["--seeds", "0", "1"]):
        said = refuse("train", "--folder", "", *seeds)
        assert said == "--folder is empty; name a folder or leave it out"


def test_settings_in_front_of_a_recipe_are_heeded(refuse):
    for recipe in (["--recipe", "smoke"], ["--recipe=smoke"]):
        said = refuse("train", "--network.name", "cifar_resnet21", *recipe, "--epochs", "2")
        assert "depth 21 is not 6n + 2" in said
