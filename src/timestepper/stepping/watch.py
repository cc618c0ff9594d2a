"""Watch one forward pass: which operation used which, with which parameters, in which module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from timestepper.errors import NoBranchError

# What may lie between a parameter and its use for the parameter to count as used itself.
_RENAMES = {
    "aten.t.default",
    "aten.transpose.int",
    "aten.view.default",
    "aten._to_copy.default",
    "aten.detach.default",
    "aten.alias.default",
}


@dataclass(slots=True)
class Operation:
    """One tensor operation of the pass that depends on the network's input.

    Attributes:
        index: its place in the order of execution.
        kind: the operator's full name, such as ``"aten.add.Tensor"``.
        module: name of the innermost module whose forward was running.
        inputs: indices of the operations whose results it used.
        parameters: (module name, parameter name) of the parameters it used.
        shape: its first result's shape.
        plain_sum: for additions, both sides of the result's shape and with factor 1.
        ancestors: bit i is set where operation i went into it; its own bit too.
        consumers: indices of the operations that used its result.
    """

    index: int
    kind: str
    module: str
    inputs: tuple[int, ...]
    parameters: tuple[tuple[str, str], ...]
    shape: torch.Size
    plain_sum: bool
    ancestors: int
    consumers: list[int] = field(default_factory=list)


class Trace(TorchDispatchMode):
    """Records operations while active.

    Args:
        network: the network that runs.
        inputs: its input tensors; they count as operation 0.
    """

    def __init__(self, network: nn.Module, inputs: list[Tensor]) -> None:
        super().__init__()
        self.network = network
        self.operations = [Operation(0, "input", "", (), (), torch.Size(), False, 1)]
        self.running = [""]
        self._made_by = {id(tensor): 0 for tensor in inputs}
        self._parameters = {
            id(parameter): (module_name, name)
            for module_name, module in network.named_modules()
            for name, parameter in module.named_parameters(recurse=False)
        }
        # Ids are compared, so nothing seen may be freed before the pass ends.
        self._alive: list[Tensor] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and write down what it used."""
        kwargs = kwargs or {}
        used = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        sources = tuple(dict.fromkeys(self._made_by[id(t)] for t in used if id(t) in self._made_by))
        parameters = tuple(self._parameters[id(t)] for t in used if id(t) in self._parameters)
        shapes = [t.shape for t in used]
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._alive += used + outputs
        kind = str(func)
        if sources:
            self._record(kind, sources, parameters, outputs, shapes, kwargs.get("alpha", 1))
        elif kind in _RENAMES and parameters:
            self._parameters[id(outputs[0])] = parameters[0]
        return result

    def _record(
        self,
        kind: str,
        sources: tuple[int, ...],
        parameters: tuple[tuple[str, str], ...],
        outputs: list[Tensor],
        shapes: list[torch.Size],
        alpha: Any,
    ) -> None:
        index = len(self.operations)
        shape = outputs[0].shape if outputs else torch.Size()
        ancestors = 1 << index
        for source in sources:
            ancestors |= self.operations[source].ancestors
            self.operations[source].consumers.append(index)
        plain_sum = alpha == 1 and all(other == shape for other in shapes)
        self.operations.append(
            Operation(
                index, kind, self.running[-1], sources, parameters, shape, plain_sum, ancestors
            )
        )
        for output in outputs:
            self._made_by[id(output)] = index

    def newest_common(self, first: int, second: int) -> int | None:
        """Find the newest operation that both results come from, themselves included."""
        common = self.operations[first].ancestors & self.operations[second].ancestors
        return common.bit_length() - 1 if common else None

    def modules_between(
        self, start: int, end: int, kinds: tuple[type[nn.Module], ...]
    ) -> dict[str, nn.Module]:
        """List the modules of some kinds whose weights are used on the way from start to end.

        Returns:
            Modules by name, in order of first use.
        """
        on_the_way = self.operations[end].ancestors
        found: dict[str, nn.Module] = {}
        for operation in self.operations[start + 1 : end + 1]:
            if not (on_the_way >> operation.index & 1 and operation.ancestors >> start & 1):
                continue
            for name, parameter in operation.parameters:
                module = self.network.get_submodule(name)
                if parameter == "weight" and isinstance(module, kinds):
                    found[name] = module
        return found


def watch(network: nn.Module, inputs: tuple[Any, ...]) -> Trace:
    """Run one forward pass in eval mode, without gradients, and record it.

    Parameters, buffers, each module's mode, hooks and the random state are left as they were.

    Raises:
        NoBranchError: the forward pass failed.
    """
    trace = Trace(network, [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)])
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    with (
        _eval_mode(network),
        _named_modules(network, trace.running),
        torch.random.fork_rng([device.index for device in devices]),
        torch.no_grad(),
    ):
        try:
            with trace:
                network(*inputs)
        except Exception as error:
            shapes = ", ".join(str(tuple(getattr(i, "shape", ()))) for i in inputs)
            reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            raise NoBranchError(
                f"the forward pass that looks for residual branches failed on inputs of shape "
                f"{shapes}: {reason}; pass example_input= with what the network takes"
            ) from error
    return trace


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _named_modules(network: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the name of the innermost running module at the end of ``running``."""
    handles = []
    for name, module in network.named_modules():

        def enter(module: nn.Module, inputs: Any, name: str = name) -> None:
            running.append(name)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            running.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
