"""What the two formats of graphs share: example, quiet, and batches to verify."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from timestepper.errors import ShippingError
from timestepper.shipping.parcel import Parcel

BATCH_DIMENSION = "batch"


def example(parcel: Parcel) -> Tensor:
    """Return the images to trace with.

    Two, even of a single one: torch.export takes a dimension of 1 for a constant.
    """
    return parcel.images[:1].repeat(2, 1, 1, 1)


def batches(parcel: Parcel) -> list[Tensor]:
    """Return all images as one batch, and the first alone: neither has the example's size."""
    return [parcel.images, parcel.images[:1].clone()]


@contextmanager
def exporting(parcel: Parcel) -> Iterator[None]:
    """Keep an exporter's warnings and log lines to itself, and say in one line why it failed."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:  # exporters raise whatever they meet
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ShippingError(
            f"torch can't export {parcel.configuration.network.name}: {reason}"
        ) from error
    finally:
        logging.disable(level)
