"""The page about one run: every number is the run's own, and what was not measured is said."""

import base64
import io
import json
import math
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from made_runs import make_run, steps
from PIL import Image
from reading import Page
from torch import nn

from timestepper.cli import main
from timestepper.data.order import permutation
from timestepper.report.html import heat_map, read_runs, write_report
from timestepper.report.html.sections.again import command
from timestepper.stepping import Explanation
from timestepper.training.configuration import (
    Configuration,
    DataConfiguration,
    NetworkConfiguration,
    ScheduleConfiguration,
    SteppingConfiguration,
)
from timestepper.training.folded import load_plain
from timestepper.training.recipes import add_configuration, to_configuration
from timestepper.training.step_history import read_step_history
from timestepper.training.trained import load_trained

SCORES = [(0.5, 1.5), (0.9, 0.3), (0.8, 0.4)]


def page(folder, **changes):
    write_report(read_runs([Path(folder)]), Path("page.html"), **changes)
    return Page(Path("page.html"))


def test_summary():
    make_run("run", SCORES)
    text = page("run").text["summary"]
    for fact in (
        *("test accuracy 80.00 %", "best epoch 2, with 90.00 %", "test loss 0.4000"),
        *("network cifar_resnet8", "step sizes lstm", "epochs 3 of 3", "batch size 64", "seed 0"),
        "digits: 1,442 training and 355 test images of 8×8 pixels, grey, 10 classes",
        "trained for 6.0 s, without evaluation",  # three epochs of 1,442 images, 721 a second
    ):
        assert fact in text


def test_unfinished_run_says_so():
    make_run("run", SCORES[:2])
    text = page("run").text["summary"]
    assert "not finished: 2 of 3 epochs are done" in text
    assert "test accuracy 90.00 %" in text


def test_validation_images_are_named():
    make_run("run", SCORES, split="validation", data={"validation_images": 42})
    shown = page("run")
    assert "validation accuracy 80.00 %" in shown.text["summary"]
    assert "1,442 training, 42 validation and 355 test images" in shown.text["summary"]
    lines = shown.plots["curves"]["accuracy (%)"]["data"]
    assert [line["name"] for line in lines] == ["train", "validation"]


def test_curves():
    make_run("run", SCORES)
    drawn = page("run").plots["curves"]
    assert [line["y"] for line in drawn["accuracy (%)"]["data"]] == [[25, 45, 40], [50, 90, 80]]
    assert [line["y"] for line in drawn["cross-entropy"]["data"]] == [
        [3, 0.6, 0.8],
        [1.5, 0.3, 0.4],
    ]
    (rate,) = drawn["learning rate at the end of the epoch"]["data"]
    assert rate["x"] == [1, 2, 3]
    assert rate["y"] == pytest.approx([0.1, 0.05, 0.1 / 3])


def test_heat_map_has_every_step_size_at_every_epoch():
    make_run("run", SCORES)
    drawn = page("run").plots["steps"]["Δt of every block and channel"]
    recorded = read_step_history(Path("run/step_sizes.safetensors"))
    assert [frame["name"] for frame in drawn["frames"]] == ["0", "1", "2", "3"]
    slider = drawn["layout"]["sliders"][0]
    assert [step["label"] for step in slider["steps"]] == ["start", "1", "2", "3"]
    assert [step["args"][0] for step in slider["steps"]] == [["0"], ["1"], ["2"], ["3"]]
    for panel, (name, rows) in enumerate(recorded.items()):
        shown = drawn["data"][panel]
        stage, _, block = name.partition(".")
        assert shown["y"] == [block]
        assert shown["hovertemplate"].startswith(f"{stage}.%{{y}}, ")
        channels = [int(channel) for channel in shown["x"]]
        assert sorted(channels) == list(range(rows.shape[1]))
        np.testing.assert_allclose(shown["z"], rows[3:, channels], atol=5.1e-5)
        assert shown["z"][0] == sorted(shown["z"][0])
        for epoch, frame in enumerate(drawn["frames"]):
            np.testing.assert_allclose(
                frame["data"][panel]["z"], rows[epoch : epoch + 1, channels], atol=5.1e-5
            )


def test_panels_follow_the_width():
    channels = {f"layer1.{i}": 4 for i in range(3)} | {"layer2.0": 8} | {"a": 2, "b": 2}
    panels = heat_map.panels(steps(1, channels=channels))
    assert [(one.title, len(one.blocks)) for one in panels] == [
        ("layer1: 4 channels", 3),
        ("layer2.0: 8 channels", 1),
        ("a to b: 2 channels", 2),
    ]


def test_heat_map_of_one_block_has_room_for_its_scale():
    _, height = heat_map.heat_map(steps(1, channels={"blocks.0": 32}), [0], (0, 1))
    assert height >= heat_map.LOWEST


def test_slider_of_a_long_training_stops_at_both_ends_and_stays_small():
    wide = {f"block{i}": 512 for i in range(50)}
    recorded = {name: torch.full((301, count), 0.51234) for name, count in wide.items()}
    epochs = heat_map.shown_epochs(recorded)
    assert (epochs[0], epochs[-1]) == (0, 300)
    assert 2 < len(epochs) < 300
    assert max(np.diff(epochs)) - min(np.diff(epochs)) <= 1
    drawn, _ = heat_map.heat_map(recorded, epochs, (0, 1))
    assert len(drawn.to_json()) < 1.5 * heat_map.BYTES
    assert heat_map.shown_epochs(steps(3)) == [0, 1, 2, 3]


def test_evolution_time():
    make_run("run", SCORES)
    shown = page("run")
    recorded = read_step_history(Path("run/step_sizes.safetensors"))
    means = {name.partition(".")[0]: rows.mean(1)[1:] for name, rows in recorded.items()}
    drawn = shown.plots["evolution"]["T of each stage"]["data"]
    for line in drawn:
        assert line["y"] == pytest.approx(means[line["name"]].tolist())
    (table,) = shown.tables["evolution"]
    last = [curve[-1].item() for curve in means.values()]
    assert [row[1] for row in table[1:]] == [f"{value:.3f}" for value in (*last, sum(last))]


def test_plain_network_has_no_step_sizes():
    make_run("run", SCORES, controller="none")
    shown = page("run")
    for section in ("steps", "evolution"):
        assert "a plain network has no step sizes" in shown.text[section]
        assert shown.plots[section] == {}


def test_parameters(trained):
    (table,) = Page(trained.report).tables["cost"]
    network = load_trained(trained).network
    every = sum(parameter.numel() for parameter in network.parameters())
    controllers = sum(p.numel() for p in network.time_stepping.parameters())
    assert controllers > 0
    assert [row[1] for row in table[1:]] == [f"{every:,}", f"{every - controllers:,}"]


def test_operations(trained):
    one = load_trained(trained)
    network = load_plain(one.configuration, one.images, trained.folded)
    counted = []

    def count(module, inputs, output):
        counted.append(output[0].numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 1, 8, 8))
    (table,) = Page(trained.report).tables["cost"]
    training, inference = (int(row[2].replace(",", "")) for row in table[1:])
    assert inference == sum(counted)
    assert training > inference


def explained(weights, sensitivity):
    blocks = ("layer1.0", "layer1.1")
    return {"layer1": Explanation(blocks, 0.02, 0.9 - weights, 0.1, weights, sensitivity)}


def test_explanation():
    course = [
        explained(0.2 * epoch, torch.tensor([[0.01, 0], [0.001 * epoch, 0.1]]))
        for epoch in range(4)
    ]
    make_run("run", SCORES, explanations=course)
    drawn = page("run").plots["explanation"]
    shares = {line["name"]: line for line in drawn["layer1: share of the variance (%)"]["data"]}
    assert shares["weights"]["y"] == pytest.approx([0, 20, 40, 60])
    assert shares["channel"]["y"] == pytest.approx([90, 70, 50, 30])
    assert shares["position"]["x"] == [0, 1, 2, 3]
    (heat,) = drawn["layer1: sensitivity after the last epoch"]["data"]
    assert heat["z"][0] == [pytest.approx(-2), None]
    assert heat["z"][1] == pytest.approx([math.log10(0.003), -1])
    assert heat["text"] == [["0.01", "0"], ["0.003", "0.1"]]


def test_explanation_that_was_not_recorded():
    make_run("deep", SCORES, channels={"layer1.0": 16, "layer1.1": 16, "layer2.0": 32})
    said = page("deep").text["explanation"]
    assert "it was not recorded; to measure it:" in said
    assert "--stepping.explain true" in said
    make_run("plain", SCORES, controller="none")
    assert "a plain network has no step sizes" in page("plain").text["explanation"]


def test_explanation_that_no_training_could_record(trained):
    make_run("fixed", SCORES, controller="0.5")
    fixed = page("fixed").text["explanation"]
    assert "all step sizes are fixed at 0.5, so there is nothing to explain" in fixed
    shallow = Page(trained.report).text["explanation"]
    assert "every stage has one block only" in shallow
    assert "stepping.explain" not in fixed + shallow


def test_logarithmic_axes_tell_ticks_of_one_decade_apart():
    make_run("run", SCORES)
    axis = page("run").plots["curves"]["cross-entropy"]["layout"]["yaxis"]
    assert (axis["type"], axis["tickformat"]) == ("log", ".3~g")


def test_no_sensitivity_and_no_variance():
    course = [explained(math.nan, torch.zeros(2, 2)) for _ in range(4)]
    make_run("run", SCORES, explanations=course)
    drawn = page("run").plots["explanation"]
    (heat,) = drawn["layer1: sensitivity after the last epoch"]["data"]
    assert heat["z"] == [[None, None], [None, None]]
    shares = {line["name"]: line for line in drawn["layer1: share of the variance (%)"]["data"]}
    assert shares["weights"]["y"] == [None] * 4


def test_predictions(trained):
    shown = Page(trained.report)
    one = load_trained(trained)
    inputs, labels = next(iter(one.images.batches("test", 1000, device=torch.device("cpu"))))
    with torch.no_grad():
        right = one.network(inputs).argmax(1) == labels
    said = f"Of all 355 test images the network classifies {right.sum()} right"
    assert said in shown.text["predictions"]
    order = permutation(355, 0, 0)
    chosen = [*order[~right[order]][:12], *order[right[order]][:12]]
    assert len(shown.pictures["predictions"]) == len(chosen)
    for source, number in zip(shown.pictures["predictions"], chosen, strict=True):
        file = io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))
        pixels = np.array(Image.open(file))
        raw, _ = next(
            iter(
                one.images.test.fetch(
                    torch.tensor([int(number)]),
                    [slice(0, 1)],
                    device=torch.device("cpu"),
                    seed=0,
                    epoch=0,
                    augment=False,
                )
            )
        )
        np.testing.assert_array_equal(pixels, raw[0, 0].numpy())


def test_what_was_not_measured_is_said_with_the_command(trained):
    shown = Page(trained.report)
    for section, what in (("stability", "stability"), ("noise", "robustness")):
        assert "not measured; to measure it:" in shown.text[section]
        assert f"timestepper {what} {trained.folder}" in shown.text[section]
        assert shown.plots[section] == {}


@pytest.fixture
def one_thread():
    """Many small products: threads that wait for each other take longer than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_measurements_are_shown(trained, one_thread):
    shutil.copytree(trained.folder, "run")
    assert main(["stability", "run", "--images", "1", "--directions", "2"]) == 0
    assert main(["robustness", "run", "--deviations", "0", "1", "--draws", "2"]) == 0
    shown = page("run")
    measured = json.loads(Path("run/stability/stability.json").read_text())["run"]
    growth = shown.plots["stability"]["growth ‖y′ₙ − yₙ‖ / ‖y′₀ − y₀‖"]["data"]
    for line, kind in zip(growth, ("bound", "worst", "random"), strict=True):
        values = [step[kind] for step in measured["steps"]]
        expected = values if kind == "bound" else np.log10(values)
        assert line["y"] == pytest.approx(expected)
    gradients = shown.plots["stability"]["gradient ‖∂L/∂yₙ‖, mean over images"]["data"]
    assert [line["name"] for line in gradients] == ["controller", "h = 1", "h = 0.01"]
    assert gradients[0]["y"] == measured["gradient_flow"]["controller"]["norms"]
    assert "on 1 images with changes of 0.001 times the state's norm; " in shown.text["stability"]
    first = measured["stages"][0]
    row = shown.tables["stability"][0][1]
    assert row[:4] == [
        *(first["name"], f"{first['evolution_time']:.3f}"),
        *(f"{first['random']:.4g}", f"{first['worst']:.4g}"),
    ]
    assert float(row[4]) == pytest.approx(10 ** first["bound"], rel=5e-3)
    rows = [
        line.split(",")
        for line in Path("run/robustness/noise.csv").read_text().splitlines()
        if line.startswith("run,")
    ]
    accuracy = np.array([float(one[3]) for one in rows]).reshape(2, 2)
    lines = shown.plots["noise"]["accuracy (%)"]["data"]
    assert lines[0]["x"] == [0, 1]
    assert lines[0]["y"] == pytest.approx(100 * accuracy.mean(0))
    assert "Gaussian noise on all 355 test images" in shown.text["noise"]


def test_old_measurement_is_said_to_be_old(trained):
    make_run("run", SCORES)
    folder = Path("run/robustness")
    folder.mkdir()
    (folder / "noise.csv").write_text("network,case,deviation,accuracy,loss\nrun,draw 0,0,1,0\n")
    assert "before the last checkpoint" not in page("run").text["noise"]
    Path("run/checkpoints").mkdir()
    Path("run/checkpoints/last.pt").write_bytes(b"newer")
    assert "before the last checkpoint was written" in page("run").text["noise"]


NOTHING = {"stages": [], "gradient_flow": {}, "no_bound": [], "images": 1}
NULL = {"name": "layer1.0", "random": None, "worst": None, "bound": None}


@pytest.mark.parametrize("steps", [[], [NULL], [NULL | {"random": 0.0}]])
def test_stability_with_nothing_to_draw_is_broken(steps):
    make_run("run", SCORES)
    make_run("other", SCORES, seed=1)
    Path("run/stability").mkdir()
    Path("run/stability/stability.json").write_text(json.dumps({"run": NOTHING | {"steps": steps}}))
    for folders in (["run"], ["run", "other"]):
        write_report(read_runs([Path(folder) for folder in folders]), Path("page.html"))
        text = Page(Path("page.html")).text["stability"]
        assert "stability.json is broken (it has no step whose growth can be drawn)" in text
        assert "timestepper stability run --force" in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": {}}', '{"run": {"steps": [{}]}}'])
def test_broken_measurements_are_said(content):
    make_run("run", SCORES)
    for name in ("stability/stability.json", "robustness/noise.csv"):
        path = Path("run") / name
        path.parent.mkdir()
        path.write_text(content)
    shown = page("run")
    assert "run/stability/stability.json is broken" in shown.text["stability"]
    assert "run/robustness/noise.csv is broken" in shown.text["noise"]
    assert "timestepper stability run --force" in shown.text["stability"]


def test_without_a_checkpoint_the_rest_is_there():
    make_run("run", SCORES)
    shown = page("run")
    assert "there is no last checkpoint yet" in shown.text["predictions"]
    assert shown.plots["curves"]


OTHERS = Configuration(
    network=NetworkConfiguration("timm/resnet10t", {"drop_path_rate": 0.1}),
    stepping=SteppingConfiguration(0.5, reduction=2),
    data=DataConfiguration("imagefolder", data_dir="my images", download=True, image_size=64),
    schedule=ScheduleConfiguration("step", (0.3, 0.6)),
    epochs=7,
    seed=3,
    ema_decay=0.999,
    compile=True,
)


@pytest.mark.parametrize(
    "configuration", [Configuration(), OTHERS, replace(OTHERS, schedule=ScheduleConfiguration())]
)
def test_command_makes_the_same_configuration(configuration):
    words = shlex.split(command(configuration, "a folder"))
    assert words[:4] == ["timestepper", "train", "--folder", "a folder"]
    parser = ArgumentParser(exit_on_error=False)
    add_configuration(parser)
    assert to_configuration(parser, parser.parse_args(words[4:])) == configuration


def test_names_are_text_not_html():
    make_run("<b>$x & co", SCORES)
    text = Path("page.html")
    write_report(read_runs([Path("<b>$x & co")]), text)
    assert "<title>&lt;b&gt;$x &amp; co" in text.read_text()
    assert "<b>" not in text.read_text().split("<script>")[0]
