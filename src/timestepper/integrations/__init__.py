"""Time stepping in other people's training loops: one module for each of them."""

from timestepper.integrations.metrics import step_metrics

__all__ = ["step_metrics"]
