"""Named data sets, as batches of normalised images on the training device."""

from timestepper.data.catalogue import list_data_sets, load
from timestepper.data.dataset import Batches, DataSet, SplitName

__all__ = ["Batches", "DataSet", "SplitName", "list_data_sets", "load"]
