"""timm's training script with time stepping, unedited; and folded weights from its checkpoints.

python -m timestepper.integrations.timm train train.py --model resnet50 ...
python -m timestepper.integrations.timm fold model_best.pth.tar --output folded.safetensors
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest import mock

import timm
import timm.models
import timm.optim
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from timestepper import networks
from timestepper.errors import RunError, StateError, TimestepperError, one_line
from timestepper.files import require_undamaged
from timestepper.integrations.metrics import step_metrics
from timestepper.stepping import attach, evolution_time, load_weights
from timestepper.training.folded import folded_copy, write_weights
from timestepper.training.recipes import explain

VERIFIED_IMAGES = 8


class _Stepped:
    """timm's ``create_model`` and ``create_optimizer_v2`` for a script, attaching in between.

    The network is attached when the script builds its optimizer: by then it has converted batch
    norms (``--sync-bn``, ``--split-bn``) and moved it, but neither copied it for averaging, nor
    compiled it, nor wrapped it for several processes. A teacher for distillation stays plain.

    Args:
        controller: as for :func:`timestepper.attach`.
        options: further arguments of :func:`timestepper.attach`.
    """

    def __init__(self, controller: str | float, options: dict[str, Any]) -> None:
        self.controller = controller
        self.options = options
        self.plain_create_model: Callable[..., nn.Module] = timm.create_model
        self.plain_create_optimizer = timm.optim.create_optimizer_v2  # type: ignore[attr-defined]
        self.created: list[tuple[nn.Module, dict[str, Any]]] = []
        self.network: nn.Module | None = None

    def create_model(self, *arguments: Any, **options: Any) -> nn.Module:
        """Remember the network."""
        network = self.plain_create_model(*arguments, **options)
        self.created.append((network, options))
        return network

    def create_optimizer(self, model_or_params: Any, *arguments: Any, **options: Any) -> Any:
        """Attach, then build the optimizer, which thereby has the controllers' parameters."""
        trained = model_or_params  # timm's name: scripts may say it.
        inside = set(trained.modules()) if isinstance(trained, nn.Module) else set()
        candidates = [pair for pair in self.created if pair[0] in inside]
        if not candidates:
            raise RunError(
                f"the script builds its optimizer for a {type(trained).__name__} without the "
                "network that create_model made (--torchscript?), so there is nothing to attach to"
            )
        self.network, made_with = candidates[0]
        example = _example_input(self.network, made_with.get("in_chans"), made_with.get("img_size"))
        attach(self.network, self.controller, example_input=example, **self.options)
        stages = ", ".join(evolution_time(self.network))
        _say(f"{type(self.network).__name__} has step sizes in the stages {stages}")
        return self.plain_create_optimizer(trained, *arguments, **options)


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"timestepper: {line}", flush=True)


def _example_input(network: nn.Module, channels: int | None, size: Any) -> Tensor:
    """Make one image of the network's own size, ``(1, channels, height, width)``."""
    configuration: Any = network.pretrained_cfg
    usual_channels, *usual_size = configuration["input_size"]
    height, width = (size, size) if isinstance(size, int) else (size or usual_size)
    reference = next(network.parameters())
    return torch.randn(
        1, channels or usual_channels, height, width, generator=torch.Generator().manual_seed(0)
    ).to(reference.device, reference.dtype)


def train(script: Path, arguments: Sequence[str], controller: str | float, **options: Any) -> None:
    """Run a training script with step sizes in the network that it trains.

    Args:
        script: timm's ``train.py``, or one that builds network and optimizer as it does, by timm's
            ``create_model`` and ``create_optimizer_v2``.
        arguments: the script's own.
        controller: as for :func:`timestepper.attach`.
        **options: further arguments of :func:`timestepper.attach`.

    Raises:
        RunError: there is no such script, or it has built no optimizer for a network of timm's.
        NoBranchError: the network has no residual branch.
        FoldError: step sizes can't be folded into a branch.
    """
    try:
        is_there = script.is_file()
    except OSError:  # no name that a file can have
        is_there = False
    if not is_there:
        raise RunError(f"there is no script {script}; get train.py from timm's repository")
    stepped = _Stepped(controller, options)
    with ExitStack() as patches:
        for module in (timm, timm.models):
            patches.enter_context(mock.patch.object(module, "create_model", stepped.create_model))
        patches.enter_context(
            mock.patch.object(timm.optim, "create_optimizer_v2", stepped.create_optimizer)
        )
        patches.enter_context(mock.patch.object(sys, "argv", [str(script), *arguments]))
        folder = str(script.parent.resolve())
        patches.enter_context(mock.patch.object(sys, "path", [folder, *sys.path]))
        runpy.run_path(str(script), run_name="__main__")
    if stepped.network is None:
        raise RunError(
            f"{script} has built no optimizer by timm.optim.create_optimizer_v2, so nothing was "
            "attached; call timestepper.attach in the script instead"
        )
    for name, value in step_metrics(stepped.network).items():
        _say(f"{name} {value:.3f}")


def fold_checkpoint(checkpoint: Path, output: Path, controller: str | float, **options: Any) -> str:
    """Write the folded weights of a checkpoint of timm's training script, as safetensors.

    Averaged weights (``--model-ema``) are taken where the checkpoint has them, as timm does.

    Args:
        checkpoint: such as ``model_best.pth.tar``; nothing in it is unpickled but tensors, plain
            values and the script's arguments.
        output: the file to write, whose name ends in ``.safetensors``.
            ``timm.create_model(..., checkpoint_path=...)`` and timm's ``validate.py --checkpoint``
            load it.
        controller: the one that it was trained with.
        **options: the other arguments of :func:`timestepper.attach` that it was trained with.

    Returns:
        The name of the network in timm.

    Raises:
        RunError: the file to write exists already, its folder does not, or timm would not know by
            its name what it is.
        StateError: the checkpoint can't be read, is not one of timm's training script, or was
            trained with another controller or without one.
        OSError: the file can't be written.
    """
    if not output.name.endswith(".safetensors"):
        raise RunError(
            f"{output} must end in .safetensors, by which timm knows such files; name another file "
            "with --output"
        )
    if output.exists() or not output.parent.is_dir():
        problem = "exists already" if output.exists() else "has no folder to be in"
        raise RunError(f"{output} {problem}; name another file with --output")
    try:
        with (
            checkpoint.open("rb") as file,
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            if zipfile.is_zipfile(file):  # torch's older files are none
                require_undamaged(file)
            file.seek(0)
            saved = torch.load(file, map_location="cpu", weights_only=True)
        given = vars(saved["args"])
        name, classes = given["model"], given["num_classes"]
        state = timm.models.clean_state_dict(saved.get("state_dict_ema") or saved["state_dict"])
    except OSError as error:
        raise StateError(
            f"{checkpoint}: {error.strerror}; name a file of timm's train.py"
        ) from error
    except (
        *(RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError),
        *(UnpicklingError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise StateError(
            f"{checkpoint} is not a checkpoint of timm's training script, or it is broken"
        ) from error
    try:
        channels = given.get("in_chans") or (given.get("input_size") or [None])[0]
        made_with = {"num_classes": classes, "in_chans": channels, "global_pool": given.get("gp")}
        made_with |= dict(given.get("model_kwargs") or {})
        if ":" in name:  # local-dir:..., hf-hub:...
            network = timm.create_model(name, pretrained=False, **made_with)
        else:
            network = networks.create(f"timm/{name}", **made_with)
        example = _example_input(network, channels, made_with.get("img_size"))
    except TimestepperError:
        raise
    except Exception as error:  # timm raises whatever it meets
        reason = textwrap.shorten(str(error), 250) or type(error).__name__
        raise StateError(f"{checkpoint}: its network can't be built: {reason}") from error
    attach(network, controller, example_input=example, **options)
    if not any(key.startswith("time_stepping.") for key in state):
        raise StateError(f"{checkpoint} has no step sizes: it was trained without time stepping")
    try:
        load_weights(network, state)
    except StateError as error:
        hint = "; give --controller and --reduction as for the training"
        hint = hint if "time_stepping." in str(error) else ""
        raise StateError(f"{checkpoint}: {error}{hint}") from error
    images = torch.randn(VERIFIED_IMAGES, *example.shape[1:])
    write_weights(folded_copy(network, images), output)
    return str(name)


def _fold(checkpoint: Path, output: Path, stepping: dict[str, Any]) -> str:
    try:
        return fold_checkpoint(checkpoint, output, **stepping)
    except OSError as error:
        raise RunError(f"{error.filename or output}: {error.strerror or error}") from error


def _add_stepping(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--controller",
        type=str | float,
        default="lstm",
        help="lstm, lstm+, lstm-standardised, 2fc, indp, or a number for a fixed step size",
    )
    parser.add_argument(
        "--reduction",
        type=int | None,
        help="r, the controllers are C/r wide; by default 4, for bottlenecks 8",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, 2 for a user's mistake."""
    parser = ArgumentParser(
        prog="python -m timestepper.integrations.timm",
        description="timm's training script with adaptive time stepping.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    training = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    _add_stepping(training)
    training.add_argument(
        "--preserve",
        action="store_true",
        help="leave the outputs of a pretrained network as they are at first",
    )
    training.add_argument("script", metavar="SCRIPT", help="timm's train.py")
    training.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments"
    )
    commands.add_subcommand("train", training, help="Run the script with step sizes.")
    folding = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    _add_stepping(folding)
    folding.add_argument("checkpoint", metavar="CHECKPOINT", help="such as model_best.pth.tar")
    folding.add_argument(
        "--output", type=str, required=True, metavar="FILE", help="NAME.safetensors"
    )
    commands.add_subcommand("fold", folding, help="Write a checkpoint's folded weights.")
    try:
        parsed = parser.parse_args(arguments)
        command = parsed.pop("command")
        chosen = parsed[command]
        stepping = {"controller": chosen.controller, "reduction": chosen.reduction}
        if command == "train":
            train(Path(chosen.script), chosen.arguments, **stepping, preserve=chosen.preserve)
        else:
            name = _fold(Path(chosen.checkpoint), Path(chosen.output), stepping)
            print(f"{chosen.output}: {name}, outputs bit-equal to the time-stepped network's")
    except (TimestepperError, argparse.ArgumentError) as error:
        message = str(error) if isinstance(error, TimestepperError) else explain(error, parser)
        print(f"timestepper: error: {one_line(message)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
