"""From a configuration to what it names: device, data, network, optimizer."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from timestepper import data, networks
from timestepper.data import DataSet
from timestepper.errors import ConfigurationError, first_line
from timestepper.stability.regulariser import StabilityPenalty
from timestepper.stepping import attach
from timestepper.stepping.undisturbed import left_as_it_was
from timestepper.training.configuration import Configuration
from timestepper.training.memory import keep_memory
from timestepper.training.sync_batch_norm import synchronise_batch_norms

log = logging.getLogger(__name__)


def build_fabric(configuration: Configuration) -> Fabric:
    """Set up device, memory, precision and processes; those of torchrun, or else a single one.

    Raises:
        ConfigurationError: the accelerator is not there, or the batch can't be shared out.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if configuration.batch_size % world:
        raise ConfigurationError(
            f"batch_size is {configuration.batch_size}, which {world} processes can't share "
            "equally; make it a multiple"
        )
    if world > 1 and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        _meet_again(configuration)
    # Or it would say which precision it was given.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=configuration.accelerator,
            devices=local,
            num_nodes=world // local,
            strategy="ddp" if world > 1 else "auto",
            precision=configuration.precision,
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"accelerator {configuration.accelerator!r} can't be used: {reason}"
        ) from error
    if fabric.device.type == "cpu":
        keep_memory()
        if configuration.precision == "bf16-mixed":
            _warn_of_slow_bfloat16()
    return fabric


@cache
def _warn_of_slow_bfloat16() -> None:
    """Say once where torch only imitates products in bfloat16, which takes it ten times as long."""
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        log.warning(
            "this CPU has no instructions for precision bf16-mixed, which takes many times as long "
            "as 32-true here"
        )


def _meet_again(configuration: Configuration) -> None:
    """Let the processes that torchrun has started again find each other.

    The store in which they look for each other still has the addresses of those that are gone
    (torch 2.14); each start gets a part of its own.
    """
    on_gpu = configuration.accelerator != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, world_size = next(rendezvous("env://"))
    own = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", store=own, rank=rank, world_size=world_size
    )


def build_data(configuration: Configuration) -> DataSet:
    """Load the data set and hold validation images out, if any.

    Raises:
        DataError: as for :func:`timestepper.data.load`.
        ConfigurationError: likewise, and if there are too few images.
    """
    images = data.load(
        configuration.data.name,
        data_dir=configuration.data.data_dir,
        cache_dir=configuration.data.cache_dir,
        download=configuration.data.download,
        image_size=configuration.data.image_size,
        workers=configuration.data.workers,
    )
    if images.num_classes < 2:
        raise ConfigurationError(
            f"'{images.name}' has a single class, {images.classes[0]}: there is nothing to learn"
        )
    validation = configuration.data.validation
    return images.held_out(validation) if validation else images


def build_plain_network(configuration: Configuration, images: DataSet) -> nn.Module:
    """Build the network without step sizes, for the data's channels and classes.

    The weights are a function of the seed alone: with and without step sizes they are the same.

    Raises:
        ConfigurationError: unknown network or option, or classes that don't fit the data.
    """
    options = dict(configuration.network.options)
    wanted = {"num_classes": images.num_classes, "in_channels": images.channels}
    for key, value in wanted.items():
        if options.setdefault(key, value) != value:
            raise ConfigurationError(
                f"network.options.{key} is {options[key]}, but '{images.name}' has {value}; "
                "leave it out"
            )
    torch.manual_seed(configuration.seed)
    return networks.create(configuration.network.name, **options)


def build_network(configuration: Configuration, images: DataSet) -> nn.Module:
    """Build the network and attach its step sizes.

    Raises:
        ConfigurationError: as for :func:`build_plain_network`, and if the network does not take
            the images or gives no scores for them.
        NoBranchError: the network has no residual branch.
        FoldError: step sizes can't be folded into a branch.
    """
    network = build_plain_network(configuration, images)
    _require_fit(network, configuration, images)
    example = torch.zeros(1, images.channels, *images.image_size)
    if configuration.sync_batch_norm and distributed.is_initialized():
        network = synchronise_batch_norms(network)
    if configuration.stepping.controller != "none":
        attach(
            network,
            configuration.stepping.controller,
            example_input=example,
            reduction=configuration.stepping.reduction,
        )
    if configuration.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network


def _require_fit(network: nn.Module, configuration: Configuration, images: DataSet) -> None:
    """Make sure that the network takes the smallest batch in training and gives scores for it."""
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    smallest = min(configuration.batch_size, len(images.train)) // processes
    count = 1 if smallest == 1 and not configuration.sync_batch_norm else 2
    name = configuration.network.name
    shape = (images.channels, *images.image_size)
    size = "x".join(map(str, shape))
    try:
        with left_as_it_was(network), torch.random.fork_rng([]), torch.no_grad():
            scores = network.train()(torch.zeros(count, *shape))
    except Exception as error:
        reason = first_line(error).rstrip(".")
        if count == 1 and "more than 1 value per channel" in reason:
            raise ConfigurationError(
                "a process gets batches of 1 image, too small for a network that has a single "
                f"value per channel left of an image of {size}; make batch_size larger"
            ) from error
        raise ConfigurationError(
            f"network '{name}' can't be trained on images of {size}: {reason}; change "
            "data.image_size, or the network or its options"
        ) from error
    if not isinstance(scores, Tensor) or scores.shape != (count, images.num_classes):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ConfigurationError(
            f"network '{name}' gives {found} for {count} images in training; it must give one "
            f"tensor of scores, {(count, images.num_classes)}: change the network or its options"
        )


def allows_capture(configuration: Configuration) -> bool:
    """Tell whether a GPU may run whole steps as CUDA graphs: the host can't look in between."""
    return (
        configuration.compile
        and not configuration.optimizer.skip_not_finite
        and configuration.stability.penalty == "none"
    )


def captures_steps(configuration: Configuration, fabric: Fabric) -> bool:
    """Tell whether whole steps run as a CUDA graph."""
    on_one_gpu = fabric.device.type == "cuda" and fabric.world_size == 1
    return on_one_gpu and allows_capture(configuration)


def build_module(configuration: Configuration, network: nn.Module, fabric: Fabric) -> Any:
    """Build what runs in training: the network, or what torch.compile makes of it.

    Raises:
        ConfigurationError: nothing can be compiled on this machine.
    """
    if not configuration.compile:
        return network
    _require_compiler(fabric.device)
    # A GPU waits for the launches of small networks' kernels: CUDA graphs launch them at once.
    of_its_own = fabric.device.type == "cuda" and not captures_steps(configuration, fabric)
    return torch.compile(network, mode="reduce-overhead" if of_its_own else "default")


def _require_compiler(device: torch.device) -> None:
    """Make sure that torch.compile works at all, which takes a compiler."""
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    except (RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"torch.compile does not work here ({reason}); install a C++ compiler, or set compile "
            "to false"
        ) from error


def build_penalty(
    configuration: Configuration, network: nn.Module, images: DataSet
) -> StabilityPenalty | None:
    """Build what is added to the loss for stability, if anything is.

    Args:
        configuration: the training's.
        network: the network, on its device.
        images: what it is trained on.

    Raises:
        NoBranchError: the network has no residual branch.
        StabilityError: a branch has no bound.
    """
    kind = configuration.stability.penalty
    if kind == "none":
        return None
    example = next(network.parameters()).new_zeros(1, images.channels, *images.image_size)
    return StabilityPenalty(network, example, kind)
