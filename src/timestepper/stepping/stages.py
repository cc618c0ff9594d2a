"""The step sizes of an attached network: one controller for each stage, and where they go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from timestepper.controllers import Controller
from timestepper.controllers.arrays import ArrayController
from timestepper.errors import AttachedError, ConfigurationError
from timestepper.stepping.array_products import ArrayPlan, array_products
from timestepper.stepping.branches import Branch, address_of, average_weights, weight_of
from timestepper.stepping.factors import along, channels_of, factors_of, merged


class Stage:
    """The branches that share a controller, and the parameters they run with in this pass.

    Args:
        name: the stage's name.
        network: the network that has the branches.
        branches: the stage's branches, in order of depth.
        controller: module from ``(depth, features)`` to ``(depth, channels)``.
    """

    def __init__(
        self, name: str, network: nn.Module, branches: Iterable[Branch], controller: nn.Module
    ) -> None:
        self.name = name
        self.branches = tuple(branches)
        self.controller = controller
        self.read = [network.get_submodule(name) for b in self.branches for name in b.weights]
        factors = factors_of(network, self.branches)
        self.matrices = [factor for factor in factors if not factor.is_vector]
        self.vectors = [factor for factor in factors if factor.is_vector]
        self.factors = [*self.matrices, *self.vectors]
        self.runs = merged([run for factor in self.vectors for run in factor.runs])
        self.channels = channels_of(network, self.branches[0])
        operands = controller.operands() if isinstance(controller, ArrayController) else ()
        self.array_plan = ArrayPlan.of(
            self.runs,
            [factor.parameter for factor in self.vectors],
            operands,
            [weight_of(module) for module in self.read],
        )
        reads = dict.fromkeys(name for branch in self.branches for name in branch.weights)
        named = {name: network.get_submodule(name) for name in reads}
        self.registered = {
            n: m for n, m in named.items() if m._parameters.get("weight") is not None
        }
        named |= {factor.owner: factor.module for factor in self.factors if factor.owner}
        self.places = [(name, module, *_place(network, name)) for name, module in named.items()]
        self.users = {factor.inside for factor in self.factors}
        self.forget()

    def forget(self) -> None:
        """Drop what was computed for the last pass."""
        self.products: list[Tensor] | None = None
        self.key: Any = None
        self.used: set[str] = set()
        self.used_without_grad = False
        self.ready: torch.cuda.Event | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the pass's tensors out: they belong to a graph, which can't be copied."""
        return self.__dict__ | {
            "products": None,
            "key": None,
            "used": set(),
            "used_without_grad": False,
            "ready": None,
        }

    def own_precision(self) -> AbstractContextManager[Any]:
        """Keep autocast from the controller, which runs in the precision of its parameters."""
        device = self.factors[0].parameter.device.type
        # Dynamo (torch 2.11) doesn't know the question.
        low_precision = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
        return torch.autocast(device, enabled=False) if low_precision else nullcontext()

    def averaged(self) -> Tensor:
        """Give what the controller reads, ``(depth, features)``; features is 0 where it doesn't."""
        if isinstance(self.controller, Controller) and not self.controller.reads_weights:
            return self.factors[0].parameter.new_empty((len(self.branches), 0))
        weights = [weight_of(module) for module in self.read]
        averaged = average_weights(len(self.branches[0].weights), weights)
        if (
            isinstance(self.controller, Controller)
            and averaged.shape[1] != self.controller.features
        ):
            raise ConfigurationError(
                f"the controller of stage {self.name!r} reads {self.controller.features} averages, "
                f"not {averaged.shape[1]}: change the shapes of weights before attaching"
            )
        return averaged

    def step_sizes(self) -> Tensor:
        """Compute Δt of all branches, ``(depth, channels)``, in the controller's own precision."""
        with self.own_precision():
            averaged = self.averaged()
            own = next(self.controller.parameters(), averaged).dtype
            result: Tensor = self.controller(averaged.to(own))
        if result.shape != (len(self.branches), self.channels):
            raise ConfigurationError(
                f"the controller of stage {self.name!r} gives step sizes of shape "
                f"{tuple(result.shape)}, not (depth, channels): {len(self.branches), self.channels}"
            )
        return result

    def compute_products(self) -> list[Tensor]:
        """Multiply or divide by the step sizes what holds them.

        Returns:
            The products in the order of ``factors``. Vectors (norms, biases) of the whole stage
            are multiplied in one operation; fold writes down these same products, which is why
            folding is bit for bit exact.
        """
        vectors = [factor.parameter for factor in self.vectors]
        if vectors and not self.matrices:
            weights = [weight_of(module) for module in self.read]
            scaled = array_products(self.array_plan, self.controller, vectors, weights)
            if scaled is not None:
                return scaled
        steps = self.step_sizes()
        products = [factor.product(steps) for factor in self.matrices]
        if vectors:
            joined = torch.cat([vector.flatten() for vector in vectors])
            products += _apart(joined * along(self.runs, steps), vectors)
        return products

    def prepare(self) -> None:
        """Compute what this pass runs with.

        Raises:
            AttachedError: what is read and scaled isn't where it was, or was sharded apart from
                its controller.
        """
        self.forget()
        self._require_places()
        try:
            self.products = self.compute_products()
        except RuntimeError:
            self._require_sharded_together()
            raise

    def prepare_beside(self, stream: torch.cuda.Stream) -> None:
        """Do so on another stream, for which this one waits only where the stage begins."""
        with torch.cuda.stream(stream):
            self.prepare()
            self.ready = stream.record_event()

    def join(self) -> None:
        """Wait for what runs beside, if anything does."""
        if self.ready is not None:
            torch.cuda.current_stream(self.factors[0].parameter.device).wait_event(self.ready)
            self.ready = None

    def _require_places(self) -> None:
        """Make sure that what is read and scaled is where it was, as far as can be told quickly.

        Raises:
            AttachedError: a module was replaced, or its weight is no parameter any more.
        """
        for name, module, parent, child in self.places:
            if parent._modules.get(child) is not module:
                raise AttachedError(
                    f"{name} was replaced after attaching (by a SyncBatchNorm conversion, say): "
                    "fold first or replace modules before attaching"
                )
        for name, module in self.registered.items():
            if module._parameters.get("weight") is None and not hasattr(module, "parametrizations"):
                raise AttachedError(
                    f"the weight of {name} is no parameter any more (pruned after attaching, "
                    "say): fold before that"
                )

    def _require_sharded_together(self) -> None:
        """Make sure that tensors are distributed all or none.

        Raises:
            AttachedError: blocks were sharded one by one.
        """
        kinds = {type(tensor).__name__ == "DTensor" for tensor in self._tensors()}
        if len(kinds) > 1:
            raise AttachedError(
                f"the blocks of stage {self.name!r} were sharded apart from their controller, "
                "which can't read them: shard only the whole network (fully_shard(network)), or "
                "use DistributedDataParallel"
            )

    def require_inside(self, network: nn.Module) -> None:
        """Make sure that all that is read and scaled is still part of the network.

        Raises:
            AttachedError: it is not.
        """
        inside = set(network.modules())
        for name, module, _, _ in self.places:
            if module not in inside:
                raise AttachedError(
                    f"{name} is no part of the network any more: fold before replacing a block, or "
                    "replace it before attaching"
                )

    def state_key(self) -> Any:
        """Identify the values that step sizes depend on, and how they are recorded."""
        return torch.is_grad_enabled(), [
            (id(t), address_of(t), -1 if t.is_inference() else t._version, t.dtype, t.device)
            for t in self._tensors()
        ]

    def _tensors(self) -> list[Tensor]:
        """List what step sizes and products are computed from."""
        tensors = [weight_of(module) for module in self.read]
        tensors += [factor.parameter for factor in self.factors]
        return [*tensors, *self.controller.parameters(), *self.controller.buffers()]

    def products_for(self, inside: str, *, whole_pass: bool) -> list[Tensor]:
        """Give the products to a module that uses some, computing them anew in a new pass.

        Args:
            inside: the module that asks.
            whole_pass: the network's own forward is running and has prepared the stage. Otherwise
                a part of the network was called, and this has to find out by itself.
        """
        if torch.compiler.is_compiling():
            if self.products is None or not whole_pass:
                self.prepare()
            return self._use(inside)
        self.join()
        if torch._C._current_graph_task_id() != -1:
            # Activation checkpointing runs the branch again inside backward: it must see the
            # tensors of the pass before. Only where that pass recorded no gradient (the
            # reentrant kind) a graph of its own is needed.
            if self.products is None or self.used_without_grad:
                with _saving_as_usual():
                    return self.compute_products()
        elif self.products is None or not whole_pass:
            key = self.state_key()
            if self.products is None or inside in self.used or key != self.key:
                with _saving_as_usual():
                    self.prepare()
                self.key = key
                self._end_part_in_backward()
        return self._use(inside)

    def _use(self, inside: str) -> list[Tensor]:
        assert self.products is not None
        self.used.add(inside)
        self.used_without_grad |= not torch.is_grad_enabled()
        return self.products

    def _end_part_in_backward(self) -> None:
        """Compute anew for the next part once backward has freed the products' graph."""
        stage = ref(self)  # Products must not keep their stage alive.

        def end(grad: Tensor) -> None:
            known = stage()
            if known is not None:
                known.key = None

        for product in self.products or ():
            if product.requires_grad:
                product.register_hook(end)


def _apart(joined: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Give each vector its part of the values of all, in its own shape and precision."""
    pieces = joined.split([vector.numel() for vector in like])
    return [
        (piece if vector.ndim == 1 else piece.view(vector.shape)).to(vector.dtype)
        for piece, vector in zip(pieces, like, strict=True)
    ]


def _saving_as_usual() -> Any:
    """Keep checkpointing from counting, among a part's saved tensors, those of step sizes."""
    if torch._C._are_functorch_transforms_active():  # They take no hooks, nor checkpoints.
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def _place(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, child = name.rpartition(".")
    return network.get_submodule(parent), child


def module_name(stage: str) -> str:
    """Name a stage's controller: names of modules have no dots and are no attribute's."""
    name = stage.replace(".", "_")
    return f"{name}_" if name in _ATTRIBUTES else name


_ATTRIBUTES = {*dir(nn.ModuleDict()), "branches", "stages", "inside_forward", "thread"}


class TimeStepping(nn.ModuleDict):
    """The controllers of an attached network, by stage: ``network.time_stepping``.

    Args:
        network: the network they belong to.
        branches: its branches, in order of depth.
        controllers: a controller for each stage, by the stage's name.

    Attributes:
        inside_forward: a pass of the network has begun and, as far as hooks hear, not ended.
        thread: which began it, or the last one; None where it was compiled.
    """

    def __init__(
        self, network: nn.Module, branches: Iterable[Branch], controllers: dict[str, nn.Module]
    ) -> None:
        super().__init__({module_name(name): c for name, c in controllers.items()})
        self.branches = tuple(branches)
        self.stages = [
            Stage(name, network, [b for b in self.branches if b.stage == name], controller)
            for name, controller in controllers.items()
        ]
        self.inside_forward = False
        self.thread: int | None = None

    def require_own_controllers(self) -> None:
        """Make sure that the controllers are those of attaching.

        Raises:
            AttachedError: one was replaced.
        """
        for stage, controller in zip(self.stages, self._modules.values(), strict=False):
            if controller is not stage.controller:
                raise AttachedError(
                    f"the controller of stage {stage.name!r} was replaced after attaching: fold, "
                    "then attach again with controllers of your own"
                )

    def forward(self, inputs: Any) -> Any:
        """Return the inputs: in a Sequential network this is called as the last child."""
        return inputs

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles start outside of any forward pass."""
        return self.__dict__ | {"inside_forward": False, "thread": None}
