"""Operators, by what they do to a factor for each channel, and how they use a weight."""

from __future__ import annotations

from torch import Tensor, nn

from timestepper.stepping.factors import TRANSPOSED
from timestepper.stepping.operation import DIVIDING, PADDED, PART, Operation, of_kinds

# Move values without changing them.
MOVING = of_kinds(
    "view.default _unsafe_view.default reshape.default permute.default transpose.int t.default "
    "squeeze.dim squeeze.dims squeeze.default unsqueeze.default contiguous.default clone.default "
    "alias.default detach.default _to_copy.default roll.default flip.default expand.default "
    "slice.Tensor select.int constant_pad_nd.default repeat.default index.Tensor "
    "index_select.default native_channel_shuffle.default channel_shuffle.default "
    "pixel_shuffle.default pixel_unshuffle.default reflection_pad1d.default "
    "reflection_pad2d.default reflection_pad3d.default replication_pad1d.default "
    "replication_pad2d.default replication_pad3d.default"
) | frozenset([PADDED])
VIEWS = of_kinds("view.default _unsafe_view.default")
# Work on maps by themselves: the last one, two or three dimensions, as the name says.
POOLING = of_kinds(
    "avg_pool2d.default avg_pool3d.default _adaptive_avg_pool2d.default "
    "_adaptive_avg_pool3d.default adaptive_max_pool2d.default adaptive_max_pool3d.default "
    "max_pool2d_with_indices.default max_pool3d_with_indices.default upsample_nearest1d.default "
    "upsample_nearest2d.default upsample_nearest3d.default upsample_linear1d.default "
    "upsample_bilinear2d.default upsample_trilinear3d.default upsample_bicubic2d.default "
    "_upsample_bilinear2d_aa.default _upsample_bicubic2d_aa.default "
    "_upsample_nearest_exact1d.default _upsample_nearest_exact2d.default "
    "_upsample_nearest_exact3d.default"
)
# f(kx) = k f(x) for positive k.
HOMOGENEOUS = of_kinds("relu.default relu_.default leaky_relu.default leaky_relu_.default")
# As much, of all values along some dimensions.
REDUCING = of_kinds("mean.dim amax.default")
ADDITIONS = of_kinds("add.Tensor add_.Tensor")
DIFFERENCES = of_kinds("sub.Tensor sub_.Tensor")
# Join two tensors, in ways that a residual connection may be written in.
JOINING = (
    ADDITIONS
    | DIFFERENCES
    | of_kinds("lerp.Scalar lerp.Tensor lerp_.Scalar lerp_.Tensor addcmul.default addcmul_.default")
)
CONCATENATIONS = of_kinds("cat.default")
PRODUCTS = of_kinds("mul.Tensor mul_.Tensor")
QUOTIENTS = of_kinds("div.Tensor div_.Tensor")
PASSING = (
    MOVING | POOLING | HOMOGENEOUS | REDUCING | PRODUCTS | QUOTIENTS | DIVIDING | frozenset([PART])
)
CONVOLUTIONS = of_kinds("convolution.default")
MATRIX_PRODUCTS = of_kinds("addmm.default mm.default")
# Weighted sums of the second argument's rows.
MIXTURES = of_kinds("bmm.default mm.default")
CHANNELS_LAST = MATRIX_PRODUCTS | of_kinds("native_layer_norm.default _fused_rms_norm.default")
CHANNELS_SECOND = CONVOLUTIONS | of_kinds(
    "native_batch_norm.default _native_batch_norm_legit_no_training.default "
    "cudnn_batch_norm.default native_group_norm.default"
)


def as_its_module_does(operation: Operation, module: nn.Module) -> bool:
    """Tell whether a weight is used as its module would, with its rows for results."""
    is_convolution = operation.kind in CONVOLUTIONS
    if not is_convolution and operation.kind not in MATRIX_PRODUCTS:
        return True
    used = operation.call.args[1 if is_convolution else -1]
    weight = module.weight
    assert isinstance(weight, Tensor)
    if not isinstance(used, Tensor):  # The pass made it; the parameter is something else.
        return False
    if is_convolution:
        # The kernel may be seen in another shape: a linear layer's as 1×1.
        alike = used.shape[:2] == weight.shape[:2] and used.stride()[:2] == weight.stride()[:2]
        return alike and bool(operation.call.args[6]) == isinstance(module, TRANSPOSED)
    if weight.ndim != 2:  # A 1×1 convolution's, say.
        return False
    transposed = weight.t()
    return bool(used.shape == transposed.shape and used.stride() == transposed.stride())


def has_other_bias(operation: Operation, owner: str) -> bool:
    """Tell whether what an affine operation adds is not its module's own bias."""
    if operation.short_name in ("mm", "fused_rms_norm"):
        return False
    place = {"addmm": 0, "native_layer_norm": 3}.get(operation.short_name, 2)
    return operation.call.args[place] is not None and (owner, "bias") not in operation.parameters
