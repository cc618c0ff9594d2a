"""Make sure, by a pass of the attached network, that it does what it did, with step sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from timestepper.errors import FoldError, NoBranchError
from timestepper.stepping.find import ExampleInput, inputs_of
from timestepper.stepping.stages import TimeStepping
from timestepper.stepping.undisturbed import left_as_it_was
from timestepper.stepping.watch import Trace, watch


def require_reached(
    network: nn.Module, stepping: TimeStepping, example_input: ExampleInput | None, plain: Any
) -> None:
    """Watch a pass and refuse what runs with a parameter itself instead of its product.

    Args:
        network: attached.
        stepping: what was attached to it.
        example_input: as for :func:`~timestepper.stepping.find.find_branches`.
        plain: signature of the same pass before attaching.

    Raises:
        NoBranchError: the network's forward counts or indexes its children, or the pass failed.
        FoldError: a parameter that holds step sizes is not used as its module's attribute.
    """
    trace = _watch_as_before(network, stepping, example_input, plain)
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


def _watch_as_before(
    network: nn.Module, stepping: TimeStepping, example_input: ExampleInput | None, plain: Any
) -> Trace:
    """Watch a pass; if it isn't as before, find out whether the child that was added changes it.

    Step sizes change values, on which a network may make its operations depend. Without the child
    they are the same, and so are random numbers.
    """
    inputs = inputs_of(network, example_input)
    trace, failure = None, None
    try:
        trace = watch(network, *inputs)
    except NoBranchError as error:
        failure = error
    if trace is not None and trace.signature == plain:
        return trace
    try:
        with _no_child(network, stepping):
            alone = watch(network, *inputs).signature
    except NoBranchError:
        alone = None
    if alone is not None and (trace is None or trace.signature != alone):
        raise NoBranchError(
            f"the forward of {type(network).__name__} iterates over, counts or indexes its "
            "children, to which attaching adds one (time_stepping): make the network a child of a "
            "module of your own, and attach to that"
        ) from failure
    if trace is None:
        assert failure is not None
        raise failure
    return trace


@contextmanager
def _no_child(network: nn.Module, stepping: TimeStepping) -> Iterator[None]:
    """Hide what was attached among the network's children; hooks find it as an attribute."""
    del network._modules["time_stepping"]
    network.__dict__["time_stepping"] = stepping
    try:
        with left_as_it_was(stepping):
            stepping.eval()
            yield
    finally:
        del network.__dict__["time_stepping"]
        network._modules["time_stepping"] = stepping
