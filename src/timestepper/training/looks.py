"""The host's looks at losses and scores, for which it does not wait."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from timestepper.training.evaluation import Meter, Scores
from timestepper.training.not_finite import Guard


class Look:
    """What the device has computed so far in an epoch, on its way to the host.

    Args:
        batch: batches of the epoch that are done.
        images_per_second: in the epoch so far.
        losses: of the last of them.
        meter: of all of them.
        guard: tells whether losses are finite on all processes.
    """

    def __init__(
        self,
        batch: int,
        images_per_second: float,
        losses: list[Tensor],
        meter: Meter,
        guard: Guard,
    ) -> None:
        self.batch = batch
        self.images_per_second = images_per_second
        numbers = [*meter.on_device(), *guard.finite(losses), *losses]
        self._copy = torch.stack([number.double() for number in numbers]).to(
            "cpu", non_blocking=True
        )
        self._arrived = torch.cuda.Event() if losses[0].is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    @cached_property
    def _numbers(self) -> list[float]:
        """Wait until they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[float] = self._copy.tolist()
        return numbers

    @property
    def scores(self) -> Scores:
        """Loss and accuracy of the epoch so far."""
        return Scores(*self._numbers[:2])

    @property
    def first_not_finite(self) -> tuple[int, float] | None:
        """The first step, from 1, whose loss is not finite on all processes, and the loss here."""
        count = (len(self._numbers) - 2) // 2
        finite, losses = self._numbers[2 : 2 + count], self._numbers[2 + count :]
        first = self.batch - count + 1
        for step, (share, loss) in enumerate(zip(finite, losses, strict=True), start=first):
            if share < 1:
                return step, loss
        return None
