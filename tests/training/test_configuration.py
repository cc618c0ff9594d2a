import math

import pytest

from timestepper.errors import ConfigurationError
from timestepper.training.configuration import (
    Configuration,
    DataConfiguration,
    OptimizerConfiguration,
    ScheduleConfiguration,
    StabilityConfiguration,
    SteppingConfiguration,
)
from timestepper.training.recipes import (
    find_recipe,
    list_recipes,
    read_configuration,
    write_configuration,
)

IMPOSSIBLE = {
    "epochs is 0; it must be at least 1": (Configuration, {"epochs": 0}),
    "batch_size is 0; it must be at least 1": (Configuration, {"batch_size": 0}),
    "seed is -1; it must be from 0 to 2^63 - 1": (Configuration, {"seed": -1}),
    "ema_decay is 1.0; it must be between 0 and 1": (Configuration, {"ema_decay": 1.0}),
    "schedule.warmup_epochs is 3; it must be less than epochs (3)": (
        Configuration,
        {"epochs": 3, "schedule": ScheduleConfiguration(warmup_epochs=3)},
    ),
    "data.validation is -1; it must be 0 or greater": (DataConfiguration, {"validation": -1}),
    "optimizer.lr is 0; it must be greater than 0 and finite": (OptimizerConfiguration, {"lr": 0}),
    "optimizer.lr is nan; it must be": (OptimizerConfiguration, {"lr": math.nan}),
    "optimizer.momentum is 1; it must be in [0, 1)": (OptimizerConfiguration, {"momentum": 1}),
    "optimizer.momentum is 0; it must be greater than 0 with Nesterov's momentum": (
        OptimizerConfiguration,
        {"momentum": 0},
    ),
    "optimizer.weight_decay is -1; it must be 0 or greater": (
        OptimizerConfiguration,
        {"weight_decay": -1},
    ),
    "schedule.milestones is [0.5, 0.5]; it must be increasing fractions": (
        ScheduleConfiguration,
        {"milestones": (0.5, 0.5)},
    ),
    "schedule.milestones is [150]; it must be increasing fractions": (
        ScheduleConfiguration,
        {"milestones": (150,)},
    ),
    "schedule.gamma is 0; it must be in (0, 1]": (ScheduleConfiguration, {"gamma": 0}),
    "schedule.warmup_epochs is -1; it must be >= 0": (
        ScheduleConfiguration,
        {"warmup_epochs": -1},
    ),
    "stability.strength is 0.1; it must be 0 without a penalty (or set stability.penalty to": (
        StabilityConfiguration,
        {"strength": 0.1},
    ),
    "stability.strength is -0.1; it must be greater than 0 and finite with a penalty": (
        StabilityConfiguration,
        {"penalty": "bound", "strength": -0.1},
    ),
    "stability.strength is 0.0; it must be greater than 0": (
        StabilityConfiguration,
        {"penalty": "spectral"},
    ),
    "stability.strength is inf; it must be greater than 0": (
        StabilityConfiguration,
        {"penalty": "bound", "strength": math.inf},
    ),
    "stepping.reduction is 0; it must be at least 1": (SteppingConfiguration, {"reduction": 0}),
    "stepping.explain is true; it must be false with stepping.controller none": (
        SteppingConfiguration,
        {"controller": "none", "explain": True},
    ),
    "stepping.explain is true; it must be false with stepping.controller 0.1, which": (
        SteppingConfiguration,
        {"controller": "0.1", "explain": True},
    ),
    "unknown controller 'lsmt'; did you mean 'lstm'": (
        SteppingConfiguration,
        {"controller": "lsmt"},
    ),
}


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_impossible_values_are_refused(message):
    record, values = IMPOSSIBLE[message]
    with pytest.raises(ConfigurationError) as error:
        record(**values)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "controller", ["lstm", "lstm+", "lstm-standardised", "2fc", "indp", 0.25, "none"]
)
def test_possible_controllers(controller):
    assert SteppingConfiguration(controller).controller == controller


def test_a_fixed_step_size_is_a_number_however_it_was_written():
    assert SteppingConfiguration("0.1") == SteppingConfiguration(0.1)
    assert type(SteppingConfiguration("0.1").controller) is float
    assert SteppingConfiguration("2fc").controller == "2fc"


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_valid_and_survives_writing_and_reading(name, tmp_path):
    configuration = read_configuration(find_recipe(name))
    write_configuration(configuration, tmp_path / "configuration.yaml")
    assert read_configuration(tmp_path / "configuration.yaml") == configuration


OURS = ["quick-cifar10", "quick-digits", "quick-fashion-mnist", "smoke"]


def test_the_papers_protocols():
    """Paper, "Implementations", and method.md's account of it."""
    assert list_recipes() == ["cifar10", "cifar100", "demo", "imagenet", *OURS]
    for name in ("cifar10", "cifar100"):
        cifar = read_configuration(find_recipe(name))
        assert cifar.data.name == name
        assert (cifar.epochs, cifar.batch_size) == (300, 64)
        assert cifar.schedule == ScheduleConfiguration("step", (0.5, 0.75), 0.1)
        assert cifar.optimizer == OptimizerConfiguration(0.1, 0.9, True, 1e-4)
        assert cifar.stepping == SteppingConfiguration("lstm")
    imagenet = read_configuration(find_recipe("imagenet"))
    assert (imagenet.epochs, imagenet.batch_size) == (100, 256)
    assert imagenet.schedule == ScheduleConfiguration("step", (0.3, 0.6, 0.9), 0.1)
    assert imagenet.optimizer == OptimizerConfiguration(0.1, 0.9, True, 1e-4)
    assert imagenet.stepping == SteppingConfiguration("lstm")


def test_values_of_every_kind_survive_writing_and_reading(tmp_path):
    configuration = Configuration(
        stepping=SteppingConfiguration(0.25, 2),
        schedule=ScheduleConfiguration("step", (0.25, 0.5), 0.2, 1),
        stability=StabilityConfiguration("spectral", 0.01),
        ema_decay=0.99,
        channels_last=True,
    )
    write_configuration(configuration, tmp_path / "configuration.yaml")
    read = read_configuration(tmp_path / "configuration.yaml")
    assert read == configuration
    assert type(read.stepping.controller) is float


def test_recipe_by_file_and_by_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("epochs: 7\n")
    assert read_configuration(find_recipe(str(tmp_path / "mine.yaml"))).epochs == 7
    with pytest.raises(ConfigurationError, match=r"neither a file nor .*; did you mean 'cifar10"):
        find_recipe("cifra10")
    with pytest.raises(ConfigurationError, match="; there are cifar10, cifar100, demo, imagenet"):
        find_recipe("xyzzy")


FILES = {
    "epochs: many": "epochs is 'many'; it must be a whole number",
    "optimizer: {lr: fast}": "optimizer.lr is 'fast'; it must be a number",
    "stability: {penalty: lipschitz}": (
        "stability.penalty is 'lipschitz'; it must be one of 'none', 'bound', 'spectral'"
    ),
    "stability: {strength: -1}": "stability.strength is -1",
    "channels_last: 3": "channels_last is '3'; it must be true or false",
    "schedule: {milestones: 5}": (
        "schedule.milestones is '5'; it must be a list such as [0.5, 0.75]"
    ),
    "precision: fp8": "precision is 'fp8'; it must be one of '32-true', 'bf16-mixed'",
    "network: cifar_resnet20": (
        "network is 'cifar_resnet20'; it must be a group of settings such as {name: ...}"
        "; did you mean 'network.name'?"
    ),
    "optimiser: {lr: 0.1}": "there is no setting 'optimiser.lr'; did you mean 'optimizer.lr'",
    "optimizer: {learning_rate: 0.1}": "there is no setting 'optimizer.learning_rate'",
    "seed: 1\nepochs:": "epochs is empty; give it a value or leave it out",
    "epochs: 0": "epochs is 0; it must be at least 1",
    "- a list": "not a list of settings such as 'epochs: 30'",
    "a: b: c": "not valid YAML: mapping values are not allowed in this context, line 1",
    "epochs:": "not a list of settings",
    "": "not a list of settings",
}


@pytest.mark.parametrize("text", FILES)
def test_broken_files_are_explained_in_one_line(text, tmp_path):
    path = tmp_path / "configuration.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        read_configuration(path)
    assert FILES[text] in str(error.value)
    assert "\n" not in str(error.value)
    assert "class" not in str(error.value)
