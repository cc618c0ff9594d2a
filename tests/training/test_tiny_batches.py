"""Batches that leave a batch norm a single value for each channel."""

from timestepper.cli import main
from timestepper.data import load

NETWORK = ("--network.name", "cifar_resnet8", "--data.image_size")
TINY, LARGER = "4", "8"
"""Of which the network makes 1×1 and 2×2."""


def test_last_batch_of_one_image_is_left_out(capsys):
    images = len(load("digits").train)
    size = next(size for size in range(100, images) if images % size == 1)
    command = ("train", *NETWORK, TINY, "--epochs", "1", "--batch_size", str(size))
    assert main(command) == 0
    assert "test accuracy" in capsys.readouterr().out


def test_batches_of_one_image_are_refused(tmp_path, capsys):
    command = ("train", *NETWORK, TINY, "--batch_size", "1", "--folder", "run")
    assert main(command) == 2
    assert capsys.readouterr().err == (
        "timestepper: error: a process gets batches of 1 image, too small for a network that has a "
        "single value per channel left of an image of 1x4x4; make batch_size larger\n"
    )
    assert not (tmp_path / "run").exists()


def test_batches_of_one_image_are_taken_where_maps_are_larger():
    command = ("train", *NETWORK, LARGER, "--batch_size", "1", "--epochs", "1", "--folder", "run")
    assert main((*command, "--data.validation", "1340")) == 0
