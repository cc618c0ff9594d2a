"""A training step on a GPU whose kernels the host launches all at once, as a CUDA graph.

A step of a small network is a thousand short kernels. To launch them one by one takes the host
longer than the GPU takes to run them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Steps of one shape before it is captured: they compile, and make the optimizer's state."""


class CapturedStep:
    """Runs steps as they are until some had the same shape, then captures one and replays it.

    Batches of another shape, an epoch's last one, run without the graph. So that all happens in
    one memory, a step may change tensors in place only, and return one that it makes.

    Args:
        step: from images and labels to the loss.
        other: the same for batches of another shape.
    """

    def __init__(
        self, step: Callable[[Tensor, Tensor], Tensor], other: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self._step = step
        self._other = other
        self._shape: torch.Size | None = None
        self._done = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make a step; return its loss."""
        if images.shape != self._shape:
            if self._graph is not None:
                return self._other(images, labels)
            self._shape, self._done = images.shape, 0
        if self._graph is None and self._done < WARM_UP:
            self._done += 1
            return self._beside(images, labels)
        if self._graph is None:
            self._capture(images, labels)
        else:
            self._images.copy_(images)
            self._labels.copy_(labels)
        assert self._graph is not None
        self._graph.replay()
        return self._loss.clone()

    def _beside(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run a step on a stream of its own, as torch asks for before a capture."""
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            loss = self._step(images, labels)
        here.wait_stream(beside)
        return loss

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        """Record a step without running it."""
        self._images, self._labels = images.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        # Threads that read images may meanwhile take memory of their own.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._loss = self._step(self._images, self._labels)
        self._graph = graph
