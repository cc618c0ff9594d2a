"""What the two formats of graphs share: example, quiet, and batches to verify."""

from __future__ import annotations

import logging
import textwrap
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
def quietly(failure: str) -> Iterator[None]:
    """Keep warnings and log lines from the user, and say in one line why something failed.

    Args:
        failure: what could not be done, as the beginning of a sentence.
    """
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:  # exporters raise whatever they meet
        cause = error.__cause__ or error  # torch.onnx wraps it in a page of advice
        reason = textwrap.shorten(str(cause), 250) or type(cause).__name__
        raise ShippingError(f"{failure}: {reason}") from error
    finally:
        logging.disable(level)
