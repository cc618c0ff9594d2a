"""Time stepping in timm's training script, which stays as it is.

git clone https://github.com/huggingface/pytorch-image-models
python examples/timm_training_script.py pytorch-image-models/train.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import timm
from PIL import Image
from sklearn.datasets import load_digits

if len(sys.argv) != 2:
    sys.exit("say where timm's train.py is: python examples/timm_training_script.py TRAIN_PY")
script = sys.argv[1]
folder = Path(tempfile.mkdtemp())


def write_images() -> Path:
    """Write digits as an image folder, which is what the script reads."""
    data = folder / "digits"
    pixels, classes = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(pixels[:800], classes[:800], strict=True)):
        place = data / ("train" if number < 600 else "validation") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((image * 15.9).astype("uint8").reshape(8, 8))
        grey.resize((32, 32)).convert("RGB").save(place / f"{number}.png")
    return data


def run(*arguments: object) -> None:
    """Show a command and run it."""
    command = ["-m", "timestepper.integrations.timm", *map(str, arguments)]
    print("$ python", *command, flush=True)
    done = subprocess.run([sys.executable, *command], check=False)
    if done.returncode:
        sys.exit(done.returncode)


# `train`, the script, and the script's own arguments.
run(
    *("train", script, "--data-dir", write_images(), "--output", folder, "--experiment", "digits"),
    *("--model", "test_resnet", "--num-classes", 10, "--input-size", 3, 32, 32, "--hflip", 0),
    *("--epochs", 2, "--warmup-epochs", 0, "--batch-size", 50, "--lr", 0.05, "--model-ema"),
    *("--model-ema-decay", 0.9, "--device", "cpu", "--workers", 0, "--no-prefetcher"),
)
folded = folder / "folded.safetensors"
run("fold", folder / "digits" / "model_best.pth.tar", "--output", folded)

# Plain timm loads what you ship; it refuses weights with any name that it doesn't know.
network = timm.create_model("test_resnet", num_classes=10, checkpoint_path=folded)
print(f"in a plain network: {sum(p.numel() for p in network.parameters()):,} parameters")
