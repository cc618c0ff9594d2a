"""Images per second of our trainings beside those of timm's own training script.

The same network, precision, memory format, batch size and images for all; each in a process of its
own, one after the other, the order turned round by round. Trainings are short and rounds many, as
shared machines change their speed by the minute. Of each training the last epoch counts, with all
that its loop does (data, forward, backward, optimizer, metrics), without the evaluation. Images are
32×32, cropped and flipped by both: timm's crops are resized, ours padded. timm also trains without
any augmentation, which spares it work that ours does. timm's script is no part of its package: it
is ``train.py`` of its repository.

    python benchmarks/against_timm.py --script train.py --data-dir DIR --output FILE.csv

DIR has an image folder with ``train/CLASS/*`` and ``test/CLASS/*``.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from timestepper.files import write_atomically
from timestepper.provenance import provenance
from timestepper.report.result_table import Cell, Column, ResultTable

NETWORK = "resnet18"
BATCH = 64
SIZE = 32
EPOCHS = 2
RATE = re.compile(r"Train: +(\d+) .*\( *[\d.]+s, +([\d.]+)/s\)")
"""What timm prints of an epoch so far: number, and mean images per second in brackets."""
AUGMENTATIONS = {
    "timm's train.py": ("--color-jitter", "0"),
    "timm's train.py, no augmentation": ("--no-aug",),
}
"""What timm's script is told beside the settings; crops and flips are its defaults."""
COLUMNS = (
    Column("trained_by", "trained by", text=True),
    Column("images_per_second", "images/s", decimals=0),
    Column("over_timm", "over timm", decimals=2),
    Column("over_timm_no_aug", "over timm, no augmentation", decimals=2),
    Column("rounds", "images/s, round by round", text=True),
)


def run(command: list[str]) -> str:
    """Run a training and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[:2]} failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout + done.stderr


def link_images(source: Path, target: Path, images: int) -> None:
    """Make an image folder of the first images of each class of another."""
    for split, count in (("train", images), ("test", images // 10)):
        classes = sorted(path for path in (source / split).iterdir() if path.is_dir())
        for of_class in classes:
            (target / split / of_class.name).mkdir(parents=True)
            for image in sorted(of_class.iterdir())[: count // len(classes)]:
                (target / split / of_class.name / image.name).symlink_to(image.resolve())


def by_timm(
    script: Path, augmentation: Sequence[str], data_dir: Path, workers: int, folder: Path
) -> float:
    """Train with timm's script."""
    options = {
        "data-dir": data_dir,
        "val-split": "test",
        "model": NETWORK,
        "num-classes": sum(1 for _ in (data_dir / "train").iterdir()),
        "img-size": SIZE,
        "batch-size": BATCH,
        "amp-dtype": "bfloat16",
        "device": "cpu",
        "workers": workers,
        "epochs": EPOCHS,
        "warmup-epochs": 0,
        "output": folder,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    words += ["--amp", "--channels-last", *augmentation]
    printed = run([sys.executable, str(script), *words])
    rates = [float(rate) for epoch, rate in RATE.findall(printed) if int(epoch) == EPOCHS - 1]
    return rates[-1]


def by_us(controller: str, data_dir: Path, folder: Path) -> float:
    """Train with ours."""
    settings = {
        "folder": folder,
        "network.name": f"timm/{NETWORK}",
        "stepping.controller": controller,
        "data.name": "imagefolder",
        "data.data_dir": data_dir,
        "data.cache_dir": data_dir / "cache",
        "data.image_size": SIZE,
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "precision": "bf16-mixed",
        "channels_last": "true",
        "accelerator": "cpu",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    run([str(Path(sys.executable).with_name("timestepper")), "train", *words])
    with (folder / "metrics.csv").open() as file:
        return float(list(csv.DictReader(file))[-1]["images_per_second"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--script", type=Path, required=True, help="timm's train.py")
    parser.add_argument("--data-dir", type=Path, required=True, help="the image folder")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="timm's loaders")
    parser.add_argument("--images", type=int, default=10_000, help="of the folder, for training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="CSV file to write")
    options = parser.parse_args()
    for needed in (options.script, options.data_dir / "train", options.data_dir / "test"):
        if not needed.exists():
            parser.error(f"there is no {needed}")
    command = (
        "python benchmarks/against_timm.py --script train.py --data-dir DIR "
        f"--workers {options.workers} --images {options.images} --rounds {options.rounds}"
    )
    made_by = provenance(command=command)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        link_images(options.data_dir, images, options.images)
        sides: dict[str, Callable[[Path], float]] = {
            **{
                name: partial(by_timm, options.script, words, images, options.workers)
                for name, words in AUGMENTATIONS.items()
            },
            "timestepper train, plain network": partial(by_us, "none", images),
            "timestepper train, lstm": partial(by_us, "lstm", images),
        }
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(options.rounds):
            names = list(sides)
            for number, name in enumerate(names[turn % len(names) :] + names[: turn % len(names)]):
                rates[name].append(sides[name](Path(folder) / f"run-{turn}-{number}"))
                print(f"round {turn + 1}: {name}: {rates[name][-1]:,.0f} images/s", flush=True)
    rows: list[tuple[Cell, ...]] = [
        (
            side,
            statistics.median(found),
            *(
                statistics.median(a / b for a, b in zip(found, rates[other], strict=True))
                for other in AUGMENTATIONS
            ),
            " ".join(f"{rate:.0f}" for rate in found),
        )
        for side, found in rates.items()
    ]
    title = f"{NETWORK} at {SIZE}×{SIZE}, batch {BATCH}, bfloat16, channels_last"
    table = ResultTable(title, COLUMNS, rows, ())
    Console().print(table.to_rich())
    if options.output:
        write_atomically(options.output, table.to_csv(made_by).encode())


if __name__ == "__main__":
    main()
