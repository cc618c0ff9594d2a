"""Lightning's Trainer: fit, checkpoints, resuming, weight averaging, several processes."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from home_made import HomeMade
from pytorch_lightning.callbacks import ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import timestepper
from timestepper.errors import AttachedError, StateError
from timestepper.integrations.lightning import TimeSteppingCallback

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LOADER = DataLoader(TensorDataset(IMAGES, torch.arange(16) % 5), batch_size=4)


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = HomeMade()

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("loss", self.training_step(batch, index))

    def test_step(self, batch, index):
        self.log("test_loss", self.training_step(batch, index))

    def predict_step(self, batch, index):
        return self.network(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def trainer(*callbacks, **options):
    defaults = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "devices": 1}
    return pl.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{**defaults, **options},
    )


def make_module():
    torch.manual_seed(1)
    return Module()


@torch.no_grad()
def outputs(network):
    return network.eval()(IMAGES)


def attached_from(path, controller="lstm"):
    """The time-stepped network as a checkpoint of the fit has it, by timestepper's verbs alone."""
    state = torch.load(path, weights_only=True)["state_dict"]
    network = timestepper.attach(HomeMade(), controller)
    network.load_state_dict({name.removeprefix("network."): t for name, t in state.items()})
    return network


def test_attaches_logs_and_folds():
    module = make_module()
    keys = list(module.state_dict())
    fit = trainer(
        TimeSteppingCallback(),
        ModelCheckpoint("checkpoints", save_last=True),
        logger=CSVLogger("."),
        enable_checkpointing=True,
    )
    fit.fit(module, LOADER, LOADER)
    assert list(module.state_dict()) == keys
    assert not module._load_state_dict_pre_hooks

    attached = attached_from("checkpoints/last.ckpt")
    assert torch.equal(outputs(module.network), outputs(attached))
    # What is logged last is what the last checkpoint has.
    table = [
        line.split(",") for line in Path(fit.logger.log_dir, "metrics.csv").read_text().split()
    ]
    columns = {name: [row[i] for row in table[1:] if row[i]] for i, name in enumerate(table[0])}
    times = columns["evolution_time/layer1"]
    assert len(times) == 2
    time = timestepper.evolution_time(attached)["layer1"]
    assert float(times[-1]) == pytest.approx(time, rel=1e-6)
    assert float(columns["mean_step_size/layer1"][-1]) == pytest.approx(time / 3, rel=1e-6)


def test_controllers_are_trained_and_loss_is_that_of_a_plain_loop():
    module = make_module()
    reference = copy.deepcopy(module.network)
    torch.manual_seed(2)
    timestepper.attach(reference)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
    for images, labels in LOADER:
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(images), labels).backward()
        optimizer.step()
    torch.manual_seed(2)
    trainer(TimeSteppingCallback(), max_epochs=1).fit(module, LOADER)
    torch.testing.assert_close(
        module.state_dict(),
        {f"network.{k}": v for k, v in timestepper.fold(reference).state_dict().items()},
    )


@pytest.mark.parametrize("controller", ["lstm", "indp", 0.25])
def test_checkpoints_of_the_fit_load_into_the_folded_network(controller):
    callback = TimeSteppingCallback("network", controller)
    fit = trainer(
        callback,
        ModelCheckpoint("checkpoints", filename="{epoch}", save_top_k=-1),
        enable_checkpointing=True,
    )
    module = make_module()
    fit.fit(module, LOADER, LOADER)
    first = "checkpoints/epoch=0.ckpt"
    expected = outputs(attached_from(first, controller))
    assert not torch.equal(outputs(module.network), expected)

    fit.test(module, LOADER, ckpt_path=first, verbose=False)
    assert torch.equal(outputs(module.network), expected)
    fit.save_checkpoint("folded.ckpt")

    # The same in a new process, which has never seen a fit; and folded weights load as they are.
    for path in (first, "folded.ckpt"):
        again = Module()
        again_callback = TimeSteppingCallback("network", controller)
        predicted = trainer(again_callback).predict(again, LOADER, ckpt_path=path)
        torch.testing.assert_close(torch.cat(predicted), expected)
        assert torch.equal(outputs(again.network), expected)
        assert not again._load_state_dict_pre_hooks

    with pytest.raises(StateError, match="time_stepping"):
        trainer(TimeSteppingCallback("network", "2fc")).test(Module(), LOADER, ckpt_path=first)


class ThirdSteps(nn.Module):
    """A controller that has nothing to save."""

    def __init__(self, depth, features, channels, hidden):
        super().__init__()
        self.size = depth, channels

    def forward(self, averaged):
        return averaged.new_full(self.size, 1 / 3)


def test_checkpoints_of_controllers_without_state_fold_and_resume():
    def callbacks():
        save = ModelCheckpoint("checkpoints", filename="{epoch}", save_top_k=-1)
        return TimeSteppingCallback("network", ThirdSteps), save

    module = make_module()
    trainer(*callbacks(), enable_checkpointing=True).fit(module, LOADER, LOADER)
    trained = outputs(module.network)
    again = Module()
    trainer(callbacks()[0]).test(again, LOADER, ckpt_path="checkpoints/epoch=1.ckpt", verbose=False)
    assert torch.equal(outputs(again.network), trained)

    resumed = Module()
    fit = trainer(*callbacks(), enable_checkpointing=True)
    fit.fit(resumed, LOADER, LOADER, ckpt_path="checkpoints/epoch=0.ckpt")
    assert torch.equal(outputs(resumed.network), trained)
    assert list(resumed.state_dict()) == list(make_module().state_dict())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_checkpoints_of_fits_in_other_precisions_are_folded(precision):
    def run(*callbacks, **options):
        stepping = TimeSteppingCallback("network", example_input=IMAGES[:1])
        return trainer(stepping, *callbacks, max_epochs=1, precision=precision, **options)

    module = make_module()
    fit = run(ModelCheckpoint("checkpoints", filename="last"), enable_checkpointing=True)
    fit.fit(module, LOADER)
    trained = copy.deepcopy(module.state_dict())
    fit.test(module, LOADER, ckpt_path="checkpoints/last.ckpt", verbose=False)
    torch.testing.assert_close(module.state_dict(), trained, rtol=0, atol=0)

    again = Module()
    run().predict(again, LOADER, ckpt_path="checkpoints/last.ckpt")
    # Lightning loads into the new module before it converts it.
    through_float = {n: t.float().to(t.dtype) for n, t in trained.items()}
    torch.testing.assert_close(again.state_dict(), through_float, rtol=0, atol=0)


def test_two_networks_are_logged_apart():
    class Two(Module):
        def __init__(self):
            super().__init__()
            self.other = HomeMade()

        def training_step(self, batch, index):
            scores = self.network(batch[0]) + self.other(batch[0])
            return nn.functional.cross_entropy(scores, batch[1])

    fit = trainer(
        TimeSteppingCallback(controller=0.5), TimeSteppingCallback("other", 0.25), max_epochs=1
    )
    fit.fit(Two(), LOADER)
    assert fit.logged_metrics["network/mean_step_size/layer1"] == 0.5
    assert fit.logged_metrics["other/mean_step_size/layer1"] == 0.25


def test_resumed_fit_ends_where_an_unbroken_one_does():
    def fit(seed, path=None):
        torch.manual_seed(seed)
        module = Module()
        save = ModelCheckpoint("checkpoints", filename="{epoch}", save_top_k=-1)
        callbacks = (TimeSteppingCallback(), save)
        trainer(*callbacks, max_epochs=3, enable_checkpointing=True).fit(
            module, LOADER, LOADER, ckpt_path=path
        )
        return outputs(module.network)

    unbroken = fit(1)
    assert torch.equal(fit(2, "checkpoints/epoch=0.ckpt"), unbroken)


@pytest.mark.parametrize(
    "averaging",
    [
        pytest.param(lambda: WeightAveraging(), id="averaging"),
        pytest.param(lambda: StochasticWeightAveraging(0.01, swa_epoch_start=1), id="swa"),
    ],
)
def test_averages_hold_controllers_and_are_folded(averaging):
    module = make_module()
    seen = {}

    class Spy(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            seen["network"] = copy.deepcopy(pl_module.network)

    average = averaging()
    trainer(TimeSteppingCallback(), average, Spy(), max_epochs=3).fit(module, LOADER)
    assert not any("time_stepping" in name for name in module.state_dict())
    assert torch.equal(outputs(module.network), outputs(seen["network"]))
    model = average._average_model
    assert any("time_stepping" in name for name, _ in model.named_parameters())


def test_network_that_is_attached_already_keeps_its_step_sizes():
    module = make_module()
    timestepper.attach(module.network, 0.25)
    expected = outputs(copy.deepcopy(module.network))
    trainer(TimeSteppingCallback(), max_steps=0).fit(module, LOADER)
    assert torch.equal(outputs(module.network), expected)


def test_says_which_networks_there_are():
    with pytest.raises(AttachedError, match=r"no network 'model' \(it has network\)"):
        trainer(TimeSteppingCallback("model")).fit(make_module(), LOADER)


def test_a_nested_network_and_options_of_attach():
    class Wrapped(Module):
        def __init__(self):
            super().__init__()
            self.model = nn.ModuleDict({"backbone": self.network})
            del self.network

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.model["backbone"](batch[0]), batch[1])

    module = Wrapped()
    before = outputs(module.model["backbone"])
    callback = TimeSteppingCallback("model.backbone", preserve=True, example_input=IMAGES[:1])
    trainer(callback, max_steps=0).fit(module, LOADER)
    torch.testing.assert_close(outputs(module.model["backbone"]), before)


def test_a_folder_called_lightning_is_not_the_library(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "timestepper.integrations.lightning")
    Path("lightning").mkdir()
    monkeypatch.syspath_prepend(".")
    __import__("timestepper.integrations.lightning")


def test_missing_library_is_said_in_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "timestepper.integrations.lightning")
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'timestepper\[lightning\]'$"):
        __import__("timestepper.integrations.lightning")


SPAWNED = """
import sys
import torch
from test_lightning import LOADER, TimeSteppingCallback, make_module, trainer
if __name__ == "__main__":
    module = make_module()
    fit = trainer(
        TimeSteppingCallback(), strategy="ddp", devices=2, max_epochs=1
    )
    fit.fit(module, LOADER)
    torch.save(module.state_dict(), f"rank{fit.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_fold_to_the_same_network():
    Path("spawned.py").write_text(SPAWNED)
    here = Path(__file__).parent
    paths = [str(here), str(here.parent / "stepping"), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, "spawned.py"],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    first, second = (torch.load(f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert list(first) == list(Module().state_dict())
    for name, tensor in first.items():
        if "running" not in name:  # each process has its own batch statistics
            assert torch.equal(tensor, second[name]), name
