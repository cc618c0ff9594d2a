"""Out of the door: folded networks in the formats that other tools load, each verified."""

from timestepper.shipping.ship import FORMATS, ship

__all__ = ["FORMATS", "ship"]
