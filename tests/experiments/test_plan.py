"""What is planned, and what is refused."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from made import finish

from timestepper import data
from timestepper.errors import ConfigurationError, RunError
from timestepper.experiments import TRAINED, figure5
from timestepper.experiments.plan import plan
from timestepper.experiments.study import SCALES, Method, Noise, Scale, read_methods, read_study
from timestepper.networks import create
from timestepper.training.configuration import DataConfiguration
from timestepper.training.recipes import find_recipe, read_configuration
from timestepper.training.run import Run

SMOKE = Scale(("smoke",), {"ResNet-8": "cifar_resnet8"}, 2)
RUNS = Path("runs")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TRAINED)
def test_every_experiment_can_be_planned_at_every_scale(name, scale):
    study = read_study(name)
    at = study.at(scale)
    planned = plan(study.methods, at, RUNS, None)
    assert len(planned) == len(at.protocols) * len(at.networks) * len(study.methods) * at.seeds
    assert len({each.run.folder for each in planned}) == len(planned)
    assert all(each.state == "new" for each in planned)
    assert (at.noise is not None) == (name in ("figure4", "controllers"))
    assert at.bound == (name == "controllers")


@pytest.mark.parametrize("name", TRAINED)
def test_paper_scale_is_the_papers_protocol(name):
    scale = read_study(name).paper
    assert set(scale.protocols) <= {"cifar10", "cifar100", "imagenet"}
    # Differences between controllers are small: two seeds more than the paper has.
    cifar = 5 if name == "controllers" else 3
    assert scale.seeds == (1 if "imagenet" in scale.protocols else cifar)
    recipes = {protocol: read_configuration(find_recipe(protocol)) for protocol in scale.protocols}
    for each in plan(read_study(name).methods, scale, RUNS, None):
        protocol = recipes[each.protocol]
        own = {"network", "stepping", "seed", "data"}
        for field in dataclasses.fields(protocol):
            if field.name not in own:
                assert getattr(each.configuration, field.name) == getattr(protocol, field.name)


def test_methods_are_what_they_are_called():
    told = {}
    for method in read_methods().values():
        settings = method.settings
        variant = settings.get("network", {}).get("options", {}).get("variant")
        assert settings.keys() == {"stepping"} | ({"network"} if variant else set())
        told[method.label] = settings["stepping"]["controller"], variant
    assert told == {
        "plain": ("none", None),
        "TSC_LSTM": ("lstm", None),
        "lstm+": ("lstm+", None),
        "TSC_2fc": ("2fc", None),
        "TSC_indp": ("indp", None),
        "Δt = 0.1": (0.1, None),
        "Δt = 0.01": (0.01, None),
        "last γ from 0.5": ("none", "half_gamma"),
        "last γ from 1/√L": ("none", "root_gamma"),
        "last γ from 0": ("none", "zero_gamma"),
        "LayerScale": ("none", "layer_scale"),
        "ReZero": ("none", "rezero"),
        "SkipInit": ("none", "skip_init"),
        "squeeze-excitation": ("none", "squeeze_excitation"),
        "stochastic depth": ("none", "stochastic_depth"),
    }


RESNET50 = {"ResNet-50": "resnet50_v1"}
CIFAR56 = {"ResNet-56": "cifar_resnet56"}


@pytest.mark.parametrize(
    ("name", "protocol", "networks"),
    [
        ("table2", "imagenet", RESNET50),
        (
            "table3",
            "imagenet",
            {
                "ResNet-18": "resnet18",
                "ResNet-34": "resnet34",
                "ResNet-101": "resnet101_v1",
                "ResNeXt-50": "resnext50_32x4d_v1",
                "ResNeXt-101": "resnext101_32x4d_v1",
                "SENet-50": "seresnet50_v1",
                "SENet-101": "seresnet101_v1",
            }
            | RESNET50,
        ),
        ("table4", "imagenet", {"ResNet-101": "resnet101_v1"} | RESNET50),
        ("figure3", "imagenet", RESNET50),
        ("figure4", "cifar10", CIFAR56),
    ],
)
def test_paper_scale_has_the_papers_networks(name, protocol, networks):
    paper = read_study(name).paper
    assert paper.protocols == (protocol,)
    assert paper.networks == networks
    # Of timm's networks, whose last γ would start at 0 otherwise.
    assert paper.options == ({"zero_init_last": False} if protocol == "imagenet" else {})


def test_figure5_has_the_papers_depths():
    names = list(read_study("figure5").paper.networks.values())
    assert names == [f"cifar_resnet{d}" for d in (32, 56, 110, 146, 290, 362, 506)]


def test_precision_in_place_of_the_protocols():
    scale = read_study("table4").quick
    assert {p.configuration.precision for p in plan(("plain",), scale, RUNS, None)} == {
        "bf16-mixed"
    }
    planned = plan(("plain",), scale, RUNS, None, precision="32-true")
    assert {p.configuration.precision for p in planned} == {"32-true"}


def test_compiled_or_not():
    scale = Scale(("smoke",), {"8": "cifar_resnet8"}, 1)
    for given, compiled in ((None, False), (True, True), (False, False)):
        planned = plan(("plain",), scale, RUNS, None, compile=given)
        assert [each.configuration.compile for each in planned] == [compiled]


def test_what_was_measured_before_a_training_went_on_is_measured_again():
    (planned, *_) = plan(("plain",), SMOKE, RUNS, None)
    planned = dataclasses.replace(planned, bound=True)
    finish(planned)
    planned.bound_file.touch()
    os.utime(planned.run.folded, (1000, 1000))
    assert planned.state == "done"
    os.utime(planned.bound_file, (999, 999))
    assert planned.state == "trained"
    assert planned.unmeasured == [planned.bound_file]


def test_networks_of_figure5_are_labelled_by_their_depths():
    figure5.check(read_study("figure5").paper)
    with pytest.raises(ConfigurationError, match="must be labelled by their depths"):
        figure5.check(dataclasses.replace(SMOKE, networks={"ResNet-8": "cifar_resnet8"}))


@pytest.mark.parametrize("method", read_methods())
def test_every_method_builds_a_network(method):
    (planned, _) = plan((method,), SMOKE, RUNS, None)
    network = planned.configuration.network
    assert create(network.name, **network.options) is not None


def test_settings_of_a_run():
    scale = Scale(("quick-digits",), {"deep": "cifar_resnet20"}, 2, Noise((0.0,), 1))
    planned = plan(("plain", "rezero"), scale, RUNS, "somewhere")
    assert [(each.seed, each.method) for each in planned] == [
        (0, "plain"),
        (0, "rezero"),
        (1, "plain"),
        (1, "rezero"),
    ]
    last = planned[-1]
    assert last.run.folder == RUNS / "quick-digits" / "cifar_resnet20-rezero-1"
    assert last.configuration.stepping.controller == "none"
    assert last.configuration.network.options == {"variant": "rezero"}
    assert (last.configuration.seed, last.configuration.epochs) == (1, 20)
    assert last.configuration.data.data_dir == "somewhere"


def created(planned, **changes):
    run = Run(planned.run.folder)
    configuration = dataclasses.replace(planned.configuration, **changes)
    run.create(configuration, data.load("digits"), torch.device("cpu"))


def test_a_run_of_another_protocol_is_refused_and_stays():
    planned = plan(("plain",), SMOKE, RUNS, None)
    created(planned[0], epochs=7)
    before = planned[0].run.configuration.read_bytes()
    with pytest.raises(RunError, match=r"made with epochs 7, and the plan has 1: .* --runs$"):
        plan(("plain",), SMOKE, RUNS, None)
    assert planned[0].run.configuration.read_bytes() == before


def test_a_run_of_another_network_is_refused():
    planned = plan(("plain",), SMOKE, RUNS, None)
    other = dataclasses.replace(planned[0].configuration.network, options={"shortcut": "project"})
    created(planned[0], network=other)
    with pytest.raises(RunError, match=r"made with network.options \{'shortcut': 'project'\}"):
        plan(("plain",), SMOKE, RUNS, None)


def test_a_run_that_held_images_out_is_refused():
    planned = plan(("plain",), SMOKE, RUNS, None)
    created(planned[0], data=DataConfiguration(validation=100))
    with pytest.raises(RunError, match=r"made with data\.validation 100, and the plan has 0"):
        plan(("plain",), SMOKE, RUNS, None)


def test_an_experiment_that_holds_images_out_is_refused(monkeypatch):
    methods = {"careful": Method("careful", {"data": {"validation": 100}})}
    monkeypatch.setattr("timestepper.experiments.plan.read_methods", lambda: methods)
    with pytest.raises(ConfigurationError, match=r"data\.validation 100, .* errors of test images"):
        plan(("careful",), SMOKE, RUNS, None)


def test_a_method_with_a_seed_of_its_own_is_refused(monkeypatch):
    """All of its seeds would be the same training."""
    monkeypatch.setattr(
        "timestepper.experiments.plan.read_methods", lambda: {"mine": Method("mine", {"seed": 7})}
    )
    with pytest.raises(ConfigurationError, match="method mine has a seed in its settings, but"):
        plan(("mine",), SMOKE, RUNS, None)


def test_where_files_are_and_what_it_runs_on_does_not_matter():
    planned = plan(("tsc-lstm",), SMOKE, RUNS, "here")
    created(planned[0], accelerator="cpu")
    assert plan(("tsc-lstm",), SMOKE, RUNS, "there")[0].state == "started"


def test_what_a_finished_run_recorded_besides_does_not_matter():
    planned = plan(("tsc-lstm",), SMOKE, RUNS, None)
    recorded = dataclasses.replace(planned[0].configuration.stepping, explain=True)
    created(planned[0], stepping=recorded)
    with pytest.raises(RunError, match=r"made with stepping\.explain True, and the plan has False"):
        plan(("tsc-lstm",), SMOKE, RUNS, None)
    finish(planned[0])
    assert plan(("tsc-lstm",), SMOKE, RUNS, None)[0].state == "done"


def test_states(tmp_path):
    noisy = dataclasses.replace(SMOKE, noise=Noise((0.0, 1.0), 2))
    (planned, other) = plan(("plain",), noisy, RUNS, None)
    assert planned.state == "new"
    created(planned)
    assert (planned.state, planned.epochs_done) == ("started", 0)
    planned.run.metrics.write_text("epoch,lr\n1,0.1\n")
    assert planned.epochs_done == 1
    planned.run.folded.touch()
    assert planned.state == "trained"
    planned.noise_file.touch()
    assert planned.state == "done"
    assert other.state == "new"
    # Another measurement is another file.
    more = plan(("plain",), dataclasses.replace(noisy, noise=Noise((0.0,), 2)), RUNS, None)[0]
    assert more.state == "trained"


def test_what_was_folded_before_its_last_epoch_goes_on():
    (planned, *_) = plan(("plain",), SMOKE, RUNS, None)
    created(planned)
    planned.run.folded.touch()
    assert planned.state == "started"
    planned.run.metrics.write_text("epoch\n")
    assert planned.state == "started"
    finish(planned)
    assert planned.state == "done"
    longer = dataclasses.replace(planned.configuration, epochs=2)
    assert dataclasses.replace(planned, configuration=longer).state == "started"


def test_an_empty_folder_is_no_run_yet():
    folder = RUNS / "smoke" / "cifar_resnet8-plain-0"
    folder.mkdir(parents=True)
    assert plan(("plain",), SMOKE, RUNS, None)[0].state == "new"
    Run(folder).lock.touch()  # of one that was killed as it began
    assert plan(("plain",), SMOKE, RUNS, None)[0].state == "new"


def test_a_file_that_is_called_like_a_protocol_is_left_alone():
    Path("smoke").write_text("epochs: 99\n")
    assert plan(("plain",), SMOKE, RUNS, None)[0].configuration.epochs == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("plain: [", "methods.yaml: "),
        ("plain: {lable: x, settings: {}}\n", "methods.yaml: .*lable"),
    ],
)
def test_broken_methods_are_one_line(content, message, monkeypatch, tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "methods.yaml").write_text(content)
    monkeypatch.setattr("timestepper.experiments.study.FOLDERS", (tmp_path,))
    with pytest.raises(ConfigurationError, match=message) as error:
        read_methods()
    assert "\n" not in str(error.value)


def test_unknown_names():
    with pytest.raises(ConfigurationError, match="no method 'plane'; did you mean 'plain'"):
        plan(("plane",), SMOKE, RUNS, None)
    with pytest.raises(ConfigurationError, match="recipe 'smok' is neither a file nor"):
        plan(("plain",), dataclasses.replace(SMOKE, protocols=("smok",)), RUNS, None)


def test_a_recipe_that_is_no_protocol_yet():
    with pytest.raises(ConfigurationError, match=r"protocol demo is a recipe, .* protocols\.yaml"):
        plan(("plain",), dataclasses.replace(SMOKE, protocols=("demo",)), RUNS, None)


def test_a_study_that_was_not_written_yet():
    with pytest.raises(ConfigurationError, match=r"there is no file .*/experiments/mine\.yaml, "):
        read_study("mine")


def test_a_broken_study_is_one_line(monkeypatch, tmp_path):
    folder = tmp_path / "recipes"
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "table2.yaml").write_text("methods: [plain]\nsmoke: {seeds: many}\n")
    monkeypatch.setattr("timestepper.experiments.study.FOLDERS", (folder,))
    with pytest.raises(ConfigurationError, match=r"table2.yaml: ") as error:
        read_study("table2")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "figure3", "figure5"])
def test_networks_of_the_paper_start_with_their_last_gamma_at_one(name):
    """From 0 or 0.5 it is a method of its own."""
    study = read_study(name)
    for planned in plan(("plain",), dataclasses.replace(study.paper, seeds=1), RUNS, None):
        network = planned.configuration.network
        with torch.device("meta"):
            created = create(network.name, **network.options)
        assert network.options.get("zero_init_last", False) is False
        assert ("timm" in type(created).__module__) == ("zero_init_last" in network.options)


def test_last_gamma_of_a_planned_network():
    (planned,) = plan(
        ("plain",), dataclasses.replace(read_study("table2").paper, seeds=1), RUNS, None
    )
    network = planned.configuration.network
    last = create(network.name, **network.options).layer1[0].bn3
    assert torch.equal(last.weight, torch.ones_like(last.weight))
