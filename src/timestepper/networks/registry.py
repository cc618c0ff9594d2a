"""Networks by name: ours, timm's and torchvision's, with one set of options for all."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from timestepper.errors import ConfigurationError, did_you_mean, first_line
from timestepper.networks.bottlenecks import VERSIONS, set_version, split_version
from timestepper.networks.ours import FAMILIES, create_ours, find_family

# The paper's families with bottlenecks; `create` takes a version of any network that has them.
BOTTLENECK_NETWORKS = (
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x4d",
    "seresnet50",
    "seresnet101",
    "seresnet152",
)

# Options of the libraries that would fetch or unpickle weights.
WEIGHT_OPTIONS = frozenset(
    {"pretrained", "pretrained_cfg", "weights", "weights_backbone", "checkpoint_path"}
)


def list_networks() -> list[str]:
    """Name the networks that :func:`create` builds.

    Returns:
        Our own names, then timm's as ``timm/NAME``, those of the paper's families also with the
        version of their bottlenecks, then torchvision's as ``torchvision/NAME``.
    """
    return [
        *(name for family in FAMILIES for name in family.names),
        *(f"timm/{name}" for name in _timm_names()),
        *(f"timm/{name}_{version}" for name in BOTTLENECK_NETWORKS for version in VERSIONS),
        *(f"torchvision/{name}" for name in _torchvision_names()),
    ]


def create(name: str, **options: Any) -> nn.Module:
    """Build a network with freshly initialised weights.

    Args:
        name: ``cifar_resnet<depth>``, ``cifar_densenet<depth>_k<growth>`` (with bottlenecks
            ``cifar_densenetbc…``), ``cliquenet_k<growth>_t<layers>``, ``timm/NAME``,
            ``torchvision/NAME``, or a bare name, which is looked for among timm's, then
            torchvision's. A network of timm's that is
            made of its ResNet bottlenecks (ResNet, ResNeXt, SENet and more) may end in a version:
            ``resnet50_v1`` is the original, with the stride in the first 1×1 convolution,
            ``resnet50_v1.5`` today's, with the stride in the 3×3, which is also ``resnet50``.
        **options: ``num_classes`` and ``in_channels`` mean the same for every network; all others
            go to the network's own constructor.

    Returns:
        The network, in training mode, on the CPU.

    Raises:
        ConfigurationError: for an unknown name, a version of a network that has none, an option
            that the network does not take or a value that it refuses, and for options that ask
            for pretrained weights.
    """
    asked_for_weights = sorted(WEIGHT_OPTIONS & options.keys())
    if asked_for_weights:
        raise ConfigurationError(
            f"option '{asked_for_weights[0]}' asks for pretrained weights, and none are fetched "
            "here; build the network without it and load a file of weights yourself"
        )
    unversioned, version = split_version(name)
    library, _, bare = unversioned.rpartition("/")
    if not library and find_family(bare) is not None:
        builder = create_ours
    elif library in ("", "timm") and _is_timm(bare):
        builder = _timm
    elif library in ("", "torchvision") and bare in _torchvision_names():
        builder = _torchvision
    else:
        known = list_networks()
        bare_names = [full.rpartition("/")[2] for full in known]
        hint = did_you_mean(name, known if library else dict.fromkeys(bare_names))
        raise ConfigurationError(f"no network is called '{name}'{hint or '; see list_networks()'}")
    network = _build(name, builder, bare, options)
    if version is not None:
        try:
            set_version(network, version)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"no network is called '{name}': {unversioned} {error}"
            ) from None
    return network


def _build(name: str, builder: Any, bare: str, options: dict[str, Any]) -> nn.Module:
    """Call a builder, and turn what its library raises for bad options into one line."""
    try:
        network: nn.Module = builder(bare, dict(options))
    except ConfigurationError:
        raise
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unexpected:
            raise ConfigurationError(
                f"network '{name}' has no option '{unexpected[1]}'; leave it out"
            ) from error
        reason = first_line(error)
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
        raise ConfigurationError(f"network '{name}' refuses {given}: {reason}") from error
    return network


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    if "in_channels" in options:
        if "in_chans" in options:
            raise ConfigurationError("in_chans is in_channels: give only one of them")
        options["in_chans"] = options.pop("in_channels")
    network: nn.Module = timm.create_model(name, pretrained=False, **options)
    return network


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    in_channels = options.pop("in_channels", 3)
    if in_channels != 3:
        raise ConfigurationError(
            f"torchvision's '{name}' takes images of 3 channels, not {in_channels}; use 'timm/...' "
            "or 'cifar_resnet<depth>' for others"
        )
    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


def _timm_names() -> list[str]:
    import timm

    return [str(name) for name in timm.list_models()]


def _is_timm(name: str) -> bool:
    import timm

    # Not `in _timm_names()`: a name may carry a tag, as in "resnet50.a1_in1k".
    return bool(timm.is_model(name))


def _torchvision_names() -> list[str]:
    from torchvision import models

    # Classifiers only: `module` leaves out detection, segmentation, video and optical flow.
    return [str(name) for name in models.list_models(module=models)]
