"""Time stepping in Lightning's Trainer: one callback.

python examples/lightning_trainer.py
"""

import tempfile

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import timestepper
from timestepper import networks
from timestepper.integrations.lightning import TimeSteppingCallback


class Classifier(pl.LightningModule):
    """An ordinary LightningModule; it knows nothing of time stepping."""

    def __init__(self) -> None:
        super().__init__()
        self.network = networks.create("cifar_resnet14", num_classes=10, in_channels=1)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Compute the loss."""
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Log the accuracy."""
        images, labels = batch
        accuracy = (self.network(images).argmax(1) == labels).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer; the callback has attached by now."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


pl.seed_everything(0)
pixels, classes = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
digits = TensorDataset(images, torch.tensor(classes))
train_digits, test_digits = torch.utils.data.random_split(digits, [1500, 297])

folder = tempfile.mkdtemp()
module = Classifier()
trainer = pl.Trainer(
    callbacks=[
        TimeSteppingCallback("network", example_input=images[:1]),  # all that is new
        ModelCheckpoint(monitor="accuracy", mode="max"),
    ],
    max_epochs=4,
    accelerator="cpu",
    devices=1,
    logger=CSVLogger(folder),
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(
    module,
    DataLoader(train_digits, batch_size=50, shuffle=True),
    DataLoader(test_digits, batch_size=297),
)
for name, value in trainer.logged_metrics.items():
    print(f"{name}: {value:.3f}")

# The network is folded now. What the checkpoints of the fit hold is folded as it is loaded.
trainer.test(module, DataLoader(test_digits, batch_size=297), ckpt_path="best")

# To see that nothing was lost: load the same checkpoint into an attached module.
attached = Classifier()
timestepper.attach(attached.network, example_input=images[:1])
best = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
attached.load_state_dict(best["state_dict"])

plain = Classifier()
plain.load_state_dict(module.state_dict())  # what you ship: no key of timestepper
with torch.no_grad():
    before = attached.network.eval()(images)
    print("outputs bit-equal after folding:", torch.equal(module.network.eval()(images), before))
    after = plain.network.eval()(images)
    print("outputs bit-equal in a fresh plain network:", torch.equal(after, before))
