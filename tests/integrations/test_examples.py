"""The examples run as they stand, and say that nothing was lost."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
STAND_IN = Path(__file__).with_name("timm_stand_in.py")


@pytest.fixture
def example(monkeypatch, capfd):
    """Run an example in this process (imports take seconds); return what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.setattr("tempfile.tempdir", str(Path.cwd()))
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capfd.readouterr().out

    return run


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("plain_pytorch.py", "outputs bit-equal in a fresh plain network: True"),
        ("lightning_trainer.py", "outputs bit-equal in a fresh plain network: True"),
        ("huggingface_trainer.py", "outputs bit-equal from_pretrained: True"),
    ],
)
def test_example(example, name, second):
    shown = example(name)
    assert "outputs bit-equal after folding: True" in shown
    assert second in shown
    assert "evolution" in shown


@pytest.mark.slow
def test_timm_example_with_a_stand_in_for_its_script(example):
    shown = example("timm_training_script.py", STAND_IN)
    assert "timestepper: evolution_time/layer4 " in shown
    assert "outputs bit-equal to the time-stepped network's" in shown
    plain = timm.create_model("test_resnet", num_classes=10)
    assert f"{sum(p.numel() for p in plain.parameters()):,} parameters" in shown


def test_code_of_the_page_on_integrations_runs():
    text = (EXAMPLES.parent / "docs" / "integrations.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    names: dict = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "integrations.md", "exec"), names)
    images = names["images"]
    with torch.no_grad():
        stepped, plain = (names[name].eval()(images).logits for name in ("model", "plain"))
    assert torch.equal(stepped, plain)
    folded = names["LoggingTrainer"](
        names["model"], names["settings"], eval_dataset=names["digits"]
    )
    assert "eval_loss" in folded.evaluate()
    for network in (names["network"], names["module"].network):
        assert not hasattr(network, "time_stepping")
