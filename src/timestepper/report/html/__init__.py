"""The report: one interactive page about a run, or about several, in a file of its own."""

from timestepper.report.html.page import is_report
from timestepper.report.html.watch import watch
from timestepper.report.html.write import read_runs, write_report

__all__ = ["is_report", "read_runs", "watch", "write_report"]
