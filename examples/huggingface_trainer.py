"""Time stepping in Hugging Face's Trainer: attach before, log and fold.

python examples/huggingface_trainer.py
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import timestepper
from timestepper.integrations import step_metrics

torch.manual_seed(0)
pixels, classes = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
digits = [
    {"pixel_values": image, "labels": label} for image, label in zip(images, classes, strict=True)
]
folder = tempfile.mkdtemp()

configuration = ViTConfig(
    image_size=8,
    patch_size=2,
    num_channels=1,
    num_labels=10,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=2,
)
model = ViTForImageClassification(configuration)
timestepper.attach(model, example_input=images[:1])  # before the Trainer builds the optimizer


class LoggingTrainer(Trainer):
    """Logs evolution time and mean step sizes with everything else."""

    def log(self, logs: dict[str, float], *arguments: object) -> None:
        """Add them while the model is attached."""
        metrics = step_metrics(self.model) if hasattr(self.model, "time_stepping") else {}
        super().log(logs | metrics, *arguments)


trainer = LoggingTrainer(
    model,
    TrainingArguments(
        folder,
        num_train_epochs=6,
        per_device_train_batch_size=50,
        learning_rate=3e-3,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="epoch",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    ),
    train_dataset=digits[:1500],
    eval_dataset=digits[1500:],
    compute_metrics=lambda result: {
        "accuracy": float((result.predictions.argmax(1) == result.label_ids).mean())
    },
)
trainer.train()

model.eval()
with torch.no_grad():
    before = model(images).logits
    timestepper.fold(model)  # then save: from_pretrained drops step sizes that aren't folded
    after = model(images).logits
print("outputs bit-equal after folding:", torch.equal(before, after))
print("accuracy of the folded network:", trainer.evaluate()["eval_accuracy"])

model.save_pretrained(f"{folder}/folded")
plain = ViTForImageClassification.from_pretrained(f"{folder}/folded").eval()
with torch.no_grad():
    print("outputs bit-equal from_pretrained:", torch.equal(plain(images).logits, before))
