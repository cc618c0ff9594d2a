"""Batch norms that use the statistics of all processes' images."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_batch_norms(network: nn.Module) -> nn.Module:
    """Replace every batch norm of a network that has no step sizes yet.

    PyTorch's own synchronised ones refuse CPUs, for which there is a class here.

    Args:
        network: it is changed.

    Returns:
        The network, or what replaces it if it is a batch norm itself.
    """
    if distributed.get_backend() != "gloo":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    if isinstance(network, _BatchNorm):
        settings = network.num_features, network.eps, network.momentum
        replacement = SyncBatchNorm(*settings, network.affine, network.track_running_stats)
        replacement.load_state_dict(network.state_dict())
        return replacement
    for name, child in network.named_children():
        setattr(network, name, synchronise_batch_norms(child))
    return network


def share_statistics(network: nn.Module, fabric: Fabric) -> None:
    """Give all processes, each of which has seen other images, the first one's statistics."""
    if fabric.world_size > 1:
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)


class _SumOverProcesses(torch.autograd.Function):
    """Each process's part of the sum is in the losses of all, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: FunctionCtx, part: Tensor) -> Tensor:
        total = part.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradient)


def _sum_over_processes(part: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(part)
    return total


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the shares that the processes have of a batch, ``(batch, channels, ...)``."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalise this process's share; with fixed statistics as any other batch norm."""
        if not self.training:
            fixed: Tensor = super().forward(input)
            return fixed
        x = input if input.dtype == torch.float64 else input.float()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        share = x.new_full((1,), x.numel() / x.shape[1])
        total = _sum_over_processes(torch.cat([x.sum(axes), share]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean.view(shape)
        variance = _sum_over_processes(centred.square().sum(axes)) / count
        self._update(mean.detach(), variance.detach() * count / (count - 1))
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        result: Tensor = normalised.to(input.dtype)
        return result

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)
