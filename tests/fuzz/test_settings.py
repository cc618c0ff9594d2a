"""Recipes and command lines of all kinds, most of which make no sense."""

import argparse
import shutil
import string
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from endings import assert_ends_clearly
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser, Namespace

from timestepper.cli import COMMANDS
from timestepper.experiments import EXPERIMENTS
from timestepper.training.configuration import Configuration

SENSE = {
    "network.name": st.sampled_from(["cifar_resnet8", "cifar_resnet14", "torchvision/resnet18"]),
    "network.options": st.just({}),
    "stepping.controller": st.sampled_from(["lstm", "lstm+", "2fc", "indp", "none", 0.5]),
    "stepping.reduction": st.integers(1, 4),
    "stepping.explain": st.booleans(),
    "data.validation": st.integers(0, 13),
    "data.image_size": st.integers(1, 12),
    "data.workers": st.just(0),
    "optimizer.lr": st.floats(1e-4, 1e4),
    "optimizer.momentum": st.floats(0, 0.99),
    "optimizer.nesterov": st.booleans(),
    "optimizer.weight_decay": st.floats(0, 1),
    "optimizer.skip_not_finite": st.booleans(),
    "schedule.name": st.sampled_from(["step", "cosine"]),
    "schedule.milestones": st.lists(st.floats(0, 1), max_size=3),
    "schedule.gamma": st.floats(0.01, 1),
    "stability.penalty": st.sampled_from(["none", "bound", "spectral"]),
    "stability.strength": st.floats(0, 1),
    "batch_size": st.integers(1, 20),
    "seed": st.integers(0, 2**64),
    "precision": st.sampled_from(["32-true", "bf16-mixed"]),
    "channels_last": st.booleans(),
    "sync_batch_norm": st.booleans(),
    "ema_decay": st.floats(0.01, 0.99),
}
"""Values that have a meaning."""
FIXED = {
    "data.name": "imagefolder",
    "epochs": 1,
    "accelerator": "cpu",
    "network.name": "cifar_resnet8",
}
"""So that what makes sense is trained within a second."""
LONG = {"epochs", "compile", "data.download", "data.cache_dir", "network.name"}
"""What would rightly take long, look for a server, or write elsewhere if it had other values."""
WORDS = st.text(string.printable, max_size=6) | st.text(max_size=4)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=3,
)


def flat(settings, before=""):
    for name, value in settings.items():
        if isinstance(value, dict) and name != "options":
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


NAMES = sorted(flat(asdict(Configuration())))


@st.composite
def settings(draw):
    """Settings by name, some of which make sense."""
    chosen = {}
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=6, unique=True)):
        makes_sense = name in SENSE and draw(st.integers(0, 3))
        if makes_sense:
            chosen[name] = draw(SENSE[name])
        elif name not in LONG:
            chosen[name] = draw(ANYTHING)
    if draw(st.integers(0, 4)) == 0:
        name = draw(st.sampled_from(NAMES).map(lambda name: name[:-1]) | WORDS)
        chosen[name] = draw(ANYTHING)
    return {**FIXED, **chosen}


@given(st.data())
def test_recipes(images, data):
    shutil.rmtree("run", ignore_errors=True)
    nested = Namespace(data=Namespace(data_dir=str(images)))
    chosen = data.draw(settings())
    recipe = nested.as_dict()
    for name, value in chosen.items():
        *groups, last = name.split(".") if name in NAMES else [name]
        group = recipe
        for one in groups:
            group = group.setdefault(one, {})
        group[last] = value
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    assert_ends_clearly("train", "--recipe", "recipe.yaml", "--folder", "run", may_write=["run"])


@given(st.binary(max_size=60) | st.text(string.printable, max_size=40).map(str.encode))
def test_files_that_are_no_recipes(content):
    shutil.rmtree("run", ignore_errors=True)
    # Of what may be valid, such as an empty file, a broken setting is refused.
    Path("recipe.yaml").write_bytes(content)
    status = assert_ends_clearly("train", "--recipe", "recipe.yaml", "--optimizer.lr", "-1")
    assert status == 2


@given(st.data())
def test_settings_as_words(images, data):
    shutil.rmtree("run", ignore_errors=True)
    words = ["--data.data_dir", str(images), "--folder", "run"]
    for name, value in data.draw(settings()).items():
        words += [f"--{name}", str(value)]
    assert_ends_clearly("train", *words, may_write=["run"])


def options(command):
    """The options of a command."""
    parser = ArgumentParser(exit_on_error=False)
    import_module(f"timestepper.cli.{command}").add_arguments(parser)
    return [
        (
            action.option_strings[-1],
            action.nargs != 0 and not isinstance(action, argparse._HelpAction),
        )
        for action in parser._actions
        if action.option_strings and action.dest not in ("help", "print_config")
    ]


OPTIONS = {command: options(command) for command in COMMANDS}
MISTAKES = st.sampled_from(
    [("--no-such-setting",), ("--no-such-setting", "1"), ("--no-such-setting=1",)]
)


@pytest.mark.parametrize("command", sorted(COMMANDS))
@given(st.data())
def test_commands_with_a_mistake(command, data):
    """Whatever else they are told, it is noticed before anything is done."""
    words = []
    for _ in range(data.draw(st.integers(0, 4))):
        option, takes_value = data.draw(st.sampled_from(OPTIONS[command]))
        words.append(option)
        if takes_value:
            words.append(str(data.draw(ANYTHING)))
    place = data.draw(st.integers(0, len(words)))
    words[place:place] = data.draw(MISTAKES)
    if data.draw(st.booleans()):
        words.insert(0, data.draw(WORDS | st.sampled_from(["nowhere", *EXPERIMENTS])))
    asks_for_help = {"-h", "--help"} & set(words)
    assert assert_ends_clearly(command, *words) == 2 or asks_for_help


@given(st.lists(WORDS | st.sampled_from(["-", "--", "-o", "--help=1", *COMMANDS]), min_size=1))
def test_words(words):
    if words[0] in ("demo", "bench", "train") and len(words) == 1:
        return
    assert_ends_clearly(*words)
