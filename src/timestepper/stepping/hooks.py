"""What attaching hangs on modules: step sizes before a pass, products in it, order after it.

Hooks are objects, not closures, so that a copy of the network gets hooks that refer to the copy.
"""

from __future__ import annotations

import sys
from functools import cache
from threading import Lock, get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from timestepper.errors import AttachedError
from timestepper.stepping.stages import Stage, TimeStepping


class StartPass:
    """Hook before the network's forward: compute the step sizes once for the whole network."""

    def __call__(self, network: nn.Module, inputs: Any) -> None:
        """Prepare every stage.

        Raises:
            AttachedError: the network is a copy that ``nn.DataParallel`` made for this pass, or
                another thread is inside a pass of it.
        """
        if getattr(network, "_is_replica", False):
            raise AttachedError(
                "nn.DataParallel runs copies that step sizes do not reach: use "
                "DistributedDataParallel"
            )
        stepping = network.time_stepping
        if not isinstance(stepping, TimeStepping):
            raise AttachedError(
                "time_stepping, the network's last child, was replaced: fold before adding to a "
                "Sequential network's end"
            )
        _begin(stepping, network)
        stepping.require_own_controllers()
        beside = _beside(network)
        for stage in stepping.stages:
            if beside is None:
                stage.prepare()
            else:
                stage.prepare_beside(beside)


_BEGINNING = Lock()


def _begin(stepping: TimeStepping, network: nn.Module) -> None:
    """Note that this thread is inside a pass.

    Raises:
        AttachedError: another one is. What covers parameters covers them for all threads.
    """
    if torch.compiler.is_compiling():
        stepping.thread = None
        stepping.inside_forward = True
        return
    own = get_ident()
    with _BEGINNING:
        if stepping.thread != own:
            if stepping.inside_forward and _calls_in(stepping.thread, network):
                raise AttachedError(
                    "another thread is inside a pass of this network, and an attached network "
                    "runs in one thread at a time: fold it, or give each thread a copy"
                )
            stepping.thread = own
        stepping.inside_forward = True


def _calls_in(thread: int | None, module: nn.Module) -> int:
    """Count the calls that a thread is inside, if it lives: no hook hears of a Ctrl-C."""
    frame = sys._current_frames().get(-1 if thread is None else thread)
    calls = 0
    while frame is not None:
        calls += frame.f_code is _CALL and frame.f_locals["self"] is module
        frame = frame.f_back
    return calls


_CALL = nn.Module._call_impl.__code__


def _was_refused(stepping: TimeStepping) -> bool:
    """Tell whether the pass that ends here never began, since another thread's goes on."""
    return not torch.compiler.is_compiling() and stepping.thread not in (None, get_ident())


def _beside(network: nn.Module) -> torch.cuda.Stream | None:
    """Fork a stream off for the controllers while a CUDA graph is captured.

    There they run beside the layers before a stage. Launched one by one they would not: what it
    takes to launch them comes first then, and more of it.
    """
    if torch.compiler.is_compiling() or not torch.cuda.is_initialized():
        return None
    device = next(network.parameters()).device
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):
        if not torch.cuda.is_current_stream_capturing():
            return None
    # What is compiled can't wait for the stream.
    if any(_is_compiled(module) for module in network.modules()):
        return None
    stream = _controllers_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def _is_compiled(module: nn.Module) -> bool:
    compiled = isinstance(module, torch._dynamo.OptimizedModule)
    return compiled or module._compiled_call_impl is not None


@cache
def _controllers_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class EndPass:
    """Hook after the network's forward, also where it failed."""

    def __call__(self, network: nn.Module, inputs: Any, output: Any) -> None:
        """From here on, calls of parts of the network have to look after themselves.

        Raises:
            AttachedError: step sizes were not used, because a block was replaced.
        """
        stepping = network.time_stepping
        if not isinstance(stepping, TimeStepping):
            return  # StartPass has said so.
        if _was_refused(stepping):
            return
        stepping.inside_forward = False
        compiling = torch.compiler.is_compiling()
        for stage in stepping.stages:
            if compiling:
                # Kept, they would keep nodes of autograd, bound to a stream, for the next pass.
                stage.forget()
                continue
            stage.join()
            # A network may leave branches out (stochastic depth).
            if output is not None and not stage.used >= stage.users:
                stage.require_inside(network)


class EnterBranchEnd:
    """Hook before a module that uses a stage's factors: let it run with the products instead.

    An attribute in the owner's ``__dict__`` is found before its registered parameter of the same
    name, which stays where it is.
    """

    def __init__(
        self, network: nn.Module, stepping: TimeStepping, stage: Stage, inside: str
    ) -> None:
        self.stepping = stepping
        self.stage = stage
        self.inside = inside
        self.factors = [
            (place, factor.module, factor.name)
            for place, factor in enumerate(stage.factors)
            if factor.inside == inside
        ]
        lists = [m for m in network.modules() if isinstance(m, parametrize.ParametrizationList)]
        parametrizing = {module for each in lists for module in each.modules()}
        # What covers them for calls that go on around the innermost one.
        self.outer: list[list[Tensor]] = []
        self.is_parametrized = any(owner in parametrizing for _, owner, _ in self.factors)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Cover the parameters."""
        products = self.stage.products_for(self.inside, whole_pass=self.stepping.inside_forward)
        self.forget_cached()
        if not torch.compiler.is_compiling():
            self._keep_outer(module)
        for place, owner, name in self.factors:
            owner.__dict__[name] = products[place]

    def _keep_outer(self, module: nn.Module) -> None:
        """Keep what covers the parameters where the module calls itself (mirrored images, say)."""
        _, owner, name = self.factors[0]
        if name in owner.__dict__ and _calls_in(get_ident(), module) > 1:
            self.outer.append([owner.__dict__[name] for _, owner, name in self.factors])
        else:
            self.outer.clear()  # Ctrl-C may have left something.

    def forget_cached(self) -> None:
        """Let ``parametrize.cached`` hand nothing over between inside and outside of the module.

        What it keeps is made of the parameters there and of the products here.
        """
        if self.is_parametrized and parametrize._cache_enabled:
            parametrize._cache.clear()


class LeaveBranchEnd:
    """Hook after such a module, also where it failed: uncover the parameters."""

    def __init__(self, enter: EnterBranchEnd) -> None:
        self.enter = enter

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Put back what was there before :class:`EnterBranchEnd`."""
        if not self.enter.inside and _was_refused(self.enter.stepping):
            return
        outer = self.enter.outer.pop() if self.enter.outer else None
        for n, (_, owner, name) in enumerate(self.enter.factors):
            if outer is None:
                owner.__dict__.pop(name, None)
            else:
                owner.__dict__[name] = outer[n]
        self.enter.forget_cached()


HOOKS = (StartPass, EndPass, EnterBranchEnd, LeaveBranchEnd)
"""Everything that attaching hangs on modules, so that folding knows what to take away."""
