"""Hugging Face's Trainer: what it does with the names under ``time_stepping.``."""

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import timestepper
from timestepper.integrations import step_metrics

IMAGES = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = [{"pixel_values": image, "labels": i % 4} for i, image in enumerate(IMAGES)]
CONFIGURATION = ViTConfig(
    image_size=8,
    patch_size=4,
    num_channels=1,
    num_labels=4,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
)


class LoggingTrainer(Trainer):
    def log(self, logs, *arguments):
        metrics = step_metrics(self.model) if hasattr(self.model, "time_stepping") else {}
        super().log(logs | metrics, *arguments)


def make_trainer(seed, folder, **options):
    torch.manual_seed(seed)
    model = timestepper.attach(
        ViTForImageClassification(CONFIGURATION), "lstm", example_input=IMAGES[:1]
    )
    # The remedy of docs/integrations.md for the Trainer's loading of models that it renames.
    model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
    settings = TrainingArguments(
        folder,
        num_train_epochs=3,
        per_device_train_batch_size=5,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_strategy="epoch",
        eval_strategy="epoch",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    return LoggingTrainer(model, settings, train_dataset=DATA, eval_dataset=DATA)


@torch.no_grad()
def outputs(model):
    return model.eval()(IMAGES).logits


def test_resumes_with_controllers_logs_and_folds():
    unbroken = make_trainer(1, "runs")
    before = [p.clone() for p in unbroken.model.time_stepping.parameters()]
    unbroken.train()
    for p, q in zip(before, unbroken.model.time_stepping.parameters(), strict=True):
        assert not torch.equal(p, q)
    logged = unbroken.state.log_history[-1]
    expected = step_metrics(unbroken.model)
    assert {name: logged[name] for name in expected} == expected

    resumed = make_trainer(2, "runs")
    resumed.train(resume_from_checkpoint="runs/checkpoint-4")
    stepped = outputs(unbroken.model)
    assert torch.equal(outputs(resumed.model), stepped)

    timestepper.fold(resumed.model).save_pretrained("folded")
    names = set(load_file("folded/model.safetensors"))
    assert names == set(ViTForImageClassification(CONFIGURATION).state_dict())
    plain = ViTForImageClassification.from_pretrained("folded")
    assert torch.equal(outputs(plain), stepped)


def test_best_model_comes_back_with_its_controllers():
    # The largest loss is "best", so that it is not the last one.
    trainer = make_trainer(1, "runs", load_best_model_at_end=True, greater_is_better=True)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert Path(best).name != "checkpoint-12"
    saved = load_file(f"{best}/model.safetensors")
    own = trainer.model.state_dict()
    assert set(saved) == set(own)
    assert any(name.startswith("time_stepping.") for name in saved)
    for name, tensor in saved.items():
        assert torch.equal(tensor, own[name]), name
