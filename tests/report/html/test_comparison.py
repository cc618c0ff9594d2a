"""Pages about several runs: what is compared with what, and every number of it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import SMALL, make_run
from reading import Page
from scipy import stats

from timestepper.report.html import read_runs, write_report
from timestepper.stepping import Explanation
from timestepper.training.configuration import DataConfiguration, NetworkConfiguration
from timestepper.training.recipes import write_configuration

LSTM = {0: (0.91, 0.31), 1: (0.93, 0.25), 2: (0.95, 0.22)}
PLAIN = {0: (0.90, 0.30), 1: (0.90, 0.28), 2: (0.91, 0.26)}


def scores(last):
    return [(0.5, 1.5), (0.8, 0.7), last]


def make(runs, controller, **changes):
    for seed, last in runs.items():
        make_run(f"{controller}-{seed}", scores(last), controller=controller, seed=seed, **changes)


def page(*folders):
    write_report(read_runs([Path(folder) for folder in folders]), Path("page.html"))
    return Page(Path("page.html"))


def test_differences_are_paired_by_seed():
    make(LSTM, "lstm")
    make(PLAIN, "none")
    # In another order than the others': pairs are by seed.
    shown = page("none-0", "none-1", "none-2", "lstm-2", "lstm-0", "lstm-1")
    (table,) = shown.tables["differences"]
    pairs = np.array([[1.0, 3.0, 4.0], [0.01, -0.03, -0.04]])
    means = pairs.mean(1)
    halves = stats.t.ppf(0.975, 2) * pairs.std(1, ddof=1) / math.sqrt(3)
    ps = 2 * stats.t.sf(np.abs(means) / (pairs.std(1, ddof=1) / math.sqrt(3)), 2)
    assert table[1] == [
        *("lstm", "3"),
        f"{means[0]:+.2f}",
        f"[{means[0] - halves[0]:+.2f}, {means[0] + halves[0]:+.2f}]",
        f"{ps[0]:.2g}",
        f"{means[1]:+.4f}",
        f"[{means[1] - halves[1]:+.4f}, {means[1] + halves[1]:+.4f}]",
        f"{ps[1]:.2g}",
    ]
    assert table[0][0] == "method − plain"
    drawn = shown.plots["differences"]["accuracy (points) − plain"]["data"][0]
    assert drawn["x"] == pytest.approx([means[0]])
    assert drawn["error_x"]["array"] == pytest.approx([halves[0]])
    assert drawn["error_x"]["arrayminus"] == pytest.approx([halves[0]])
    assert drawn["y"] == ["lstm (n = 3)"]


def test_options_of_networks_tell_methods_apart():
    for name, options in {"a": {}, "b": {"variant": "half_gamma"}, "c": {"variant": None}}.items():
        network = NetworkConfiguration("cifar_resnet8", options)
        make_run(name, scores(LSTM[0]), controller="none", network=network)
    labels = [row[1] for row in page("a", "b", "c").tables["overview"][0][1:]]
    assert labels == ["default", "variant half_gamma", "variant –"]


def test_labels_of_differences_leave_room_for_them():
    """They stand above their rows, in lines that fit on a phone."""
    make({seed: LSTM[seed] for seed in (0, 1)}, "lstm")
    for seed in (0, 1):
        network = NetworkConfiguration("cifar_resnet14")
        make_run(f"deep-{seed}", scores(PLAIN[seed]), seed=seed, network=network, batch_size=32)
    shown = page("lstm-0", "lstm-1", "deep-0", "deep-1").plots["differences"]
    layout = shown["accuracy (points) − cifar_resnet8, batch_size 64"]["layout"]
    assert layout["yaxis"]["showticklabels"] is False
    (label,) = layout["annotations"]
    assert label["text"] == "cifar_resnet14, batch_size 32 (n = 2)"
    assert (label["y"], label["yanchor"]) == (label["text"], "bottom")


def test_one_run_each_has_no_interval():
    make({0: LSTM[0]}, "lstm")
    make({0: PLAIN[0]}, "none")
    shown = page("none-0", "lstm-0")
    assert shown.tables["differences"][0][1] == [
        *("lstm", "1", "+1.00", "one run each: no interval", "—"),
        *("+0.0100", "one run each: no interval", "—"),
    ]
    assert shown.plots["differences"] == {}


def test_equal_differences_have_no_interval():
    make({0: (0.9, 0.3), 1: (0.8, 0.4)}, "lstm")
    make({0: (0.8, 0.2), 1: (0.7, 0.3)}, "none")
    cells = page("none-0", "none-1", "lstm-0", "lstm-1").tables["differences"][0][1]
    assert cells[:5] == ["lstm", "2", "+10.00", "all are equal: no interval", "—"]


def test_runs_without_a_partner_are_not_compared():
    make({0: LSTM[0], 1: LSTM[1]}, "lstm")
    make({2: PLAIN[2]}, "none")
    cells = page("none-2", "lstm-0", "lstm-1").tables["differences"][0][1]
    assert cells[:4] == ["lstm", "0", "—", "no finished seed in common"]


def test_runs_whose_partners_are_not_finished_are_not_compared():
    make({0: LSTM[0]}, "lstm")
    make_run("short", scores(PLAIN[0])[:2], controller="none", seed=0)
    cells = page("short", "lstm-0").tables["differences"][0][1]
    assert cells[:4] == ["lstm", "0", "—", "no finished seed in common"]


def test_unfinished_and_repeated_runs_are_left_out():
    make(LSTM, "lstm")
    make(PLAIN, "none")
    make_run("again", scores((0.1, 9.0)), controller="none", seed=0)
    make_run("short", scores((0.1, 9.0))[:2], controller="none", seed=3)
    shown = page(
        *(f"{kind}-{seed}" for kind in ("none", "lstm") for seed in LSTM), "again", "short"
    )
    assert shown.tables["differences"][0][1][:3] == ["lstm", "3", "+2.67"]
    text = shown.text["differences"]
    assert "again is left out: none-0 has the same settings and seed." in text
    assert "short is left out: 2 of 3 epochs are done." in text


def test_runs_of_one_method():
    make(LSTM, "lstm")
    shown = page("lstm-0", "lstm-1")
    assert "all runs differ in their seed alone" in shown.text["differences"]
    assert shown.tables["differences"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"test_images": 100}},
        {"split": "validation", "data": {"validation_images": 9}},
    ],
)
def test_different_images_are_said_and_not_compared(changes):
    make({0: PLAIN[0]}, "none")
    make({0: LSTM[0]}, "lstm", **changes)
    shown = page("none-0", "lstm-0")
    for section in ("overview", "differences"):
        assert "These runs are on different images (digits: 1,442 training" in shown.text[section]
    assert shown.tables["differences"] == []


def test_an_older_run_that_says_less_of_the_same_images_is_compared():
    make(PLAIN, "none")
    make(LSTM, "lstm")
    for seed in PLAIN:
        record = Path(f"none-{seed}/data.json")
        known = json.loads(record.read_text())
        # Another decoder's digits, too.
        mean = [value * 1.00001 for value in known["mean"]]
        old = {key: known[key] for key in known if not key.endswith("_digest")}
        record.write_text(json.dumps(old | {"mean": mean}))
    shown = page(*(f"{kind}-{seed}" for kind in ("none", "lstm") for seed in PLAIN))
    assert "different images" not in shown.text["overview"]
    assert shown.tables["differences"][0][1][:2] == ["lstm", str(len(PLAIN))]


def test_methods_are_named_by_what_differs():
    make({0: LSTM[0]}, "lstm")
    make({0: LSTM[0]}, "0.5")
    make_run("deep", scores(LSTM[0]), network=NetworkConfiguration("cifar_resnet14"))
    make_run("slow", scores(LSTM[0]), batch_size=32)
    for step in ("0.1234567", "0.1234568", "1.0"):
        make({0: LSTM[0]}, step)
    fixed = page("0.1234567-0", "0.1234568-0", "1.0-0").tables["overview"][0][1:]
    assert [row[1] for row in fixed] == [
        *("fixed at 0.1234567", "fixed at 0.1234568", "fixed at 1"),
    ]
    shown = page("lstm-0", "0.5-0", "deep", "slow")
    assert [row[1] for row in shown.tables["overview"][0][1:]] == [
        "cifar_resnet8, lstm, batch_size 64",
        "cifar_resnet8, fixed at 0.5, batch_size 64",
        "cifar_resnet14, lstm, batch_size 64",
        "cifar_resnet8, lstm, batch_size 32",
    ]


def test_recording_what_step_sizes_depend_on_is_no_other_method():
    explained = Explanation(("layer1.0", "layer1.1"), 0.02, 0.8, 0.1, 0.1, torch.zeros(2, 2))
    make_run("lstm-0", scores(LSTM[0]), explanations=[{"layer1": explained}] * 4)
    make_run("lstm-1", scores(LSTM[1]), seed=1)
    make({seed: PLAIN[seed] for seed in (0, 1)}, "none")
    rows = page("none-0", "none-1", "lstm-0", "lstm-1").tables["differences"][0][1:]
    assert [row[:2] for row in rows] == [["lstm", "2"]]


def test_curves_share_a_place_in_the_legend_by_method():
    make(LSTM, "lstm")
    make(PLAIN, "none")
    lines = page("lstm-0", "lstm-1", "none-1").plots["curves"]["test accuracy (%)"]["data"]
    assert [line["y"] for line in lines] == [[50, 80, 91], [50, 80, 93], [50, 80, 90]]
    assert [line["showlegend"] for line in lines] == [True, False, True]
    assert [line["name"] for line in lines] == ["lstm", "lstm", "plain"]
    assert lines[0]["line"] == lines[1]["line"] != lines[2]["line"]


def test_step_sizes_side_by_side_have_one_scale():
    make(LSTM, "lstm")
    make({0: PLAIN[0]}, "none")
    shown = page("lstm-0", "lstm-1", "none-0")
    drawn = shown.plots["steps"]
    runs = read_runs([Path("lstm-0"), Path("lstm-1")])
    every = np.concatenate([rows[-1].numpy() for run in runs for rows in run.steps.values()])
    maps = {title: one for title, one in drawn.items() if title.startswith("lstm-")}
    assert len(maps) == 2
    for one in maps.values():
        axis = one["layout"]["coloraxis"]
        assert (axis["cmin"], axis["cmax"]) == pytest.approx((every.min(), every.max()))
    means = drawn["mean Δt over channels, along depth"]["data"]
    assert means[1]["y"] == pytest.approx(
        [rows[-1].mean().item() for rows in runs[1].steps.values()]
    )


def test_blocks_of_different_networks_stay_in_order_of_depth():
    for name, counts in {"thick": (5, 2), "deep": (3, 4)}.items():
        blocks = [f"layer{stage}.{i}" for stage, n in enumerate(counts) for i in range(n)]
        make_run(name, scores(LSTM[0]), channels=dict.fromkeys(blocks, 4))
    shown = page("thick", "deep").plots["steps"]["mean Δt over channels, along depth"]
    assert shown["layout"]["xaxis"]["categoryarray"] == [
        *(f"layer0.{block}" for block in range(5)),
        *(f"layer1.{block}" for block in range(4)),
    ]


NOISE = "# what was measured\nnetwork,case,deviation,accuracy,loss\n"


def test_noise_of_several_runs_from_the_first_ones_folder():
    make(LSTM, "lstm")
    Path("lstm-0/robustness").mkdir()
    Path("lstm-0/robustness/noise.csv").write_text(
        NOISE
        + "lstm-0,draw 0,0.0,0.9,0.1\nlstm-0,draw 0,0.5,0.8,0.2\n"
        + "lstm-0,draw 1,0.0,0.9,0.1\nlstm-0,draw 1,0.5,0.6,0.4\n"
        + "lstm-1,draw 0,0.0,0.7,0.5\nlstm-1,draw 0,0.5,0.5,0.9\n"
    )
    shown = page("lstm-0", "lstm-1", "lstm-2")
    traces = shown.plots["noise"]["accuracy (%)"]["data"]
    lines = {trace["name"]: trace["y"] for trace in traces if trace.get("hoverinfo") != "skip"}
    assert lines["lstm-0"] == pytest.approx([90, 70])
    assert lines["lstm-1"] == pytest.approx([70, 50])
    edges = [trace["y"] for trace in traces if trace.get("hoverinfo") == "skip"]
    assert sorted(edges) == [pytest.approx([90, 60]), pytest.approx([90, 80])]
    assert "not measured: lstm-2; to measure it:" in shown.text["noise"]
    assert "timestepper robustness lstm-2 " in shown.text["noise"]
    assert "what was measured" in shown.text["noise"]


def test_noise_of_another_folder_of_the_same_name_is_not_taken():
    make(LSTM, "lstm")
    make_run("other/lstm-1", scores(LSTM[1]), seed=1)
    make_run("other-1", scores(LSTM[1]), seed=1)
    Path("lstm-0/robustness").mkdir()
    Path("lstm-0/robustness/noise.csv").write_text(NOISE + "lstm-1,draw 0,0.0,0.7,0.5\n")
    assert "not measured: other-1; " in page("lstm-0", "lstm-1", "other-1").text["noise"]
    # Which of them was measured nobody has written down.
    text = page("lstm-0", "lstm-1", "other/lstm-1").text["noise"]
    assert "not measured: lstm-1, other/lstm-1; " in text


def noise_with_folders(places, rows):
    path = Path("runs/lstm-0/robustness/noise.csv")
    path.parent.mkdir()
    path.write_text(f"# commit: abc\n# folders: {json.dumps(places)}\n{NOISE}{rows}")


def test_noise_is_of_the_folder_that_the_file_names():
    make_run("runs/lstm-0", scores(LSTM[0]))
    make_run("runs/plain-1", scores(PLAIN[1]), controller="none")
    make_run("elsewhere/plain-1", scores(PLAIN[2]), controller="none", seed=1)
    places = {"lstm-0": "..", "plain-1": "../../../elsewhere/plain-1"}
    noise_with_folders(places, "lstm-0,draw 0,0,0.9,0.1\nplain-1,draw 0,0,0.7,0.5\n")
    one = page("runs/lstm-0", "runs/plain-1")
    assert [line["name"] for line in one.plots["noise"]["accuracy (%)"]["data"]] == ["lstm-0"]
    assert "not measured: plain-1; " in one.text["noise"]
    other = page("runs/lstm-0", "elsewhere/plain-1").plots["noise"]["accuracy (%)"]["data"]
    assert {line["name"]: line["y"] for line in other} == {
        "lstm-0": pytest.approx([90]),
        "plain-1": pytest.approx([70]),
    }


def growth(value):
    step = {"name": "layer1.0", "random": value, "worst": 2 * value, "bound": None}
    stage = step | {"name": "layer1", "evolution_time": 1.0}
    kept = {"steps": [step], "stages": [stage], "gradient_flow": {}}
    return kept | {"no_bound": [], "images": 1}


def test_stability_says_what_was_measured_and_what_is_old():
    make({0: LSTM[0], 1: LSTM[1]}, "lstm")
    Path("lstm-0/stability").mkdir()
    measured = {
        "lstm-0/folded.safetensors": growth(2.0) | {"run": ".."},
        "lstm-1": growth(3.0) | {"run": "../../lstm-1"},
    }
    Path("lstm-0/stability/stability.json").write_text(json.dumps(measured))
    file = "Of lstm-0 lstm-0/folded.safetensors was measured, not the last checkpoint."
    old = "was measured before the last checkpoint was written; to measure that, run timestepper "
    for folders in (["lstm-0"], ["lstm-0", "lstm-1"]):
        text = page(*folders).text["stability"]
        assert file in text
        assert old not in text
    Path("lstm-1/checkpoints").mkdir()
    Path("lstm-1/checkpoints/last.pt").write_bytes(b"newer")
    text = page("lstm-0", "lstm-1").text["stability"]
    assert f"That of lstm-1 {old}stability lstm-1 --force" in text
    assert "That of lstm-0" not in text


def test_stability_is_of_the_folder_that_the_file_names(monkeypatch):
    for folder in ("x/a", "x/b", "y/b"):
        make_run(folder, scores(LSTM[0]))
    Path("x/a/stability").mkdir()
    path = Path("x/a/stability/stability.json")
    path.write_text(
        json.dumps({"a": growth(2.0) | {"run": ".."}, "b": growth(3.0) | {"run": "../../b"}})
    )
    assert "not measured" not in page("x/a", "x/b").text["stability"]
    monkeypatch.chdir("y")
    assert "not measured: b; " in page("../x/a", "b").text["stability"]
    # Of an older file only the first network is known.
    Path("../x/a/stability/stability.json").write_text(
        json.dumps({"a": growth(2.0), "b": growth(3.0)})
    )
    monkeypatch.chdir("../x")
    shown = page("a", "b")
    assert "not measured: b; " in shown.text["stability"]
    assert [row[0] for row in shown.tables["stability"][0][1:]] == ["a"]


def test_stability_without_evolution_times_is_broken():
    make_run("a", scores(LSTM[0]))
    Path("a/stability").mkdir()
    measured = growth(2.0)
    measured["stages"][0]["evolution_time"] = None
    Path("a/stability/stability.json").write_text(json.dumps({"a": measured}))
    text = page("a").text["stability"]
    assert "stability.json is broken (a stage has no evolution time)" in text


def test_stability_of_others_in_a_folder_is_said_to_be_theirs():
    make_run("a", scores(LSTM[0]))
    Path("a/stability").mkdir()
    Path("a/stability/stability.json").write_text(
        json.dumps({"../b": growth(2.0) | {"run": "../../b"}})
    )
    assert page("a").tables["stability"][0][1][:2] == ["../b", "layer1"]


def test_names_are_drawn_as_they_are():
    for name, controller in (("x<b>y", "lstm"), ("p&amp;q%{y}", "none")):
        make_run(name, scores(LSTM[0]), controller=controller)
        for kind in ("stability", "robustness"):
            Path(name, kind).mkdir()
        Path(name, "stability/stability.json").write_text(json.dumps({name: growth(2.0)}))
        Path(name, "robustness/noise.csv").write_text(f"{NOISE}{name},draw 0,0,0.9,0.1\n")
    plots = page("x<b>y", "p&amp;q%{y}").plots
    series = [
        line for section in plots.values() for one in section.values() for line in one["data"]
    ]
    shown = {text for line in series for text in (line.get("name"), line.get("hovertemplate"))}
    shown = " ".join(text.replace("<extra></extra>", "") for text in shown if text)
    assert "<" not in shown
    assert "x&lt;b&gt;y" in shown
    assert "p&amp;amp;q%&#123;y}, " in shown


def test_runs_are_told_apart_by_their_paths_where_names_are_the_same():
    make_run("a/run", scores(LSTM[0]))
    make_run("b/run", scores(LSTM[1]), seed=1)
    assert [row[0] for row in page("a/run", "b/run").tables["overview"][0][1:]] == [
        "a/run",
        "b/run",
    ]


def test_without_images_the_rest_is_there(tmp_path):
    make_run("a", scores(LSTM[0]))
    write_configuration(
        replace(SMALL, data=DataConfiguration("cifar10", data_dir=str(tmp_path))),
        Path("a/configuration.yaml"),
    )
    make_run("b", scores(LSTM[1]), seed=1)
    shown = page("a", "b")
    assert "data set 'cifar10' was not found" in shown.text["overview"]
    assert shown.tables["overview"][1][1][2:] == ["not measured"] * 4
