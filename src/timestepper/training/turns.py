"""Several trainings in one process, each with random numbers and a GPU stream of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class Turns:
    """Gives one of several trainings its turns: meanwhile it has what it would have alone.

    Random numbers come from generators of its own, which a training seeds before it uses them. On
    a GPU its kernels are launched on a stream of its own, so that they run beside those of the
    others.

    Args:
        device: where it runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._numbers = torch.get_rng_state()
        self._on_gpu = device.type == "cuda"
        if self._on_gpu:
            torch.cuda.init()
            self._stream = torch.cuda.Stream(device)
            self._default = torch.cuda.default_generators[self._stream.device.index]
            # Not a state that is copied to and fro: graphs of several trainings that run at the
            # same time would all read their random numbers' seed from the same place.
            self._generator = torch.Generator(device)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let what follows be the training's; afterwards the process has its own again."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self._numbers)
        try:
            with ExitStack() as stack:
                if self._on_gpu:
                    stack.enter_context(torch.cuda.stream(self._stream))
                    before = self._default.graphsafe_get_state()
                    stack.callback(self._default.graphsafe_set_state, before)
                    self._default.graphsafe_set_state(self._generator)
                yield
        finally:
            self._numbers = torch.get_rng_state()
            torch.set_rng_state(outside)

    def wait(self) -> None:
        """Wait until the GPU has done all that was launched in its turns."""
        if self._on_gpu:
            self._stream.synchronize()


@contextmanager
def compiled_by_themselves(count: int) -> Iterator[None]:
    """Let torch.compile treat each of several networks as it would treat it alone.

    It compiles a function only so many times, and counts those of all networks of a class together:
    the later ones would run uncompiled.

    Args:
        count: networks.
    """
    import torch._dynamo.config as settings  # seconds, and only for what is compiled

    limits = {
        name: count * getattr(settings, name)
        for name in ("recompile_limit", "accumulated_recompile_limit")
    }
    with settings.patch(limits):
        yield
