"""Which networks can't take step sizes as they are: wrapped, scripted, without values."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from timestepper.errors import NoBranchError

# Known by name, so that nothing is imported for their sake.
_WRAPPERS = {
    "DataParallel",
    "DeepSpeedEngine",
    "DistributedDataParallel",
    "FSDPModule",
    "FullyShardedDataParallel",
}


def check_network(network: nn.Module) -> None:
    """Refuse a network that step sizes can't be attached to.

    Raises:
        NoBranchError: it or a part of it is wrapped, compiled, scripted, lazy or made of tensors
            that nothing may be written to.
    """
    if not isinstance(network, nn.Module):
        raise NoBranchError(
            f"a network (torch.nn.Module) is needed, not a {type(network).__name__}"
        )
    for name, module in network.named_modules():
        which = f"its part {name}" if name else "it"
        wrapper = _WRAPPERS & {kind.__name__ for kind in type(module).__mro__}
        if wrapper:
            raise NoBranchError(
                f"step sizes go into a network before it is wrapped, but {which} is in a "
                f"{wrapper.pop()}: attach to the network itself and wrap it afterwards, as a whole"
            )
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise NoBranchError(
                f"step sizes go into a network before it is compiled, but {which} is compiled: "
                "attach to the network itself and compile it afterwards"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise NoBranchError(
                f"step sizes can't be attached to TorchScript, but {which} is scripted or traced: "
                "attach to the network that it was made from, and script it once it is folded"
            )
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            place = f"{name}.{own}" if name else own
            if tensor is not None and is_lazy(tensor):
                raise NoBranchError(
                    f"{place} has no shape yet: run one forward pass of the network first"
                )
            if isinstance(tensor, nn.Parameter) and tensor.is_inference():
                raise NoBranchError(
                    f"{place} was made under torch.inference_mode, so that step sizes can't be "
                    "folded into it: make the network, or load and move it, outside of that"
                )
