"""Watch one forward pass: which operation used which, with which parameters, in which module."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

from timestepper.errors import NoBranchError, TimestepperError
from timestepper.stepping.branches import BY_HOOKS
from timestepper.stepping.operation import (
    ALIAS,
    DIVIDING,
    PADDED,
    PART,
    WRITTEN,
    Call,
    Computed,
    Made,
    Operation,
    of_kinds,
)
from timestepper.stepping.undisturbed import (
    left_as_it_was,
    no_cached_parametrizations,
    no_fused_attention,
    other_random_states_kept,
)
from timestepper.stepping.writes import Writes, put_together, targets

# What may lie between a parameter and its use for the parameter to count as used itself.
_RENAMES = of_kinds(
    "t.default transpose.int view.default unsqueeze.default _to_copy.default detach.default "
    "alias.default _unsafe_view.default expand.default repeat.default"
)
# Take an argument's shape, and not its values.
_UNREAD = of_kinds(
    "zeros_like.default ones_like.default full_like.default empty_like.default "
    "new_zeros.default new_ones.default new_full.default new_empty.default"
)
_EXPAND = torch.ops.aten.expand.default


class Trace(TorchDispatchMode):
    """Records operations while active.

    Args:
        network: the network that runs.
        inputs: its input tensors; they count as operation 0.

    Attributes:
        operations: in the order of execution.
        returned: indices of those whose results the network returned.
        uses: how often each parameter, (module name, parameter name), was used.
    """

    def __init__(self, network: nn.Module, inputs: list[Tensor]) -> None:
        super().__init__()
        self.network = network
        nothing = Call(None, (), {})
        shape = inputs[0].shape if inputs else torch.Size()
        self.operations = [Operation(0, "input", "", (), (), (), (), shape, False, 1, nothing)]
        self.returned: frozenset[int] = frozenset()
        self._structure: Any = None
        self.uses: Counter[tuple[str, str]] = Counter()
        self._computed: dict[int, Computed] = {}
        self.running = [""]
        self._made_by = {id(tensor): 0 for tensor in inputs}
        self._parameters: dict[int, tuple[str, str]] = {}
        self._names: dict[int, str] = {}
        self._renamed: dict[int, Call] = {}
        self._writes = Writes()
        owners: Counter[int] = Counter()
        for module_name, module in network.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                self._parameters[id(parameter)] = module_name, name
                owners[id(parameter)] += 1
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._names[id(tensor)] = f"{module_name}.{name}".lstrip(".")
        # Further modules that have a parameter count as uses even if this pass does not run them.
        self.uses.update({self._parameters[key]: count - 1 for key, count in owners.items()})
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
        for tensor in used:
            self._follow_writes(tensor)
        kind = ALIAS if _adds_zero(func, args) else str(func)
        call = Call(func, *tree_map(self._stand_in, (args, kwargs)))
        if self._copies(func, args):
            # What is copied, whatever was there before.
            kind, used = str(_EXPAND), [args[1]]
            call = Call(_EXPAND, (call.args[1], list(args[0].shape)), {})
        read = [] if kind in _UNREAD else used
        sources = tuple(dict.fromkeys(self._made_by[id(t)] for t in read if id(t) in self._made_by))
        parameters = [t for t in used if id(t) in self._parameters]
        computed = tuple(self._computed[id(t)] for t in used if id(t) in self._computed)
        shapes = [t.shape for t in used]
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        written = targets(func, args, kwargs)
        self._alive += used + outputs + written
        self._writes.note(func, written, outputs, len(self.operations) if sources else None)
        if sources:
            plain_sum = kwargs.get("alpha", 1) == 1 and all(
                s == out.shape for s in shapes for out in outputs[:1]
            )
            made = outputs + written
            index = self._record(kind, sources, parameters, computed, made, plain_sum, call)
            if kind in DIVIDING:
                for number, output in enumerate(outputs):
                    part = Call(None, (Made(index), number), {})
                    self._record(PART, (index,), [], (), [output], False, part)
        elif kind in _RENAMES and parameters:
            self._parameters[id(outputs[0])] = self._parameters[id(parameters[0])]
            self._renamed[id(outputs[0])] = call
        elif (parameters or computed) and outputs:
            inputs: dict[int, Computed | tuple[str, str]] = {
                id(t): self._computed.get(id(t)) or self._parameters[id(t)]
                for t in used
                if id(t) in self._computed or id(t) in self._parameters
            }
            names = [self._parameters[id(parameter)] for parameter in parameters]
            names += [name for one in computed for name in one.parameters]
            self._computed[id(outputs[0])] = Computed(
                outputs[0], tuple(dict.fromkeys(names)), call, inputs
            )
        return result

    def note_returned(self, outputs: Any) -> None:
        """Write down which results the network returned."""
        self._structure = tree_structure(outputs)
        leaves = list(_tensors_in(outputs, set()))
        for leaf in leaves:
            self._follow_writes(leaf)
        self.returned = frozenset(
            self._made_by[id(leaf)] for leaf in leaves if id(leaf) in self._made_by
        )

    @property
    def signature(self) -> Any:
        """What two passes have in common where the network does the same in both.

        Kinds of operations with the whole numbers that they were given, and what is returned.
        """
        steps = [
            (o.kind, [n for n in tree_leaves((o.call.args, o.call.kwargs)) if isinstance(n, int)])
            for o in self.operations
        ]
        return steps, self.returned, self._structure

    def _copies(self, operator: Any, args: tuple[Any, ...]) -> bool:
        """Tell whether an operation copies a result of the pass as it is."""
        if str(operator) != "aten.copy_.default" or id(args[1]) not in self._made_by:
            return False
        target, source = args[:2]
        return bool(target.dtype == source.dtype and target.device == source.device)

    def _follow_writes(self, tensor: Tensor) -> None:
        """Record what a tensor became by writes into others that share its memory."""
        made = self._made_by.get(id(tensor))
        place, writes = self._writes.since(tensor, made)
        if place is None or not writes:
            return
        indices, places = zip(*writes, strict=True)
        is_padded = made is None and self._writes.is_padding(place)
        before = tensor.clone() if made is None else Made(made)
        values = list(map(Made, indices))
        call = Call(put_together, (None if is_padded else before, place, values, places), {})
        self._record(
            PADDED if is_padded else WRITTEN,
            indices if made is None else (made, *indices),
            [tensor] if id(tensor) in self._parameters else [],
            (self._computed[id(tensor)],) if id(tensor) in self._computed else (),
            [tensor],
            False,
            call,
        )

    def _stand_in(self, leaf: Any) -> Any:
        known = isinstance(leaf, Tensor) and id(leaf) in self._made_by
        return Made(self._made_by[id(leaf)]) if known else leaf

    def _record(
        self,
        kind: str,
        sources: tuple[int, ...],
        parameters: list[Tensor],
        computed: tuple[Computed, ...],
        outputs: list[Tensor],
        plain_sum: bool,
        call: Call,
    ) -> int:
        index = len(self.operations)
        ancestors = 1 << index
        for source in sources:
            ancestors |= self.operations[source].ancestors
            self.operations[source].consumers.append(index)
        names = tuple(self._parameters[id(parameter)] for parameter in parameters)
        self.uses.update(names)
        for one in computed:
            self.uses.update(one.parameters)
        self.operations.append(
            Operation(
                index,
                kind,
                self.running[-1],
                sources,
                names,
                tuple(parameter.shape for parameter in parameters),
                computed,
                outputs[0].shape if outputs else torch.Size(),
                plain_sum,
                ancestors,
                call,
            )
        )
        for output in outputs:
            self._made_by[id(output)] = index
        return index

    def is_input(self, operation: Operation, place: int) -> bool:
        """Tell whether a positional argument of an operation is a result of the pass."""
        return isinstance(operation.call.args[place], Made)

    def rebind(self, leaf: Any, tensors: Mapping[str, Tensor]) -> Any:
        """Exchange what an operation was called with for what comes of other tensors.

        Args:
            leaf: an argument of an operation, or a part of one.
            tensors: parameters and buffers to be used instead, by their names in the state dict.
        """
        name = self._names.get(id(leaf))
        if name is not None:
            return tensors.get(name, leaf)
        computed = self._computed.get(id(leaf))
        call = computed.call if computed else self._renamed.get(id(leaf))
        if call is None or not tensors:
            return leaf
        args, kwargs = tree_map(lambda part: self.rebind(part, tensors), (call.args, call.kwargs))
        return tree_leaves(call.operator(*args, **kwargs))[0]

    def replay(self, operation: Operation, value: Tensor) -> Tensor:
        """Call an operation that has one input again, with another value in its place."""

        def put(leaf: Any) -> Any:
            return value.clone() if isinstance(leaf, Made) else leaf

        args, kwargs = tree_map(put, (operation.call.args, operation.call.kwargs))
        # The value may lie in memory in another order, which a view would not allow.
        is_view = operation.short_name in ("view", "unsafe_view")
        call = torch.reshape if is_view else operation.call.operator
        result: Tensor = call(*args, **kwargs)
        return result

    def newest_common(self, first: int, second: int) -> int | None:
        """Find the newest operation that both results come from, themselves included."""
        common = self.operations[first].ancestors & self.operations[second].ancestors
        return common.bit_length() - 1 if common else None

    def between(self, start: int, end: int) -> Iterator[Operation]:
        """Go through the operations on the way from start to end, both of which count as theirs.

        The start is left out, the end is not.
        """
        on_the_way = self.operations[end].ancestors
        for operation in self.operations[start + 1 : end + 1]:
            if on_the_way >> operation.index & 1 and operation.ancestors >> start & 1:
                yield operation

    def modules_between(
        self, start: int, end: int, kinds: tuple[type[nn.Module], ...]
    ) -> dict[str, nn.Module]:
        """List the modules of some kinds whose weights are used on the way from start to end.

        Returns:
            Modules by name, in order of first use.
        """
        found: dict[str, nn.Module] = {}
        for operation in self.between(start, end):
            names = [name for one in operation.computed for name in one.parameters]
            for owner, parameter in (*operation.parameters, *names):
                name, found_in, _ = owner.partition(".parametrizations.weight")
                parameter = "weight" if found_in or parameter in BY_HOOKS else parameter
                module = self.network.get_submodule(name)
                if parameter == "weight" and isinstance(module, kinds):
                    found[name] = module
        return found


def watch(network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    """Run one forward pass in eval mode, without gradients, and record it.

    Parameters, buffers, each module's mode, attributes and hooks, and the random state are left as
    they were.

    Args:
        network: the network.
        args: positional arguments of its forward pass.
        kwargs: keyword arguments.

    Raises:
        NoBranchError: the forward pass failed.
        TimestepperError: that of step sizes which the network has already.
    """
    with torch.inference_mode(False), torch.no_grad():
        # The pass may write into its inputs.
        args, kwargs = tree_map(
            lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (args, dict(kwargs))
        )
    inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    tensors = [*network.parameters(), *network.buffers(), *inputs]
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    with (
        left_as_it_was(network),
        _named_modules(network, (trace := Trace(network, inputs)).running),
        torch.random.fork_rng([device.index for device in devices]),
        other_random_states_kept(),
        torch.inference_mode(False),
        torch.no_grad(),
        no_fused_attention(),
        no_cached_parametrizations(),
    ):
        try:
            network.eval()
            with trace:
                trace.note_returned(network(*args, **kwargs))
        except TimestepperError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs) or "none"
            reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            raise NoBranchError(
                f"the forward pass that looks for residual branches failed on inputs of shape "
                f"{shapes}: {reason}; pass example_input= with what the network takes: a tensor, a "
                "tuple of positional arguments or a dict of keyword arguments"
            ) from error
    return trace


def _tensors_in(outputs: Any, seen: set[int]) -> Iterator[Tensor]:
    """Go through the tensors of what a network returned, attributes of its objects included."""
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf
        elif not isinstance(leaf, nn.Module | ModuleType | type) and id(leaf) not in seen:
            seen.add(id(leaf))  # Objects may refer to each other.
            fields = dataclasses.fields(leaf) if dataclasses.is_dataclass(leaf) else ()
            held = {field.name: getattr(leaf, field.name, None) for field in fields}
            yield from _tensors_in({**held, **getattr(leaf, "__dict__", {})}, seen)


def _adds_zero(operator: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether an operation adds the number 0, as ``sum`` does to begin with."""
    names = ("aten.add.Tensor", "aten.add_.Tensor")
    return str(operator) in names and isinstance(args[1], int | float) and args[1] == 0


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
