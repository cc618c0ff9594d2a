"""Controllers: a stage's averaged weights to its step sizes."""

from __future__ import annotations

from functools import partial

from torch import nn

from timestepper.controllers.base import Controller, ControllerFactory
from timestepper.controllers.fixed import FixedController
from timestepper.controllers.independent import IndependentController
from timestepper.controllers.linear_recurrence import LinearRecurrenceController
from timestepper.controllers.lstm import LSTMController
from timestepper.controllers.two_layer import TwoLayerController
from timestepper.errors import ConfigurationError, did_you_mean

CONTROLLERS: dict[str, ControllerFactory] = {
    "lstm": LSTMController,
    "lstm+": LinearRecurrenceController,
    "lstm-standardised": partial(LSTMController, standardise=True),
    "2fc": TwoLayerController,
    "indp": IndependentController,
}
"""The controllers that have a name."""


def get_factory(controller: str | float | ControllerFactory) -> ControllerFactory:
    """Turn what a user names a controller by into its factory.

    Args:
        controller: a name of :data:`CONTROLLERS`, a number (a fixed step size, also as a string),
            or a factory, which is returned as it is.

    Raises:
        ConfigurationError: no controller has that name, or it is a module already; or a fixed step
            size is not positive.
    """
    if isinstance(controller, nn.Module):
        raise ConfigurationError(
            "a controller is made for each stage; give a factory (depth, features, channels, "
            f"hidden) instead of a {type(controller).__name__}"
        )
    if callable(controller):
        return controller
    if isinstance(controller, str):
        if controller in CONTROLLERS:
            return CONTROLLERS[controller]
        try:
            step_size = float(controller)
        except ValueError:
            raise ConfigurationError(
                f"unknown controller {controller!r}"
                f"{did_you_mean(controller, CONTROLLERS)} "
                f"(known: {', '.join(CONTROLLERS)}, or a number for a fixed step size)"
            ) from None
    elif isinstance(controller, int | float):
        step_size = float(controller)
    else:
        raise ConfigurationError(
            f"a controller is a name, a number or a factory, not {type(controller).__name__}"
        )
    return partial(FixedController, step_size=step_size)


__all__ = [
    "CONTROLLERS",
    "Controller",
    "ControllerFactory",
    "FixedController",
    "IndependentController",
    "LSTMController",
    "LinearRecurrenceController",
    "TwoLayerController",
    "get_factory",
]
