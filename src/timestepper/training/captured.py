"""A training step on a GPU whose kernels the host launches all at once, as a CUDA graph.

A step of a small network is a thousand short kernels. To launch them one by one takes the host
longer than the GPU takes to run them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from timestepper.errors import ConfigurationError

WARM_UP = 3
"""Steps before one is captured: they compile, and make the optimizer's state."""

Step = Callable[[Tensor, Tensor], Tensor]
"""From images and labels to the loss."""


class CapturedStep:
    """Runs the first full batches as they are, then captures a step and replays it.

    What a step changes it has to change in place, as the graph knows tensors by their addresses.

    Args:
        step: makes a step.
        other: the same for batches of another size, an epoch's last one, which run without the
            graph.
        batch_size: images of a full batch.
    """

    def __init__(self, step: Step, other: Step, batch_size: int) -> None:
        self._step = step
        self._other = other
        self._batch_size = batch_size
        self._done = 0
        # Always the same one: what autograd keeps from a step to the next is bound to its stream.
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make a step; return its loss.

        Raises:
            ConfigurationError: the step can't be captured.
        """
        if len(images) != self._batch_size:
            return self._beside(self._other, images, labels)
        if self._done < WARM_UP:
            self._done += 1
            return self._beside(self._step, images, labels)
        if self._graph is None:
            self._graph = self._capture(images, labels)
        else:
            self._images.copy_(images)
            self._labels.copy_(labels)
        self._graph.replay()
        return self._loss.clone()

    def _beside(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        """Run a step on the stream on which it is captured."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            loss = step(images, labels)
        here.wait_stream(self._stream)
        return loss

    def _capture(self, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        """Record a step without running it."""
        self._images, self._labels = images.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # Threads that read images may meanwhile take memory of their own.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._loss = self._step(self._images, self._labels)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigurationError(
                f"a step of this network can't run as a CUDA graph ({reason}); set compile to false"
            ) from error
        return graph
