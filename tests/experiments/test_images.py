"""Trainings on other images than the protocol's, or than each other's, are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from made import make_run

from timestepper import data
from timestepper.errors import DataError, RunError
from timestepper.experiments.images import require_same_images
from timestepper.experiments.plan import plan
from timestepper.experiments.study import Method, Scale

SMOKE = Scale(("smoke",), {"8": "cifar_resnet8"}, 2)


def digits(configuration):
    return data.load("digits")


def nothing(configuration):
    raise AssertionError("the images are not needed")


@pytest.fixture
def planned():
    return plan(("plain",), SMOKE, Path("runs"), None)


def change(planned, **values):
    record = json.loads(planned.run.data.read_text())
    planned.run.data.write_text(json.dumps(record | values))


def test_the_same_images_are_fine(planned):
    require_same_images(planned, digits)
    make_run(planned[0], 0.9)
    require_same_images(planned, digits)
    make_run(planned[1], 0.9)
    require_same_images(planned, nothing)


def test_images_that_are_not_the_protocols(planned, make_folder):
    folder = make_folder()
    with pytest.raises(DataError, match=r"protocol smoke needs digits, .* have 2 classes, not 10"):
        require_same_images(planned, lambda _: data.load("imagefolder", data_dir=folder))


@pytest.mark.parametrize("broken", ['{"classes": []}', "[1]", "{"])
def test_a_record_that_says_nothing(planned, broken):
    make_run(planned[0], 0.9)
    planned[0].run.data.write_text(broken)
    with pytest.raises(RunError, match=r"data.json is missing or broken"):
        require_same_images(planned, digits)


def test_a_run_on_other_images_of_the_same_number(planned):
    make_run(planned[0], 0.9)
    make_run(planned[1], 0.9)
    change(planned[1], mean=[0.3])
    with pytest.raises(RunError, match=r"plain-1 was trained on other images than the rest"):
        require_same_images(planned, nothing)


def test_a_run_on_other_images_than_those_at_hand(planned):
    make_run(planned[0], 0.9)
    change(planned[0], mean=[0.3])
    with pytest.raises(RunError, match=r"plain-0 was trained on other images than the rest"):
        require_same_images(planned, digits)


def test_a_run_on_fewer_images_than_the_protocol_names(planned):
    for each in planned:
        make_run(each, 0.9)
        change(each, training_images=100)
    with pytest.raises(RunError, match="the protocol names: 100 training images, not 1,442; move"):
        require_same_images(planned, nothing)


@pytest.mark.parametrize("content", [None, "{"])
def test_a_run_whose_images_nobody_knows(planned, content):
    make_run(planned[0], 0.9)
    planned[0].run.data.unlink()
    if content:
        planned[0].run.data.write_text(content)
    with pytest.raises(RunError, match=r"data.json is missing or broken, so that nobody knows"):
        require_same_images(planned, digits)


def test_a_method_may_have_images_of_its_own(monkeypatch):
    """But not others at each seed."""
    methods = {"plain": Method("plain", {}), "large": Method("large", {"data": {"image_size": 16}})}
    monkeypatch.setattr("timestepper.experiments.plan.read_methods", lambda: methods)
    planned = plan(("plain", "large"), SMOKE, Path("runs"), None)
    sizes = []

    def load(configuration):
        sizes.append(configuration.data.image_size)
        return data.load("digits", image_size=configuration.data.image_size)

    for each in planned[:2]:
        make_run(each, 0.9)
    planned[1].run.data.write_text(json.dumps(load(planned[1].configuration).fingerprint()))
    sizes.clear()
    require_same_images(planned, load)
    assert sizes == [None, 16]
    for each in planned[2:]:
        make_run(each, 0.9)
    with pytest.raises(RunError, match=r"large-1 was trained on other images than the rest"):
        require_same_images(planned, nothing)


def test_fingerprint_tells_images_apart():
    images = data.load("digits")
    assert images.fingerprint()["shape"] == [1, 8, 8]
    other = dataclasses.replace(images, mean=(0.1,))
    assert other.fingerprint() != images.fingerprint()
