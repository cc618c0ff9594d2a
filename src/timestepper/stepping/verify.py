"""Make sure, by a pass of the attached network, that step sizes reach their parameters."""

from __future__ import annotations

from torch import nn

from timestepper.errors import FoldError
from timestepper.stepping.find import ExampleInput, inputs_of
from timestepper.stepping.stages import TimeStepping
from timestepper.stepping.watch import watch


def require_reached(
    network: nn.Module, stepping: TimeStepping, example_input: ExampleInput | None
) -> None:
    """Watch a pass and refuse what runs with a parameter itself instead of its product.

    Args:
        network: attached.
        stepping: what was attached to it.
        example_input: as for :func:`~timestepper.stepping.find.find_branches`.

    Raises:
        FoldError: a parameter that holds step sizes is not used as its module's attribute.
    """
    trace = watch(network, *inputs_of(network, example_input))
    for stage in stepping.stages:
        stage.forget()
        for factor in stage.factors:
            place = factor.owner, factor.name
            used = next((o for o in trace.operations if place in o.parameters), None)
            if used is not None:
                raise FoldError(
                    f"step sizes don't reach {'.'.join(filter(None, place))}: the forward of "
                    f"{used.module or 'the network'} uses it not as its module's attribute but, "
                    "say, from a list of its own or parameters(); write module.weight there"
                )
