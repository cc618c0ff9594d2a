"""A stand-in for timm's train.py, which is not in its wheel.

It calls timm's public pieces in the same order: create_model, create_optimizer_v2, resume, EMA,
CheckpointSaver. Arguments that it has no use for are accepted and ignored.
"""

import argparse
import logging

import torch
from timm import utils
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.layers import convert_splitbn_model
from timm.models import create_model, resume_checkpoint
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.utils import CheckpointSaver, ModelEmaV3

parser = argparse.ArgumentParser()
parser.add_argument("--data-dir")
parser.add_argument("--output")
parser.add_argument("--experiment")
parser.add_argument("--model", default="resnet50")
parser.add_argument("--num-classes", type=int)
parser.add_argument("--in-chans", type=int)
parser.add_argument("--input-size", nargs=3, type=int)
parser.add_argument("--gp")
parser.add_argument("--model-kwargs", nargs="*", default={}, action=utils.ParseKwargs)
parser.add_argument("--teacher", action="store_true")
parser.add_argument("--torchscript", action="store_true")
parser.add_argument("--split-bn", action="store_true")
parser.add_argument("--model-ema", action="store_true")
parser.add_argument("--model-ema-decay", type=float, default=0.9998)
parser.add_argument("--resume", default="")
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--batch-size", type=int, default=50)
parser.add_argument("--opt", default="sgd")
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--momentum", type=float, default=0.9)
parser.add_argument("--weight-decay", type=float, default=2e-5)


def main():
    args, _ = parser.parse_known_args()
    utils.random_seed(42)
    teacher = create_model("test_resnet", num_classes=args.num_classes) if args.teacher else None
    model = create_model(
        args.model,
        pretrained=False,
        in_chans=args.in_chans or args.input_size[0],
        num_classes=args.num_classes,
        global_pool=args.gp,
        **args.model_kwargs,
    )
    data_config = resolve_data_config(vars(args), model=model)
    if args.split_bn:
        model = convert_splitbn_model(model)
    if args.torchscript:
        model = torch.jit.script(model)
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(cfg=args))
    start = resume_checkpoint(model, args.resume, optimizer) if args.resume else 0
    ema = ModelEmaV3(model, decay=args.model_ema_decay) if args.model_ema else None
    loader = create_loader(
        create_dataset(
            "",
            root=args.data_dir,
            split="train",
            is_training=True,
            input_img_mode="RGB" if data_config["input_size"][0] == 3 else "L",
        ),
        input_size=data_config["input_size"],
        batch_size=args.batch_size,
        is_training=True,
        no_aug=True,
        mean=data_config["mean"][: data_config["input_size"][0]],
        std=data_config["std"][: data_config["input_size"][0]],
        num_workers=0,
        use_prefetcher=False,
        device=torch.device("cpu"),
        persistent_workers=False,
    )
    saver = CheckpointSaver(
        model,
        optimizer,
        args=args,
        model_ema=ema,
        checkpoint_dir=utils.get_outdir(args.output, args.experiment),
    )
    for epoch in range(start, args.epochs):
        model.train()
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            if teacher is not None:
                loss = loss + (model(images) - teacher(images).detach()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if ema is not None:
                ema.update(model)
        saver.save_checkpoint(epoch, metric=epoch)
    assert teacher is None or not hasattr(teacher, "time_stepping")


if __name__ == "__main__":
    logging.disable()
    main()
