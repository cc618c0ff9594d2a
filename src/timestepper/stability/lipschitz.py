"""How much an operation of a network can enlarge a difference between two inputs, at the most.

Affine operations that follow each other are one operator, whose spectral norm is computed: a
convolution with its padding and stride, the batch norm behind it, step sizes. Other operations have
a constant, or none. All constants are natural logarithms, as products along depth pass any float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from timestepper.errors import StabilityError
from timestepper.stability.operators import Function, Jacobian
from timestepper.stability.unrolled import UnrolledNetwork, Values
from timestepper.stepping.dense import BATCH_NORMS
from timestepper.stepping.operation import DIVIDING, PART, Made, Operation, of_kinds
from timestepper.stepping.operators import (
    ADDITIONS,
    CONCATENATIONS,
    CONVOLUTIONS,
    DIFFERENCES,
    MATRIX_PRODUCTS,
    MIXTURES,
    PRODUCTS,
    QUOTIENTS,
)

ISOMETRIES = of_kinds(
    "view.default _unsafe_view.default reshape.default permute.default transpose.int t.default "
    "squeeze.dim squeeze.dims squeeze.default unsqueeze.default contiguous.default clone.default "
    "alias.default detach.default _to_copy.default roll.default flip.default neg.default "
    "constant_pad_nd.default pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default"
)
LINEAR = (
    ISOMETRIES
    | BATCH_NORMS
    | CONVOLUTIONS
    | MATRIX_PRODUCTS
    | MIXTURES
    | PRODUCTS
    | QUOTIENTS
    | ADDITIONS
    | DIFFERENCES
    | DIVIDING
    | of_kinds(
        "slice.Tensor select.int index_select.default expand.default mean.dim mean.default "
        "addcmul.default sum.dim_IntList sum.default "
        "avg_pool2d.default _adaptive_avg_pool2d.default "
        "upsample_nearest2d.default upsample_bilinear2d.default upsample_bicubic2d.default "
        "mul.Scalar div.Scalar add.Scalar sub.Scalar rsub.Scalar im2col.default "
        "reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default "
        "replication_pad1d.default replication_pad2d.default replication_pad3d.default"
    )
)
"""Affine where one of their arguments comes from the network's input."""

# Largest slopes of functions applied to each value: x·Φ(x), x·σ(x), x·min(1, max(0, x/6 + 1/2)),
# x·tanh(log(1 + exp x)) at their extrema, where second derivatives vanish (or at the kink).
SLOPES = {
    "relu": 1.0,
    "hardtanh": 1.0,
    "clamp": 1.0,
    "clamp_min": 1.0,
    "abs": 1.0,
    "tanh": 1.0,
    "sigmoid": 0.25,
    "hardsigmoid": 0.1666667,
    "gelu": 1.1290,
    "silu": 1.09984,
    "hardswish": 1.5,
    "mish": 1.0885,
    "celu": 1.0,
    "softshrink": 1.0,
    "log_sigmoid_forward": 1.0,
}
MAX_POOLING = of_kinds("max_pool2d_with_indices.default")
ADAPTIVE_MAX_POOLING = of_kinds("adaptive_max_pool2d.default")
LARGEST = of_kinds("amax.default")
SUMS = ADDITIONS | DIFFERENCES | of_kinds("maximum.default minimum.default")
SOFTMAX = of_kinds("_softmax.default")
STATISTICS = {"native_layer_norm": (2, 4), "native_group_norm": (1, 7)}
"""Norms by statistics of their input, with the places of γ and ε among their arguments."""

NormOf = Callable[[Function, Tensor], Tensor]
"""Spectral norm of a linear function, given with a tensor of the shape that it takes."""

_ZERO = torch.zeros((), dtype=torch.float64)


def spectral_norm(function: Function, example: Tensor) -> Tensor:
    """Compute the spectral norm of a function's linear part; float64, of shape ()."""
    norm = Jacobian(function, torch.zeros_like(example)).spectral_norm()
    return torch.tensor(norm, dtype=torch.float64, device="cpu")


class Lipschitz:
    """Lipschitz constants within an unrolled network, in the Euclidean norm.

    Args:
        unrolled: the network.
        values: results of its operations on one input; only their shapes matter.
        tensors: parameters to use instead of the network's own, by name.
        norm_of: what computes the norm of a run of affine operations.
        zero: log 1, in the precision and on the device that the norms come in.
    """

    def __init__(
        self,
        unrolled: UnrolledNetwork,
        values: Values,
        tensors: Mapping[str, Tensor] | None = None,
        norm_of: NormOf = spectral_norm,
        zero: Tensor = _ZERO,
    ) -> None:
        self.unrolled = unrolled
        self.operations = unrolled.trace.operations
        self.values = values
        self.tensors = dict(tensors or {})
        self.states = {step.state for step in unrolled.steps}
        self.states |= {step.start for step in unrolled.steps}
        self.norm_of = norm_of
        self.zero = zero
        self.base: Lipschitz | None = None
        self.log_norms: dict[tuple[int, int], Tensor] = {}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Lipschitz:
        """Exchange parameters; norms that don't depend on them are not computed again."""
        other = Lipschitz(self.unrolled, self.values, tensors, self.norm_of, self.zero)
        other.base = self
        return other

    def log_constant(self, start: int, end: int) -> Tensor:
        """Bound the change of one operation's result by that of another's.

        Args:
            start: the operation whose result changes.
            end: the one whose result follows.

        Returns:
            log L with ‖Δ end‖ ≤ L ‖Δ start‖, of shape (); −∞ where it doesn't depend on it.

        Raises:
            StabilityError: an operation between them has no Lipschitz constant.
        """
        if start == end:
            return self.zero
        known = {start: self.zero}
        waiting = [end]
        while waiting:
            index = waiting[-1]
            if index in known:
                waiting.pop()
                continue
            sources = self._sources(start, index)
            missing = [source for source in sources if source not in known]
            if missing:
                waiting += missing
            else:
                known[index] = self._combine(index, {s: known[s] for s in sources})
                waiting.pop()
        return known[end]

    def _sources(self, start: int, index: int) -> list[int]:
        """List what an operation's constant follows from: the start of its affine run."""
        operation = self.operations[index]
        inputs = [i for i in operation.inputs if self.operations[i].ancestors >> start & 1]
        if self._is_affine(operation) and inputs:
            return [self._run_start(start, index)]
        return inputs

    def _run_start(self, start: int, index: int) -> int:
        """Go back through affine operations; states between steps end the run."""
        while self._is_affine(self.operations[index]):
            (index,) = self.operations[index].inputs
            if index == start or index in self.states:
                break
        return index

    def _is_affine(self, operation: Operation) -> bool:
        if operation.kind == PART:
            return True
        return (
            operation.kind in LINEAR
            and operation.uses_input == 1
            and not self._divides_by_input(operation)
            and not self._uses_batch_statistics(operation)
        )

    @staticmethod
    def _divides_by_input(operation: Operation) -> bool:
        return operation.kind in QUOTIENTS and isinstance(operation.call.args[1], Made)

    @staticmethod
    def _uses_batch_statistics(operation: Operation) -> bool:
        """Tell a batch norm that keeps no running statistics."""
        may_train = operation.kind in BATCH_NORMS and "no_training" not in operation.kind
        return may_train and bool(operation.call.args[5])

    def _combine(self, index: int, sources: dict[int, Tensor]) -> Tensor:
        operation = self.operations[index]
        if not sources:
            return self.zero.log()
        if self._is_affine(operation):
            ((source, constant),) = sources.items()
            return constant + self._log_norm(source, index)
        if operation.kind in SUMS:
            return self._sum(operation, sources)
        # Of a tensor that is used twice, each use counts.
        uses = [leaf.operation for leaf in _made(operation.call.args) if leaf.operation in sources]
        constants = [sources[use] for use in uses]
        if operation.kind in CONCATENATIONS | of_kinds("stack.default"):
            return torch.stack(constants).mul(2).logsumexp(0) / 2
        if len(uses) == 1:
            slope = self._slope(operation)
            if slope is not None:
                # A norm's slope follows its gain, which may be trained.
                log = slope.log() if isinstance(slope, Tensor) else math.log(slope)
                return constants[0] + log
        raise StabilityError(
            f"{operation.short_name} in {operation.module or 'the network'} has no Lipschitz "
            "constant that is known here: it is not known to be affine, or works on the features "
            "by themselves"
        )

    def _sum(self, operation: Operation, sources: dict[int, Tensor]) -> Tensor:
        """Add the constants of what is added, each as often as its values are repeated."""
        terms = []
        for place, term in enumerate(operation.call.args[:2]):
            factor = abs(float(operation.call.kwargs.get("alpha", 1))) if place else 1.0
            if isinstance(term, Made) and term.operation in sources and factor:
                repeats = math.prod(operation.shape) / self.values[term.operation].numel()
                terms.append(sources[term.operation] + math.log(factor * math.sqrt(repeats)))
        return torch.stack(terms).logsumexp(0) if terms else self.zero.log()

    def _log_norm(self, source: int, index: int) -> Tensor:
        """Compute the spectral norm of a run of affine operations."""
        run = self.unrolled.between(source, [index])
        if all(operation.kind in ISOMETRIES for operation in run):
            return self.zero
        if self.base is not None and not any(name in self.tensors for name in _parameters(run)):
            return self.base._log_norm(source, index)
        key = source, index
        if key not in self.log_norms:
            function = self.unrolled.function(self.values, source, index, self.tensors)
            self.log_norms[key] = self.norm_of(function, self.values[source]).log()
        return self.log_norms[key]

    def _slope(self, operation: Operation) -> float | Tensor | None:
        """Give the Lipschitz constant of an operation with one input that isn't affine."""
        args = operation.call.args
        name = operation.short_name
        if name in SLOPES:
            return SLOPES[name]
        if name == "leaky_relu":
            return max([1.0, *(abs(float(slope)) for slope in args[1:])])
        if name == "rrelu_with_noise":  # In eval mode the mean of its bounds, without noise.
            lower, upper = (*map(float, args[2:4]), *(1 / 8, 1 / 3)[len(args) - 2 :])
            return max(1.0, abs(lower + upper) / 2)
        if name == "elu":
            alpha, scale, input_scale = (*map(float, args[1:]), *(1.0, 1.0, 1.0)[len(args) - 1 :])
            return max(abs(scale), abs(alpha * scale * input_scale))
        if name == "prelu_kernel":
            slope: Tensor = self.unrolled.trace.rebind(args[1], self.tensors)
            return slope.abs().max().clamp_min(1).to(self.zero)
        # With other numbers than its defaults it jumps at the threshold.
        if name == "softplus" and args[1:] == (1, 20)[: len(args) - 1]:
            return 1.0
        if operation.kind in MAX_POOLING:
            return math.sqrt(_windows(*args[1:]))
        if operation.kind in ADAPTIVE_MAX_POOLING:
            size = self.values[args[0].operation].shape[-2:]
            # Where sizes don't divide, windows overlap.
            whole = all(length % out == 0 for length, out in zip(size, args[1], strict=True))
            return 1.0 if whole else None
        if operation.kind in LARGEST | SOFTMAX:
            return 1.0
        if name in STATISTICS:
            # max |γ| / √ε: steepest where the input is flat.
            gain, epsilon = (args[place] for place in STATISTICS[name])
            if epsilon <= 0:
                return None
            gain = self.unrolled.trace.rebind(gain, self.tensors)
            largest = self.zero.exp() if gain is None else gain.abs().max().to(self.zero)
            # A branch may start at zero, where the logarithm has no gradient.
            return largest.clamp_min(torch.finfo(largest.dtype).tiny) / math.sqrt(epsilon)
        return None


def _parameters(operations: list[Operation]) -> set[str]:
    """Name the parameters that operations use."""
    pairs = [pair for operation in operations for pair in operation.parameters]
    pairs += [pair for o in operations for made in o.computed for pair in made.parameters]
    return {".".join(pair).lstrip(".") for pair in pairs}


def _made(args: Any) -> list[Made]:
    if isinstance(args, Made):
        return [args]
    if isinstance(args, list | tuple):
        return [leaf for part in args for leaf in _made(part)]
    return []


def _windows(
    size: list[int],
    stride: list[int] | None = None,
    padding: Any = 0,
    dilation: list[int] | int = 1,
    *_: Any,
) -> int:
    """Count the pooling windows that one value may lie in."""
    lengths, steps, gaps = (
        value * (2 // len(value)) if isinstance(value, list) else [value] * 2
        for value in (size, stride or size, dilation)
    )
    return math.prod(
        -(-length // (step // math.gcd(step, gap)))
        for length, step, gap in zip(lengths, steps, gaps, strict=True)
    )
